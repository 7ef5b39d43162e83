package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
)

func newTop(a *app) *cobra.Command {
	f := &daemonFlags{}
	var every time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the running daemon does, again and again",
		Long: `top shows the running daemon's interpreters, what runs on each, since when and for whom, and how busy the daemon is. On a terminal it
has keys: ? lists them. Elsewhere, and with --count, each screen is printed below the one before.`,
		Example: `  mitogend top
  mitogend top --every 500ms
  mitogend top --count 1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usagef("--every %v: at least 100ms", every)
			}
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			if count == 0 && term.IsTerminal(int(os.Stdout.Fd())) {
				return topScreen(cmd.Context(), c, every)
			}
			return topLines(cmd.Context(), a.console.out, c, every, count)
		},
	}
	f.register(cmd.Flags())
	durationVar(cmd.Flags(), &every, "every", 2*time.Second, "time between two screens")
	cmd.Flags().IntVar(&count, "count", 0, "print this many screens, and end (default: go on)")
	return cmd
}

// look is what a screen shows.
type look struct {
	stats *wire.Stats
	list  []wire.Context
}

func lookAt(ctx context.Context, c *client.Client) (look, error) {
	st, err := c.Stats(ctx)
	if err != nil {
		return look{}, err
	}
	list, err := c.List(ctx)
	// The busiest come first.
	slices.SortStableFunc(list, func(x, y wire.Context) int { return stateRank(x) - stateRank(y) })
	return look{st, list}, err
}

// topScreen is top on a terminal. A key or a signal ends it.
func topScreen(ctx context.Context, c *client.Client, every time.Duration) error {
	opts := []tea.ProgramOption{tea.WithoutSignalHandler()}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		opts = append(opts, tea.WithInput(nil)) // the screen is shown, and there are no keys
	}
	program := tea.NewProgram(newTopModel(ctx, c, every), opts...)
	// Its own option for a context closes the terminal's reader while another goroutine uses it.
	defer context.AfterFunc(ctx, program.Quit)()
	last, err := program.Run()
	m, _ := last.(*topModel)
	switch {
	case ctx.Err() != nil:
		return nil // start says why
	case err != nil && !errors.Is(err, tea.ErrInterrupted):
		return commandError{fmt.Errorf("the terminal: %w", err), statusRaised}
	case m != nil && m.err != nil:
		return daemonError(m.err)
	}
	return nil
}

func topLines(ctx context.Context, out io.Writer, c *client.Client, every time.Duration, count int) error {
	var before *wire.Stats
	for n := 1; ; n++ {
		now, err := lookAt(ctx, c)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return daemonError(err)
		}
		var b strings.Builder
		b.WriteString(strings.Join(headLines(now.stats, before), "\n") + "\n\n")
		if err := printTree(&b, now.list); err != nil {
			return err
		}
		fmt.Fprintln(out, b.String())
		before = now.stats
		if n == count {
			return nil
		}
		t := time.NewTimer(every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// headLines say how busy the daemon is, and how busy it was since before.
func headLines(st, before *wire.Stats) []string {
	old := st
	if before != nil {
		old = before
	}
	took := st.Uptime - old.Uptime
	rate := func(now, then int64) float64 {
		if took <= 0 {
			return 0
		}
		return float64(now-then) / took
	}
	cpu := 0.0
	if took > 0 {
		cpu = 100 * (st.CPUSeconds - old.CPUSeconds) / took
	}
	return []string{
		fmt.Sprintf("mitogend %s, process %d, up %s, %s, %s of work", st.Version, st.PID, shortTime(st.Uptime), several(st.Clients, "client"),
			several(int(st.Active), "piece")),
		fmt.Sprintf("%.1f requests/s, %.1f calls/s, %.1f failed/s, %.1f modules/s; CPU %.0f%%, memory %s, %s of %d descriptors",
			rate(st.Requests, old.Requests), rate(st.Calls, old.Calls), rate(st.CallsFailed, old.CallsFailed), rate(st.Modules, old.Modules),
			cpu, shortBytes(st.RSSBytes), shortBytes(int64(st.Descriptors)), st.MaxFiles),
	}
}

func stateRank(c wire.Context) int {
	return slices.Index([]string{"busy", "connecting", "used", "idle", "hop", "other"}, c.State)
}
