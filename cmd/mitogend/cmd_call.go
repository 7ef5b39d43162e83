package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/pyproto"
)

type callCommand struct {
	fleetFlags
	kw         []string
	argsJSON   string
	stringArgs bool
	raw        bool
	repr       bool
	table      bool
	selection  string

	files     map[string]string // of @FILE, by name
	typed     bool              // the child has to read an argument
	readAgain bool
}

func newCall(a *app) *cobra.Command {
	c := &callCommand{}
	cmd := &cobra.Command{
		Use:   "call [flags] MODULE:FUNCTION [ARG]...",
		Short: "Call a Python function on each target and print what it returns",
		Long: `call imports MODULE on each target, calls FUNCTION (or CLASS.METHOD, for class and static methods) and prints the
result as JSON. Dates, named tuples, sets, paths and the like become plain values. Of a coroutine, the result is printed, and of a
generator one line for each value. Each ARG is read as JSON, or from a file for @FILE; if it is no valid JSON, it is a string. What the
function prints goes to stderr. Flags may also stand behind MODULE:FUNCTION; -1 is a number there, and nothing behind -- is a flag.`,
		Example: `  mitogend call os:getpid
  mitogend call -H ssh:web1,ssh:web2 platform:python_version
  mitogend call -H ssh:web1,ssh:web2 --table --select '{system, release}' platform:uname
  mitogend call -I ./lib inventory:add '{"name": "web1"}' --kw dry_run=true`,
		RunE:              withLateFlags(func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) }),
		ValidArgsFunction: c.completeFunction,
	}
	c.register(cmd, ".")
	f := cmd.Flags()
	f.StringArrayVar(&c.kw, "kw", nil, "keyword argument `NAME=VALUE`, read as ARG is; repeatable")
	f.BoolVar(&c.stringArgs, "string-args", false, "take every ARG and VALUE as a string, also where it is JSON")
	f.StringVar(&c.argsJSON, "args-json", "", "all arguments as `JSON`, or @FILE: a list of positional ones, or an object of keyword ones")
	f.BoolVar(&c.repr, "repr", false, "show repr() of the result, which every value has")
	f.StringVar(&c.selection, "select", "", "filter the result with `FILTER`, in jq's language: .field, .[0], {a, b} ...")
	f.BoolVar(&c.table, "table", false, "show a table: a line for each target, or for each value of a list, and a column for each field")
	f.BoolVar(&c.raw, "raw", false, "write a str or bytes result as it is")
	return cmd
}

