package control

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto/printable"
)

// work starts the work of a stream on a goroutine of its own. An error of fn ends the stream. The work counts as
// running until the client has read its end; the request that has made the stream counts by itself.
func (c *call) work(s *stream, fn func() error) {
	if s.work {
		c.s.counts.active.Add(1) // the request still counts, so this is not the first work after a stop
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		if err := fn(); err != nil {
			s.fail(err)
		}
		close(s.done)
		if s.work {
			<-s.ctx.Done()
			c.s.end()
		}
	}()
}

// answer is the result of a request that opens a stream.
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

// watcher gives the log records and imports of a target's connection to the stream, if the client wants them.
func (s *stream) watcher(target int, logs, imports bool) *pool.Watcher {
	if !logs && !imports {
		return nil
	}
	event := func(e wire.Event) { s.offer(wire.Item{Kind: wire.ItemEvent, Target: target, Event: &e}) }
	w := &pool.Watcher{}
	if logs {
		w.OnLog = func(c *pool.Conn, l daemon.Log) { event(logEvent(c, l)) }
	}
	if imports {
		w.OnImport = func(c *pool.Conn, e importer.Event) { event(importEvent(c, e)) }
	}
	return w
}

func logEvent(c *pool.Conn, l daemon.Log) wire.Event {
	return wire.Event{
		Kind: wire.EventLog, Time: stamp(time.Now()), Target: c.Name(), Chain: c.Chain(), Child: uint32(l.Context), Logger: l.Logger, Level: l.Level, Text: l.Text,
	}
}

