package control

import (
	"context"
	"errors"
	"io"
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
	o := daemon.RunOptions{Path: p.Path, Source: p.Script, File: p.File, Dir: p.Dir, Packed: p.Packed, Args: p.Argv, Env: p.Env, HostVars: p.HostVars, Stdout: writer{s, wire.ItemStdout}, Stderr: writer{s, wire.ItemStderr}}
	switch {
	case p.Module:
		o.Source = nil
	case o.Source == nil:
		o.Source = []byte{}
	}
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
		started := time.Now()
		c.s.counts.programs.Add(1)
		status, err := l.Run(s.ctx, o)
		if cause := context.Cause(s.ctx); err != nil && cause != nil {
			err = cause
		}
		c.s.called(l, p.Path, p.Traceparent, started, err)
		if err != nil {
			s.fail(err)
			return
		}
		s.finish(wire.Item{Kind: wire.ItemExit, Code: status.Code, Signal: status.Signal})
	})
	return c.answer(s, p.Read)
}

func (c *call) open(p *wire.Call) (any, error) {
	args, convert, err := arguments(p)
	if err == nil && convert != 0 {
		err = wire.Errorf(wire.KindUsage, "open converts nothing")
	}
	if err != nil {
		return nil, err
	}
	s, err := c.newStream(p.RequestTimeout(), true)
	if err != nil {
		return nil, err
	}
	opened := make(chan *pool.Channel, 1)
	s.write = channelWriter(s, opened)
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
		if err == nil {
			opened <- ch
			err = pump(s, ch, !p.Exact)
			ch.Close()
		}
		c.s.called(l, p.Function, p.Traceparent, started, err)
		if err != nil {
			s.fail(err)
		}
	})
	return c.answer(s, p.Read)
}

// channelWriter gives what the client writes to a channel, once it is open.
func channelWriter(s *stream, opened chan *pool.Channel) func(context.Context, *wire.Write) error {
	return func(ctx context.Context, w *wire.Write) error {
		var ch *pool.Channel
		select {
		case ch = <-opened:
			opened <- ch
		case <-s.over:
			return wire.Errorf(wire.KindLost, "the function has ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var err error
		if w.Value != nil {
			err = ch.Send(ctx, w.Value.V)
		}
		if err == nil && w.End {
			err = ch.CloseSend(ctx)
		}
		if errors.Is(err, io.ErrClosedPipe) {
			return wire.Errorf(wire.KindLost, "the function has ended, or the stream was ended before")
		}
		return err
	}
}

// pump takes messages of a channel as the client reads them, and then the function's result.
func pump(s *stream, ch *pool.Channel, plain bool) error {
	for {
		v, err := ch.Recv(s.ctx)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = s.message(v, plain)
		}
		if err != nil {
			return err
		}
	}
	v, err := ch.Result(s.ctx).Value()
	if err != nil {
		return err
	}
	return s.result(v, plain, func() {})
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
				err = s.message(v, !p.Exact)
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
