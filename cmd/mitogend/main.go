package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mitogend/docs"
)

func main() {
	os.Exit(start(os.Args[1:]))
}

// start runs the command line and gives the exit status.
func start(args []string) int {
	noCore()
	delayGC()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a := &app{stop: cancel, hurry: make(chan struct{}), overdue: make(chan struct{})}
	a.console = newConsole(os.Stdout, os.Stderr, a.stdoutFailed)
	a.watchSignals()
	root := newRoot(a)
	root.SetArgs(args)
	root.SetContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- root.Execute() }()
	var err error
	select {
	case err = <-ended:
	case <-a.overdue:
		a.console.giveUp()
	}
	if restore := a.restore.Load(); restore != nil {
		(*restore)()
	}
	if cause := context.Cause(ctx); cause != nil {
		// The command's own error is only a consequence of it.
		err = cause
	}
	return a.report(err)
}

// app is what all commands share.
type app struct {
	console *console
	stop    context.CancelCauseFunc
	hurry   chan struct{} // closed by a second signal; see hasten
	hastens sync.Once
	overdue chan struct{}          // closed by a third signal, and if the command does not end after others
	restore atomic.Pointer[func()] // gives the terminal back; nil if nobody has taken it
	signals chan os.Signal
	quiet   bool
	verbose int
}

// watchSignals ends the context at the first signal, closes hurry at the second, and overdue at the third. A command
// that nobody reads may hang in a write, and has a limit after each.
func (a *app) watchSignals() {
	// Without a handler, a closed stdout would kill this process before its children. If we ignored the signal, our
	// children would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	c := make(chan os.Signal, 2)
	a.signals = c
	signal.Notify(c, stopSignals()...)
	go func() {
		a.stop(signalError{(<-c).(syscall.Signal)})
		late := time.After(2 * endTime)
		select {
		case <-c:
			a.hasten()
			late = time.After(2 * hurryTime)
		case <-late:
			close(a.overdue)
			return
		}
		select {
		case <-c:
		case <-late:
		}
		close(a.overdue)
	}()
}

// stopSignals are the signals that end a command.
func stopSignals() []os.Signal {
	if signal.Ignored(syscall.SIGHUP) { // nohup(1) has us ignore it
		return []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	}
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
}

// hasten skips what closing waits for.
func (a *app) hasten() { a.hastens.Do(func() { close(a.hurry) }) }

// stdoutFailed is called when a write to stdout has failed for the first time.
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
	if a.console != nil { // there is none where only the flags are looked at
		root.SetOut(a.console.out)
		root.SetErr(a.console.err)
	}
	root.InitDefaultCompletionCmd() // it keeps where to write to
	checkShell(root)
	fill(root)
	return root
}

// noCore keeps the kernel from writing this process's memory to a file when it crashes: there are passwords in it. It
// also keeps the user's other processes, our children among them, from reading the memory in /proc. Unlike
// RLIMIT_CORE, it covers programs that core_pattern pipes to, and ends with exec: our children have core files as
// they would without us.
func noCore() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// earlyGC is GOGC until memory is first collected: then 16 MB are in use, not 4 MB. Most commands end before that.
const earlyGC = 400

// delayGC puts off the first garbage collection, unless the user has set GOGC.
func delayGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	first := &struct{ self *byte }{}
	runtime.AddCleanup(first, func(usual int) { debug.SetGCPercent(usual) }, debug.SetGCPercent(earlyGC))
}

// closing gives a context for ending children. It ends after d, or at a second signal.
func (a *app) closing(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	go func() {
		select {
		case <-a.hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// noArgs refuses arguments, with our own message.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// interruptible gives what fn gives, or why ctx has ended. In the latter case, the process is about to end, and fn
// with it.
func interruptible[T any](ctx context.Context, fn func() (T, error)) (out T, err error) {
	done := make(chan struct{})
	var got T
	var failed error
	go func() {
		defer close(done)
		got, failed = fn()
	}()
	select {
	case <-done:
		return got, failed
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-time.After(stopTime):
	}
	return out, context.Cause(ctx)
}

// stopTime is how long interrupted work may take to end what it has started.
const stopTime = time.Second
