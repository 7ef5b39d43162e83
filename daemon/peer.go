package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"mitogend/bootstrap"
	"mitogend/pyproto"
)

// Peer is a process that has connected to us and speaks frames: a stock Mitogen client. Its messages act with the
// daemon's own authority, so the caller of Attach has to make sure that it belongs to this user.
type Peer struct {
	d *Daemon
	s *stream
}

// Attach takes a connection into the tree. begin gets the peer's context id and does what comes before frames. The
// file has to be non-blocking; it is closed when the peer is gone, or on an error.
func (d *Daemon) Attach(conn *os.File, name string, begin func(pyproto.ContextID) error) (*Peer, error) {
	id := take(&d.lastPeer, 1, endPeer)
	if id == 0 {
		_ = conn.Close()
		return nil, errNoIDs
	}
	s, err := d.newStream(id, name, conn, conn)
	if err == nil {
		// Every release reads the old form.
		s.stamp, s.old = true, true
		err = begin(id)
	}
	if err == nil {
		err = d.enter()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	d.streams.Store(s, nil)
	d.routes.add(id, s)
	go s.readLoop(nil)
	if d.alive.Err() != nil {
		s.shut()
	}
	return &Peer{d, s}, nil
}

// ID is the peer's context id.
func (p *Peer) ID() pyproto.ContextID { return p.s.id }

// Done is closed when the peer is gone and everybody has been told.
func (p *Peer) Done() <-chan struct{} { return p.s.ended }

// Err tells why the peer is gone, once Done is closed.
func (p *Peer) Err() error { return p.s.failure() }

// Close ends the connection and does not wait.
func (p *Peer) Close() { p.s.dismiss() }

// lastWrite is how long a client that is dismissed may take to read what is there for it.
const lastWrite = time.Second

// dismiss ends a client's stream, and first tells it that the contexts it has sent to end: Mitogen waits for ever for
// contexts that it has no stream of its own to. It does not wait.
func (s *stream) dismiss() {
	for _, id := range s.sent.keys() {
		if what, ok := s.sent.load(id); ok && what != toldEnd && s.sent.swap(id, what, toldEnd) {
			s.tell(pyproto.DelRoute, fmt.Append(nil, id))
		}
	}
	s.mu.Lock()
	wait := s.writing && s.err == nil
	if wait && s.parting == nil {
		s.parting = time.AfterFunc(s.d.lastWrite, s.shut)
	}
	s.mu.Unlock()
	if !wait {
		s.shut()
	}
}

// Send sends a message from context 0. It never blocks, and fails when the peer is gone or takes nothing. It needs no
// room: others may have sent the peer much. The caller bounds what it sends.
func (p *Peer) Send(handle, replyTo pyproto.Handle, payload []byte) error {
	if _, _, stalled := p.s.load(); stalled {
		return p.d.errStalled()
	}
	return p.s.offer(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: p.s.id, Handle: handle, ReplyTo: replyTo}, payload))
}

// HasSentTo tells whether the peer has sent a message to a context that is still there.
func (p *Peer) HasSentTo(id pyproto.ContextID) bool {
	_, ok := p.s.sent.load(id)
	return ok
}

// ConnectArgs starts one child on this machine from a method and its arguments, as Python clients give them.
// [bootstrap.Build] has the types of values.
func (d *Daemon) ConnectArgs(ctx context.Context, method string, args map[string]any, opt ConnectOptions) (*Child, error) {
	ctx, done, err := d.connecting(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return d.connectHop(ctx, nil, step{bootstrap.Hop{Method: method}, args}, opt)
}

// Stream is the id of the child or peer at the other end of the connection that leads to a context; 0 if there is
// none.
func (d *Daemon) Stream(id pyproto.ContextID) pyproto.ContextID {
	if s := d.streamOf(id); s != nil {
		return s.id
	}
	return 0
}

// Ended is closed when the connection that leads to a context is gone; nil if there is none now.
func (d *Daemon) Ended(id pyproto.ContextID) <-chan struct{} {
	if s := d.streamOf(id); s != nil {
		return s.ended
	}
	return nil
}

// SendModule gives a stock child a LOAD_MODULE that ConnectOptions.Miss has promised. It never blocks.
func (c *Child) SendModule(payload []byte) error {
	return c.stream.offer(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: pyproto.LoadModuleHandle}, payload))
}

// Send sends a message of context 0 to a context, waiting for room on the way there.
func (d *Daemon) Send(ctx context.Context, dst pyproto.ContextID, handle, replyTo pyproto.Handle, payload []byte) error {
	s := d.streamOf(dst)
	if s == nil {
		return &DeadError{Target: "context", Reason: "no route to it"}
	}
	return s.send(ctx, newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: dst, Handle: handle, ReplyTo: replyTo}, payload))
}

// siblings begins a record of level debug. By it a client learns that two of its children may not talk.
const siblings = "mitogen\x0010\x00siblings cannot talk in this routing mode: "

