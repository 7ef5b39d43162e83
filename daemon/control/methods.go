package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto"
)

// methods are the methods of the socket. docs/control.md describes them.
var methods map[string]method

func init() {
	methods = map[string]method{
		"connect":     on(true, func(p *wire.Connect) string { return place(&p.Target) }, (*call).connect),
		"call":        on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).call),
		"call_async":  on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).callAsync),
		"call_many":   on(true, nil, (*call).callMany),
		"run_many":    on(true, nil, (*call).runMany),
		"open_many":   on(true, nil, (*call).openMany),
		"open":        on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).open),
		"run":         on(true, func(p *wire.Run) string { return place(&p.Target) }, (*call).run),
		"put":         on(true, func(p *wire.Transfer) string { return place(&p.Target) }, (*call).put),
		"get":         on(true, func(p *wire.Transfer) string { return place(&p.Target) }, (*call).get),
		"reset_chain": on(true, func(p *wire.ResetChain) string { return place(&wire.Target{Child: p.Child}) }, (*call).resetChain),
		"receiver":    on(true, nil, (*call).receiver),
		"send":        on(true, func(p *wire.Send) string { return fmt.Sprint("send ", p.To.V) }, (*call).send),
		"read":        on(false, func(p *wire.Read) string { return fmt.Sprint("read ", p.Stream) }, (*call).read),
		"write":       on(false, writePlace, (*call).write),
		"close":       on(false, nil, (*call).close),
		"cancel":      on(false, nil, (*call).cancelRequest),
		"subscribe":   on(false, nil, (*call).subscribe),
		"list":        on(false, nil, func(c *call, _ *wire.Common) (any, error) { return c.s.List(), nil }),
		"stats":       on(false, nil, func(c *call, _ *wire.Common) (any, error) { return c.s.Stats(), nil }),
		"modules":     on(true, nil, (*call).modules),
		"log_level":   on(false, nil, (*call).logLevel),
		"environment": on(false, nil, (*call).environment),
		"ping": on(false, nil, func(c *call, p *wire.Ping) (any, error) {
			if p.Limits {
				return &wire.Limits{MaxMessage: c.s.maxMessage()}, nil
			}
			return true, nil
		}),
		"shutdown": on(false, nil, (*call).shutdown),
	}
}

// place is the order that requests for a child have their turn in.
func place(t *wire.Target) string {
	switch {
	case t.Child != 0:
		return fmt.Sprint("child ", t.Child)
	case t.Fresh:
		return ""
	}
	return "target " + t.Target
}

// writePlace is the order of writes: those to the same stream, and with open_many those for the same target. A write
// that ends the work does not wait for others.
func writePlace(p *wire.Write) string {
	if p.Stop || p.Cancel {
		return ""
	}
	if p.Target != nil {
		return fmt.Sprint("write ", p.Stream, " ", *p.Target)
	}
	return fmt.Sprint("write ", p.Stream)
}

func (c *call) connect(p *wire.Connect) (any, error) {
	if p.Child != 0 {
		return nil, wire.Errorf(wire.KindUsage, "connect takes a target, not a child")
	}
	l, done, err := c.conn.lease(c.ctx, &p.Target, nil)
	if err != nil {
		return nil, err
	}
	out := connected(l)
	if err := c.keep(l); err != nil {
		done()
		return nil, err
	}
	return out, nil
}

// arguments gives the arguments of a call, kwargs as the last one, and what the child converts.
func arguments(p *wire.Call) ([]any, daemon.Convert, error) {
	var args []any
	convert, err := daemon.ParseConvert(p.Convert)
	if err != nil {
		return nil, 0, wire.Errorf(wire.KindUsage, "%v", err)
	}
	switch a := p.Args.V.(type) {
	case nil:
	case []any:
		args = a
	case pyproto.Tuple:
		args = a
	default:
		return nil, 0, wire.Errorf(wire.KindUsage, "args is no array")
	}
	switch kw := p.Kwargs.V.(type) {
	case nil:
	case *pyproto.Dict:
		var kwargs pyproto.Kwargs
		for k, v := range kw.All() {
			name, ok := k.(string)
			if !ok {
				return nil, 0, wire.Errorf(wire.KindUsage, "kwargs has a name that is no text")
			}
			kwargs = append(kwargs, pyproto.Arg{Name: name, Value: v})
		}
		args = append(args, kwargs)
	default:
		return nil, 0, wire.Errorf(wire.KindUsage, "kwargs is no map")
	}
	return args, convert, nil
}

