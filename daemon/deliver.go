package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// sender says who may send to one of our fixed handles. route has checked before that the source is behind the
// stream.
type sender uint8

const (
	anybody   sender = iota // a context behind any stream
	below                   // the same, but no client and nobody behind one
	ourChild                // a child that this daemon has connected, over the stream that leads to it
	neighbour               // the peer at the other end of the stream
	client                  // the same, and a client, with our authority
)

// policy is the one place where a message for a fixed handle is judged: first by who sends it, then by the handler,
// which looks at what the message is about and gives the reason of a refusal. Where there is no handler,
// [Daemon.Handle] sets it.
var policy map[pyproto.Handle]rule

type rule struct {
	from sender
	do   func(*Daemon, message) (refused string)
}

func init() {
	policy = map[pyproto.Handle]rule{
		//                        from       about
		pyproto.GetModule:        {below, (*Daemon).onGetModule},     // what it, our child or to become one, may import
		pyproto.GetResource:      {below, (*Daemon).onGetResource},   // what it, or the child at the head, may read
		pyproto.ForwardLog:       {anybody, (*Daemon).onForwardLog},  // itself
		pyproto.AllocateID:       {anybody, (*Daemon).onAllocateID},  // numbers for its own stream to announce
		pyproto.AddRoute:         {neighbour, (*Daemon).onAddRoute},  // a number that was given to the stream
		pyproto.DelRoute:         {neighbour, (*Daemon).onDelRoute},  // who is behind it
		pyproto.Flow:             {neighbour, (*Daemon).onFlow},      // who is behind it
		pyproto.Detaching:        {neighbour, (*Daemon).onDetaching}, // its own process
		pyproto.Connect:          {ourChild, (*Daemon).onConnect},    // a child of its own, or of one behind it
		pyproto.CallFunction:     {client, nil},                      // package unixclient: _proxy_connect
		pyproto.LoadModuleHandle: {client, nil},                      // package unixclient: for its own children
		pyproto.LoadResource:     {client, nil},                      // package unixclient: for its own children
		pyproto.CallService:      {anybody, nil},                     // package unixclient: its owner's services
	}
}

// message is a message for context 0. If shared, the payload belongs to a read buffer.
type message struct {
	pyproto.Header
	s       *stream
	payload []byte
	shared  bool
	child   *Child // of the sender; set where the policy says ourChild
}

// own gives the message with a payload of its own.
func (m *message) own() pyproto.Message {
	payload := m.payload
	if m.shared {
		payload = bytes.Clone(payload)
	}
	return pyproto.Message{Header: m.Header, Payload: payload}
}

// admits tells whether the rule is for the message's sender.
func (r *rule) admits(m *message) bool {
	switch r.from {
	case anybody:
		return true
	case below:
		return !m.s.stamp
	case ourChild:
		m.child = m.s.childOf(m.Src)
		return m.child != nil
	case neighbour:
		return m.Src == m.s.id
	case client:
		return m.s.stamp && m.Src == m.s.id && m.Auth == 0
	}
	return false
}

// These reasons of refusals are those of Mitogen; programs test for them.
const (
	noHandle    = "invalid handle"
	notAdmitted = "refused by policy"
)

const servedBefore = "its modules come from the context before it"

// refused counts a message that its sender may not send, and logs it.
func (s *stream) refused(kind, reason string, h pyproto.Header) {
	s.d.refused.Add(1)
	s.warn(kind, "refused a message", zap.String("kind", kind), zap.String("reason", printable.Cut(reason, 200)), zap.Uint32("src", uint32(h.Src)),
		zap.Uint32("auth", uint32(h.Auth)), zap.Uint32("handle", uint32(h.Handle)))
}

// Refused is how many messages came whose senders may not send them.
func (d *Daemon) Refused() int64 { return d.refused.Load() }

// deliver handles a message for context 0.
func (d *Daemon) deliver(s *stream, h pyproto.Header, payload []byte, buf *buffer) {
	if h.Handle >= pyproto.FirstDynamic {
		if reason := d.handles.deliverShared(s, h, payload, buf != nil); reason != "" {
			if reason == unexpected {
				s.refused("reply", reason, h)
			}
			d.refuse(h, reason)
		}
		return
	}
	m := message{Header: h, s: s, payload: payload, shared: buf != nil}
	r := policy[h.Handle]
	do := r.do
	if fn := d.fixed[h.Handle]; fn != nil && do == nil {
		do = func(d *Daemon, m message) string {
			fn(&Incoming{Message: m.own(), d: d})
			return ""
		}
	}
	switch {
	case do == nil:
		d.refuse(h, noHandle)
	case h.ReplyTo == pyproto.IsDead || !r.admits(&m):
		s.refused(h.Handle.String(), notAdmitted, h)
		d.refuse(h, notAdmitted)
	default:
		if reason := do(d, m); reason != "" {
			s.refused(h.Handle.String(), reason, h)
			d.refuse(h, reason)
		}
	}
}

// Incoming is a message to context 0 for a handler that was set with [Daemon.Handle].
type Incoming struct {
	pyproto.Message
	d *Daemon
}