// onTarget tells the client which child the stream is for, and runs do on it.
func (c *call) onTarget(ctx context.Context, s *stream, t *wire.Target, logs, imports bool, do func(*pool.Lease) error) error {
	l, done, err := c.conn.lease(ctx, t, s.watcher(0, logs, imports))
	if err != nil {
		return err
	}
	defer done()
	s.mu.Lock()
	s.child = connected(l)
	s.mu.Unlock()
	return do(l)
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
	if p.Output {
		s.setMax(printBytes)
	}
	o := daemon.CallOptions{Chain: p.Chain, Room: c.room, Convert: convert, Output: s.output(0, p.Output)}
	c.later = true // the order holds until the call was sent
	c.work(s, func() error {
		defer c.begun()
		return c.onTarget(s.ctx, s, &p.Target, p.Log, p.Import, func(l *pool.Lease) error {
			v, release, err := c.s.function(s.ctx, l, p, o, args, c.begun)
			if err != nil {
				release()
				return err
			}
			return s.result(v, p.Exact, release)
		})
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
	var in *input
	if p.Stdin {
		in = newInput(s)
		o.Stdin = in
	}
	// What a program prints while it is given up is still for the client, unless that closes the stream.
	ctx, giveUp := context.WithCancelCause(s.ctx)
	s.write = func(wctx context.Context, w *wire.Write) error {
		switch {
		case w.Cancel:
			giveUp(context.Canceled)
			return nil
		case w.Stop || w.Value != nil || w.Target != nil || in == nil:
			return errRunWrite
		}
		return in.write(wctx, w)
	}
	c.begun() // programs run side by side
	c.work(s, func() error {
		defer giveUp(nil)
		return c.onTarget(ctx, s, &p.Target, p.Log, p.Import, func(l *pool.Lease) error {
			status, err := c.s.program(ctx, l, p, o)
			if err == nil {
				s.finish(wire.Item{Kind: wire.ItemExit, Code: status.Code, Signal: status.Signal})
			}
			return err
		})
	})
	return c.answer(s, p.Read)
}

// errRunWrite refuses a write that a program has no use for.
var errRunWrite = wire.Errorf(wire.KindUsage, "run takes cancel, and with stdin also data and end")

// runOptions are the options that are the same on all targets.
func runOptions(p *wire.Run) daemon.RunOptions {
	o := daemon.RunOptions{Path: p.Path, Title: p.Title, Source: p.Script, File: p.File, Dir: p.Dir, Packed: p.Packed, Args: p.Argv, Env: p.Env,
		WorkDir: p.WorkDir, HostVars: p.HostVars}
	switch {
	case p.Module:
		o.Source = nil
	case o.Source == nil:
		o.Source = []byte{}
	}
	return o
}

// program runs a program, counts it and publishes its end.
func (s *Server) program(ctx context.Context, l *pool.Lease, p *wire.Run, o daemon.RunOptions) (daemon.ExitStatus, error) {
	started := time.Now()
	s.counts.programs.Add(1)
	early := ctx.Err() != nil
	status, err := l.Run(ctx, o)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if !early {
		err = cutOff(ctx, l, err)
	}
	e := wire.Event{Trace: p.Traceparent, Code: status.Code, Signal: status.Signal}
	e.What, e.Function = programName(p)
	s.called(l, e, started, err)
	return status, err
}

// programName is what a program is for its user, and its name. Of a command there is only the first word: arguments may
// be secret.
func programName(p *wire.Run) (what, name string) {
	switch p.Path {
	case daemon.PathCommand, daemon.PathTerminal:
		word, _, _ := strings.Cut(p.Title, " ")
		return "exec", word
	case daemon.PathRepl, daemon.PathPrompt:
		return "repl", ""
	case daemon.PathAfter:
		return "run", p.Title
	case daemon.PathTransfer:
		return "copy", ""
	}
	return "run", p.Path
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
	opened := func(ch *pool.Channel) {
		c.begun()
		if ch != nil {
			d.open(ch)
		}
	}
	c.later = true // the order holds until the call was sent
	c.work(s, func() error {
		defer c.begun()
		return c.onTarget(s.ctx, s, &p.Target, p.Log, p.Import, func(l *pool.Lease) error {
			v, err := s.channel(s.ctx, l, p, daemon.CallOptions{Output: s.output(0, p.Output)}, args, 0, opened)
			if err != nil {
				return err
			}
			return s.result(v, p.Exact, func() {})
		})
	})
	return c.answer(s, p.Read)
}

// door is where a client writes to a channel that may not be open yet.
type door struct {
	known chan struct{} // closed when it is known whether there is a channel
	once  sync.Once
	ch    *pool.Channel
}

func newDoor() *door { return &door{known: make(chan struct{})} }

// open sets the channel; nil says that there is none. Only the first call counts.
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

var errOpenConvert = wire.Errorf(wire.KindUsage, "open and open_many do not take convert")

var errFunctionEnded = wire.Errorf(wire.KindLost, "the function has ended")

// channel calls p.Function with a channel, gives its messages to the stream, counts the call and publishes it. opened
// gets the channel, or nil if there is none.
func (s *stream) channel(
	ctx context.Context, l *pool.Lease, p *wire.Call, o daemon.CallOptions, args []any, target int, opened func(*pool.Channel),
) (v any, err error) {
	started := time.Now()
	early := ctx.Err() != nil
	ch, err := l.Open(ctx, o, p.Function, args...)
	opened(ch)
	if err == nil {
		v, err = s.pump(ctx, target, ch, p.Exact)
		ch.Close()
	}
	if !early {
		err = cutOff(ctx, l, err)
	}
	s.c.s.called(l, wire.Event{Function: p.Function, Trace: p.Traceparent}, started, err)
	return v, err
}

// pump takes a channel's messages as the client reads them, and then gives what the function returns.
func (s *stream) pump(ctx context.Context, target int, ch *pool.Channel, exact bool) (any, error) {
	for {
		v, err := ch.Recv(ctx)
		if err == io.EOF {
			return ch.Result(ctx).Value()
		}
		if err == nil {
			err = s.message(target, v, exact)
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
	c.work(s, func() error {
		defer r.Close()
		for {
			v, err := r.Next(s.ctx)
			if err == nil {
				err = s.message(0, v, p.Exact)
			}
			switch {
			case errors.Is(err, io.EOF):
				s.finish()
				return nil
			case err != nil:
				return err
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
		if !slices.Contains(allKinds, k) || seen[k] {
			return nil, wire.Errorf(wire.KindUsage, "there are no events of kind %q, or it is named twice", printable.Short(k))
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
	c.work(s, func() error {
		<-s.ctx.Done()
		c.s.hub.remove(sub)
		if err := context.Cause(s.ctx); !ended(err) {
			return err
		}
		return nil
	})
	return c.answer(s, false)
}
