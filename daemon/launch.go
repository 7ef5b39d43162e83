package daemon

import (
	"context"
	"fmt"
	"syscall"
	"time"
	"unicode/utf8"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python"
)

// launchGrace is how long a hop gets, beyond the plan's own time, to say how the launch went.
const launchGrace = 30 * time.Second

// launchTime is how long a plan's launch may take.
func launchTime(plan *bootstrap.Plan) time.Duration {
	if plan.Timeout <= 0 {
		return bootstrap.DefaultTimeout
	}
	return plan.Timeout
}

// withGrace bounds the wait for a hop that has to start next in the time of limit and report that: a hop that is
// silent for launchGrace longer never will. renew starts the time anew.
func (d *Daemon) withGrace(ctx context.Context, next *Child, limit time.Duration) (_ context.Context, renew, cancel func()) {
	ctx, stop := context.WithCancelCause(ctx)
	t := time.AfterFunc(limit+d.launchGrace, func() {
		if next.hop != nil {
			next.hop.distrust()
		}
		stop(errorf("%s: the hop before it does not answer", next.name))
	})
	return ctx, func() { t.Reset(limit + d.launchGrace) }, func() { t.Stop(); stop(nil) }
}

// launch starts a child behind c: the plan is run by c's launcher (python/launch.py).
func (c *Child) launch(ctx context.Context, next *Child, plan *bootstrap.Plan) error {
	next.stream = c.stream
	if next.runtime == nil {
		next.responder = c.responder
	}
	c.stream.ids.give(next.id)
	defer c.stream.ids.takeBack(next.id)
	// This comes before the route: from then on, what the child prints and its end count as its own.
	c.d.children.Store(next.id, next)
	c.d.allow(c.id, next.id, 1)
	err := c.launchBusy(ctx, next, plan)
	up := err == nil
	if up && c.d.streamOf(next.id) != c.stream {
		err = next.routeless()
	}
	if err == nil && next.runtime != nil {
		err = next.newResponder()
	}
	if err != nil {
		if up {
			c.abandon(pyproto.Handle(c.launcher.Load()), next.id)
		}
		next.takeOut("it could not be connected")
		c.d.allow(c.id, next.id, 0)
		return err
	}
	c.tellOf(next, importer.Platform{Version: next.Version()})
	return nil
}

// tellOf tells who serves c's modules of a child behind it.
func (c *Child) tellOf(next *Child, p importer.Platform) {
	c.responder.Add(uint32(next.id), p)
	if isClosed(next.closed) { // and so end may have come before
		c.responder.Forget(uint32(next.id))
	}
}

// routeless says why a child that is up cannot be reached.
func (c *Child) routeless() error {
	if err := c.gone(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noRoute != nil {
		return errorf("%s: its route was refused: %w", c.name, c.noRoute)
	}
	return errorf("%s: the hop before it has not announced its route", c.name)
}

// launchBusy launches, and tries again while the target says that it is busy.
func (c *Child) launchBusy(ctx context.Context, next *Child, plan *bootstrap.Plan) error {
	deadline := time.Now().Add(launchTime(plan))
	return bootstrap.WhileBusy(ctx, deadline, func() error { return c.launchOnce(ctx, next, plan, time.Until(deadline)) })
}

// launched is the launcher's report.
type launched struct {
	OK         bool     `py:"ok"`
	HexVersion uint32   `py:"hexversion"`
	Step       string   `py:"step"`
	Reason     string   `py:"reason"` // if what was printed does not tell it
	Output     []string `py:"output"`
	Status     *int     `py:"status"` // a wait status
	TimedOut   bool     `py:"timed_out"`
	Answered   bool     `py:"answered"`
	Cancelled  bool     `py:"cancelled"`
	Open       string   `py:"open"`    // the unfinished line that was printed last
	Dialing    string   `py:"dialing"` // see bootstrap.Outcome
	NoTerminal bool     `py:"no_terminal"`
}

// What python/launch.py itself keeps of what was printed, and sends of an unfinished line.
const (
	keptLines = 40
	keptChars = 403
	keptText  = 1200
)

// cut brings a report to the size of an honest one: every pattern of the plan is searched in each line, which nobody
// interrupts.
func (up *launched) cut() {
	up.Output = up.Output[max(0, len(up.Output)-keptLines):]
	for i, line := range up.Output {
		up.Output[i] = chars(line, keptChars)
	}
	up.Step, up.Reason, up.Open, up.Dialing = chars(up.Step, 100), chars(up.Reason, keptText), chars(up.Open, keptText), chars(up.Dialing, 100)
}

// chars gives the first n characters of a text.
func chars(text string, n int) string {
	for i := range text {
		if n--; n < 0 {
			return text[:i]
		}
	}
	return text
}

// launchOnce makes one attempt, which may take as long as limit.
func (c *Child) launchOnce(ctx context.Context, next *Child, plan *bootstrap.Plan, limit time.Duration) error {
	ctx, renew, cancel := c.d.withGrace(ctx, next, limit)
	defer cancel()
	if plan.Supply != nil {
		c.supplying.store(next.id, &supplying{supply: plan.Supply, renew: renew})
		defer c.supplying.take(next.id)
	}
	handle, err := c.launcherHandle(ctx)
	if err != nil {
		return err
	}
	config, err := python.Literal(next.config())
	if err != nil {
		return err
	}
	value := planValue(plan)
	value["timeout"] = limit.Seconds()
	if next.runtime != nil {
		if value["foreign"], err = next.foreign(); err != nil {
			return err
		}
	}
	request, err := pyproto.Append(fmt.Append(nil, uint32(next.id), "\x00"), pyproto.Tuple{next.name, value, config, next.unidirectional})
	if err != nil {
		return errorf("%s: the plan cannot be sent: %w", next.name, err)
	}
	var up launched
	err = c.request(ctx, handle, request).within(c.name, reportLimits).Decode(&up)
	up.cut()
	switch {
	case err != nil && ctx.Err() != nil:
		c.abandon(handle, next.id)
		return context.Cause(ctx)
	case err != nil:
		c.abandon(handle, next.id) // who answers so may have started it
		return err
	case up.OK && !bootstrap.Supported(up.HexVersion):
		c.abandon(handle, next.id)
		return errorf("%s: the hop before it says that it is Python %s", next.name, bootstrap.FormatVersion(up.HexVersion))
	case up.OK:
		next.setVersion(up.HexVersion)
		return nil
	}
	return up.explain(plan)
}

// planValue is the plan for the wire. Answers go as secrets, which no trace, log or traceback shows.
func planValue(plan *bootstrap.Plan) map[string]any {
	m := plan.Map()
	for _, prompt := range m["prompts"].([]any) {
		p := prompt.(map[string]any)
		p["answer"] = pyproto.Secret(escaped(p["answer"].(string)))
	}
	return m
}

// escaped is a text whose bytes that are no UTF-8 are lone surrogates, as Python's surrogateescape makes them.
func escaped(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out []byte
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			out = append(out, 0xed, 0xb0|s[0]>>6, 0x80|s[0]&0x3f)
		} else {
			out = append(out, s[:size]...)
		}
		s = s[size:]
	}
	return string(out)
}

