// Command mitogend runs Python code on local and remote interpreters that have nothing of it installed. It reads flags, shows
// results and sets the exit status; all work is done by package daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"mitogend/daemon"
	"mitogend/docs"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(start(os.Args[1:]))
}

// Exit statuses; a script that is run on one target has its own.
const (
	statusOK      = 0
	statusRaised  = 1 // Python raised, or a program ended with another status than 0
	statusUsage   = 2
	statusConnect = 3
	statusLost    = 4 // a connection was lost, or a timeout passed
	statusPipe    = 128 + int(syscall.SIGPIPE)
)

// usageError is a mistake in what the user typed.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// statusError ends the command with a status after everything has been said.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// signalError is the cause of a context that a signal has ended.
type signalError struct{ syscall.Signal }

func (e signalError) Error() string {
	if e.Signal == syscall.SIGINT {
		return "interrupted"
	}
	return e.Signal.String()
}

// errStdoutClosed is the cause of a context that ended since nobody reads the output any more.
var errStdoutClosed = fmt.Errorf("stdout is closed: %w", daemon.ErrNobodyReads)

// outputError is a stdout that takes no more for another reason: a full disk, say.
type outputError struct{ error }

// start runs the command line and gives the exit status.
func start(args []string) int {
	noCore()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a := &app{stop: cancel, hurry: make(chan struct{})}
	a.console = newConsole(os.Stdout, os.Stderr, a.stdoutFailed)
	a.watchSignals()
	root := newRoot(a)
	root.SetArgs(args)
	root.SetContext(ctx)
	root.SetOut(a.console.out)
	root.SetErr(a.console.err)
	err := root.Execute()
	if a.restore != nil {
		a.restore()
	}
	if cause := context.Cause(ctx); cause != nil {
		// What the command says then is only a consequence.
		err = cause
	}
	return a.report(err)
}

// report prints what is still to be said about err, and gives the status.
func (a *app) report(err error) int {
	var usage usageError
	var status statusError
	var sig signalError
	var output outputError
	var failed commandError
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &sig):
		a.console.complain("%v", sig)
		return 128 + int(sig.Signal)
	case errors.Is(err, errStdoutClosed):
		return statusPipe
	case errors.As(err, &output):
		a.console.complain("stdout: %v", output.error)
		return statusRaised
	case errors.As(err, &failed):
		a.console.complain("%v", failed.error)
		return failed.status
	case errors.As(err, &usage):
		a.console.complain("%v", usage.error)
		return statusUsage
	}
	// Cobra's own: an unknown command, say.
	a.console.complain("%v", err)
	return statusUsage
}

// app is what all commands share.
type app struct {
	console *console
	stop    context.CancelCauseFunc
	hurry   chan struct{} // closed by a second signal
	restore func()        // gives the terminal back; nil where it was not taken
	signals chan os.Signal
	quiet   bool
	verbose int
}

// watchSignals ends the context at the first signal, and closes hurry at the second.
func (a *app) watchSignals() {
	// Unhandled, a closed stdout would kill this process before its children. Ignored, it would be so in them too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	c := make(chan os.Signal, 2)
	a.signals = c
	wanted := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) wants it
		wanted = append(wanted, syscall.SIGHUP)
	}
	signal.Notify(c, wanted...)
	go func() {
		a.stop(signalError{(<-c).(syscall.Signal)})
		var once sync.Once
		for range c {
			once.Do(func() { close(a.hurry) })
		}
	}()
}

// stdoutFailed is called at the first write to stdout that fails.
func (a *app) stdoutFailed(err error) {
	if errors.Is(err, syscall.EPIPE) {
		err = errStdoutClosed
	} else {
		if e := (*os.PathError)(nil); errors.As(err, &e) {
			err = e.Err
		}
		err = outputError{err}
	}
	a.stop(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "mitogend",
		Short: "Run Python code on interpreters that have nothing of it installed",
		Long: `mitogend starts a Python interpreter (2.7, or 3.6 and later) on each target, sends it a small runtime, and
serves its imports from this machine. Nothing is installed or written there.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if topic, ok := docs.Find(args[0]); ok {
				return usagef("there is no command %q; mitogend help %s shows that page of the manual", args[0], topic.Name)
			}
			return usagef("there is no command %q%s; mitogend help lists them, and mitogend exec -- %s runs that on targets", args[0], didYouMean(args[0], commandNames(cmd)), strings.Join(args, " "))
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w%s; %s --help lists the flags", err, meantFlag(cmd, err), cmd.CommandPath())
	})
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(newHelp(a))
	f := root.PersistentFlags()
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print results and errors only")
	f.CountVarP(&a.verbose, "verbose", "v", "say more; -vv for everything")
	root.AddCommand(newRun(a), newCall(a), newExec(a), newRepl(a), newFacts(a), newPut(a), newGet(a), newSync(a), newModules(a), newVersion(a),
		newServe(a), newPs(a), newClose(a), newStop(a), newStats(a), newLogs(a), newTop(a), newConfig(a), newCache(a),
		newMaster(a), newHosts(a), newDoctor(a))
	return root
}
