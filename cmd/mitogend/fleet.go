package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/pyproto/printable"
	"mitogend/python/bytecode"
)

// fleetFlags are the flags of all commands that do something on targets.
type fleetFlags struct {
	targetFlags
	pathFlags
	daemonFlags
	runtimeFlag
	rolloutFlags
	json         bool
	gather       bool
	output       string
	failedTo     string
	prefer       string
	traceImports bool
	trace        string
	bytecode     string
	noBytecode   bool
	compilers    []string
	where        string
}

func (f *fleetFlags) register(cmd *cobra.Command, firstPath string) {
	f.targetFlags.register(cmd)
	f.pathFlags.register(cmd, firstPath)
	fs := cmd.Flags()
	f.daemonFlags.register(fs)
	f.registerFresh(fs)
	f.runtimeFlag.register(fs)
	f.rolloutFlags.register(fs)
	fs.BoolVarP(&f.gather, "gather", "b", false, "show equal output of several targets once, at the end, under their folded names: web[01-20] (20)")
	fs.StringVarP(&f.output, "output", "o", "", "write each target's stdout, stderr and status into files of `DIR`/TARGET; output is then shown only with -b or --json")
	fs.StringVar(&f.failedTo, "failed", "", "write the targets that were not ok into `FILE`, one a line, for -H @FILE")
	fs.StringVar(&f.where, "where", "", "work only on targets for which `EXPR` over their facts is true: 'distribution == \"debian\" and memory > 8e9'")
	fs.SetInterspersed(false) // the program or function gets what follows: -1 is a number
	fs.BoolVar(&f.json, "json", false, "one line of JSON for each target on stdout")
	fs.StringVar(&f.prefer, "prefer", "target", "whose copy of a module wins when both have it: here or target")
	fs.StringVar(&f.bytecode, "bytecode", "auto", "which children get the bytecode of modules: auto (those on this machine, and near ones), always or never")
	fs.BoolVar(&f.noBytecode, "no-bytecode", false, "the same as --bytecode never")
	fs.StringArrayVar(&f.compilers, "compilers", nil, "interpreters of this machine that may compile what is served, besides those on PATH and those of local targets: `FILE` or pattern; repeatable")
	fs.StringVar(&f.trace, "trace", "", "write every frame that goes over the wire to `FILE`, decoded, secrets masked")
	fs.BoolVar(&f.traceImports, "trace-imports", false, "show afterwards which modules each target was served, when and how")
	completeFlag(cmd, "prefer", completeList("here", "target"))
	completeFlag(cmd, "output", completeDirs)
	completeFlag(cmd, "runtime", completeList("embedded", "mitogen"))
}

// fleet does one thing on several targets at once.
type fleet struct {
	app      *app
	flags    *fleetFlags
	targets  []target
	secrets  secrets
	importer *importer.Importer
	daemon   daemon.Master
	local    bool            // daemon is this process's own
	tracer   *tracer         // nil without --trace
	store    *bytecode.Store // of this process's own daemon; nil if that compiles nothing
	spool    spool
	what     func(target) string // what is done there, for --dry-run
	together *together           // how a running daemon does it on all targets as one request; may be nil
	line     func() string       // gives more for the progress line, which is shown for one target, too; may be nil
	plan     rollout
	where    *where    // nil without --where
	stdouts  *gatherer // nil without -b
	stderrs  *gatherer
	outDir   *outDir     // nil without -o
	failedTo *failedFile // nil without --failed
	silent   bool        // there is no progress line
	after    func(*job)  // is called at the end of each job that has begun; may be nil
	wg       sync.WaitGroup

	varsMu sync.Mutex // guards the inventory while targets are worked on

	droppedMu sync.Mutex
	dropped   map[string][]*programOutput // of programs that were interrupted, by target, for --json

	running, done, failed atomic.Int32
	status                atomic.Int32 // the highest so far
	tally                 tally
	failures              failures
}

