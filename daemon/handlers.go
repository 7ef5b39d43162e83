package daemon

import (
	"bytes"
	"strconv"

	"go.uber.org/zap"

	"mitogend/pyproto"
)

// idBlock is how many context ids one ALLOCATE_ID gives.
const idBlock = 1000

// Incoming is a message to context 0 for a handler that was set with [Daemon.Handle].
type Incoming struct {
	pyproto.Message
	d *Daemon
}

// Reply answers with a value; the error is that it can not be pickled. A reply to somebody who is gone is dropped.
func (m *Incoming) Reply(v any) error {
	payload, err := pyproto.Marshal(v)
	if err == nil && m.ReplyTo != 0 {
		_ = m.d.post(m.Src, m.ReplyTo, 0, payload)
	}
	return err
}

// Refuse answers with a dead message.
func (m *Incoming) Refuse(reason string) { m.d.refuse(m.Header, reason) }

// Handle sets what is done with messages to context 0 for one of the fixed handles that the daemon has no answer for. fn
// runs on the readLoop of the stream that the message came on, and must not block. Call it before the first Connect.
func (d *Daemon) Handle(h pyproto.Handle, fn func(*Incoming)) { d.fixed[h] = fn }

// deliver handles a message for context 0.
func (d *Daemon) deliver(s *stream, h pyproto.Header, payload []byte, buf *buffer) {
	if h.Handle >= pyproto.FirstDynamic {
		if reason := d.handles.deliverShared(s, h, payload, buf != nil); reason != "" {
			d.refuse(h, reason)
		}
		return
	}
	direct := h.Src == s.id
	switch h.Handle {
	case pyproto.GetModule:
		if len(payload) > maxQuestion {
			d.refuse(h, s.reached("bytes of a module's name", maxQuestion).Error())
			return
		}
		if c := d.child(h.Src); c != nil && c.onGetModule(string(payload)) {
			return
		}
	case pyproto.ForwardLog:
		if c := d.child(s.id); c != nil && c.opt.LogTo != 0 {
			d.passLog(c.opt.LogTo, h, payload)
		} else {
			d.onLog(h.Src, payload)
		}
		return
	case pyproto.AddRoute:
		if id, ok := routeID(payload); ok && direct {
			if err := d.addRoute(s, id); err != nil {
				s.warn("refused a route", "refused a route", zap.Error(err))
			}
			return
		}
	case pyproto.DelRoute:
		if id, ok := routeID(payload); ok && direct && id != s.id {
			d.lost(s, []pyproto.ContextID{id}, "its parent reports that it has ended")
			return
		}
	case flowHandle:
		if direct {
			d.onFlow(s, payload)
		}
		return
	case connectHandle:
		d.onConnect(s, h, payload)
		return
	case pyproto.GetResource:
		// Stock children ask without a handle for the answer.
		if c := d.child(h.Src); h.ReplyTo == 0 && c != nil && c.ownResponder && c.runtime != nil {
			s.resources.ask(s, h, payload)
			return
		}
		if h.ReplyTo != 0 && !s.stamp {
			s.resources.ask(s, h, payload)
			return
		}
	case pyproto.Detaching:
		if direct && s.proc != nil {
			s.proc.Detach()
			reply, _ := pyproto.Marshal(nil)
			_ = d.post(h.Src, h.ReplyTo, 0, reply)
			return
		}
	case pyproto.AllocateID:
		if h.ReplyTo != 0 {
			if err := s.takeBlock(); err != nil {
				d.refuse(h, err.Error())
				return
			}
			first := d.allocate(idBlock)
			reply, _ := pyproto.Marshal(pyproto.Tuple{int64(first), int64(first) + idBlock})
			_ = d.post(h.Src, h.ReplyTo, 0, reply)
		}
		return
	}
	if fn := d.fixed[h.Handle]; fn != nil {
		m := &Incoming{Message: pyproto.Message{Header: h, Payload: payload}, d: d}
		if buf != nil {
			m.Payload = bytes.Clone(payload)
		}
		fn(m)
		return
	}
	d.refuse(h, "invalid handle")
}

// routeID reads the payload of ADD_ROUTE and DEL_ROUTE: "id" or "id:name".
func routeID(payload []byte) (pyproto.ContextID, bool) {
	text, _, _ := bytes.Cut(payload, []byte{':'})
	n, err := strconv.ParseUint(string(text), 10, 32)
	return pyproto.ContextID(n), err == nil && n > 0
}
