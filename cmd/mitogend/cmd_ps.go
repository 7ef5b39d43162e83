package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

func newPs(a *app) *cobra.Command {
	f := &daemonFlags{}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "Show the interpreters of the running daemon as a tree",
		Example: `  mitogend ps
  mitogend ps --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			list, err := c.List(cmd.Context())
			if err != nil {
				return daemonError(err)
			}
			if asJSON {
				for _, ctx := range list {
					writeJSON(a.console.out, ctx)
				}
				return nil
			}
			return printTree(a.console.out, list)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "one line of JSON for each interpreter")
	return cmd
}

// contextColumns are the heads of contextCells.
var contextColumns = []string{"ID", "TARGET", "STATE", "PYTHON", "PID", "AGE", "IDLE", "USERS", "CALLS", "FAILED", "IN", "OUT", "RUNS", "CHAIN"}

// printTree shows contexts, each below the one that it is behind.
func printTree(w io.Writer, list []wire.Context) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(contextColumns, "\t"))
	for c, depth := range tree(list) {
		fmt.Fprintln(t, strings.Join(contextCells(c, depth), "\t"))
	}
	return t.Flush()
}

// tree gives each context below the one that it is behind, and how deep that is.
func tree(list []wire.Context) iter.Seq2[wire.Context, int] {
	below := map[uint32][]wire.Context{}
	known := map[uint32]bool{}
	for _, c := range list {
		known[c.ID] = true
	}
	for _, c := range list {
		parent := c.Parent
		if !known[parent] {
			parent = 0
		}
		below[parent] = append(below[parent], c)
	}
	return func(yield func(wire.Context, int) bool) {
		var show func(parent uint32, depth int) bool
		show = func(parent uint32, depth int) bool {
			for _, c := range below[parent] {
				if !yield(c, depth) || c.ID != 0 && !show(c.ID, depth+1) {
					return false
				}
			}
			return true
		}
		show(0, 0)
	}
}

func contextCells(c wire.Context, depth int) []string {
	id, pid, age, idle, runs := "-", "-", "-", "-", "-"
	if c.ID != 0 {
		id = fmt.Sprint(c.ID)
	}
	if c.PID != 0 {
		pid = fmt.Sprint(c.PID)
	}
	if c.Age > 0 {
		age = shortTime(c.Age)
	}
	if c.State == "idle" {
		idle = shortTime(c.Idle)
	}
	if len(c.Work) > 0 {
		w := c.Work[0]
		runs = fmt.Sprintf("%s %s", printable.Line(w.What), shortTime(w.Seconds))
		if n := c.Running + int(c.Programs) - 1; n > 0 {
			runs += fmt.Sprintf(" and %d more", n)
		}
	}
	return []string{
		id, strings.Repeat("  ", depth) + printable.Line(dash(c.Name)), printable.Line(c.State), printable.Line(dash(c.Python)), pid, age, idle,
		fmt.Sprint(c.Leases), fmt.Sprint(c.Calls), fmt.Sprint(c.Failures), shortBytes(c.In), shortBytes(c.Out), runs, printable.Line(dash(c.Chain)),
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// shortTime is a number of seconds in its two largest units.
func shortTime(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func shortBytes(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprint(n)
	case n < 10_000_000:
		return fmt.Sprintf("%dk", n/1000)
	case n < 10_000_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	}
	return fmt.Sprintf("%dG", n/1_000_000_000)
}

func newClose(a *app) *cobra.Command {
	f, inv := &daemonFlags{}, &targetFlags{}
	var idle, all bool
	cmd := &cobra.Command{
		Use:   "close [flags] [TARGET|ID]...",
		Short: "End connections of the running daemon",
		Long: `close ends the connections with the TARGETs, or of the interpreters with the IDs that ps shows, whoever uses them; with
--idle those that nobody uses, with --all all. A TARGET is what somebody has called it, what that means, or a pattern of the
inventory. Clients that use one get an error; the next use of the target connects it again.`,
		Example: `  mitogend close --idle
  mitogend close web07
  mitogend close 'web*' ssh:deploy@db1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var what [][]wire.Close
			switch {
			case idle && all || (idle || all) == (len(args) > 0):
				return usagef("close what? Give targets or ids, or one of --idle and --all")
			case idle || all:
				what = [][]wire.Close{{{Idle: idle, All: all}}}
			}
			for _, arg := range args {
				if id, err := strconv.ParseUint(arg, 10, 32); err == nil && id > 0 {
					what = append(what, []wire.Close{{Kill: uint32(id)}})
				} else {
					what = append(what, []wire.Close{{Target: arg}})
				}
			}
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			missing := false
			for i, w := range what {
				n, err := end(cmd.Context(), c, w)
				if err == nil && n == 0 && w[0].Target != "" {
					// Nobody has called one that.
					if w, err = meant(cmd.Context(), a, inv, w[0].Target); err == nil {
						n, err = end(cmd.Context(), c, w)
					}
				}
				if err != nil {
					return err
				}
				if n == 0 && len(args) > 0 {
					a.console.complain("%s: there is no such connection; mitogend ps lists them", args[i])
					missing = true
				}
				if !a.quiet && (n > 0 || len(args) == 0) {
					fmt.Fprintln(a.console.err, "closed "+several(n, "connection"))
				}
			}
			if missing {
				return statusError(statusRaised)
			}
			return nil
		},
	}
	f.register(cmd.Flags())
	cmd.ValidArgsFunction = f.completeConnections
	inv.inventoryFlags.register(cmd)
	cmd.Flags().BoolVar(&idle, "idle", false, "those that nobody uses")
	cmd.Flags().BoolVar(&all, "all", false, "all")
	return cmd
}

// end ends connections, and tells how many they were.
func end(ctx context.Context, c *client.Client, what []wire.Close) (int, error) {
	total := 0
	for _, w := range what {
		n, err := c.End(ctx, w)
		if err != nil {
			return 0, daemonError(err)
		}
		total += n
	}
	return total, nil
}

// meant gives the connections that a pattern of the inventory stands for: each by its name, and by what that means.
func meant(ctx context.Context, a *app, f *targetFlags, pattern string) ([]wire.Close, error) {
	f.app = a
	list, err := interruptible(ctx, func() ([]target, error) { return f.resolve(ctx, []string{pattern}) })
	if err != nil {
		return nil, err
	}
	var out []wire.Close
	for _, t := range list {
		out = append(out, wire.Close{Target: t.name})
		if chain := bootstrap.FormatTarget(t.hops); chain != t.name {
			out = append(out, wire.Close{Target: chain})
		}
	}
	return out, nil
}

func newStop(a *app) *cobra.Command {
	f := &daemonFlags{}
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop the running daemon and wait until it is gone",
		Example: `  mitogend stop
  mitogend stop --grace 1m`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if grace < 0 {
				return usagef("--grace %v: must not be negative", grace)
			}
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			pid, err := c.Stop(cmd.Context(), grace)
			if err != nil {
				return daemonError(err)
			}
			if err := waitGone(cmd.Context(), pid); err != nil {
				return err
			}
			if !a.quiet {
				fmt.Fprintf(a.console.err, "the daemon (process %d) has ended\n", pid)
			}
			return nil
		},
	}
	f.register(cmd.Flags())
	durationVar(cmd.Flags(), &grace, "grace", 0, "how long running work may take (default what the daemon is configured with)")
	return cmd
}
