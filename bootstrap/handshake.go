package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// handshake is one attempt while it goes on.
type handshake struct {
	// Constant after startOne.
	ctx  context.Context
	plan *Plan
	opt  StartOptions
	p    *Process
	// stderr reads what is no terminal with everything on it; nil then.
	stderr *errReader

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
		case evFailed:
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
	if !Supported(h.p.HexVersion) {
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

// piece is how much of a build is written at once. Each piece gets the time of a whole connection.
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

// ask judges the unfinished line of the stream on which questions come. wait says when to look again if nothing follows.
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
		h.armAnswer()
		_, err := tty.Write([]byte(string(q.Answer) + "\n"))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return time.Time{}, h.cause()
		}
		if err != nil && !IsEOF(err) {
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

// errChunk is for the stderr reader, after each read: n bytes came, or it stopped waiting. It tells whether the handshake still looks
// for questions.
func (h *handshake) errChunk(e *errReader, n int, timedOut bool) bool {
	if !h.asking.Load() {
		return false
	}
	if n == 0 && !timedOut {
		return true
	}
	wait, err := h.ask(&e.lines, timedOut && n == 0)
	if err != nil {
		h.interrupt(err)
		return false
	}
	e.arm(wait)
	return h.asking.Load() // finish may have been called meanwhile
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

// armAnswer bounds how long a program may leave its answer unread: a terminal holds 12 KiB.
func (h *handshake) armAnswer() {
	if h.p.errFile == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	until := h.deadline
	if h.err != nil || h.over {
		until = time.Now()
	}
	_ = h.p.errFile.SetWriteDeadline(until)
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
	if h.p.errFile != nil {
		_ = h.p.errFile.SetWriteDeadline(now)
	}
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

// lingerTime is how long a stream is read after its program has ended: what it wrote last is still on the way.
const lingerTime = 300 * time.Millisecond

// exited is for the reaper.
func (h *handshake) exited() { time.AfterFunc(lingerTime, func() { h.interrupt(errExited) }) }

// because says why an attempt is over: by what run has judged, or else by the interrupt, which makes reads and writes fail as well.
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
		p.AwaitExit(h.ctx)
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
	var open string
	if h.stderr != nil {
		open = h.stderr.stop()
	} else {
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
	h.over = true
	_ = h.p.r.SetReadDeadline(time.Time{})
	_ = h.p.w.SetWriteDeadline(time.Time{})
	h.mu.Unlock()
	if h.stderr != nil {
		h.stderr.Nudge()
	}
}