// Reply answers with a value. An error says that the value cannot be pickled. A reply to a context that is gone is
// dropped.
func (m *Incoming) Reply(v any) error {
	payload, err := pyproto.Marshal(v)
	if err == nil && m.ReplyTo != 0 {
		_ = m.d.post(m.Src, m.ReplyTo, 0, payload)
	}
	return err
}

// Refuse answers with a dead message.
func (m *Incoming) Refuse(reason string) { m.d.refuse(m.Header, reason) }

// Handle sets the handler of messages to context 0 for a fixed handle that the daemon itself does not serve; the
// policy says who may send them. fn runs on the readLoop of the stream that brought the message, and must not block.
// Call Handle before the first Connect.
func (d *Daemon) Handle(h pyproto.Handle, fn func(*Incoming)) { d.fixed[h] = fn }

func (d *Daemon) onGetModule(m message) string {
	if len(m.payload) > maxQuestion {
		return m.s.reached("bytes of a module's name", maxQuestion).Error()
	}
	c := m.s.childOf(m.Src)
	if c == nil {
		return m.s.earlyModule(m.Src, string(m.payload))
	}
	if !c.onGetModule(string(m.payload)) {
		return servedBefore
	}
	return ""
}

func (d *Daemon) onGetResource(m message) string {
	c := m.s.childOf(m.Src)
	// Stock children ask without a handle for the answer.
	if m.ReplyTo == 0 && (c == nil || !c.ownResponder || c.runtime == nil) {
		return "no handle for the answer"
	}
	refused := m.s.resources.ask(m.s, m.Header, m.payload)
	if refused != "" && m.ReplyTo == 0 && len(m.payload) <= maxQuestion {
		m.s.refuseResource(m.own(), errors.New(refused))
	}
	return refused
}

func (d *Daemon) onForwardLog(m message) string {
	if c := m.s.childOf(m.s.id); c != nil && c.opt.LogTo != 0 {
		d.passLog(m.s, c.opt.LogTo, m.Header, m.payload)
	} else {
		d.onLog(m.s.childOf(m.Src), m.Src, m.payload)
	}
	return ""
}

func (d *Daemon) onAllocateID(m message) string {
	if m.ReplyTo == 0 {
		return ""
	}
	if err := m.s.takeBlock(); err != nil {
		return err.Error()
	}
	first := take(&d.lastAsked, idBlock, endAsked)
	if first == 0 {
		return errNoIDs.Error()
	}
	m.s.ids.addBlock(first, m.Src)
	d.allow(m.Src, first, idBlock)
	reply, _ := pyproto.Marshal(pyproto.Tuple{int64(first), int64(first) + idBlock})
	_ = d.post(m.Src, m.ReplyTo, 0, reply)
	return ""
}

func (d *Daemon) onAddRoute(m message) string {
	id, ok := routeID(m.payload)
	if !ok {
		return "no context"
	}
	if err := d.addRoute(m.s, id); err != nil {
		if c := m.s.childOf(id); c != nil {
			c.refuseRoute(err)
		}
		// A hop that has passed the route on forgets it.
		m.s.tell(pyproto.DelRoute, fmt.Append(nil, uint32(id)))
		return err.Error()
	}
	return ""
}

func (d *Daemon) onDelRoute(m message) string {
	id, ok := routeID(m.payload)
	if !ok || id == m.s.id || d.streamOf(id) != m.s {
		return "the context is not behind it"
	}
	d.lost(m.s, []pyproto.ContextID{id}, "its parent reports that it has ended")
	return ""
}

func (d *Daemon) onDetaching(m message) string {
	if m.s.proc == nil {
		return "it has no process here"
	}
	if !d.detached.add(m.s.name, m.s.proc) {
		return m.s.reached("detached processes of one name that still run", maxDetached).Error()
	}
	m.s.proc.Detach()
	reply, _ := pyproto.Marshal(nil)
	_ = d.post(m.Src, m.ReplyTo, 0, reply)
	return ""
}

// routeID reads the payload of ADD_ROUTE, DEL_ROUTE and FLOW: "id" or "id:name".
func routeID(payload []byte) (pyproto.ContextID, bool) {
	text, _, _ := bytes.Cut(payload, []byte{':'})
	if len(text) > 10 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text), 10, 32)
	return pyproto.ContextID(n), err == nil && n > 0
}

// addRoute makes id reachable through s, the stream that the number was given to.
func (d *Daemon) addRoute(s *stream, id pyproto.ContextID) error {
	switch old := d.streamOf(id); {
	case old == s:
		return nil
	case old != nil:
		return fmt.Errorf("context %d has a route over another stream", id)
	case id >= firstPeer || !s.ids.mayAnnounce(id):
		return fmt.Errorf("the number %d was not given to it", id)
	}
	if err := s.takeRoute(); err != nil {
		return err
	}
	if !d.routes.add(id, s) {
		s.routes.Add(-1)
		return fmt.Errorf("context %d has a route over another stream", id)
	}
	return nil
}
