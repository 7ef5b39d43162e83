package daemon

import (
	"bytes"
	"context"
	"fmt"

	"mitogend/pyproto"
)

// flowHandle is ours alone (python/parent.py): `id:1` asks a neighbour in the tree to send nothing to that context, because
// the queue towards it is full, and `id:0` ends it. A peer of another kind refuses the handle, and no harm.
const flowHandle pyproto.Handle = 990

// overfull is how many times MaxPending may wait for one stream while those who fill it are being stopped, which takes as long
// as what they had under way. A peer that does not stop is then not read any further.
const overfull = 8

// gate is closed while a context wants no messages.
type gate struct{ open chan struct{} }

// onFlow handles FLOW from s, which must lead to the context.
func (d *Daemon) onFlow(s *stream, payload []byte) {
	id, ok := routeID(payload)
	if !ok || d.streamOf(id) != s {
		return
	}
	if bytes.HasSuffix(payload, []byte(":1")) {
		d.gates.LoadOrStore(id, &gate{open: make(chan struct{})})
		if d.streamOf(id) == s {
			return
		}
		// It has gone meanwhile.
	}
	d.openGate(id)
}

func (d *Daemon) openGate(id pyproto.ContextID) {
	if g, ok := d.gates.LoadAndDelete(id); ok {
		close(g.(*gate).open)
	}
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

// forward queues a frame that came in on s. While there is no room for it, s is not read if it is its peer that sends. What a
// peer brings for those behind it is taken, since the rest of what it brings must go on, and the peer is asked to stop them.
// The context says what ends a wait.
func (d *Daemon) forward(s, out *stream, h pyproto.Header, f frame) error {
	full, over, stalled := out.load()
	_, shut := d.gates.Load(h.Dst)
	if (full || shut) && (h.Src == s.id || over) {
		if err := d.pass(s.ctx, h.Dst); err != nil {
			f.done()
			return err
		}
		return out.send(s.ctx, f)
	}
	if stalled {
		f.done()
		return d.errStalled()
	}
	if full || shut {
		d.stopSender(s, out, h.Dst)
	}
	return out.offer(f)
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
		if d.pass(s.ctx, dst) == nil {
			// A stalled stream refuses what comes from then on.
			_ = out.waitRoom(s.ctx)
		}
		s.told.Delete(dst)
		tell('0')
	}()
}
