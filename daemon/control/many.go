package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
)

// minChannel is how many bytes a function sends at least ahead of a client that takes messages of many. All functions
// together send at most streamBytes ahead, where that is enough for this.
const minChannel = 8 << 10

// maxParallel is how many targets all such requests of one client may work on at once.
const maxParallel = maxRequests

// many is a call_many, run_many or open_many that runs.
type many struct {
	*call
	p             *wire.Many
	source        *wire.Source
	logs, imports bool // the client wants to be told of them
	s             *stream
	base          *pool.Request
	workers       int
	// write takes all that the client writes but stop and cancel; nil where the client writes nothing.
	write func(ctx context.Context, w *wire.Write) error
	// giveUp ends what runs. start sets it before anything begins.
	giveUp context.CancelCauseFunc

	runner interface {
		Run(ctx context.Context) int
		Begun() int
		Stop() bool
	}
}

// newMany checks the common parameters, and makes the stream. start has to follow.
func (c *call) newMany(method string, t *wire.Target, p *wire.Many, timeout time.Duration, logs, imports bool) (*many, error) {
	switch {
	case t.Target != "" || t.Child != 0 || len(t.Passwords) > 0:
		return nil, wire.Errorf(wire.KindUsage, "%s takes targets and target_passwords, not target, child or passwords", method)
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
	m := &many{call: c, p: p, source: t.Source, logs: logs, imports: imports, workers: min(max(p.Parallel, 1), len(p.Targets), maxParallel)}
	var err error
	if m.base, err = c.conn.options(t); err != nil {
		return nil, err
	}
	m.base.Common = pool.NewCommon(*m.base)
	if m.s, err = c.newStream(timeout, true); err != nil {
		return nil, err
	}
	m.s.prints = printBytes
	if err := c.addWorkers(m.workers); err != nil {
		c.forget(m.s)
		return nil, err
	}
	return m, nil
}

// addWorkers counts the workers of all such requests.
func (c *conn) addWorkers(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workers+n > maxParallel {
		return wire.Errorf(wire.KindOverflow, "this client works on %d targets at once", c.workers)
	}
	c.workers += n
	return nil
}

// errManyWrite refuses a write that the request has no use for.
var errManyWrite = wire.Errorf(wire.KindUsage, "call_many takes stop and cancel; run_many with stdin also takes data and end; open_many also takes value and end, with target")

// start begins the work: do on each target, whose outcomes go to put. end, if not nil, is called when all is done.
func start[R any](m *many, do func(context.Context, int, *pool.Lease) (R, error), put func(work.Outcome[R]), end func()) {
	plan := work.Plan{
		Targets: len(m.p.Targets), Parallel: m.workers, Batch: m.p.Batch, Pause: m.p.Pause.Duration(), MaxFail: work.NoLimit,
		Retry: m.p.Retry, Timeout: m.p.Each.Duration(), Late: &wire.TimeoutError{After: m.p.Each.Duration()},
	}
	if m.p.MaxFail != nil {
		plan.MaxFail = *m.p.MaxFail
	}
	m.runner = work.New(plan, m.lease, do, put)
	var ctx context.Context
	ctx, m.giveUp = context.WithCancelCause(m.s.ctx)
	m.s.write = func(wctx context.Context, w *wire.Write) error {
		if w.Stop || w.Cancel {
			m.runner.Stop()
			if w.Cancel {
				m.giveUp(context.Canceled)
			}
			return nil
		}
		if m.write == nil {
			return errManyWrite
		}
		return m.write(wctx, w)
	}
	var cut atomic.Bool // the daemon stops, and so more targets do not begin
	m.work(m.s, func() error {
		told := make(chan struct{})
		stopped := context.AfterFunc(m.call.s.taking, func() {
			cut.Store(m.runner.Stop())
			close(told)
		})
		m.s.begin(m.runner.Run(ctx))
		if !stopped() {
			<-told
		}
		_ = m.addWorkers(-m.workers)
		err := context.Cause(m.s.ctx)
		if err == nil && context.Cause(ctx) != context.Canceled {
			err = context.Cause(ctx) // input that could not be kept
		}
		if err == nil && cut.Load() {
			err = daemon.ErrShutdown
		}
		m.giveUp(nil)
		if err != nil && !ended(err) {
			m.s.fail(err)
		} else {
			m.s.finish()
		}
		if end != nil {
			end()
		}
		return nil
	})
}

func (m *many) lease(ctx context.Context, target int) (*pool.Lease, error) {
	m.s.begin(m.runner.Begun())
	r := *m.base
	t := wire.Target{Target: m.p.Targets[target], Connection: wire.Connection{Passwords: m.p.TargetPasswords[target], Source: m.source}}
	if err := m.call.s.find(ctx, &r, &t); err != nil {
		return nil, err
	}
	if len(m.p.Names) > 0 {
		r.Name = m.p.Names[target]
	}
	r.Watch, r.Client = m.s.watcher(target, m.logs, m.imports), m.call.pid
	return m.call.s.pool.Get(ctx, r)
}

// states are the words for states of errors.
var states = map[work.State]string{work.Failed: wire.StateFailed, work.NotReached: wire.StateNotReached, work.MayHaveRun: wire.StateMayHaveRun}

// failed gives an outcome that is an error to the client, when there is room for it.
func (m *many) failed(target int, s work.State, err error, took time.Duration) {
	_ = m.s.put(wire.Item{Kind: wire.ItemError, Target: target, State: states[s], Error: faults.FromError(caused(m.s.ctx, err)), Seconds: took.Seconds()})
}

// manyCalls calls a function on each target.
type manyCalls struct {
	*many
	p       *wire.CallMany
	args    []any
	convert daemon.Convert
}

// answered is what a function has returned.
type answered struct {
	value   *wire.Value
	release func()
	python  int
	told    bool // the client has it already
}

func (c *call) newManyCalls(method string, p *wire.CallMany) (*manyCalls, error) {
	args, convert, err := arguments(&p.Call)
	if err == nil && p.Chain != "" {
		err = wire.Errorf(wire.KindUsage, "%s does not take chain", method)
	}
	if err != nil {
		return nil, err
	}
	m, err := c.newMany(method, &p.Target, &p.Many, p.RequestTimeout(), p.Log, p.Import)
	if err != nil {
		return nil, err
	}
	return &manyCalls{many: m, p: p, args: args, convert: convert}, nil
}

func (c *call) callMany(p *wire.CallMany) (any, error) {
	m, err := c.newManyCalls("call_many", p)
	if err != nil {
		return nil, err
	}
	start(m.many, m.do, m.put, nil)
	return c.answer(m.s, p.Read)
}

// do calls the function on one target.
func (m *manyCalls) do(ctx context.Context, target int, l *pool.Lease) (*answered, error) {
	started := time.Now()
	o := daemon.CallOptions{Room: m.room, Convert: m.convert, Output: m.s.output(target, m.p.Output)}
	v, release, err := m.call.s.function(ctx, l, &m.p.Call, o, m.args, nil)
	out := &answered{release: release, python: l.Child().Version().Major}
	if err == nil {
		out.value, err = m.call.s.value(v, m.p.Exact)
	}
	if err != nil {
		release()
		return nil, err
	}
	if _, generates := daemon.Lines(v); generates && m.convert&daemon.ConvertLines != 0 {
		return out, m.hold(ctx, target, l, out, started)
	}
	return out, nil
}

// hold gives the child of a generator to the client, and waits until the client gives it back. Beyond the end of ctx the
// client has a lease of its own.
func (m *manyCalls) hold(ctx context.Context, target int, l *pool.Lease, out *answered, started time.Time) error {
	own := l.Another()
	left, err := m.keepUntil(own)
	if err != nil {
		own.Release()
		return err
	}
	out.told = true
	item := m.result(target, out, time.Since(started))
	item.Child = uint32(l.Child().ID())
	if err := m.s.put(item); err != nil {
		out.release()
		_ = m.giveBack(uint32(l.Child().ID()), left) // the client does not learn of it
		return err
	}
	select {
	case <-left:
	case <-ctx.Done():
		m.forgetLeft(uint32(l.Child().ID()), left)
	}
	return nil
}

func (m *manyCalls) result(target int, a *answered, took time.Duration) wire.Item {
	return wire.Item{Kind: wire.ItemResult, Target: target, Value: a.value, Python: a.python, Seconds: took.Seconds(), Taken: a.release}
}

// put gives an outcome to the client, when there is room for it.
func (m *manyCalls) put(out work.Outcome[*answered]) {
	switch {
	case out.Err != nil:
		m.failed(out.Target, out.State, out.Err, out.Took)
	case !out.Value.told:
		if m.s.put(m.result(out.Target, out.Value, out.Took)) != nil {
			out.Value.release()
		}
	}
}

// manyChannels opens a channel on each target.
type manyChannels struct {
	*manyCalls

	// mu protects the following. Nothing is locked under it.
	mu    sync.Mutex
	doors map[int]*door // of targets that have begun, and of those that the client writes to
	ended []bool        // by target: no door opens any more
}

func (c *call) openMany(p *wire.CallMany) (any, error) {
	if len(p.Convert) > 0 {
		return nil, errOpenConvert
	}
	calls, err := c.newManyCalls("open_many", p)
	if err != nil {
		return nil, err
	}
	m := &manyChannels{manyCalls: calls, doors: map[int]*door{}, ended: make([]bool, len(p.Targets))}
	m.write = m.writeTo
	start(m.many, m.do, m.put, nil)
	return c.answer(m.s, p.Read)
}

// door gives the door of a target; nil for a target that has ended.
func (m *manyChannels) door(target int) *door {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended[target] {
		return nil
	}
	d := m.doors[target]
	if d == nil {
		d = newDoor()
		m.doors[target] = d
	}
	return d
}

func (m *manyChannels) writeTo(ctx context.Context, w *wire.Write) error {
	if w.Target == nil || w.Data != nil {
		return errManyWrite
	}
	if *w.Target < 0 || *w.Target >= len(m.ended) {
		return wire.Errorf(wire.KindUsage, "there is no target %d", *w.Target)
	}
	d := m.door(*w.Target)
	if d == nil {
		return errFunctionEnded
	}
	return d.write(ctx, m.s, w)
}

// do opens the channel on one target, and takes its messages.
func (m *manyChannels) do(ctx context.Context, target int, l *pool.Lease) (*answered, error) {
	o := daemon.CallOptions{Window: max(minChannel, streamBytes/m.workers), Output: m.s.output(target, m.p.Output)}
	v, err := m.s.channel(ctx, l, &m.p.Call, o, m.args, target, func(ch *pool.Channel) {
		if ch != nil {
			m.door(target).open(ch)
		}
	})
	out := &answered{release: func() {}, python: l.Child().Version().Major}
	if err == nil {
		out.value, err = m.call.s.value(v, m.p.Exact)
	}
	return out, err
}

func (m *manyChannels) put(out work.Outcome[*answered]) {
	d := m.door(out.Target)
	d.open(nil)
	m.mu.Lock()
	m.ended[out.Target] = true
	delete(m.doors, out.Target)
	m.mu.Unlock()
	m.manyCalls.put(out)
}

// manyPrograms runs a program on each target.
type manyPrograms struct {
	*many
	p  *wire.RunMany
	o  daemon.RunOptions
	in *work.Input // nil for /dev/null
}

// errEnded says that a program has ended with another status than 0.
var errEnded = errors.New("control: the program has ended with another status than 0")

func (c *call) runMany(p *wire.RunMany) (any, error) {
	base, err := c.newMany("run_many", &p.Target, &p.Many, p.RequestTimeout(), p.Log, p.Import)
	if err != nil {
		return nil, err
	}
	m := &manyPrograms{many: base, p: p, o: runOptions(&p.Run)}
	var end func()
	if p.Stdin {
		in := newInput(m.s)
		m.in = work.NewInput(in, func(err error) {
			m.giveUp(wire.Errorf(wire.KindInternal, "standard input cannot be kept: %v; the programs are ended, since they would not get all of it", err))
		})
		end = m.in.Close
		m.write = func(ctx context.Context, w *wire.Write) error {
			if w.Target != nil || w.Value != nil {
				return errManyWrite
			}
			return in.write(ctx, w)
		}
	}
	start(m.many, m.do, m.put, end)
	return c.answer(m.s, p.Read)
}

// do runs the program on one target.
func (m *manyPrograms) do(ctx context.Context, target int, l *pool.Lease) (*daemon.ExitStatus, error) {
	o := m.o
	if argv, ok := m.p.TargetArgv[target]; ok {
		o.Args = argv
	}
	if vars, ok := m.p.TargetHostVars[target]; ok {
		o.HostVars = vars
	}
	o.Env = slices.Concat(o.Env, m.p.TargetEnv[target])
	o.Stdout = writer{s: m.s, kind: wire.ItemStdout, target: target, many: true}
	o.Stderr = writer{s: m.s, kind: wire.ItemStderr, target: target, many: true}
	if m.in != nil {
		in := m.in.Reader()
		defer in.Close()
		o.Stdin = in
	}
	status, err := m.call.s.program(ctx, l, &m.p.Run, o)
	switch {
	case err != nil:
		return nil, err
	case status != daemon.ExitStatus{}:
		return &status, errEnded
	}
	return &status, nil
}

// put tells the client how a program has ended, when there is room for it.
func (m *manyPrograms) put(out work.Outcome[*daemon.ExitStatus]) {
	if out.Value == nil {
		m.failed(out.Target, out.State, out.Err, out.Took)
		return
	}
	_ = m.s.put(wire.Item{Kind: wire.ItemExit, Target: out.Target, Code: out.Value.Code, Signal: out.Value.Signal, Seconds: out.Took.Seconds()})
}
