package control

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
)

// work starts the work of a stream on a goroutine of its own. It counts as running work until the client has read its end; the
// request that has made the stream counts by itself.
func (c *call) work(s *stream, fn func()) {
	if s.work {
		c.s.counts.active.Add(1) // the request counts still, so that this cannot be the first after a stop
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		fn()
		close(s.done)
		if s.work {
			<-s.ctx.Done()
			c.s.end()
		}
	}()
}

// answer is the result of what opens a stream.
func (c *call) answer(s *stream, read bool) (any, error) {
	if !read {
		return &wire.Items{Stream: s.id, Items: []wire.Item{}}, nil
	}
	out, err := s.read(c.ctx, 0)
	if err != nil {
		c.forget(s) // the client does not learn its number
		return nil, err
	}
	return out, nil
}

// watcher gives a connection's log records and imports to a stream that asks for them.
func watcher(s *stream, logs, imports bool) *pool.Watcher {
	if !logs && !imports {
		return nil
	}
	w := &pool.Watcher{}
	if logs {
		w.OnLog = func(c *pool.Conn, l daemon.Log) {
			s.offer(wire.Item{Kind: wire.ItemEvent, Event: logEvent(c, l)})
		}
	}
	if imports {
		w.OnImport = func(c *pool.Conn, e importer.Event) {
			event := importEvent(c, e)
			s.offer(wire.Item{Kind: wire.ItemEvent, Event: &event})
		}
	}
	return w
}

func logEvent(c *pool.Conn, l daemon.Log) *wire.Event {
	return &wire.Event{
		Kind: wire.EventLog, Time: stamp(time.Now()), Target: c.Name(), Chain: c.Chain(), Child: uint32(l.Context), Logger: l.Logger, Level: l.Level, Text: l.Text,
	}
}

// child tells who the child of a stream is.
func (s *stream) setChild(l *pool.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = connected(l)
}

func (c *call) callAsync(p *wire.Call) (any, error) {
	args, convert, err := arguments(p)
	if err != nil {
		return nil, err
	}
	s, err := c.newStream(p.RequestTimeout(), true)
	if err != nil {
		return nil, err
	}
	c.later = true // the order holds until the call was sent
	c.work(s, func() {
		defer c.begun()
		l, done, err := c.conn.lease(s.ctx, &p.Target, watcher(s, p.Log, p.Import))
		if err != nil {
			s.fail(err)
			return
		}
		defer done()
		s.setChild(l)
		o := daemon.CallOptions{Chain: p.Chain, Room: c.room, Convert: convert}
		if p.Output {
			s.setMax(printBytes)
			o.Output = func(data []byte) {
				s.offer(wire.Item{Kind: wire.ItemOutput, Data: append([]byte(nil), data...)})
			}
		}
		started := time.Now()
		k := l.Start(s.ctx, o, p.Function, args...)
		c.begun()
		v, err := k.Wait(s.ctx).Value()
		c.s.called(l, p.Function, p.Traceparent, started, err)
		if err == nil {
			err = s.result(v, !p.Exact, k.Release)
		} else {
			k.Release()
		}
		if err != nil {
			s.fail(err)
		}
	})
	return c.answer(s, p.Read)
}

func (c *call) run(p *wire.Run) (any, error) {
	s, err := c.newStream(p.RequestTimeout(), true)
	if err != nil {
		return nil, err
	}
	o := runOptions(p)
	o.Stdout, o.Stderr = writer{s: s, kind: wire.ItemStdout}, writer{s: s, kind: wire.ItemStderr}
	if p.Stdin {
		in := newInput(s)
		o.Stdin, s.write = in, in.write
	}
	c.begun() // programs run side by side
	c.work(s, func() {
		l, done, err := c.conn.lease(s.ctx, &p.Target, watcher(s, p.Log, p.Import))
		if err != nil {
			s.fail(err)
			return
		}
		defer done()
		s.setChild(l)
		status, err := c.s.program(s.ctx, l, p, o)
		if err != nil {
			s.fail(err)
			return
		}
		s.finish(wire.Item{Kind: wire.ItemExit, Code: status.Code, Signal: status.Signal})
	})
	return c.answer(s, p.Read)
}

// runOptions gives what is the same on all targets.
func runOptions(p *wire.Run) daemon.RunOptions {
	o := daemon.RunOptions{Path: p.Path, Title: p.Title, Source: p.Script, File: p.File, Dir: p.Dir, Packed: p.Packed, Args: p.Argv, Env: p.Env, HostVars: p.HostVars}
	switch {
	case p.Module:
		o.Source = nil
	case o.Source == nil:
		o.Source = []byte{}
	}
	return o
}

// program runs a program, counts it and tells of it.
func (s *Server) program(ctx context.Context, l *pool.Lease, p *wire.Run, o daemon.RunOptions) (daemon.ExitStatus, error) {
	started := time.Now()
	s.counts.programs.Add(1)
	status, err := l.Run(ctx, o)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	s.called(l, p.Path, p.Traceparent, started, err)
	return status, err
}

