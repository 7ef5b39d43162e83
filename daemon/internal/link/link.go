// Package link is a connection with a running daemon: requests of the control protocol, and their answers.
//
// # Goroutines
//
//	name                  started in   ends when                                      waited for by
//	Link.readLoop         Dial         the connection ends                            Link.Close
//	Asked.giveUp          Asked.borrow the answer is there, or the connection ends    nobody: it holds nothing
//	the rest of a message Link.send    the daemon has taken it, or the connection     Link.send, until its context ends
//	                                   ends
//
// # Locks
//
// Link.mu guards the requests that wait, and is taken alone. Link.turn has a token for whoever writes a message.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mitogend/daemon/socket"
	"mitogend/daemon/wire"
)

// ErrDisconnected: the connection with the daemon is gone.
var ErrDisconnected = errors.New("client: the connection with the daemon is gone")

// ErrOtherUser: the daemon is another user's, and is told nothing.
var ErrOtherUser = errors.New("not your daemon")

// RefusedError: the daemon does not serve this client.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "the daemon refuses: " + e.Why }

// MaxPending is how many requests may wait for their answers; others wait before they are sent. What belongs to a
// stream does not count, nor wait: its answer may depend on that of another.
const MaxPending = 1000

// Link is a connection with a running daemon. It is safe for concurrent use.
type Link struct {
	nc    net.Conn
	raw   syscall.RawConn
	slots chan struct{}
	ended chan struct{} // closed when the reader has ended

	heard atomic.Int64 // bytes of the daemon

	turn chan struct{} // one token, for whoever writes a message

	// Of whoever has the turn: what try writes, how it went, and its function.
	out   []byte
	n     int
	werr  error
	write func(fd uintptr) bool

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	last    uint32
	pending map[uint32]chan *wire.Message
	refused string
	err     error // why the reader has ended
}

// Dial connects with the daemon that serves a socket. The error tells apart that nobody does: os.ErrNotExist, or
// syscall.ECONNREFUSED.
func Dial(ctx context.Context, path string) (*Link, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if err := checkPeer(nc); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("client: %s: %w", path, err)
	}
	l := &Link{
		nc: nc, slots: make(chan struct{}, MaxPending), ended: make(chan struct{}), turn: make(chan struct{}, 1),
		pending: map[uint32]chan *wire.Message{},
	}
	if l.raw, err = nc.(*net.UnixConn).SyscallConn(); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("client: %w", err)
	}
	l.write = l.writeOnce
	go l.readLoop()
	return l, nil
}

// checkPeer makes sure that passwords go to nobody else's daemon.
func checkPeer(nc net.Conn) error {
	peer, err := socket.PeerOf(nc)
	if err == nil && peer.UID != os.Geteuid() {
		err = fmt.Errorf("%w: it is served by user %d, and you are user %d", ErrOtherUser, peer.UID, os.Geteuid())
	}
	return err
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// readLoop gives responses to those who wait.
func (l *Link) readLoop() {
	r := wire.NewReader(counted{l.nc, &l.heard}, 1<<31-1)
	for {
		data, err := r.Next()
		var m *wire.Message
		if err == nil {
			m, err = wire.Parse(data)
		}
		if err != nil {
			l.fail(err)
			return
		}
		switch m.Type {
		case wire.Response:
			l.mu.Lock()
			ch := l.pending[m.ID]
			delete(l.pending, m.ID)
			l.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		case wire.Notification:
			var p struct {
				Message string `codec:"message"`
			}
			if m.Method == "refused" && wire.Unmarshal(m.Params, &p) == nil {
				l.mu.Lock()
				l.refused = p.Message
				l.mu.Unlock()
			}
		}
	}
}

func (l *Link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.refused != "":
		l.err = &RefusedError{l.refused}
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		l.err = ErrDisconnected
	default:
		l.err = fmt.Errorf("%w: %v", ErrDisconnected, err)
	}
	l.pending = nil
	_ = l.nc.Close()
	close(l.ended)
}

// failure is why the connection is gone.
func (l *Link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Heard is how many bytes have come from the daemon.
func (l *Link) Heard() int64 { return l.heard.Load() }

// Do makes a request and decodes its result into *result, unless that is nil. An error of the daemon is a *wire.Error.
// When ctx ends, the request is cancelled; what an answer that comes after that has made is given back.
func (l *Link) Do(ctx context.Context, method string, params, result any) error {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return l.Request(ctx, method, params, result)
}

// Request is Do without a place among MaxPending.
func (l *Link) Request(ctx context.Context, method string, params, result any) error {
	_, err := l.Borrow(ctx, method, params, result)
	return err
}

// Borrow is Request, and gives the memory of what is in *result: it may be reused by wire.Reuse.
func (l *Link) Borrow(ctx context.Context, method string, params, result any) (msg []byte, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx) // nothing is to begin
	}
	a, err := l.Begin(ctx, method, params)
	if err != nil {
		return nil, err
	}
	return a.borrow(ctx, result)
}

// Asked is a request that was sent.
type Asked struct {
	l      *Link
	id     uint32
	method string
	ch     chan *wire.Message
}

// requests are where requests are made: programs' input is as much as goes over the socket. maxRequest is how large one
// is that is kept.
var requests = sync.Pool{New: func() any { return new([]byte) }}

const maxRequest = 512 << 10