func (c *call) call(p *wire.Call) (any, error) {
	args, convert, err := arguments(p)
	if err != nil {
		return nil, err
	}
	l, done, err := c.conn.lease(c.ctx, &p.Target, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	o := daemon.CallOptions{Chain: p.Chain, Room: c.room, Convert: convert}
	v, release, err := c.s.function(c.ctx, l, p, o, args, c.begun)
	c.made = release
	if err != nil {
		return nil, err
	}
	return c.s.value(v, p.Exact)
}

// function calls p.Function, counts the call and publishes it. sent, if not nil, is called when the call was sent.
// release gives back what the result takes of o.Room.
func (s *Server) function(
	ctx context.Context, l *pool.Lease, p *wire.Call, o daemon.CallOptions, args []any, sent func(),
) (v any, release func(), err error) {
	started := time.Now()
	early := ctx.Err() != nil
	k := l.Start(ctx, o, p.Function, args...)
	if sent != nil {
		sent()
	}
	if v, err = k.Wait(ctx).Value(); !early {
		err = cutOff(ctx, l, err)
	}
	s.called(l, wire.Event{Function: p.Function, Trace: p.Traceparent}, started, err)
	return v, k.Release, err
}

// cutOff gives the error of work on l that has begun: if the end of the daemon has cut it off, it may have run.
func cutOff(ctx context.Context, l *pool.Lease, err error) error {
	if err != nil && errors.Is(caused(ctx, err), daemon.ErrShutdown) {
		return faults.CutOff(l.Child().Name())
	}
	return err
}

// called counts a call or program that has ended, and publishes it; e says which one. What commands ask for by
// themselves counts only if it fails.
func (s *Server) called(l *pool.Lease, e wire.Event, started time.Time, err error) {
	if err == nil && e.What == "" && pool.Internal(e.Function) {
		return
	}
	s.counts.calls.Add(1)
	e.Kind, e.OK = wire.EventCall, err == nil
	if err != nil {
		s.counts.failed.Add(1)
	}
	if !s.hub.wants(e.Kind) {
		return
	}
	e.Seconds = time.Since(started).Seconds()
	e.Child, e.Target, e.Chain = uint32(l.Child().ID()), l.Conn().Name(), l.Conn().Chain()
	if err != nil {
		e.Text = err.Error()
	}
	s.hub.publish(e)
}

func (c *call) resetChain(p *wire.ResetChain) (any, error) {
	l, done, err := c.conn.lease(c.ctx, &wire.Target{Child: p.Child}, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return nil, l.Child().ResetChain(c.ctx, p.Chain)
}

// address reads a sender: as extension type, or as [context id, handle].
func address(v any) (to pyproto.Sender, err error) {
	if to, ok := v.(pyproto.Sender); ok {
		return to, nil
	}
	if list, ok := v.([]any); ok && len(list) == 2 {
		id, ok1 := list[0].(int64)
		h, ok2 := list[1].(int64)
		if ok1 && ok2 && id > 0 && id < 1<<32 && h > 0 && h < 1<<32 {
			return pyproto.Sender{Context: pyproto.ContextID(id), Handle: pyproto.Handle(h)}, nil
		}
	}
	return to, wire.Errorf(wire.KindUsage, "to is no sender: an extension of type %d, or [context id, handle]", wire.ExtSender)
}

func (c *call) send(p *wire.Send) (any, error) {
	to, err := address(p.To.V)
	if err != nil {
		return nil, err
	}
	// The context may be one of the client's children, or behind one.
	var via *daemon.Child
	c.mu.Lock()
	for _, h := range c.leases {
		if h.lease.Child().Reaches(to.Context) {
			via = h.lease.Child()
			break
		}
	}
	c.mu.Unlock()
	switch {
	case via == nil:
		return nil, wire.Errorf(wire.KindUnknown, "context %d is no child of this client, nor behind one", to.Context)
	case p.Close:
		return nil, via.CloseSender(c.ctx, to)
	case p.Value == nil:
		return nil, wire.Errorf(wire.KindUsage, "either value or close is needed")
	}
	return nil, via.Send(c.ctx, to, p.Value.V)
}

func (c *call) read(p *wire.Read) (any, error) {
	s, err := c.stream(p.Stream)
	if err != nil {
		return nil, err
	}
	return s.read(c.ctx, p.Max)
}

func (c *call) write(p *wire.Write) (any, error) {
	s, err := c.stream(p.Stream)
	if err != nil {
		return nil, err
	}
	if s.write == nil {
		return nil, wire.Errorf(wire.KindUsage, "stream %d cannot be written to", p.Stream)
	}
	return nil, s.write(c.ctx, p)
}

func (c *call) close(p *wire.Close) (any, error) {
	switch {
	case p.Stream != 0:
		s, err := c.stream(p.Stream)
		if err != nil {
			return nil, err
		}
		c.forget(s)
		select {
		case <-s.done: // a program was killed, say
		case <-c.ctx.Done():
		}
		return &wire.Closed{Closed: 1}, nil
	case p.Child != 0:
		return &wire.Closed{Closed: 1}, c.letGo(p.Child)
	case p.Work != 0:
		done, err := c.s.pool.End(c.ctx, p.Work)
		out := &wire.Closed{}
		if done {
			out.Closed = 1
		}
		return out, err
	case p.Kill == 0 && p.Target == "" && !p.Idle && !p.All:
		return nil, wire.Errorf(wire.KindUsage, "close what? Give stream, child, work, kill, target, idle or all")
	}
	n, err := c.s.pool.Close(c.ctx, pool.Match{ID: p.Kill, Target: p.Target, Idle: p.Idle, All: p.All})
	return &wire.Closed{Closed: n}, err
}

func (c *call) cancelRequest(p *wire.Cancel) (any, error) {
	c.mu.Lock()
	cancel := c.requests[p.Request]
	c.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
	return cancel != nil, nil
}

func (c *call) modules(p *wire.Modules) (any, error) {
	opt, err := sourceOptions(p.Source)
	if err != nil {
		return nil, err
	}
	if opt == nil {
		o := c.s.pool.Source()
		opt = &o
	}
	im, err := c.s.d.NewImporter(*opt)
	if err != nil {
		return nil, wire.Wrap(wire.KindUsage, err)
	}
	out := &wire.Described{Modules: []any{}}
	for _, name := range p.Names {
		d, err := im.Describe(c.ctx, name, importer.Version{Major: p.Python[0], Minor: p.Python[1]})
		if err != nil {
			return nil, err
		}
		out.Modules = append(out.Modules, d)
	}
	return out, nil
}

func (c *call) logLevel(p *wire.LogLevel) (any, error) {
	if p.Level != "" {
		if err := c.s.levels.Set(p.Component, p.Level); err != nil {
			return nil, wire.Errorf(wire.KindUsage, "%v", err)
		}
	}
	return &wire.Levels{Levels: c.s.levels.Map()}, nil
}

func (c *call) shutdown(p *wire.Shutdown) (any, error) {
	if c.s.opt.OnShutdown == nil {
		return nil, wire.Errorf(wire.KindUsage, "this daemon is part of another program, and is not stopped by clients")
	}
	grace := p.Grace.Duration()
	if grace <= 0 {
		grace = c.s.Grace()
	}
	c.s.opt.OnShutdown(grace)
	return os.Getpid(), nil
}

// ended tells whether an error only says that the client has closed a stream or is gone.
func ended(err error) bool { return errors.Is(err, errStreamClosed) || errors.Is(err, errClientGone) }