// newFleet checks the flags. It starts nothing yet. firstPath is the first entry of the default module path, and main
// is what importing __main__ gives.
func newFleet(ctx context.Context, a *app, f *fleetFlags, firstPath string, main *importer.Main, stdin io.Reader) (*fleet, error) {
	if f.noBytecode {
		f.bytecode = string(daemon.BytecodeNever)
	}
	if _, err := daemon.ParseBytecodeUse(f.bytecode); err != nil {
		return nil, usagef("--bytecode: %w", err)
	}
	if f.prefer != "here" && f.prefer != "target" {
		return nil, usagef("--prefer %s: here or target", f.prefer)
	}
	targets, err := f.list(ctx, a, stdin)
	if err == nil {
		err = f.runtimeFlag.apply(targets)
	}
	if err != nil {
		return nil, err
	}
	opt, err := f.options(a, firstPath)
	if err != nil {
		return nil, err
	}
	opt.Main = main
	fl := &fleet{app: a, flags: f, targets: targets}
	switch fl.where, err = newWhere(f.where); {
	case err != nil:
		return nil, err
	case f.gather && f.json:
		return nil, usagef("-b and --json exclude each other")
	case f.where != "" && f.dryRun && !f.dryWork:
		return nil, usagef("--where asks the targets what they are, and --dry-run asks them nothing")
	}
	if fl.plan, err = f.plan(len(targets)); err != nil || f.dryRun && !f.dryWork {
		return fl, err
	}
	if f.gather {
		fl.stdouts, fl.stderrs = &gatherer{spool: &fl.spool, to: a.console.out}, &gatherer{spool: &fl.spool, to: a.console.err}
	}
	if f.output != "" {
		if fl.outDir, err = newOutDir(f.output); err != nil {
			return nil, err
		}
	}
	if fl.daemon, err = fl.master(ctx, opt); err != nil {
		return nil, err
	}
	fl.importer, err = interruptible(ctx, func() (*importer.Importer, error) {
		if d, ok := fl.daemon.(*daemon.Daemon); ok {
			return d.NewImporter(opt)
		}
		// It shows where modules are, and finds mistakes in the flags.
		return importer.New(opt)
	})
	if err != nil {
		fl.discard()
		return nil, usageError{err}
	}
	if fl.secrets, err = f.ask(ctx, targets); err == nil && f.failedTo != "" {
		fl.failedTo, err = newFailedFile(f.failedTo)
	}
	if err != nil {
		fl.discard()
		return nil, err
	}
	return fl, nil
}

// discard ends a fleet whose work does not begin.
func (fl *fleet) discard() {
	if fl.failedTo != nil {
		fl.failedTo.discard()
	}
	if fl.daemon != nil { // there is none in a dry run
		fl.shutdown()
	}
	if fl.tracer != nil {
		fl.tracer.close()
	}
}

// each runs do for every target, and shows the outcomes. The error is for start.
func (fl *fleet) each(ctx context.Context, do func(context.Context, *job) *outcome) error {
	if fl.flags.dryRun && !fl.flags.dryWork {
		return fl.dryRun()
	}
	if fl.outDir != nil {
		if err := fl.outDir.clear(fl.targets); err != nil {
			fl.discard()
			return usageError{err}
		}
	}
	stop := func() {}
	if (len(fl.targets) > 1 || fl.line != nil) && !fl.app.quiet && !fl.silent {
		stop = fl.app.console.progress(fl.progress)
	}
	finished := make(chan struct{})
	go func() {
		if fl.together == nil || !fl.together.possible() || !fl.together.run(ctx) {
			fl.start(ctx, do)
		}
		fl.wg.Wait()
		fl.shutdown()
		close(finished)
	}()
	fl.await(ctx, finished)
	stop()
	fl.sum(ctx)
	if fl.tracer != nil {
		fl.tracer.close()
	}
	if s := fl.status.Load(); s != statusOK {
		return statusError(s)
	}
	return nil
}

