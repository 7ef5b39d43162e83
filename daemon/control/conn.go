package control

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/wire"
)

// Bounds for one client.
const (
	maxRequests     = 10000     // under way at once: a read and a write for each stream, and others
	maxRequestBytes = 256 << 20 // of those
	// The bytes of replies that wait to be read, and one more reply. While there are more, the next one waits to be
	// made, and requests are left unread.
	maxReplyBytes = 8 << 20
	// Large results of its calls count from before they are read from the child until their replies are made; one may
	// be larger.
	maxResultBytes = 32 << 20
	maxStreams     = 4096
	// How many transfers of files run at once, while others wait; and how many bytes of names they keep.
	maxTransfers     = 16
	maxTransferNames = 256 << 20
	// The bytes of all environments that a client has sent.
	maxEnvironmentBytes = 4 << 20
)

// conn is one client.
type conn struct {
	// Constant after newConn.
	s      *Server
	nc     net.Conn
	pid    int
	log    *zap.Logger
	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc
	// room is where large results count.
	room *daemon.Assembly
	// transfers has a token for each that runs; names counts the bytes of names that they keep.
	transfers chan struct{}
	names     atomic.Int64

	wg sync.WaitGroup // requests and streams

	// making is held while a reply is made, and before that while it waits for room. mu is locked under it.
	making sync.Mutex

	// mu protects the following. Nothing is locked under it.
	mu       sync.Mutex
	requests map[uint32]context.CancelCauseFunc
	count    int       // requests under way, notifications included
	bytes    int       // of those
	busy     time.Time // when the first of them came: changes of files before that have to be noticed
	streams  map[uint32]*stream
	last     uint32 // stream
	workers  int    // targets that call_many and its like work on at once
	leases   map[uint32]*held
	turns    map[string]*turn // the last of each order
	envs     [][]string       // by their numbers, from 1
	envBytes int
	out      [][]byte
	outBytes int
	writing  bool
	drained  chan struct{} // closed when less waits; nil when nobody waits for that
}

func newConn(s *Server, nc net.Conn, pid int) *conn {
	c := &conn{
		s: s, nc: nc, pid: pid, log: s.log.With(zap.Int("client", pid)), requests: map[uint32]context.CancelCauseFunc{},
		room: s.d.NewAssembly(maxResultBytes), transfers: make(chan struct{}, maxTransfers),
		streams: map[uint32]*stream{}, leases: map[uint32]*held{}, turns: map[string]*turn{},
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// errClientGone ends the work of a client that is gone.
var errClientGone = errors.New("control: the client is gone")

// serve reads requests until the client is gone.
func (c *conn) serve() {
	defer c.s.wg.Done()
	c.log.Debug("a client has come")
	err := c.readAll()
	c.stop(errClientGone)
	if errors.Is(err, wire.ErrBadMessage) {
		c.s.counts.bad.Add(1)
		c.log.Warn("disconnecting a client", zap.Error(err))
	} else {
		c.log.Debug("a client has gone", zap.Error(err))
	}
	c.wg.Wait()
	c.mu.Lock()
	leases := c.leases
	c.leases = nil
	c.s.counts.streams.Add(-int64(len(c.streams)))
	streams := c.streams
	c.streams = nil
	c.mu.Unlock()
	for _, s := range streams {
		s.drop()
	}
	for _, h := range leases {
		h.lease.Release()
	}
	_ = c.nc.Close()
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
}

// stop ends the connection, from any goroutine. What still waits to be written to the client gets lastWrite.
func (c *conn) stop(why error) {
	c.cancel(why)
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	_ = c.nc.SetWriteDeadline(time.Now().Add(lastWrite))
}

// lastWrite is how long the last replies get to be written.
const lastWrite = time.Second

// sendAway tells a client why it is not served.
func (c *conn) sendAway(why string) {
	defer c.nc.Close()
	defer c.cancel(errClientGone)
	if msg, err := wire.NewNotification("refused", map[string]any{"message": why}); err == nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(lastWrite))
		_, _ = c.nc.Write(msg)
	}
}

func (c *conn) readAll() error {
	r := wire.NewReader(c.nc, c.s.maxMessage())
	r.Count(func() wire.Part { return c.s.d.Assembly().Begin(c.ctx, "client "+strconv.Itoa(c.pid), c.stop) })
	for {
		data, err := r.Next()
		if err == nil {
			var m *wire.Message
			if m, err = wire.Parse(data); err == nil {
				err = c.handle(m, len(data))
			}
		}
		if err == nil {
			err = c.breathe()
		}
		if errors.Is(err, wire.ErrBadMessage) {
			if data == nil {
				data = r.Partial()
			}
			if id, ok := wire.PartialID(data); ok {
				refused := wire.Errorf(wire.KindUsage, "%v", err)
				refused.Reason = strings.TrimPrefix(refused.Message, "wire: ")
				c.reply(id, refused, nil, func() {})
			}
		}
		if err != nil {
			return err
		}
	}
}

// maxMessage bounds a message: the largest value, and what is around it.
func (s *Server) maxMessage() int {
	if s.opt.MaxMessage > 0 {
		return s.opt.MaxMessage + 64<<10
	}
	return wire.DefaultMaxMessage
}

// value is a Python value for a client. exact says that the client knows the extension types.
func (s *Server) value(v any, exact bool) (*wire.Value, error) {
	return wire.NewValue(v, !exact, s.maxMessage())
}