// passLog hands a log record that came in on s to the client that owns the child there. It waits as any message for that
// client does. A client that reads nothing loses records.
func (d *Daemon) passLog(s *stream, to pyproto.ContextID, h pyproto.Header, payload []byte) {
	out := d.streamOf(to)
	if out == nil {
		return
	}
	h = pyproto.Header{Enc: pyproto.EncMGC, Dst: to, Src: h.Src, Handle: pyproto.ForwardLog}
	if err := d.relay(s, out, h, newFrame(h, bytes.Clone(payload))); err != nil {
		out.warn("log records", "a client loses log records", zap.Error(err))
	}
}

// SendBytes sends bytes as they are to a handle of any context in the tree; to a Mitogen before 0.3.39, as a pickled
// Blob. data is copied. It waits as Send does.
func (d *Daemon) SendBytes(ctx context.Context, dst pyproto.ContextID, handle pyproto.Handle, data []byte) error {
	s := d.streamOf(dst)
	if s == nil {
		return &DeadError{Target: "context", Reason: "no route to it"}
	}
	h := pyproto.Header{Enc: pyproto.EncBIN, Dst: dst, Handle: handle}
	if d.readsPicklesOnly(s, dst) {
		h.Enc, data, _ = oldForm(h.Enc, data, nil)
	} else {
		data = bytes.Clone(data)
	}
	return s.send(ctx, newFrame(h, data))
}

// maxPassed bounds the messages of one stream that were passed on to a client and whose answer is awaited. Some may
// never be answered: a program's own services have methods that give no reply.
const maxPassed = 1 << 14

// passed are the replies that clients owe to contexts behind a stream: they were given those contexts' messages for
// context 0. The replies have to come from context 0.
type passed struct {
	// mu protects the following. Nothing is locked under it.
	mu   sync.Mutex
	m    map[pyproto.ContextID]*owed // by who waits
	n    int                         // of all replies
	last uint64                      // number of the latest
}

// owed are the replies that one context waits for.
type owed struct {
	m     map[replyKey]uint64 // with their numbers
	order []owedReply         // ascending; those that are not in m have come
}

type owedReply struct {
	key    replyKey
	number uint64
}

type replyKey struct {
	peer   pyproto.ContextID
	dst    pyproto.ContextID
	handle pyproto.Handle
}

// add remembers a reply that is owed. At the bound, the context that waits for most loses the oldest of its own.
func (p *passed) add(k replyKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(k)
	if p.n >= maxPassed {
		p.removeOldest()
	}
	o := p.m[k.dst]
	if o == nil {
		if p.m == nil {
			p.m = map[pyproto.ContextID]*owed{}
		}
		o = &owed{m: map[replyKey]uint64{}}
		p.m[k.dst] = o
	}
	p.last++
	p.n++
	o.m[k] = p.last
	if o.order = append(o.order, owedReply{k, p.last}); len(o.order) > 2*len(o.m)+64 {
		o.order = slices.DeleteFunc(o.order, o.came)
	}
}

// came tells whether a reply is not owed any more.
func (o *owed) came(r owedReply) bool { return o.m[r.key] != r.number }

func (p *passed) remove(k replyKey) bool {
	o := p.m[k.dst]
	if o == nil || o.m[k] == 0 {
		return false
	}
	delete(o.m, k)
	p.n--
	if len(o.m) == 0 {
		delete(p.m, k.dst)
	}
	return true
}

func (p *passed) removeOldest() {
	var most *owed
	for _, o := range p.m {
		if most == nil || len(o.m) > len(most.m) {
			most = o
		}
	}
	for most.came(most.order[0]) {
		most.order = most.order[1:]
	}
	p.remove(most.order[0].key)
}

// forget drops what is owed to a context that is gone.
func (p *passed) forget(id pyproto.ContextID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.m[id]; o != nil {
		p.n -= len(o.m)
		delete(p.m, id)
	}
}

// owes tells whether a peer's message is an answer that it gives in the daemon's place.
func (p *stream) owes(d *Daemon, h pyproto.Header) bool {
	if h.Handle < pyproto.FirstDynamic || h.Src != p.id {
		return false
	}
	out := d.streamOf(h.Dst)
	return out != nil && out.passed.take(replyKey{p.id, h.Dst, h.Handle})
}

// take tells whether a message is such a reply, and forgets it: each is one message.
func (p *passed) take(k replyKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.remove(k)
}

// PassOn gives a message for context 0 to a peer, which answers it as if it were context 0, if it does. It waits as a
// message to the peer would, and so may be called by a handler only.
func (p *Peer) PassOn(in *Incoming, answers bool) {
	from := p.d.streamOf(in.Src)
	if from == nil {
		return
	}
	h := in.Header
	h.Enc, h.Dst = pyproto.EncMGC, p.s.id
	payload := in.Payload
	if in.Enc == pyproto.EncBIN {
		h.Enc, payload, _ = oldForm(in.Enc, payload, nil)
	}
	key := replyKey{p.s.id, h.Src, h.ReplyTo}
	if answers && h.ReplyTo >= pyproto.FirstDynamic {
		from.passed.add(key)
	}
	if err := p.d.relay(from, p.s, h, newFrame(h, bytes.Clone(payload))); err != nil {
		from.passed.take(key)
		in.Refuse(err.Error())
	}
}
