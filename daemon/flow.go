package daemon

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"mitogend/pyproto"
)

// flowHandle is ours alone (python/parent.py): `id:1` asks a neighbour in the tree to send nothing to that context, because
// the queue towards it is full, and `id:0` ends it. A peer of another kind refuses the handle, and no harm.
const flowHandle pyproto.Handle = 990

// overfull is how many times MaxPending may wait for one stream while those who fill it are being stopped, which takes as long
// as what they had under way. A peer that does not stop is then not read any further.
const overfull = 8

// gate is closed while a context wants no messages.
type gate struct {
	open   chan struct{}
	closed time.Time
}

// onFlow handles FLOW of a peer for who is behind it. A peer that takes no messages itself does not read.
func (d *Daemon) onFlow(m message) string {
	id, ok := routeID(m.payload)
	if !ok || id == m.s.id || d.streamOf(id) != m.s {
		return "the context is not behind it"
	}
	if bytes.HasSuffix(m.payload, []byte(":1")) {
		d.gates.LoadOrStore(id, &gate{open: make(chan struct{}), closed: time.Now()})
		return ""
	}
	d.openGate(id)
	return ""
}

func (d *Daemon) openGate(id pyproto.ContextID) {
	if g, ok := d.gates.LoadAndDelete(id); ok {
		close(g.(*gate).open)
	}
}

// gateOf gives the gate of a context that wants no messages, nil if there is none, and whether it has been closed for
// StallTimeout.
func (d *Daemon) gateOf(id pyproto.ContextID) (g *gate, stalled bool) {
	v, ok := d.gates.Load(id)
	if !ok {
		return nil, false
	}
	g = v.(*gate)
	return g, time.Since(g.closed) > d.opt.StallTimeout
}

// pass waits until a context takes messages.
func (d *Daemon) pass(ctx context.Context, id pyproto.ContextID) error {
	for {
		g, ok := d.gates.Load(id)
		if !ok {
			return nil
		}
		select {
		case <-g.(*gate).open:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send queues a frame for the child, when there is room for it all the way.
func (c *Child) send(ctx context.Context, f frame) error {
	if c.via != nil {
		if err := c.d.pass(ctx, c.id); err != nil {
			f.done()
			return err
		}
	}
	return c.stream.send(ctx, f)
}

// forward queues a frame that came in on s. While there is no room for it, s is not read if it is its peer that sends much. What a
// peer brings for those behind it is taken, since the rest of what it brings must go on, and the peer is asked to stop them. So are
// small messages: they may be what a peer has to answer to whoever asks, and then who does not take the answers must not keep
// it from being read. Far beyond the bound nothing is taken.
func (d *Daemon) forward(s, out *stream, h pyproto.Header, f frame) error {
	full, over, stalled := out.load()
	g, shut := d.gateOf(h.Dst)
	switch {
	case stalled || shut, over && h.ReplyTo == pyproto.IsDead:
		f.done()
		return d.errStalled()
	case !full && g == nil:
	case over || h.Src == s.id && f.size() > copyBelow:
		return d.hold(s, out, h.Dst, f)
	default:
		d.stopSender(s, out, h.Dst)
	}
	return out.offer(f)
}

// hold is a readLoop that waits for room for the frame that it has read, for StallTimeout at most.
func (d *Daemon) hold(s, out *stream, dst pyproto.ContextID, f frame) error {
	ctx, cancel := context.WithTimeoutCause(s.ctx, d.opt.StallTimeout, d.errStalled())
	defer cancel()
	if err := d.pass(ctx, dst); err != nil {
		f.done()
		return err
	}
	return out.send(ctx, f)
}

func (d *Daemon) errStalled() error {
	return fmt.Errorf("reads nothing, and %d bytes wait for it", d.opt.MaxPending)
}

// stopSender asks the peer of s to send nothing to a context until there is room again.
func (d *Daemon) stopSender(s, out *stream, dst pyproto.ContextID) {
	if _, told := s.told.LoadOrStore(dst, nil); told || d.enter() != nil {
		return
	}
	tell := func(state byte) {
		h := pyproto.Header{Enc: pyproto.EncMGC, Dst: s.id, Handle: flowHandle}
		_ = s.offer(own(newFrame(h, append(fmt.Append(nil, dst, ":"), state))))
	}
	tell('1')
	go func() {
		defer d.wg.Done()
		// A gate that is closed for longer, and a stalled stream, refuse what comes from then on.
		ctx, cancel := context.WithTimeout(s.ctx, d.opt.StallTimeout)
		defer cancel()
		if d.pass(ctx, dst) == nil {
			_ = out.waitRoom(s.ctx)
		}
		s.told.Delete(dst)
		tell('0')
	}()
}