// breathe waits while many replies are unread: a client that does not read is not read either, and its next reply is
// not made.
func (c *conn) breathe() error {
	for {
		c.mu.Lock()
		if c.outBytes <= maxReplyBytes {
			c.mu.Unlock()
			return nil
		}
		if c.drained == nil {
			c.drained = make(chan struct{})
		}
		drained := c.drained
		c.mu.Unlock()
		select {
		case <-drained:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// late is a result that stays where it waits until there is room for the reply.
type late func() (any, error)

// reply makes a response once there is room for it, queues it, and writes it unless another goroutine is writing.
// queued is called before the client can know of it. A response waits for a client that reads slowly, and is dropped
// only with the connection.
func (c *conn) reply(id uint32, e error, result any, queued func()) {
	c.making.Lock()
	gone := c.breathe() != nil
	msg := response(id, e, result)
	queued()
	c.mu.Lock()
	c.making.Unlock()
	if gone && c.outBytes > 0 && c.outBytes+len(msg) > maxReplyBytes {
		c.mu.Unlock()
		return
	}
	c.out = append(c.out, msg)
	c.outBytes += len(msg)
	if c.writing {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	c.writeAll()
}

// response encodes a result, or an error that says that it cannot be sent.
func response(id uint32, e error, result any) []byte {
	if take, ok := result.(late); ok && e == nil {
		result, e = take()
	}
	if e != nil {
		if msg, err := wire.NewResponse(id, faults.FromError(e), nil); err == nil {
			return msg
		}
	}
	msg, err := wire.NewResponse(id, nil, result)
	if err != nil {
		msg, _ = wire.NewResponse(id, wire.Errorf(wire.KindInternal, "the result cannot be sent: %v", err), nil)
	}
	return msg
}

// writeAll writes until nothing is left. The caller has set writing.
func (c *conn) writeAll() {
	for {
		c.mu.Lock()
		if len(c.out) == 0 {
			c.writing = false
			c.mu.Unlock()
			return
		}
		bufs := net.Buffers(c.out)
		c.out = nil
		c.mu.Unlock()
		for len(bufs) > 0 {
			n, err := c.writeSome(bufs[0])
			c.wrote(n)
			if err != nil {
				c.stop(err)
				return // writing stays set: nothing can be written any more
			}
			wire.Reuse(bufs[0])
			bufs = bufs[1:]
		}
	}
}

// writeStep is how many bytes are written at once. A client has to take some of them in Options.StallTimeout.
const writeStep = 1 << 20

func (c *conn) writeSome(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if c.ctx.Err() == nil {
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.opt.StallTimeout))
			if c.ctx.Err() != nil {
				_ = c.nc.SetWriteDeadline(time.Now().Add(lastWrite)) // stop was faster
			}
		}
		var k int
		k, err = c.nc.Write(b[n:min(len(b), n+writeStep)])
		n += k
		if k > 0 && c.ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // it takes them slowly
		}
	}
	return n, err
}

func (c *conn) wrote(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outBytes -= n
	if c.drained != nil && c.outBytes <= maxReplyBytes/2 {
		close(c.drained)
		c.drained = nil
	}
}

// turn is a request's place among those that have to begin in order.
type turn struct {
	come chan struct{} // closed when nobody is before it; nil for one that was the first from the beginning

	// Guarded by conn.mu.
	before, after *turn
	left          bool
}

// queue gives the last place in an order. Only the reading goroutine calls it.
func (c *conn) queue(order string) *turn {
	t := &turn{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.turns[order]; last != nil {
		t.come = make(chan struct{})
		t.before, last.after = last, t
	}
	c.turns[order] = t
	return t
}

// leave gives up the place. Whoever follows has its turn if nobody else is before it: a request that does not wait any
// longer lets nobody overtake those that it has waited for. It may be called twice.
func (c *conn) leave(order string, t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	switch {
	case t.after != nil:
		t.after.before = t.before
	case t.before != nil:
		c.turns[order] = t.before
	default:
		delete(c.turns, order)
	}
	switch {
	case t.before != nil:
		t.before.after = t.after
	case t.after != nil:
		close(t.after.come)
	}
	t.before, t.after = nil, nil
}

func (t *turn) wait(ctx context.Context) error {
	if t.come == nil {
		return nil
	}
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newStream makes a stream. The caller has to count its work in wg.
func (c *conn) newStream(timeout time.Duration, work bool) (*stream, error) {
	s := &stream{
		c: c, work: work, max: streamBytes, changed: make(chan struct{}, 1), room: make(chan struct{}, 1), over: make(chan struct{}),
		done: make(chan struct{}), gone: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(c.ctx)
	if timeout > 0 {
		ctx, stop := context.WithTimeoutCause(s.ctx, timeout, &wire.TimeoutError{After: timeout})
		cancel := s.cancel
		s.ctx, s.cancel = ctx, func(err error) { cancel(err); stop() }
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) >= maxStreams {
		s.cancel(nil)
		return nil, wire.Errorf(wire.KindOverflow, "%d streams are open", len(c.streams))
	}
	c.last++
	s.id = c.last
	c.streams[s.id] = s
	c.s.counts.streams.Add(1)
	return s, nil
}

func (c *conn) stream(id uint32) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		return s, nil
	}
	return nil, wire.Errorf(wire.KindUnknown, "this client has no stream %d, or has read its end", id)
}

// forget takes a stream out of the table, and tells its work to end.
func (c *conn) forget(s *stream) {
	c.mu.Lock()
	_, ok := c.streams[s.id]
	delete(c.streams, s.id)
	c.mu.Unlock()
	if ok {
		c.s.counts.streams.Add(-1)
		close(s.gone)
		s.drop()
	}
	s.cancel(errStreamClosed)
}

// errStreamClosed ends the work of a stream that its client has closed.
var errStreamClosed = errors.New("control: the stream was closed")