// Begin sends a request. Those of one goroutine are sent in their order. When ctx ends before the daemon has taken all of
// one, it goes on.
func (l *Link) Begin(ctx context.Context, method string, params any) (*Asked, error) {
	a := &Asked{l: l, method: method, ch: make(chan *wire.Message, 1)}
	l.mu.Lock()
	if l.pending == nil {
		l.mu.Unlock()
		return nil, l.failure()
	}
	for l.last++; l.pending[l.last] != nil; l.last++ {
	}
	a.id = l.last
	l.pending[a.id] = a.ch
	l.mu.Unlock()
	room := requests.Get().(*[]byte)
	msg, err := wire.NewRequest((*room)[:0], a.id, method, params)
	whole := true
	if err == nil {
		whole, err = l.send(ctx, msg)
	}
	if whole {
		if cap(msg) <= maxRequest {
			*room = msg
		}
		requests.Put(room)
	}
	if err != nil {
		l.mu.Lock()
		delete(l.pending, a.id)
		l.mu.Unlock()
		if len(a.ch) == 0 {
			return nil, err
		}
		// The daemon has refused it before it hung up, for its size, say.
	}
	return a, nil
}

// Wait decodes the answer, as Do does. Whoever has called it calls nothing else.
func (a *Asked) Wait(ctx context.Context, result any) error {
	_, err := a.borrow(ctx, result)
	return err
}

func (a *Asked) borrow(ctx context.Context, result any) (msg []byte, err error) {
	m, err := a.Answer(ctx)
	if err != nil {
		if ctx.Err() != nil {
			go a.giveUp()
		}
		return nil, err
	}
	return m.Bytes, Decode(m, result)
}

// Answer waits for the answer, which it gives once, for Decode. The request goes on when ctx ends, so that Answer may be
// called again: the daemon may have given away what is in an answer that is on its way.
func (a *Asked) Answer(ctx context.Context) (*wire.Message, error) {
	select {
	case m := <-a.ch:
		return m, nil
	case <-ctx.Done():
	case <-a.l.ended:
	}
	select {
	case m := <-a.ch: // it is there as well
		return m, nil
	default:
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, a.l.failure()
}

// giveUp cancels a request that nobody waits for any more, and closes what its answer has made all the same. Its id
// stays taken until the answer comes. Nobody waits for this: the daemon may not even read.
func (a *Asked) giveUp() {
	if msg, err := wire.NewNotification("cancel", &wire.Cancel{Request: a.id}); err == nil {
		_ = a.l.Write(context.Background(), msg)
	}
	m, err := a.Answer(context.Background())
	if err != nil {
		return
	}
	if p := madeBy(a.method, m); p != nil {
		_ = a.l.Request(context.Background(), "close", p, nil)
	}
}

// madeBy closes what the answer to a request has given to this client; nil where that is nothing.
func madeBy(method string, m *wire.Message) *wire.Close {
	switch method {
	case "connect":
		var got wire.Connected
		if Decode(m, &got) == nil {
			return &wire.Close{Child: got.Child}
		}
	case "receiver":
		var got wire.NewReceiver
		if Decode(m, &got) == nil {
			return &wire.Close{Stream: got.Stream}
		}
	case "call_async", "call_many", "run", "run_many", "open", "open_many", "put", "get", "subscribe":
		var got wire.Items
		if Decode(m, &got) == nil && !got.End {
			return &wire.Close{Stream: got.Stream}
		}
	}
	return nil
}

// Decode reads an answer into *result, unless that is nil. An error of the daemon is a *wire.Error.
func Decode(m *wire.Message, result any) error {
	if m.Error != nil {
		var e wire.Error
		if err := wire.Unmarshal(m.Error, &e); err != nil {
			return fmt.Errorf("client: the daemon's error cannot be read: %w", err)
		}
		return &e
	}
	if result == nil || m.Result == nil {
		return nil
	}
	if err := wire.UnmarshalShared(m.Result, result); err != nil {
		return fmt.Errorf("client: the daemon's answer cannot be read: %w", err)
	}
	return nil
}

// Write sends one message. Large ones of several goroutines do not mix. When ctx ends before the daemon has taken all of
// it, it goes on.
func (l *Link) Write(ctx context.Context, msg []byte) error {
	_, err := l.send(ctx, msg)
	return err
}

// send is Write. If whole is false, msg is still in use. A message that the daemon takes at once is sent even if ctx has
// ended.
func (l *Link) send(ctx context.Context, msg []byte) (whole bool, err error) {
	select {
	case l.turn <- struct{}{}:
	default:
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
	}
	n, err := l.try(msg)
	if err != nil || n == len(msg) {
		<-l.turn
		return true, l.unwritten(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := l.nc.Write(msg[n:])
		<-l.turn
		written <- err
	}()
	select {
	case err = <-written:
		return true, l.unwritten(err)
	case <-ctx.Done():
		return false, nil
	}
}

// try writes what goes without waiting.
func (l *Link) try(msg []byte) (int, error) {
	l.out, l.n, l.werr = msg, 0, nil
	err := l.raw.Write(l.write)
	if err == nil {
		err = l.werr
	}
	l.out = nil
	return l.n, err
}

func (l *Link) writeOnce(fd uintptr) bool {
	n, err := syscall.Write(int(fd), l.out)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), l.out)
	}
	switch err {
	case nil:
		l.n = n
	case syscall.EAGAIN:
	default:
		l.werr = err
	}
	return true
}

// unwritten is the error of a message that could not be written: the daemon may have said why before it hung up.
func (l *Link) unwritten(err error) error {
	if err == nil {
		return nil
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-l.ended:
		return l.failure()
	case <-t.C:
		return fmt.Errorf("%w: %v", ErrDisconnected, err)
	}
}

// Close ends the connection: children are given back, what is under way is given up.
func (l *Link) Close() {
	_ = l.nc.Close()
	<-l.ended
}
