package daemon

import (
	"fmt"

	"mitogend/pyproto"
)

// route takes a frame that came in on s to where it goes. The payload lies in buf; if buf is nil, nobody else uses
// it. Only s's readLoop calls route.
func (d *Daemon) route(s *stream, h pyproto.Header, payload []byte, buf *buffer) {
	if d.opt.Trace != nil {
		d.opt.Trace(Frame{s.name, false, h, payload})
	}
	if !s.mayRoute(h) {
		return
	}
	if s.stamp && h.Auth == s.id {
		s.stampFrame(&h)
	}
	if h.Dst == 0 {
		d.deliver(s, h, payload, buf)
		return
	}
	out := d.streamOf(h.Dst)
	if out == nil {
		d.refuse(h, fmt.Sprintf("no route to context %d", h.Dst))
		return
	}
	if out == s {
		d.refuse(h, fmt.Sprintf("context %d is behind the stream that asks for it", h.Dst))
		return
	}
	if (s.unidirectional || out.unidirectional) && h.Auth != 0 && !out.hasAuthority(h.Dst) {
		reason := fmt.Sprintf("context %d may not send to context %d: one of them talks to its parents only", h.Src, h.Dst)
		if c := s.childOf(s.id); c != nil && c.opt.LogTo != 0 {
			d.passLog(s, c.opt.LogTo, h, []byte(siblings+reason))
		}
		d.refuse(h, reason)
		return
	}
	what := spoken
	if h.ReplyTo != 0 && h.ReplyTo != pyproto.IsDead {
		what = asked
	}
	d.talkers.add(h.Dst, s, what)
	if h.Enc != pyproto.EncMGC && d.readsPicklesOnly(out, h.Dst) {
		h.Enc, payload, buf = oldForm(h.Enc, payload, buf)
	}
	var f frame
	if buf == nil {
		f = newFrame(h, payload)
	} else {
		f = passFrame(h, payload, buf)
	}
	if err := d.relay(s, out, h, f); err != nil {
		reason := fmt.Sprintf("context %d: %v", h.Dst, err)
		d.refuse(h, reason)
		d.tellLost(s, out, h, reason)
	}
}

// mayRoute tells whether what the header says of its sender may come in on s, and counts it otherwise.
func (s *stream) mayRoute(h pyproto.Header) bool {
	switch {
	case !s.d.verify(s, h.Src) || !s.d.verify(s, h.Auth):
		s.refused("false source", "its source or authority is not behind it", h)
	case h.ReplyTo.Reserved() && !(s.stamp && h.Auth == s.id):
		s.refused("reply handle", "the answer would go to a handle of the runtime's own", h)
	default:
		return true
	}
	return false
}

// standing is what is known of a context behind a client.
type standing bool

const (
	plain standing = false
	// authority: it has sent with the client's own authority. It is a client of the client's Listener.
	authority standing = true
)

// stampFrame gives a frame that has a client's own authority that of the daemon. What is behind the client without it,
// such as a fork of it and the fork's children, gets none.
func (s *stream) stampFrame(h *pyproto.Header) {
	h.Auth = 0
	if h.Src != s.id {
		s.behind.swap(h.Src, plain, authority)
	} else if s.owes(s.d, *h) {
		h.Src = 0
	}
}

// hasAuthority tells whether a context behind s is a client, or was seen to act as one.
func (s *stream) hasAuthority(id pyproto.ContextID) bool {
	if !s.stamp || id == s.id {
		return s.stamp
	}
	v, _ := s.behind.load(id)
	return v == authority
}

// readsPicklesOnly tells whether a context that is reached through s, or a hop on the way there, runs a Mitogen
// before 0.3.39.
func (d *Daemon) readsPicklesOnly(s *stream, id pyproto.ContextID) bool {
	if s.old {
		return true
	}
	for c := d.child(id); c != nil; c = c.via {
		if c.runtime != nil && c.runtime.Old() {
			return true
		}
	}
	return false
}