// function matches MODULE:FUNCTION and MODULE:CLASS.METHOD; names may have letters of any script.
var function = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*:[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)?$`)
})

func (c *callCommand) run(cmd *cobra.Command, a *app, args []string) error {
	switch {
	case len(args) == 0:
		return usagef("call which function? Write mitogend call MODULE:FUNCTION [ARG]...")
	case !function().MatchString(args[0]):
		return usagef("%q is not MODULE:FUNCTION, as in os:getpid or platform:python_version; a command is run by mitogend exec -- %s", args[0], strings.Join(args, " "))
	case c.raw && c.json, c.table && c.json, c.table && c.raw:
		return usagef("--raw, --table and --json exclude each other")
	}
	values, err := interruptible(cmd.Context(), func() ([]any, error) { return c.arguments(args[1:], cmd.InOrStdin()) })
	if err != nil {
		return err
	}
	show, err := c.shower(a)
	if err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, ".", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return "call " + strings.Join(args, " ") }
	o := daemon.CallOptions{Convert: c.convert()}
	returned := func(ctx context.Context, j *job, v any) *outcome {
		if number, ok := daemon.Lines(v); ok && o.Convert&daemon.ConvertLines != 0 {
			return c.lines(ctx, j, show, number)
		}
		return c.show(ctx, j, show, v)
	}
	fl.together = fl.callTogether(&client.ManyCalls{Convert: o.Convert, Function: args[0], Args: values}, returned)
	fl.together.judges = show.filter != nil
	err = fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		v, err := j.child.CallWith(ctx, o, args[0], values...).Value()
		if err != nil {
			return failed(ctx, err)
		}
		return returned(ctx, j, v)
	})
	show.flush(fl.targets)
	return err
}

// show shows what a function has returned.
func (c *callCommand) show(ctx context.Context, j *job, show *shower, v any) *outcome {
	text, err := resultJSON(v, j.python == 2)
	if err == nil {
		text, err = show.result(ctx, j, v, text)
	}
	if err != nil {
		return failed(ctx, err)
	}
	return &outcome{OK: true, Result: text}
}

// convert says what the children convert.
func (c *callCommand) convert() daemon.Convert {
	o := daemon.ConvertResult
	if !c.json && !c.table {
		o |= daemon.ConvertLines
	}
	if c.repr {
		o = daemon.ConvertRepr
	}
	if c.typed {
		o |= daemon.ConvertArgs
	}
	return o
}

// lineRoom is how many bytes of a generator's values one request asks for.
const lineRoom = 256 << 10

// lines shows the values of a generator as they come.
func (c *callCommand) lines(ctx context.Context, j *job, show *shower, number int64) *outcome {
	for {
		v, err := j.child.Call(ctx, "mitogen.plain:more", number, int64(lineRoom)).Value()
		if err != nil {
			if ctx.Err() != nil {
				_ = j.child.Notify(context.WithoutCancel(ctx), "mitogen.plain:end", number)
			}
			return failed(ctx, err)
		}
		values, more, err := moreValues(v)
		for _, v := range values {
			var text json.RawMessage
			if text, err = resultJSON(v, j.python == 2); err == nil {
				_, err = show.result(ctx, j, v, text)
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			_ = j.child.Notify(ctx, "mitogen.plain:end", number)
			return failed(ctx, err)
		}
		if !more {
			return &outcome{OK: true}
		}
	}
}

// moreValues reads the result of plain.more.
func moreValues(v any) (values []any, more bool, err error) {
	list, _ := v.([]any)
	if len(list) == 2 {
		values, ok1 := list[0].([]any)
		more, ok2 := list[1].(bool)
		if ok1 && ok2 {
			return values, more, nil
		}
	}
	return nil, false, errors.New("the child gave what is no part of a generator")
}

// arguments reads ARGs, --args-json and --kw.
func (c *callCommand) arguments(args []string, stdin io.Reader) ([]any, error) {
	values := make([]any, 0, len(args)+1)
	var kwargs pyproto.Kwargs
	if c.argsJSON != "" {
		if len(args) > 0 {
			return nil, usagef("--args-json: it has all positional arguments, and there is %s beside it", args[0])
		}
		var err error
		if values, kwargs, err = c.allArguments(stdin); err != nil {
			return nil, usagef("--args-json: %w", err)
		}
	}
	for _, arg := range args {
		v, err := c.value(arg, stdin)
		if err != nil {
			return nil, usagef("argument %s: %w", arg, err)
		}
		values = append(values, v)
	}
	for _, kw := range c.kw {
		name, text, ok := strings.Cut(kw, "=")
		if !ok || name == "" {
			return nil, usagef("--kw %s: not NAME=VALUE", kw)
		}
		if slices.ContainsFunc(kwargs, func(a pyproto.Arg) bool { return a.Name == name }) {
			return nil, usagef("--kw %s: given twice", name)
		}
		v, err := c.value(text, stdin)
		if err != nil {
			return nil, usagef("--kw %s: %w", kw, err)
		}
		kwargs.Set(name, v)
	}
	if kwargs != nil {
		values = append(values, kwargs)
	}
	if c.typed && !c.readAgain {
		// The child reads them, so all of them have to be written for it.
		c.readAgain = true
		return c.arguments(args, stdin)
	}
	return values, nil
}

// allArguments reads --args-json: a list of positional arguments, or an object of keyword arguments.
func (c *callCommand) allArguments(stdin io.Reader) (values []any, kwargs pyproto.Kwargs, err error) {
	text := c.argsJSON
	if name, ok := strings.CutPrefix(text, "@"); ok {
		if text, err = c.file(name, stdin); err != nil {
			return nil, nil, err
		}
	}
	v, err := c.read(text)
	switch v := v.(type) {
	case []any:
		return v, nil, err
	case *pyproto.Dict:
		for k, item := range v.All() {
			name, ok := k.(string)
			if !ok {
				return nil, nil, errors.New("a name of an argument is no text")
			}
			kwargs = append(kwargs, pyproto.Arg{Name: name, Value: item})
		}
		return nil, kwargs, nil
	}
	if err == nil {
		err = errors.New("a list of arguments is wanted, or an object of keyword arguments")
	}
	return nil, nil, err
}

// read reads JSON, and notes whether the child has to read it, too.
func (c *callCommand) read(text string) (any, error) {
	r := jsonReader{child: c.typed}
	v, err := r.read(text)
	c.typed = c.typed || r.typed
	return v, err
}

// value reads an argument: from a file for @FILE, as JSON, or else as a string.
func (c *callCommand) value(text string, stdin io.Reader) (any, error) {
	if name, ok := strings.CutPrefix(text, "@"); ok && !c.stringArgs {
		if strings.HasPrefix(name, "@") {
			return escapeBytes(name), nil
		}
		text, err := c.file(name, stdin)
		if err != nil {
			return nil, fmt.Errorf("%w (for the text itself write @%s, or --string-args)", err, "@"+name)
		}
		return c.read(text)
	}
	if c.stringArgs || !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return escapeBytes(text), nil
	}
	return c.read(text)
}

// maxArgument bounds a file of arguments. A larger one could not be sent.
const maxArgument = pyproto.DefaultMaxMessage

// file reads a file of arguments once. - is stdin.
func (c *callCommand) file(name string, stdin io.Reader) (string, error) {
	if text, ok := c.files[name]; ok {
		return text, nil
	}
	r := stdin
	if name == "-" {
		if err := c.freeStdin("an argument"); err != nil {
			return "", err
		}
	} else {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("the file %s: %w", name, cause(err))
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxArgument+1))
	if err != nil {
		return "", fmt.Errorf("the file %s: %w", name, cause(err))
	}
	if len(data) > maxArgument {
		return "", fmt.Errorf("the file %s: it is larger than %d bytes", name, maxArgument)
	}
	if c.files == nil {
		c.files = map[string]string{}
	}
	c.files[name] = string(data)
	return string(data), nil
}
