package main

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mitogend/pyproto"
)

type callCommand struct {
	fleetFlags
	kw         []string
	stringArgs bool
	raw        bool
}

func newCall(a *app) *cobra.Command {
	c := &callCommand{}
	cmd := &cobra.Command{
		Use:   "call [flags] MODULE:FUNCTION [ARG]...",
		Short: "Call a Python function on each target and print what it returns",
		Long: `call imports MODULE on each target, calls FUNCTION (or CLASS.METHOD, for class and static methods) and prints what
it returns as JSON. Each ARG is read as JSON, and is a string where it is no valid JSON. What the function prints goes to
stderr. Flags may also stand behind MODULE:FUNCTION; -1 is a number there, and what follows -- is no flag.`,
		Example: `  mitogend call os:getpid
  mitogend call -H ssh:web1,ssh:web2 platform:python_version
  mitogend call -I ./lib inventory:add '{"name": "web1"}' --kw dry_run=true`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
	}
	c.register(cmd, ".")
	f := cmd.Flags()
	f.StringArrayVar(&c.kw, "kw", nil, "keyword argument `NAME=VALUE`, read as ARG is; repeatable")
	f.BoolVar(&c.stringArgs, "string-args", false, "take every ARG and VALUE as a string, also where it is JSON")
	f.BoolVar(&c.raw, "raw", false, "write a str or bytes result as it is")
	return cmd
}

// function matches MODULE:FUNCTION and MODULE:CLASS.METHOD; names may have letters of any script.
var function = regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*:[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)?$`)

func (c *callCommand) run(cmd *cobra.Command, a *app, args []string) error {
	args, err := lateFlags(cmd, args)
	switch {
	case err != nil:
		return err
	case cmd.Flag("help").Changed:
		return cmd.Help()
	case len(args) == 0:
		return usagef("call which function? Write mitogend call MODULE:FUNCTION [ARG]...")
	case !function.MatchString(args[0]):
		return usagef("%q is not MODULE:FUNCTION, as in os:getpid or platform:python_version; a command is run by mitogend exec -- %s", args[0], strings.Join(args, " "))
	case c.raw && c.json:
		return usagef("--raw and --json exclude each other")
	}
	values, err := c.arguments(args[1:])
	if err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, ".", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		v, err := j.child.Call(ctx, args[0], values...).Value()
		if err != nil {
			return failed(ctx, err)
		}
		out := &outcome{OK: true}
		if out.Result, err = resultJSON(v, j.python == 2); err != nil {
			return failed(ctx, err)
		}
		if !c.json {
			c.print(j, v, out.Result)
		}
		return out
	})
}

// arguments reads ARGs and --kw.
func (c *callCommand) arguments(args []string) ([]any, error) {
	values := make([]any, 0, len(args)+1)
	for _, arg := range args {
		v, err := c.value(arg)
		if err != nil {
			return nil, usagef("argument %s: %w", arg, err)
		}
		values = append(values, v)
	}
	var kwargs pyproto.Kwargs
	for _, kw := range c.kw {
		name, text, ok := strings.Cut(kw, "=")
		if !ok || name == "" {
			return nil, usagef("--kw %s: not NAME=VALUE", kw)
		}
		if slices.ContainsFunc(kwargs, func(a pyproto.Arg) bool { return a.Name == name }) {
			return nil, usagef("--kw %s: given twice", name)
		}
		v, err := c.value(text)
		if err != nil {
			return nil, usagef("--kw %s: %w", kw, err)
		}
		kwargs.Set(name, v)
	}
	if kwargs != nil {
		values = append(values, kwargs)
	}
	return values, nil
}

// value reads an argument as JSON, and as a string where it is none.
func (c *callCommand) value(text string) (any, error) {
	if c.stringArgs || !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return escapeBytes(text), nil
	}
	return fromJSON(text)
}

// print shows a result.
func (c *callCommand) print(j *job, v any, text []byte) {
	if c.raw {
		switch v := v.(type) {
		case string:
			_, _ = j.stdout.Write([]byte(rawText(v)))
			return
		case []byte:
			_, _ = j.stdout.Write(v)
			return
		}
	}
	_, _ = j.stdout.Write(append(text, '\n'))
}
