package daemon

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"mitogend/pyproto"
)

// overfull is how many times MaxPending may wait for one stream while its senders are being stopped: what they have
// under way still comes. A peer that does not stop is then not read any further.
const overfull = 8

// gate is closed while a context takes no messages.
type gate struct {
	open   chan struct{}
	closed time.Time

	// mu protects lost. Nothing is locked under it.
	mu   sync.Mutex
	lost lostReplies
}

// onFlow handles FLOW of a peer about a context behind it. (A peer that takes no messages itself does not read.)
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

// gateOf gives the closed gate of a context, nil if there is none, and whether it has been closed for StallTimeout.
func (d *Daemon) gateOf(id pyproto.ContextID) (g *gate, stalled bool) {
	v, ok := d.gates.Load(id)
	if !ok {
		return nil, false
	}
	g = v.(*gate)
	return g, time.Since(g.closed) > d.opt.StallTimeout
}

// waitGate waits until a context takes messages.
func (d *Daemon) waitGate(ctx context.Context, id pyproto.ContextID) error {
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

// send queues a frame for the child. It waits for room, and for the child's gate if the child is behind a hop.
func (c *Child) send(ctx context.Context, f frame) error {
	if c.via != nil {
		if err := c.d.waitGate(ctx, c.id); err != nil {
			f.done()
			return err
		}
	}
	return c.stream.send(ctx, f)
}

// relay queues a frame that came in on s for another stream. While there is no room for it, s is not read if its peer
// itself sends much. What the peer brings for contexts behind it is taken, since the rest of what it brings must go
// on; the peer is asked to stop their messages. Small messages are taken, too: they may be what a peer has to answer
// to anybody who asks, and one who does not take answers must not keep it from being read. Far beyond the bound
// nothing is taken.
func (d *Daemon) relay(s, out *stream, h pyproto.Header, f frame) error {
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

// lostReplies are the handles of contexts that read nothing which were told that a reply is lost, by the connection that
// had brought it. A handle is told once.
type lostReplies map[pyproto.ContextID]map[lostReply]bool

type lostReply struct {
	dst    pyproto.ContextID
	handle pyproto.Handle
}

// add is fresh where the handle is to be told, and full where the connection has brought too many.
func (l *lostReplies) add(from pyproto.ContextID, r lostReply) (fresh, full bool) {
	of := (*l)[from]
	if of[r] || len(of) >= maxLost {
		return false, !of[r]
	}
	if *l == nil {
		*l = lostReplies{}
	}
	if of == nil {
		of = map[lostReply]bool{}
		(*l)[from] = of
	}
	of[r] = true
	return true, false
}

// tellLost tells a context that something for a handle of its own was dropped, where nobody else is told: who waits for
// that reply would wait for ever. It is said in the name of whoever has sent it, and so ends no wait for another. Beyond
// the bound nothing is said: it is the context that decides how much it is sent, and so the one that goes without.
func (d *Daemon) tellLost(s, out *stream, h pyproto.Header, reason string) {
	if h.ReplyTo != 0 && h.ReplyTo != pyproto.IsDead || h.Handle < pyproto.FirstDynamic {
		return
	}
	r := lostReply{h.Dst, h.Handle}
	var fresh, full bool
	if g, shut := d.gateOf(h.Dst); shut {
		g.mu.Lock()
		fresh, full = g.lost.add(s.id, r)
		g.mu.Unlock()
	} else {
		out.mu.Lock()
		fresh, full = out.lost.add(s.id, r)
		out.mu.Unlock()
	}
	switch {
	case full:
		_ = s.reached("replies to contexts that read nothing", maxLost)
	case fresh:
		dead := pyproto.Header{
			Enc: pyproto.EncMGC, Src: h.Src, Auth: h.Auth, Dst: h.Dst, Handle: h.Handle, ReplyTo: pyproto.IsDead,
		}
		_ = out.offer(own(newFrame(dead, []byte(reason))))
	}
}

// hold makes a readLoop wait for room for the frame that it has read, for StallTimeout at most.
func (d *Daemon) hold(s, out *stream, dst pyproto.ContextID, f frame) error {
	ctx, cancel := context.WithTimeoutCause(s.ctx, d.opt.StallTimeout, d.errStalled())
	defer cancel()
	if err := d.waitGate(ctx, dst); err != nil {
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
	if !s.told.add(dst, struct{}{}) || d.enter() != nil {
		return
	}
	tell := func(state byte) { s.tell(pyproto.Flow, append(fmt.Append(nil, dst, ":"), state)) }
	tell('1')
	go func() {
		defer d.wg.Done()
		// After StallTimeout, a closed gate and a stalled stream refuse what comes.
		ctx, cancel := context.WithTimeout(s.ctx, d.opt.StallTimeout)
		defer cancel()
		if d.waitGate(ctx, dst) == nil {
			_ = out.waitRoom(s.ctx)
		}
		s.told.take(dst)
		tell('0')
	}()
}
