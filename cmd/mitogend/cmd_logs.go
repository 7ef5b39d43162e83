package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

func newLogs(a *app) *cobra.Command {
	f := &daemonFlags{}
	var follow, asJSON bool
	var lines int
	var target, level string
	var kinds, levels []string
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Show what the running daemon and its interpreters log",
		Example: `  mitogend logs -n 20
  mitogend logs -f
  mitogend logs -f --kind call,import
  mitogend logs --set pool=debug`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"follow", "lines", "target", "level", "kind", "json"} {
				if len(levels) > 0 && cmd.Flag(name).Changed {
					return usagef("--set changes levels and shows no records: without --%s", name)
				}
			}
			if kept := slices.ContainsFunc(kinds, func(k string) bool { return !slices.Contains(notKept, k) }); !follow && len(levels) == 0 && !kept {
				return usagef("--kind %s: the daemon keeps none of them; add -f to see them from now on", printable.Line(strings.Join(kinds, ",")))
			}
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			if len(levels) > 0 {
				return setLevels(cmd.Context(), a, c, levels)
			}
			least, ok := map[string]int{"debug": 10, "info": 20, "warn": 30, "error": 40}[level]
			if !ok {
				return usagef("--level %s: debug, info, warn or error", level)
			}
			ev, err := c.Subscribe(cmd.Context(), wire.Subscribe{Kinds: kinds, Target: target, Backlog: lines, Until: !follow})
			if err != nil {
				return daemonError(err)
			}
			return showEvents(cmd.Context(), a, ev, least, asJSON)
		},
	}
	f.register(cmd.Flags())
	fs := cmd.Flags()
	defer func() {
		completeFlag(cmd, "kind", completeList(eventKinds...))
		completeFlag(cmd, "level", completeList(logLevels...))
		completeFlag(cmd, "set", completeLevels)
		completeFlag(cmd, "target", f.completeConnections)
	}()
	fs.BoolVarP(&follow, "follow", "f", false, "then show what is logged from now on")
	fs.IntVarP(&lines, "lines", "n", 50, "how many of the last records to show")
	fs.StringVar(&target, "target", "", "show only this `TARGET`, by its name or what that means")
	fs.StringVar(&level, "level", "debug", "show only records of this level and above")
	fs.StringSliceVar(&kinds, "kind", []string{wire.EventLog}, "kinds of events: log, connected, lost, closed, and, with -f, import, call, output; comma-separated")
	fs.StringSliceVar(&levels, "set", nil, "set the log level of a component of the daemon by `COMPONENT=LEVEL`, or of all components by LEVEL")
	fs.BoolVar(&asJSON, "json", false, "one line of JSON for each")
	return cmd
}

// notKept are the kinds of events that are only seen while they happen.
var notKept = []string{wire.EventImport, wire.EventCall, wire.EventOutput}

func setLevels(ctx context.Context, a *app, c *client.Client, levels []string) error {
	var now map[string]string
	for _, l := range levels {
		component, level, ok := strings.Cut(l, "=")
		if !ok {
			component, level = "", l
		}
		var err error
		if now, err = c.Levels(ctx, component, level); err != nil {
			return daemonError(err)
		}
	}
	for _, name := range sortedKeys(now) {
		fmt.Fprintf(a.console.out, "%s=%s\n", name, now[name])
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func showEvents(ctx context.Context, a *app, ev *client.Events, least int, asJSON bool) error {
	for {
		e, dropped, err := ev.Next(ctx)
		if dropped > 0 {
			a.console.complain("%d events were dropped: this reader is too slow", dropped)
		}
		switch {
		case err == io.EOF:
			return nil
		case ctx.Err() != nil:
			return nil // start says why
		case err != nil:
			return daemonError(err)
		case e.Kind == wire.EventLog && e.Level < least:
		case asJSON:
			writeJSON(a.console.out, e)
		default:
			_, _ = io.WriteString(a.console.out, eventText(e))
		}
	}
}

// eventText gives one line. If the event's text has several lines, the others follow, indented.
func eventText(e *wire.Event) string {
	at := time.UnixMicro(int64(e.Time * 1e6)).Format("2006-01-02 15:04:05.000")
	where := printable.Line(e.Target)
	if where == "" {
		where = "-"
	}
	text, what, module, function := e.Text, printable.Line(e.Kind), printable.Line(e.Module), printable.Line(e.Function)
	switch e.Kind {
	case wire.EventLog:
		what, text = levelName(e.Level), printable.Line(e.Logger)+": "+e.Text
	case wire.EventImport:
		text = fmt.Sprintf("%s %s, %d bytes, %.1f ms", module, e.What, e.Bytes, 1000*e.Seconds)
		if e.Text != "" {
			text = fmt.Sprintf("%s %s: %s", module, e.What, e.Text)
		}
	case wire.EventCall:
		if e.What != "" { // a program
			function = strings.TrimSuffix(printable.Line(e.What)+" "+function, " ")
		}
		switch {
		case !e.OK:
			text = fmt.Sprintf("%s failed after %.1f ms: %s", function, 1000*e.Seconds, e.Text)
		case e.Signal != 0:
			text = fmt.Sprintf("%s ended by signal %d after %.1f ms", function, e.Signal, 1000*e.Seconds)
		case e.Code != 0:
			text = fmt.Sprintf("%s ended with status %d, %.1f ms", function, e.Code, 1000*e.Seconds)
		default:
			text = fmt.Sprintf("%s ok, %.1f ms", function, 1000*e.Seconds)
		}
	}
	return fmt.Sprintf("%s %-9s %s %s\n", at, what, where, printable.Text(text))
}
