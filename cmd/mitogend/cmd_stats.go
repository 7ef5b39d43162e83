package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

// daemonError is an error of the running daemon, or of the connection with it.
func daemonError(err error) error {
	var e *wire.Error
	if errors.As(err, &e) && e.Kind == wire.KindUsage {
		return usageError{e}
	}
	if errors.Is(err, client.ErrDisconnected) {
		return commandError{errors.New("the connection with the daemon is gone"), statusLost}
	}
	return commandError{err, statusLost}
}

// commandError is what has gone wrong with the command as a whole.
type commandError struct {
	error
	status int
}

// waitGone waits for the end of a process that is not a child of this one.
func waitGone(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended already
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 100) // a pidfd is readable once the process has ended
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func newStats(a *app) *cobra.Command {
	f := &daemonFlags{}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show the counters of the running daemon",
		Example: `  mitogend stats
  mitogend stats --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			st, err := c.Stats(cmd.Context())
			if err != nil {
				return daemonError(err)
			}
			if asJSON {
				writeJSON(a.console.out, st)
				return nil
			}
			return printStats(a.console.out, st)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "one line of JSON")
	return cmd
}

// printStats shows every counter by the name that it has in JSON.
func printStats(w io.Writer, st *wire.Stats) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	_, _ = dec.Token() // the brace
	for dec.More() {
		key, _ := dec.Token()
		value, err := dec.Token()
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\n", key, printable.Line(fmt.Sprint(value)))
	}
	return t.Flush()
}

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
	fs.BoolVarP(&follow, "follow", "f", false, "go on with what is logged from now on")
	fs.IntVarP(&lines, "lines", "n", 50, "how many of the last records to show")
	fs.StringVar(&target, "target", "", "only of this `TARGET`, by its name or what that means")
	fs.StringVar(&level, "level", "debug", "only records of this level and above")
	fs.StringSliceVar(&kinds, "kind", []string{wire.EventLog}, "kinds of events: log, connected, lost, closed, import, call, output; comma-separated")
	fs.StringSliceVar(&levels, "set", nil, "set the log level of a `COMPONENT=LEVEL` of the daemon, or of all components by LEVEL")
	fs.BoolVar(&asJSON, "json", false, "one line of JSON for each")
	return cmd
}

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

// eventText is one line, or several where a text has several: those are indented.
func eventText(e *wire.Event) string {
	at := time.UnixMicro(int64(e.Time * 1e6)).Format("15:04:05.000")
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
		text = fmt.Sprintf("%s ok, %.1f ms", function, 1000*e.Seconds)
		if !e.OK {
			text = fmt.Sprintf("%s failed after %.1f ms: %s", function, 1000*e.Seconds, e.Text)
		}
	}
	return fmt.Sprintf("%s %-9s %s %s\n", at, what, where, printable.Text(text))
}