// sum tells how it went, at the end.
func (fl *fleet) sum(ctx context.Context) {
	c := fl.app.console
	why := "interrupted"
	if fl.tooMany() && ctx.Err() == nil {
		why = fmt.Sprintf("more than --max-fail %s have failed", fl.flags.maxFail)
	}
	text, all := fl.tally.text(fl.targets)
	if fl.failedTo != nil {
		if err := fl.failedTo.write(fl.tally.failedNames(fl.targets)); err != nil {
			c.complain("--failed %s: %v", fl.flags.failedTo, cause(err))
			fl.raise(statusRaised)
		}
	}
	if errors.Is(context.Cause(ctx), errStdoutClosed) {
		return
	}
	fl.unfinished(why)
	if fl.flags.gather {
		fl.stdouts.show(c)
		fl.stderrs.show(c)
	}
	fl.failures.show(c, fl.flags.gather)
	if len(fl.targets) > 1 && !fl.flags.json && !fl.app.quiet {
		if fl.tooMany() && ctx.Err() == nil && strings.Contains(text, "not begun") {
			text += ": " + why
		}
		c.sum(text, all)
	}
}

// raise makes the exit status at least this one.
func (fl *fleet) raise(status int) {
	for {
		s := fl.status.Load()
		if int(s) >= status || fl.status.CompareAndSwap(s, int32(status)) {
			return
		}
	}
}

// How long everything may take to end. Without a limit, a blocked terminal could hold the process for ever. The daemon
// needs less than this to kill what does not leave by itself.
const (
	endTime   = 15 * time.Second
	hurryTime = 3 * time.Second
)

// await waits for the end. There is no limit until something has interrupted the command. After it, nothing waits for the
// console any more.
func (fl *fleet) await(ctx context.Context, finished chan struct{}) {
	select {
	case <-finished:
		return
	case <-ctx.Done():
	}
	limit := time.NewTimer(endTime)
	defer limit.Stop()
	select {
	case <-finished:
		return
	case <-limit.C:
	case <-fl.app.hurry:
		select {
		case <-finished:
			return
		case <-time.After(hurryTime):
		}
	}
	fl.app.console.giveUp()
}

// shutdown ends what is left. A second signal kills it.
func (fl *fleet) shutdown() {
	ctx, cancel := fl.app.closing(endTime)
	defer cancel()
	_ = fl.daemon.Shutdown(ctx)
	if fl.store != nil {
		fl.store.Settle(settleTime)
		fl.store.Close()
	}
}

// settleTime is how long compilers, and what keeps sources, may go on at the end of a command, if they have something
// new. So the next command finds the code, even if each command takes less time than compiling.
const settleTime = 150 * time.Millisecond

// stuckTime is how long an interrupted child may take to leave.
const stuckTime = 1500 * time.Millisecond

// work does the job on one target, from connecting to the last line of output.
func (fl *fleet) work(ctx context.Context, t target, do func(context.Context, *job) *outcome) {
	fl.running.Add(1)
	defer fl.running.Add(-1)
	started := time.Now()
	if d := fl.flags.timeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, timeoutError{d})
		defer cancel()
	}
	j := fl.newJob(t)
	if fl.after != nil {
		defer fl.after(j)
	}
	imports := &importTrace{start: started}
	out := fl.connect(ctx, j, imports)
	if out == nil {
		if out = fl.unmet(ctx, j); out == nil {
			out = do(ctx, j)
		}
		limit := endTime
		if ctx.Err() != nil {
			limit = stuckTime
		}
		closing, cancel := fl.app.closing(limit)
		_ = j.child.Close(closing)
		cancel()
	}
	if stopped(ctx) {
		fl.drop(j)
		return // the target has no outcome
	}
	out.Target, out.Seconds = t.name, time.Since(started).Seconds()
	if fl.flags.traceImports {
		out.Imports = imports.rows(fl.importer, j.child)
	}
	fl.show(j, out)
}

// unmet gives nil if --where is true for the target.
func (fl *fleet) unmet(ctx context.Context, j *job) *outcome {
	if fl.where == nil {
		return nil
	}
	holds, err := fl.where.holds(ctx, j)
	switch {
	case err != nil:
		return failed(ctx, err)
	case holds:
		return nil
	}
	return &outcome{OK: true, unmet: true}
}