func (c *call) open(p *wire.Call) (any, error) {
	args, convert, err := arguments(p)
	if err == nil && convert != 0 {
		err = errOpenConvert
	}
	if err != nil {
		return nil, err
	}
	s, err := c.newStream(p.RequestTimeout(), true)
	if err != nil {
		return nil, err
	}
	d := newDoor()
	s.write = func(ctx context.Context, w *wire.Write) error { return d.write(ctx, s, w) }
	c.later = true // the order holds until the call was sent
	c.work(s, func() {
		defer c.begun()
		l, done, err := c.conn.lease(s.ctx, &p.Target, watcher(s, p.Log, p.Import))
		if err != nil {
			s.fail(err)
			return
		}
		defer done()
		s.setChild(l)
		o := daemon.CallOptions{}
		if p.Output {
			o.Output = func(data []byte) {
				s.offer(wire.Item{Kind: wire.ItemOutput, Data: append([]byte(nil), data...)})
			}
		}
		started := time.Now()
		ch, err := l.Open(s.ctx, o, p.Function, args...)
		c.begun()
		var v any
		if err == nil {
			d.open(ch)
			v, err = pump(s.ctx, s, 0, ch, !p.Exact)
			ch.Close()
		}
		c.s.called(l, p.Function, p.Traceparent, started, err)
		if err == nil {
			err = s.result(v, !p.Exact, func() {})
		}
		if err != nil {
			s.fail(err)
		}
	})
	return c.answer(s, p.Read)
}

// door is where a client writes to a channel that may not be open yet.
type door struct {
	known chan struct{} // closed when ch is set, or will never be
	once  sync.Once
	ch    *pool.Channel
}

func newDoor() *door { return &door{known: make(chan struct{})} }

// open says which channel it is; nil says that there is none. Only the first word counts.
func (d *door) open(ch *pool.Channel) { d.once.Do(func() { d.ch = ch; close(d.known) }) }

// write gives what the client writes to the channel, once that is open.
func (d *door) write(ctx context.Context, s *stream, w *wire.Write) error {
	select {
	case <-d.known:
	case <-s.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-d.known:
	default:
		return errFunctionEnded
	}
	if d.ch == nil {
		return errFunctionEnded
	}
	var err error
	if w.Value != nil {
		err = d.ch.Send(ctx, w.Value.V)
	}
	if err == nil && w.End {
		err = d.ch.CloseSend(ctx)
	}
	if errors.Is(err, io.ErrClosedPipe) {
		return wire.Errorf(wire.KindLost, "the function has ended, or the stream was ended before")
	}
	return err
}

var errOpenConvert = wire.Errorf(wire.KindUsage, "a channel converts nothing")

var errFunctionEnded = wire.Errorf(wire.KindLost, "the function has ended")

// pump takes messages of a channel as the client reads them, and gives what the function returns then.
func pump(ctx context.Context, s *stream, target int, ch *pool.Channel, plain bool) (any, error) {
	for {
		v, err := ch.Recv(ctx)
		if err == io.EOF {
			return ch.Result(ctx).Value()
		}
		if err == nil {
			err = s.message(target, v, plain)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *call) receiver(p *wire.Receiver) (any, error) {
	l, done, err := c.conn.lease(c.ctx, &wire.Target{Child: p.Child}, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := c.s.d.NewReceiver(l.Child(), 0)
	if err != nil {
		return nil, err
	}
	s, err := c.newStream(0, false)
	if err != nil {
		r.Close()
		return nil, err
	}
	c.work(s, func() {
		defer r.Close()
		for {
			v, err := r.Next(s.ctx)
			switch {
			case err == nil:
				err = s.message(0, v, !p.Exact)
			case errors.Is(err, io.EOF):
				s.finish()
				return
			}
			if err != nil {
				s.fail(err)
				return
			}
		}
	})
	to := r.Sender()
	return &wire.NewReceiver{Stream: s.id, Sender: &wire.Value{V: to}, Context: uint32(to.Context), Handle: uint32(to.Handle)}, nil
}

func (c *call) subscribe(p *wire.Subscribe) (any, error) {
	kinds := p.Kinds
	if len(kinds) == 0 {
		kinds = allKinds[:len(allKinds)-1]
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		if !contains(allKinds, k) || seen[k] {
			return nil, wire.Errorf(wire.KindUsage, "there are no events of kind %q, or it is named twice", shorten(k))
		}
		seen[k] = true
	}
	s, err := c.newStream(p.RequestTimeout(), false)
	if err != nil {
		return nil, err
	}
	sub := &subscriber{kinds: kinds, target: p.Target, stream: s}
	c.s.hub.add(sub, p.Backlog)
	if p.Until {
		c.s.hub.remove(sub)
		s.finish()
		close(s.done)
		return c.answer(s, true)
	}
	c.work(s, func() {
		<-s.ctx.Done()
		c.s.hub.remove(sub)
		if err := context.Cause(s.ctx); !ended(err) {
			s.fail(err)
		}
	})
	return c.answer(s, false)
}
