package control

import (
	"context"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
	"mitogend/importer"
)

// maxParallel is how many targets may be worked on at once by all such requests of one client.
const maxParallel = maxRequests

// many is a call_many that runs.
type many struct {
	*call
	p       *wire.CallMany
	s       *stream
	base    *pool.Request
	workers int
	args    []any
	convert daemon.Convert
	runner  *work.Runner[*pool.Lease, *answered]
}

// answered is what a function has returned.
type answered struct {
	value   *wire.Value
	release func()
	python  int
	told    bool // the client knows already
}

func (c *call) callMany(p *wire.CallMany) (any, error) {
	args, convert, err := arguments(&p.Call)
	switch {
	case err != nil:
		return nil, err
	case p.Target.Target != "" || p.Child != 0 || len(p.Passwords) > 0:
		return nil, wire.Errorf(wire.KindUsage, "call_many takes targets and target_passwords, not target, child or passwords")
	case p.Chain != "":
		return nil, wire.Errorf(wire.KindUsage, "call_many is no part of a chain")
	case p.Parallel < 0 || p.Batch < 0 || p.Pause < 0 || p.Retry < 0 || p.Each < 0 || p.MaxFail != nil && *p.MaxFail < 0:
		return nil, wire.Errorf(wire.KindUsage, "parallel, batch, pause, max_fail, retry and each must not be negative")
	}
	if len(p.Names) > 0 && len(p.Names) != len(p.Targets) {
		return nil, wire.Errorf(wire.KindUsage, "there are %d names for %d targets", len(p.Names), len(p.Targets))
	}
	for _, name := range p.Names {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	m := &many{call: c, p: p, workers: min(max(p.Parallel, 1), len(p.Targets), maxParallel), args: args, convert: convert}
	if m.base, err = options(&p.Target); err == nil && p.Environment != 0 {
		m.base.Env, err = c.namedEnvironment(&p.Target)
	}
	if err != nil {
		return nil, err
	}
	m.base.Common = pool.NewCommon(*m.base)
	c.mu.Lock()
	m.base.Since = c.busy
	c.mu.Unlock()
	if m.s, err = c.newStream(p.RequestTimeout(), true); err != nil {
		return nil, err
	}
	m.s.prints = printBytes
	if err := c.addWorkers(m.workers); err != nil {
		c.forget(m.s)
		return nil, err
	}
	m.run()
	return c.answer(m.s, p.Read)
}

// addWorkers counts those of all requests.
func (c *conn) addWorkers(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workers+n > maxParallel {
		return wire.Errorf(wire.KindOverflow, "this client works on %d targets at once", c.workers)
	}
	c.workers += n
	return nil
}

// run begins the work.
func (m *many) run() {
	plan := work.Plan{
		Targets: len(m.p.Targets), Parallel: m.workers, Batch: m.p.Batch, Pause: m.p.Pause.Duration(), MaxFail: work.NoLimit,
		Retry: m.p.Retry, Timeout: m.p.Each.Duration(), Late: &wire.TimeoutError{After: m.p.Each.Duration()},
	}
	if m.p.MaxFail != nil {
		plan.MaxFail = *m.p.MaxFail
	}
	m.runner = work.New(plan, m.lease, m.do, m.put)
	ctx, giveUp := context.WithCancelCause(m.s.ctx)
	m.s.write = func(_ context.Context, w *wire.Write) error {
		if !w.End && !w.Cancel {
			return wire.Errorf(wire.KindUsage, "call_many takes end and cancel, and nothing else is written to it")
		}
		m.runner.Stop()
		if w.Cancel {
			giveUp(context.Canceled)
		}
		return nil
	}
	m.work(m.s, func() {
		m.s.begin(m.runner.Run(ctx))
		_ = m.addWorkers(-m.workers)
		giveUp(nil)
		if err := context.Cause(m.s.ctx); err != nil && !ended(err) {
			m.s.fail(err)
			return
		}
		m.s.finish()
	})
}

func (m *many) lease(ctx context.Context, target int) (*pool.Lease, error) {
	m.s.begin(m.runner.Begun())
	r := *m.base
	t := wire.Target{Target: m.p.Targets[target], Connection: wire.Connection{Passwords: m.p.TargetPasswords[target], Source: m.p.Source}}
	if err := m.call.s.find(&r, &t); err != nil {
		return nil, err
	}
	if len(m.p.Names) > 0 {
		r.Name = m.p.Names[target]
	}
	r.Watch, r.Client = m.watcher(target), m.call.pid
	return m.call.s.pool.Get(ctx, r)
}

// watcher gives what happens on a target's connection to the stream.
func (m *many) watcher(target int) *pool.Watcher {
	if !m.p.Log && !m.p.Import {
		return nil
	}
	event := func(e *wire.Event) { m.s.offer(wire.Item{Kind: wire.ItemEvent, Target: target, Event: e}) }
	w := &pool.Watcher{}
	if m.p.Log {
		w.OnLog = func(c *pool.Conn, l daemon.Log) { event(logEvent(c, l)) }
	}
	if m.p.Import {
		w.OnImport = func(c *pool.Conn, e importer.Event) {
			imported := importEvent(c, e)
			event(&imported)
		}
	}
	return w
}

// do calls the function on one target.
func (m *many) do(ctx context.Context, target int, l *pool.Lease) (*answered, error) {
	o := daemon.CallOptions{Room: m.room, Convert: m.convert}
	if m.p.Output {
		o.Output = func(data []byte) {
			m.s.offer(wire.Item{Kind: wire.ItemOutput, Target: target, Data: append([]byte(nil), data...)})
		}
	}
	started := time.Now()
	k := l.Start(ctx, o, m.p.Function, m.args...)
	v, err := k.Wait(ctx).Value()
	m.call.s.called(l, m.p.Function, m.p.Traceparent, started, err)
	out := &answered{release: k.Release, python: l.Child().Version().Major}
	if err == nil {
		out.value, err = wire.NewValue(v, !m.p.Exact, m.call.s.maxMessage())
	}
	if err != nil {
		k.Release()
		return nil, err
	}
	if _, generates := daemon.Lines(v); generates && m.convert&daemon.ConvertLines != 0 {
		return out, m.hold(ctx, target, l, out, started)
	}
	return out, nil
}

// hold gives the child of a generator to the client, and waits until that gives it back.
func (m *many) hold(ctx context.Context, target int, l *pool.Lease, out *answered, started time.Time) error {
	left, err := m.keepUntil(l)
	if err != nil {
		return err
	}
	out.told = true
	item := m.result(target, out, time.Since(started))
	item.Child = uint32(l.Child().ID())
	if err := m.s.put(item); err != nil {
		out.release()
		return err
	}
	select {
	case <-left:
	case <-ctx.Done():
	}
	return nil
}

func (m *many) result(target int, a *answered, took time.Duration) wire.Item {
	return wire.Item{Kind: wire.ItemResult, Target: target, Value: a.value, Python: a.python, Seconds: took.Seconds(), Taken: a.release}
}

// states are the words for those of errors.
var states = map[work.State]string{work.Failed: wire.StateFailed, work.NotReached: wire.StateNotReached, work.MayHaveRun: wire.StateMayHaveRun}

// put gives an outcome to the client, when there is room for it.
func (m *many) put(out work.Outcome[*answered]) {
	if out.Err != nil {
		_ = m.s.put(wire.Item{
			Kind: wire.ItemError, Target: out.Target, State: states[out.State], Error: wire.FromError(out.Err), Seconds: out.Took.Seconds(),
		})
		return
	}
	if out.Value.told {
		return
	}
	if m.s.put(m.result(out.Target, out.Value, out.Took)) != nil {
		out.Value.release()
	}
}