// explain puts a failed launch into words.
func (up *launched) explain(plan *bootstrap.Plan) error {
	status := ""
	switch {
	case up.TimedOut:
		status = bootstrap.StatusTimedOut
	case up.Status != nil && syscall.WaitStatus(*up.Status).Signaled():
		status = "signal: " + syscall.WaitStatus(*up.Status).Signal().String()
	case up.Status != nil:
		status = fmt.Sprintf("exit status %d", syscall.WaitStatus(*up.Status).ExitStatus())
	}
	e := plan.Explain(bootstrap.Outcome{
		Step: bootstrap.Step(up.Step), Output: up.Output, Status: status, Answered: up.Answered, Open: up.Open, Dialing: up.Dialing,
	})
	if up.Reason != "" {
		e.Reason, e.Hint, e.Retry = up.Reason, "", false
	}
	switch {
	case up.NoTerminal:
		e.Reason = "no terminal can be made on the machine before this hop: " + up.Reason
		e.Hint = "is devpts mounted on /dev/pts there, with /dev/ptmx pointing into it?"
	case e.Step == bootstrap.StepProgram:
		e.Hint = "install it on the machine before this hop, or give its path"
	}
	return e
}

// launcherHandle gives the handle of c's launcher.
func (c *Child) launcherHandle(ctx context.Context) (pyproto.Handle, error) {
	if h := c.launcher.Load(); h != 0 {
		return pyproto.Handle(h), nil
	}
	var h uint32
	if err := c.Call(ctx, "mitogen.launch:serve").Decode(&h); err != nil {
		return 0, errorf("%s cannot start children: %w", c.name, err)
	}
	if pyproto.Handle(h).Reserved() {
		return 0, errorf("%s cannot start children: handle %d is no launcher's", c.name, h)
	}
	c.launcher.Store(h)
	return pyproto.Handle(h), nil
}

// request sends a message to one of c's handles and waits for the reply.
func (c *Child) request(ctx context.Context, handle pyproto.Handle, payload []byte) *Result {
	p := &Pending{c: c, w: waiters.Get().(*waiter)}
	p.handle = c.d.handles.add(handler{fn: p.w.deliver, respondent: c.id, once: true})
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: handle, ReplyTo: p.handle}
	err := c.gone()
	if size := len(payload); err == nil && size > c.d.opt.MaxMessage {
		err = errorf("%s: the request is %d bytes; at most %d are sent", c.name, size, c.d.opt.MaxMessage)
	}
	if err == nil {
		err = c.send(ctx, newFrame(h, payload))
	}
	if err == nil {
		// The child may have gone after the first check, and then nobody would end the wait.
		err = c.gone()
	}
	if err != nil && c.d.handles.remove(p.handle) {
		p.err = err
	}
	return p.Result(ctx)
}

// abandon has the launcher end a child, at any point of its launch. It does not wait.
func (c *Child) abandon(handle pyproto.Handle, id pyproto.ContextID) {
	_ = c.d.post(c.id, handle, 0, fmt.Append(nil, uint32(id)))
}

// endLaunched has c end a child that it has started, and waits until nothing of that is left. If c itself is gone, so
// are its children: that is no error. It is not answered if c has a launcher, and that has said nothing.
func (c *Child) endLaunched(ctx context.Context, child *Child) (answered bool, err error) {
	handle := c.launcherOf(child)
	if handle == 0 {
		c.abandonLaunched(child)
		return true, nil
	}
	err = c.request(ctx, handle, fmt.Append(nil, uint32(child.id))).Err()
	if c.gone() != nil {
		return true, nil
	}
	return err == nil || ctx.Err() == nil, err
}

// launcherOf is the handle of c's launcher, if that has started the child; 0 for one that was forked, and where the
// runtime has a launcher of its own.
func (c *Child) launcherOf(child *Child) pyproto.Handle {
	if child.method == "fork" {
		return 0
	}
	return pyproto.Handle(c.launcher.Load())
}

// abandonLaunched has a child ended, and does not wait.
func (c *Child) abandonLaunched(child *Child) {
	if handle := c.launcherOf(child); handle != 0 {
		c.abandon(handle, child.id)
		return
	}
	_ = c.d.post(child.id, pyproto.Shutdown, 0, nil)
}
