package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"mitogend/bootstrap"
	"mitogend/pyproto"
)

// Peer is a process that connected to us and speaks frames: a stock Mitogen client. Its messages act with the daemon's own
// authority, so whoever attaches one has made sure that it belongs to this user.
type Peer struct {
	d *Daemon
	s *stream
}

// Attach takes a connection into the tree. begin is told the peer's context id and does what has to come before frames; the
// file is closed when the peer is gone, or on an error. The file has to be non-blocking.
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

// dismiss ends a client's stream. One whose calls are under way is told that they end: Mitogen waits for ever for contexts that it has
// no stream of its own to.
func (s *stream) dismiss() {
	s.sent.Range(func(id, _ any) bool {
		if full, _, _ := s.load(); full {
			return false
		}
		h := pyproto.Header{Enc: pyproto.EncMGC, Dst: s.id, Handle: pyproto.DelRoute}
		return s.offer(newFrame(h, fmt.Append(nil, id))) == nil
	})
	s.shut()
}

// Send sends a message from context 0. It never blocks, and fails when the peer is gone or takes nothing.
func (p *Peer) Send(handle, replyTo pyproto.Handle, payload []byte) error {
	if full, _, _ := p.s.load(); full {
		return p.d.errStalled()
	}
	return p.s.offer(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: p.s.id, Handle: handle, ReplyTo: replyTo}, payload))
}

// HasSentTo tells whether the peer has sent a message to a context that is still there.
func (p *Peer) HasSentTo(id pyproto.ContextID) bool {
	_, ok := p.s.sent.Load(id)
	return ok
}

// ConnectArgs starts one child on this machine from a method and its arguments, as Python clients give them; see
// [bootstrap.Build] for the types of values.
func (d *Daemon) ConnectArgs(ctx context.Context, method string, args map[string]any, opt ConnectOptions) (*Child, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.alive, cancel)()
	return d.connectHop(ctx, nil, step{bootstrap.Hop{Method: method}, args}, opt)
}

// Stream tells over which connection a context is reached: the id of the child or peer at its other end, 0 if there is none.
func (d *Daemon) Stream(id pyproto.ContextID) pyproto.ContextID {
	if s := d.streamOf(id); s != nil {
		return s.id
	}
	return 0
}

// Ended is closed when the connection over which a context is reached is gone; nil if there is none now.
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

// siblings begins the record, of level debug, by which a client learns that two of its children may not talk.
const siblings = "mitogen\x0010\x00siblings can not talk in this routing mode: "

// passLog hands a log record of a child, or of one behind it, to the client that it belongs to. One that takes nothing loses
// records.
func (d *Daemon) passLog(to pyproto.ContextID, h pyproto.Header, payload []byte) {
	s := d.streamOf(to)
	if s == nil {
		return
	}
	if full, _, _ := s.load(); full {
		return
	}
	out := pyproto.Header{Enc: pyproto.EncMGC, Dst: to, Src: h.Src, Handle: pyproto.ForwardLog}
	_ = s.offer(newFrame(out, bytes.Clone(payload)))
}

// SendBytes sends bytes as they are to a handle of any context in the tree; as a pickled Blob where a Mitogen before 0.3.39
// has to read it. data is copied. It waits as Send does.
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
