package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/daemon/unixclient"
	"mitogend/importer"
	"mitogend/internal/slogzap"
)

func newMaster(a *app) *cobra.Command {
	p := &pathFlags{}
	cmd := &cobra.Command{
		Use:   "master [flags] -- COMMAND [ARG]...",
		Short: "Run a program that was written for Mitogen, with the daemon as its master",
		Long: `master runs a Python program that uses Mitogen, without changing it. The program's first router is a client of a daemon
that lives as long as the program. Its children run the same Mitogen as the program. Signals go to the program, a second one
within five seconds as SIGTERM. The exit status is the program's own.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no program was given: mitogend master -- python3 program.py")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runMaster(cmd.Context(), a, p, args) },
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringArrayVarP(&p.path, "path", "I", nil, "`DIR`ectory, zip, egg or wheel file whose modules win over the program's own; repeatable")
	cmd.Flags().StringSliceVar(&p.allow, "allow", nil, "serve only these `MODULES` and what lies in them, from --path and of the program")
	cmd.Flags().StringSliceVar(&p.deny, "deny", nil, "never serve these `MODULES`, nor what lies in them")
	return cmd
}

func runMaster(ctx context.Context, a *app, p *pathFlags, args []string) error {
	for _, dir := range p.path {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return usagef("--path %s: %w", dir, cause(err))
		}
	}
	store := newStore(a.logger(), nil)
	defer store.Close()
	d, err := daemon.New(daemon.Options{Path: p.path, Policy: importer.Policy{Allow: p.allow, Deny: p.deny}, Logger: slogzap.Slog(a.logger()), Bytecode: store})
	if err != nil {
		return usageError{err}
	}
	dir, err := os.MkdirTemp("", "mitogend-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := daemon.WriteShim(filepath.Join(dir, "py")); err != nil {
		return err
	}
	socket := filepath.Join(dir, unixclient.SocketName)
	clients := unixclient.New(d, unixclient.Options{Logger: slogzap.Slog(a.logger())})
	ln, err := unixclient.Listen(socket)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- clients.Serve(serving, ln) }()
	status, err := runClient(ctx, a, args, dir, socket)
	stop()
	<-served
	closing, cancel := a.closing(endTime)
	defer cancel()
	_ = d.Shutdown(closing)
	if err == nil && status != 0 {
		err = statusError(status)
	}
	return err
}

// runClient runs the program in this terminal, and gives its exit status.
func runClient(ctx context.Context, a *app, args []string, dir, socket string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	path := filepath.Join(dir, "py")
	if old := os.Getenv("PYTHONPATH"); old != "" {
		path += string(filepath.ListSeparator) + old
	}
	cmd.Env = append(os.Environ(), "PYTHONPATH="+path, "MITOGEND_SOCKET="+socket)
	signals := a.takeSignals(stopSignals()...) // from here on, they are the program's
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		return 0, usagef("%s: %w", args[0], cause(errors.Unwrap(err)))
	}
	ended := make(chan struct{})
	go a.relay(signals, cmd.Process, ended)
	err := cmd.Wait()
	close(ended)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// programTime is how long the program may take to end after a second signal.
const programTime = 10 * time.Second

// secondTime is how long after a signal another one is its second: a program with a prompt of its own goes on after ^C.
const secondTime = 5 * time.Second

// relay gives the program the signals of this command. What it does about the first one is its own matter: it may have
// much to clean up. The second one is SIGTERM for it, and if that does not end it in time, it is killed. Once it has
// ended, a second signal skips the waiting for its children.
func (a *app) relay(signals <-chan os.Signal, program *os.Process, ended <-chan struct{}) {
	var late <-chan time.Time
	var last time.Time
	for count := 0; ; {
		select {
		case <-ended:
			for range signals {
				if count++; count > 1 {
					a.hasten()
				}
			}
			return
		case <-late:
			_ = program.Kill()
		case sig := <-signals:
			if time.Since(last) > secondTime && late == nil {
				count = 0
			}
			last = time.Now()
			count++
			switch {
			case count > 1:
				_ = program.Signal(syscall.SIGTERM)
				if late == nil {
					late = time.After(programTime)
				}
			case sig != syscall.SIGINT || !sharesTerminal(program.Pid):
				_ = program.Signal(sig)
			}
		}
	}
}

// sharesTerminal tells whether a key such as ^C signals both this process and another one: both are in the process
// group that the terminal has in front.
func sharesTerminal(pid int) bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY, 0)
	if err != nil {
		return false // there is none
	}
	defer tty.Close()
	group, err := unix.Getpgid(pid)
	return err == nil && group == unix.Getpgrp() && !background(tty)
}
