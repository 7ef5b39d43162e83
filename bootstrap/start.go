package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"time"
)

// StartOptions are what Start needs besides the plan.
type StartOptions struct {
	// Preamble gives what the first stage reads after MITO000. The process has its PID then, and what the child has said of itself.
	Preamble func(*Process) ([]byte, error)
	// Output, if not nil, is called with each line of the program's that is no part of the protocol, harmless to show; ready is false
	// before the child is up (banners, warnings). Calls do not overlap; it must not block.
	Output func(line string, ready bool)
	// Dir and Env (NAME=VALUE) are the program's working directory and environment, and where it is looked up; empty means
	// those of this process. Variables that hold passwords are always left out (HideEnv).
	Dir string
	Env []string
}

// Attempts at a target that is busy (Error.Retry), and the pause between them, which doubles up to its limit.
const (
	maxAttempts = 8
	firstPause  = 250 * time.Millisecond
	maxPause    = 2 * time.Second
)

// Start runs a plan on this machine and brings the child up to MITO002. On an error nothing is left: no process, descriptor or
// goroutine. The error is an *Error, or wraps ctx.Err() in one.
func Start(ctx context.Context, p *Plan, opt StartOptions) (*Process, error) {
	if err := p.check(); err != nil {
		return nil, &Error{Label: p.Label, Step: StepOptions, Reason: err.Error(), Err: err}
	}
	deadline := later(ctx, p.timeout())
	var proc *Process
	err := WhileBusy(ctx, deadline, func() (err error) {
		proc, err = startPythons(ctx, p, opt, deadline)
		return err
	})
	return proc, err
}

// WhileBusy repeats attempts while they fail with Error.Retry: at most eight, with pauses that grow, and until
// the deadline. An attempt that runs out of time is explained by the one before it, and is worth another as that was.
func WhileBusy(ctx context.Context, deadline time.Time, attempt func() error) error {
	var before *Error
	pause := firstPause
	for n := 1; ; n++ {
		err := attempt()
		var e *Error
		if errors.As(err, &e) && before != nil && e.TimedOut {
			e.Reason += "; the attempt before it: " + before.Reason
			e.Hint = before.Hint
			if len(e.Output) == 0 {
				e.Output = before.Output
			}
			e.Retry = true
			return err
		}
		if err == nil || e == nil || !e.Retry || n == maxAttempts {
			return err
		}
		before = e
		// Between half the pause and one and a half, so that those who were refused together do not come back together.
		d := pause/2 + rand.N(pause)
		if time.Until(deadline) < d {
			return err
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		pause = min(2*pause, maxPause)
	}
}

// startPythons tries the plan's interpreters in order, or just runs the plan when it names one.
func startPythons(ctx context.Context, p *Plan, opt StartOptions, deadline time.Time) (*Process, error) {
	if len(p.Pythons) == 0 {
		return startOne(ctx, p, p.Argv, opt, deadline)
	}
	var tried []string
	for _, python := range expandPythons(p.Pythons, opt) {
		argv := append([]string{python}, p.Argv[1:]...)
		proc, err := startOne(ctx, p, argv, opt, deadline)
		var e *Error
		if err == nil || !errors.As(err, &e) {
			return proc, err
		}
		switch {
		case e.TimedOut && len(tried) > 0:
			e.Reason = python + ": " + e.Reason + "; tried before it: " + strings.Join(tried, ", ")
			return nil, err
		case e.TimedOut || ctx.Err() != nil:
			return nil, err
		case e.Step == StepProgram && errors.Is(err, exec.ErrNotFound):
			tried = append(tried, python+" (not found)")
		case e.Step == StepPython || e.Step == StepProgram:
			tried = append(tried, python+" ("+e.Reason+")")
		case e.Step == StepConnect:
			why := e.Status
			if len(e.Output) > 0 {
				why = fmt.Sprintf("%q", e.Output[len(e.Output)-1])
			}
			tried = append(tried, python+" (does not start: "+why+")")
		default:
			return nil, err
		}
	}
	if p.Supply != nil {
		return startOne(ctx, p, p.asking, opt, deadline)
	}
	return nil, &Error{
		Label: p.Label, Step: StepPython,
		Reason: "no usable Python: tried " + strings.Join(tried, ", "),
		Hint:   hintPython,
	}
}

const hintSupply = "install Python there, or name a build for that machine with --python-from, or a directory of that machine with --python-dir"

const hintPython = "install Python 2.7 or 3.6 and later there, or name one with python=PATH"

func startOne(ctx context.Context, plan *Plan, argv []string, opt StartOptions, deadline time.Time) (*Process, error) {
	fail := func(step Step, err error, hint string) (*Process, error) {
		return nil, &Error{Label: plan.Label, Step: step, Reason: err.Error(), Hint: hint, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(StepProgram, err, "")
	}
	path, err := lookPath(argv[0], opt)
	if err != nil {
		return fail(StepProgram, programError(argv[0], argv[0], err), "install it on this machine, or give its path")
	}
	d, err := plan.Stdio.open()
	if err != nil {
		return fail(StepProgram, err, "")
	}
	p := &Process{Label: plan.Label, r: d.r, w: d.w, errFile: d.err, tty: d.tty >= 0, done: make(chan struct{}), onLine: opt.Output}
	h := &handshake{plan: plan, opt: opt, p: p, deadline: deadline}
	h.ctx, h.marks.supply = ctx, plan.Supply != nil
	h.asking.Store(true)
	p.onExit = h.exited
	err = startReaped(p, func() (int, error) { return fork(path, argv, plan.Env, opt, d) })
	d.closeChild()
	if err != nil {
		d.closeOurs()
		return fail(StepProgram, programError(argv[0], path, err), "")
	}
	h.asker = newAsker(plan.Prompts)
	if p.errFile != nil {
		h.stderr = newErrReader(p, h)
		p.stderr = h.stderr
		go h.stderr.Resume()
	}
	stop := context.AfterFunc(ctx, func() { h.interrupt(ctx.Err()) })
	h.arm(time.Time{})
	if _, err = p.w.WriteString(plan.Input); err == nil || IsEOF(err) {
		err = h.run()
	}
	stop()
	if err != nil {
		return nil, h.failed(h.because(err))
	}
	h.finish()
	return p, nil
}
