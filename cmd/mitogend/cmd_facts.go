package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/pyproto/printable"
)

func newFacts(a *app) *cobra.Command {
	c := &callCommand{}
	var about strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&about, "\n  %-22s%s", f.name, f.what)
	}
	cmd := &cobra.Command{
		Use:   "facts [flags] [NAME]...",
		Short: "Show what the targets are: system, memory, disks, addresses ...",
		Long: `facts shows what each target is. It starts no program there. A fact that cannot be found out is null. With --where, this
and other commands select targets by facts. Flags may also stand behind NAME, which is one of:
` + about.String(),
		Example: `  mitogend facts
  mitogend facts -H ssh:web1,ssh:web2 --table distribution distribution_version memory
  mitogend exec -H ssh:web1,ssh:web2 --where 'distribution == "debian" and memory > 8e9' -- uptime`,
		RunE:              withLateFlags(func(cmd *cobra.Command, args []string) error { return c.facts(cmd, a, args) }),
		ValidArgsFunction: completeFacts,
	}
	c.register(cmd, "")
	f := cmd.Flags()
	f.StringVar(&c.selection, "select", "", "filter the facts with `FILTER`, in jq's language: .memory, {cpus, memory} ...")
	f.BoolVar(&c.table, "table", false, "show a table: a line for each target, and a column for each fact")
	hideImports(cmd)
	return cmd
}

// facts shows facts as call shows a result. On one target, each fact has a line of its own.
func (c *callCommand) facts(cmd *cobra.Command, a *app, args []string) error {
	for _, name := range args {
		if !isFact(name) {
			return usagef("%s: there is no fact of that name; mitogend facts --help lists them", name)
		}
	}
	if c.table && c.json {
		return usagef("--table and --json exclude each other")
	}
	show, err := c.shower(a)
	if err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return strings.Join(append([]string{"facts"}, args...), " ") }
	err = fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		text, err := askFacts(ctx, j, args)
		if err != nil {
			return failed(ctx, err)
		}
		out := &outcome{OK: true, Result: text}
		switch {
		case c.selection != "" || c.table:
			var v any
			if err = json.Unmarshal(text, &v); err == nil {
				out.Result, err = show.result(ctx, j, v, text)
			}
		case !c.json:
			err = writeFacts(j, text)
		}
		if err != nil {
			return failed(ctx, err)
		}
		return out
	})
	show.flush(fl.targets)
	return err
}

// writeFacts shows facts, one a line.
func writeFacts(j *job, text json.RawMessage) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(text, &values); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, f := range facts {
		value, ok := values[f.name]
		if !ok {
			continue
		}
		shown := string(value)
		if s, ok := textOf(value); ok {
			shown = rawText(s)
		}
		fmt.Fprintf(&out, "%-22s%s\n", f.name, printable.Line(shown))
	}
	_, err := j.stdout.Write(out.Bytes())
	return err
}
