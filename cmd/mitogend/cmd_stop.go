package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

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
			if grace == 0 && cmd.Flag("grace").Changed {
				grace = time.Millisecond // over the socket, 0 stands for the configured time
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
	durationVar(cmd.Flags(), &grace, "grace", 0, "how long running work may take; 0 ends it at once (default: as the daemon is configured)")
	return cmd
}

// waitGone waits until a process has ended that is not our child.
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