// verify tells whether messages of that context may come in on s. Only a stream that was attached as a client's
// brings messages of context 0 or of a client.
func (d *Daemon) verify(s *stream, id pyproto.ContextID) bool {
	return (id != 0 && id < firstPeer || s.stamp) && (id == s.id || d.streamOf(id) == s)
}

// leadsTo tells whether a context is on the way to another.
func (d *Daemon) leadsTo(id, respondent pyproto.ContextID) bool {
	for c := d.child(respondent); c != nil; c = c.via {
		if c.id == id {
			return true
		}
	}
	return false
}

// childOf gives the child of that id if it is reached over this stream.
func (s *stream) childOf(id pyproto.ContextID) *Child {
	if c := s.d.child(id); c != nil && c.stream == s {
		return c
	}
	return nil
}

func (d *Daemon) streamOf(id pyproto.ContextID) *stream {
	return d.routes.get(id)
}

// refuse sends a dead message to the context that waits for an answer to h. It never blocks.
func (d *Daemon) refuse(h pyproto.Header, reason string) {
	if h.ReplyTo == 0 || h.ReplyTo == pyproto.IsDead {
		return
	}
	dead := pyproto.Header{Enc: pyproto.EncMGC, Dst: h.Src, Handle: h.ReplyTo, ReplyTo: pyproto.IsDead}
	if h.Src == 0 {
		d.handles.deliver(nil, dead, []byte(reason))
		return
	}
	if s := d.streamOf(h.Src); s != nil {
		_ = s.offer(own(newFrame(dead, []byte(reason))))
	}
}

// post sends a message of the daemon's own. It never blocks.
func (d *Daemon) post(dst pyproto.ContextID, handle, replyTo pyproto.Handle, payload []byte) error {
	s := d.streamOf(dst)
	if s == nil {
		return fmt.Errorf("no route to context %d", dst)
	}
	return s.offer(own(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: dst, Handle: handle, ReplyTo: replyTo}, payload)))
}

// tell sends a message of the daemon's own to the peer. It never blocks.
func (s *stream) tell(handle pyproto.Handle, payload []byte) {
	_ = s.offer(own(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: s.id, Handle: handle}, payload)))
}

// dropRoutes forgets contexts and tells those that may wait for them: our own calls, and every stream that has sent
// to them.
func (d *Daemon) dropRoutes(s *stream, ids []pyproto.ContextID, reason string) {
	gone := make(map[pyproto.ContextID]bool, len(ids))
	for _, id := range ids {
		if d.routes.drop(id, s) {
			gone[id] = true
			s.routes.Add(-1)
		}
	}
	if len(gone) == 0 {
		return
	}
	for id := range gone {
		d.openGate(id)
		s.passed.forget(id)
	}
	d.handles.drop(gone, reason)
	d.tellEnd(s, gone)
}

// tellEnd tells the peers of other streams that have sent to these contexts that nothing comes from them any more.
func (d *Daemon) tellEnd(s *stream, gone map[pyproto.ContextID]bool) {
	for id := range gone {
		for other := range d.talkers.take(id) {
			what, ok := other.sent.take(id)
			if ok && other != s && (what == asked || what == spoken && !(s.stamp && other.mindsNot())) {
				other.tell(pyproto.DelRoute, fmt.Append(nil, id))
			}
		}
	}
}

// mindsNot tells whether the peer has no use for the end of a client, or of a client's client, that it does not wait
// for. A stock child without children of its own logs an error when it hears of any, and its other clients would see
// that.
func (s *stream) mindsNot() bool {
	if s.blocks.Load() > 0 {
		return false
	}
	c := s.childOf(s.id)
	return c != nil && c.runtime != nil
}

// behind lists the contexts that are reached through s.
func (d *Daemon) behind(s *stream) []pyproto.ContextID { return s.behind.keys() }

// endUnrouted ends the children behind a lost stream whose routes nobody has announced.
func (d *Daemon) endUnrouted(s *stream, reason string) {
	s.eachChild(func(c *Child) { c.takeOut(reason) })
}