// stopped tells whether the whole command was interrupted. It is false if only this target's time is up.
func stopped(ctx context.Context) bool {
	var timeout timeoutError
	return ctx.Err() != nil && !errors.As(context.Cause(ctx), &timeout)
}

// connectOptions are the options that all targets have in common.
func (fl *fleet) connectOptions() daemon.ConnectOptions {
	return daemon.ConnectOptions{
		Python: fl.flags.python, PythonFrom: fl.flags.pythonFrom, Timeout: fl.flags.connectTimeout, PreferHere: fl.flags.prefer == "here",
		Bytecode: daemon.BytecodeUse(fl.flags.bytecode),
	}
}

// connect connects the job's target. It gives nil once the child is there.
func (fl *fleet) connect(ctx context.Context, j *job, imports *importTrace) *outcome {
	var err error
	opt := fl.connectOptions()
	opt.Secrets = j.target.passwords(fl.secrets)
	opt.OnOutput = func(data []byte) { _, _ = j.stderr.Write(data) }
	opt.OnLog = func(l daemon.Log) { fl.app.childLog(j.stderr, l) }
	if fl.local {
		opt.Importer = fl.importer
		// Others use a running daemon's children, too, so -v does not change what those log.
		opt.LogLevel = fl.app.leastLevel()
	}
	if fl.flags.traceImports {
		opt.OnImport = imports.add
	}
	if err = fl.open(ctx, j, opt); err != nil {
		return failed(ctx, err)
	}
	j.python = j.child.Version().Major
	return nil
}

// show counts an outcome and prints it.
func (fl *fleet) show(j *job, out *outcome) {
	c := fl.app.console
	defer j.output.release()
	if fl.flags.json && !out.OK && out.write == nil && out.Result == nil {
		out.write = j.output.partial()
	}
	if out.unmet {
		_, _ = j.stdout.Close(), j.stderr.Close()
		if j.files != nil {
			j.files.remove()
		}
		if fl.tally.end(out) {
			fl.done.Add(1)
		}
		return
	}
	tell := out.Error != nil && !out.silent && !fl.flags.json
	stack := ""
	if tell {
		stack = out.Error.stack()
	}
	first := tell && fl.failures.take(j.target, out.Error.String(), stack)
	prefix := ""
	if len(fl.targets) > 1 || len(fl.flags.hosts) > 0 {
		prefix = strings.TrimSuffix(out.Target, ":") + ": "
	}
	if first && !fl.flags.gather {
		c.complain("%s%v", prefix, out.Error)
	}
	if first || fl.flags.gather || j.files != nil {
		_, _ = io.WriteString(j.stderr, stack)
	}
	if fl.flags.traceImports && !fl.flags.json {
		_, _ = io.WriteString(j.stderr, importTable(out.Imports))
	}
	if j.more {
		j.shown = out
	} else if err := j.close(out); err != nil {
		if !j.files.told {
			c.complain("%s%v", prefix, err)
		}
		if out.OK {
			out.OK, out.status = false, statusRaised
			out.Error = &failure{Kind: kindCall, Message: err.Error()}
		}
	}
	if !fl.tally.end(out) {
		return // the command has told already that this target has no outcome
	}
	fl.done.Add(1)
	if !out.OK {
		fl.failed.Add(1)
	}
	fl.raise(out.status)
	if fl.flags.json {
		c.out.together(out.writeJSON)
	}
}

// fewLeft is how many targets the progress line names.
const fewLeft = 3

// progress gives the line that is shown meanwhile.
func (fl *fleet) progress() string {
	text := fmt.Sprintf("%d of %s done, %d failed, %d running", fl.done.Load(), several(len(fl.targets), "target"),
		fl.failed.Load(), fl.running.Load())
	if open, begun := fl.tally.open(); begun == len(fl.targets) && len(open) <= fewLeft && len(open) > 0 {
		text += ": " + printable.Line(fold(open))
	}
	switch {
	case fl.line != nil && len(fl.targets) == 1:
		return fl.line()
	case fl.line != nil:
		return fl.line() + ", " + text
	}
	return text
}
