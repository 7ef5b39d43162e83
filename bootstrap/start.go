package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// StartOptions are what Start needs besides the plan.
type StartOptions struct {
	// Preamble gives what the first stage reads after MITO000. Of the process its PID and what the child has said of itself are known.
	Preamble func(*Process) ([]byte, error)
	// Output, if not nil, is called with each line that the program prints that is no part of the protocol, harmless to show; ready is false
	// before the child is up (banners, warnings). Calls do not overlap; it must not block.
	Output func(line string, ready bool)
	// Dir and Env (NAME=VALUE) are the program's working directory and environment, and where it is looked up; empty means
	// those of this process. Variables that hold passwords are left out of either (HideEnv).
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

// WhileBusy makes attempts at a connection until one of them is no Error with Retry, at most eight, with pauses that grow, and until
// the deadline. An attempt that runs out of time is explained by the one before it.
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

// expandPythons puts the files of PATH in place of a pattern that they match.
func expandPythons(list []string, opt StartOptions) []string {
	var out []string
	for _, name := range list {
		if !strings.ContainsRune(name, '[') {
			out = append(out, name)
			continue
		}
		for _, dir := range searchPath(opt) {
			found, _ := filepath.Glob(filepath.Join(escapeGlob.Replace(dir), name))
			out = append(out, found...)
		}
	}
	return out
}

var escapeGlob = strings.NewReplacer("[", `\[`, "*", `\*`, "?", `\?`, `\`, `\\`)

// searchPath gives the directories in which the program is looked up.
func searchPath(opt StartOptions) (dirs []string) {
	list := os.Getenv("PATH")
	for _, entry := range opt.Env {
		if v, ok := strings.CutPrefix(entry, "PATH="); ok {
			list = v
		}
	}
	for _, dir := range filepath.SplitList(list) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

const hintSupply = "install Python there, or name a build for that machine with --python-from, or a directory of that machine with --python-dir"

const hintPython = "install Python 2.7 or 3.6 and later there, or name one with python=PATH"

// handshake is one attempt while it goes on.
type handshake struct {
	// Constant after startOne.
	ctx  context.Context
	plan *Plan
	opt  StartOptions
	p    *Process

	// Owned by run. sent is when the preamble was.
	marks marks
	sent  time.Time

	// asker is owned by the stderr reader, or by run when everything is on the terminal.
	asker  *asker
	asking atomic.Bool // an interpreter has not answered yet: questions may come
	told   atomic.Bool // a password was sent

	// mu protects the following. Never held across I/O.
	mu       sync.Mutex
	deadline time.Time
	err      error // first cause; set once
	over     bool  // the child is up: interrupts come too late
}

func startOne(ctx context.Context, plan *Plan, argv []string, opt StartOptions, deadline time.Time) (*Process, error) {
	fail := func(step Step, err error, hint string) (*Process, error) {
		return nil, &Error{Label: plan.Label, Step: step, Reason: err.Error(), Hint: hint, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(StepProgram, err, "")
	}
	path, err := lookPath(argv[0], opt)
	if err != nil {
		return fail(StepProgram, programError(argv[0], err), "install it on this machine, or give its path")
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
		return fail(StepProgram, programError(argv[0], err), "")
	}
	h.asker = newAsker(plan.Prompts)
	if p.errFile != nil {
		p.errDone = make(chan struct{})
		go p.readErr(h)
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

// lookPath is exec.LookPath with the directory and the PATH that the program is going to have.
func lookPath(program string, opt StartOptions) (string, error) {
	if strings.ContainsRune(program, '/') {
		if opt.Dir == "" || filepath.IsAbs(program) {
			return exec.LookPath(program)
		}
		return exec.LookPath(filepath.Join(opt.Dir, program))
	}
	for _, entry := range opt.Env {
		list, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if !filepath.IsAbs(dir) {
				continue // as exec.LookPath: a program of the current directory is asked for by its path
			}
			if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
				return path, nil
			}
		}
		return "", &exec.Error{Name: program, Err: exec.ErrNotFound}
	}
	return exec.LookPath(program)
}

// fork starts the program as leader of a session of its own, so that ^C on our terminal is ours alone and its group can be
// killed as a whole.
func fork(path string, argv []string, env map[string]string, opt StartOptions, d *stdio) (int, error) {
	attr := &syscall.ProcAttr{
		Dir:   opt.Dir,
		Env:   environment(opt.Env, env),
		Files: []uintptr{uintptr(d.child[0]), uintptr(d.child[1]), uintptr(d.child[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if d.tty >= 0 {
		attr.Sys.Setctty, attr.Sys.Ctty = true, d.tty
	}
	return syscall.ForkExec(path, argv, attr)
}

// environment gives that of the program: base, or our own where that is empty, with more put into it. Each name is there once: of two
// entries some programs take the first, and others the last.
func environment(base []string, more map[string]string) []string {
	if len(base) == 0 {
		base = os.Environ()
	}
	base = WithoutSecrets(base)
	last := make(map[string]int, len(base))
	for i, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		last[name] = i
	}
	out := make([]string, 0, len(base)+len(more))
	for i, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		if _, set := more[name]; !set && last[name] == i && name != "PYTHONINSPECT" { // see chooser
			out = append(out, entry)
		}
	}
	for _, name := range sortedKeys(more) {
		out = append(out, name+"="+more[name])
	}
	return out
}

func programError(program string, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s: %w", program, exec.ErrNotFound)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: %w; a script needs a #! line", program, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", program, exec.ErrNotFound)
	}
	return fmt.Errorf("%s: cannot be started: %w", program, err)
}

// run reads the data stream until MITO002.
func (h *handshake) run() error {
	onTTY := h.p.errFile == nil
	buf := make([]byte, 4<<10)
	var quietUntil time.Time // when an unfinished question has settled; zero: none is pending
	for {
		h.arm(quietUntil)
		n, err := h.p.r.Read(buf)
		rest, ferr := h.feed(buf[:n])
		if ferr != nil {
			return ferr
		}
		if h.marks.phase == ready {
			h.p.buffered = append([]byte(nil), rest...)
			return nil
		}
		timedOut := errors.Is(err, os.ErrDeadlineExceeded)
		if timedOut {
			cause := h.cause()
			if errors.Is(cause, errExited) {
				for k := range readRest(h.p.r, buf) {
					if _, err := h.feed(buf[:k]); err != nil {
						return err
					}
				}
			}
			if cause != nil {
				return cause
			}
		}
		if onTTY && h.asking.Load() && (n > 0 || timedOut) {
			wait, aerr := h.ask(&h.marks.line, timedOut && n == 0)
			if aerr != nil {
				return aerr
			}
			quietUntil = wait
		}
		if IsEOF(err) {
			return errExited
		}
		if err != nil && !timedOut {
			return fmt.Errorf("reading: %w", err)
		}
	}
}

// feed takes bytes of the data stream; rest is what follows MITO002.
func (h *handshake) feed(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		n, ev := h.marks.next(b)
		b = b[n:]
		switch ev {
		case evText:
			h.p.line(h.marks.text)
		case evHello:
			h.asking.Store(false)
			if err := h.sendPreamble(); err != nil {
				return nil, err
			}
		case evAsked:
			h.asking.Store(false)
			if err := h.supply(h.marks.text); err != nil {
				return nil, err
			}
		case evReceived:
			h.p.Took = time.Since(h.sent)
		case evRefused:
			h.p.line(h.marks.text)
			return nil, h.explain(StepPython, "", "")
		case evReady:
			return b, nil
		}
		if h.marks.banner > maxBanner {
			return nil, h.explain(h.marks.step(), "it printed more than a mebibyte that is no handshake", h.plan.Hint)
		}
	}
	return nil, nil
}

func (h *handshake) sendPreamble() error {
	h.p.Hello = h.marks.hello
	if !supported(h.p.HexVersion) {
		return &Error{Label: h.plan.Label, Step: StepPython,
			Reason: "the interpreter is Python " + FormatVersion(h.p.HexVersion) + "; 2.7, or 3.6 and later, is needed", Hint: hintPython}
	}
	pre, err := h.opt.Preamble(h.p)
	if err != nil {
		return &Error{Label: h.plan.Label, Step: StepStage, Reason: err.Error(), Err: err}
	}
	h.sent = time.Now()
	if _, err := h.p.w.Write(pre); err != nil && !IsEOF(err) {
		return fmt.Errorf("sending the runtime: %w", err)
	}
	return nil // at EPIPE the reader learns more about the end
}

// piece is how much is written at once of what may take long: each gets the time of a whole connection.
const piece = 64 << 10

// supply answers a target that has no Python.
func (h *handshake) supply(question string) error {
	answer, err := h.plan.Supply.Answer(h.ctx, question)
	if err != nil {
		return &Error{Label: h.plan.Label, Step: StepPython, Reason: "no usable Python there, and none could be sent: " + err.Error(),
			Hint: hintSupply, NoPython: true, Err: err}
	}
	for len(answer) > 0 {
		h.mu.Lock()
		h.deadline = later(h.ctx, h.plan.timeout())
		h.mu.Unlock()
		h.arm(time.Time{})
		n, err := h.p.w.Write(answer[:min(piece, len(answer))])
		if IsEOF(err) {
			return nil // the reader learns more about the end
		}
		if err != nil {
			return fmt.Errorf("sending Python: %w", err)
		}
		answer = answer[n:]
	}
	return nil
}

// later is the time after d, or the context's deadline.
func later(ctx context.Context, d time.Duration) time.Time {
	t := time.Now().Add(d)
	if end, ok := ctx.Deadline(); ok && end.Before(t) {
		return end
	}
	return t
}

// ask judges the unfinished line of the stream on which questions come. wait is when to look again if nothing follows.
func (h *handshake) ask(l *lineBuffer, quiet bool) (wait time.Time, err error) {
	switch v, q := h.asker.look(l.buf, quiet); v {
	case settle:
		return time.Now().Add(SettleTime), nil
	case answer:
		if q.Name == namePassword {
			h.p.output.hide(q.Answer)
		}
		h.p.line(normalise(string(l.buf)))
		l.buf = l.buf[:0]
		tty := h.p.errFile
		if tty == nil {
			tty = h.p.w
		}
		if _, err := tty.Write([]byte(string(q.Answer) + "\n")); err != nil && !IsEOF(err) {
			return time.Time{}, fmt.Errorf("answering the %s prompt: %w", q.Name, err)
		} else if err == nil && q.Name == namePassword {
			h.told.Store(true)
		}
	case giveUp:
		h.p.line(normalise(string(l.buf)))
		l.buf = l.buf[:0]
		reason, hint := q.problem()
		return time.Time{}, h.explain(StepConnect, reason, hint)
	}
	return time.Time{}, nil
}

// errChunk is called by the stderr reader after each read, with how much came and whether it stopped waiting. It tells whether
// the handshake still cares.
func (h *handshake) errChunk(l *lineBuffer, n int, timedOut bool) bool {
	if !h.asking.Load() {
		return false
	}
	if n == 0 && !timedOut {
		return true
	}
	wait, err := h.ask(l, timedOut && n == 0)
	if err != nil {
		h.interrupt(err)
		return false
	}
	h.p.armErr(wait)
	return true
}

// arm sets the read deadline, unless somebody has interrupted.
func (h *handshake) arm(quietUntil time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	t := h.deadline
	if !quietUntil.IsZero() && quietUntil.Before(t) {
		t = quietUntil
	}
	_ = h.p.r.SetReadDeadline(t)
	if h.p.w != h.p.r || h.marks.phase == waitHello {
		_ = h.p.w.SetWriteDeadline(h.deadline)
	}
}

// interrupt ends run with err, from any goroutine. The first cause counts.
func (h *handshake) interrupt(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	if h.err == nil {
		h.err = err
	}
	now := time.Now()
	_ = h.p.r.SetReadDeadline(now)
	_ = h.p.w.SetWriteDeadline(now)
}

// cause tells why the data stream was interrupted, or that the time is up; nil when neither holds.
func (h *handshake) cause() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil && !time.Now().Before(h.deadline) {
		h.err = context.DeadlineExceeded
	}
	return h.err
}

// errExited is the cause when the program has ended but something that it started holds the stream open.
var errExited = errors.New("the program ended")

// lingerTime is how long after the program's end its stream is still read: what it wrote last is still on the way.
const lingerTime = 300 * time.Millisecond

// exited is called by the reaper.
func (h *handshake) exited() { time.AfterFunc(lingerTime, func() { h.interrupt(errExited) }) }

// because gives the reason for which an attempt is over. A read or write that an interrupt has ended, or that found the stream
// ended by what the interrupt is about, is no reason by itself; what run has judged is.
func (h *handshake) because(err error) error {
	var judged *Error
	if errors.As(err, &judged) {
		return err
	}
	if cause := h.cause(); cause != nil {
		return cause
	}
	return err
}

// explain makes an error of what the program printed; reason, if not empty, is used when no Failure of the plan matches.
func (h *handshake) explain(step Step, reason, hint string) *Error {
	o := Outcome{Step: step, Output: h.p.output.raw(), Status: h.p.ExitStatus(), Answered: h.told.Load()}
	e := h.plan.Explain(o)
	if f, _ := h.plan.failure(o.Output, o.Answered); f == nil && reason != "" {
		e.Reason, e.Hint = reason, hint
	}
	return e
}

// failed ends the attempt: it collects what the program still prints, kills it, and words the error.
func (h *handshake) failed(err error) error {
	p := h.p
	if errors.Is(err, errExited) {
		// Let it end by itself, so that its status is its own.
		p.await(context.Background(), lingerTime)
		p.drainErr(lingerTime)
	}
	h.asking.Store(false)
	dialing := ""
	if errors.Is(err, context.DeadlineExceeded) && h.marks.phase == waitHello {
		dialing = dialingOf(p.PID)
	}
	if rest := h.marks.line.buf; len(rest) > 0 {
		p.line(normalise(string(rest)))
	}
	open := p.stopErr()
	if p.errFile == nil {
		open = strings.TrimSpace(normalise(string(h.marks.line.buf)))
	}
	var e *Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, errExited):
		e = h.explain(h.marks.step(), "", "")
	case errors.Is(err, context.DeadlineExceeded):
		e = h.plan.Explain(Outcome{Step: h.marks.step(), Output: p.output.raw(), Status: StatusTimedOut, Answered: h.told.Load(), Open: open, Dialing: dialing})
		e.Err = err
	default:
		e = &Error{Label: h.plan.Label, Step: h.marks.step(), Reason: err.Error(), Err: err}
	}
	p.closeData()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.leave(now)
	p.closeErr()
	return e
}

// finish makes the process a running one.
func (h *handshake) finish() {
	h.p.before = h.p.output.count()
	h.p.mu.Lock()
	h.p.ready, h.p.onExit = true, nil
	h.p.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	_ = h.p.r.SetReadDeadline(time.Time{})
	_ = h.p.w.SetWriteDeadline(time.Time{})
}

// drainErr waits until the stderr reader has seen the end, at most d.
func (p *Process) drainErr(d time.Duration) {
	if p.errDone == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.errDone:
	case <-t.C:
	}
}
