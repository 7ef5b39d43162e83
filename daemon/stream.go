package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"mitogend/bootstrap"
	"mitogend/internal/parking"
	"mitogend/pyproto"
)

// errNotWritten says that the pipe is full. It never leaves this file.
var errNotWritten = errorf("would block")

// stream is a connection with one peer: a child that this daemon started, or a client of its socket.
//
// Only readLoop reads; while nothing comes for long, the stream is parked, and has none. Whoever sets writing owns the descriptor for writing until it clears the flag. That is the
// sender itself: it writes what the pipe takes at once, so that a call wakes no other goroutine. What is left it
// gives to a writeLoop, which lives until the queue is empty.
type stream struct {
	d    *Daemon
	id   pyproto.ContextID // of the peer
	name string
	// stamp: messages act with the daemon's authority (a local client of the same user).
	stamp bool
	// old: the peer is a Mitogen that knows pyproto.EncMGC only; contexts behind it may be, too.
	old   bool
	r, w  *os.File
	rraw  syscall.RawConn
	wraw  syscall.RawConn
	proc  *bootstrap.Process // nil for a client
	ended chan struct{}      // closed at the end of the teardown
	ctx   context.Context    // ends when the stream is lost
	lose  context.CancelFunc
	// unidirectional: messages go between it and us only.
	unidirectional bool

	place parking.Place

	// Owned by readLoop.
	in    *buffer
	start int // of what is not handled yet
	end   int
	large bool // the pipe is
	much  bool // a small buffer was filled, and since then much has come with each read

	// sent holds the ids that this stream has sent a message to, for DEL_ROUTE, and what (said).
	sent few[pyproto.ContextID, said]
	// behind holds the ids that are reached through it, children the children; see tables.go.
	behind   few[pyproto.ContextID, standing]
	children few[*Child, struct{}]
	// passed are the replies that clients give in the daemon's place.
	passed passed
	// told holds the ids that the peer was asked to send nothing to.
	told few[pyproto.ContextID, struct{}]

	bytesIn, bytesOut atomic.Int64
	resources         resourceQueue
	sharing           atomic.Pointer[sharing] // see shared
	ids               ids

	// These count what it has caused; see bounds.go.
	owing                      atomic.Bool // breathe has to be called
	routes, blocks, connecting atomic.Int64
	warnings                   warnings
	logs                       LogLimit

	// mu protects the following. Never held across I/O. Nothing is locked under it.
	mu       sync.Mutex
	queue    []frame
	parting  *time.Timer   // ends the stream of a client that is dismissed; nil before that
	lost     lostReplies   // since less than half of what may waited
	queued   int           // bytes and messageCost for each frame, what the writer holds included
	owed     int           // of those, the daemon's own
	relief   chan struct{} // closed when less is owed; nil while that is not much
	writing  bool          // somebody owns the writing side
	room     chan struct{}
	progress time.Time // of the last byte written while the queue was not empty
	err      error     // first cause; set once

	// Owned by whoever set writing.
	out   *outgoing // nil before the first write, and when the stream is parked
	grown bool      // the pipe is
	wfn   func(fd uintptr) bool
}

// outgoing is what is being written.
type outgoing struct {
	batch []frame // from next on is still to be written
	next  int
	// One write: its parts and whether it may wait; how much was written, and the error.
	iov   [][]byte
	block bool
	wrote int
	err   error
}

func (d *Daemon) newStream(id pyproto.ContextID, name string, r, w *os.File) (*stream, error) {
	s := &stream{d: d, id: id, name: name, r: r, w: w, ended: make(chan struct{})}
	s.ctx, s.lose = context.WithCancel(context.Background())
	var err error
	if s.rraw, err = r.SyscallConn(); err != nil {
		return nil, errorf("%s: %w", name, err)
	}
	if s.wraw, err = w.SyscallConn(); err != nil {
		return nil, errorf("%s: %w", name, err)
	}
	s.wfn = s.writeOnce
	return s, nil
}

// offer queues a frame and writes what can be written at once. It never blocks, and fails when the stream is lost. It
// ends a stream on which far too much of the daemon's own messages waits (see own, breathe).
func (s *stream) offer(f frame) error {
	write, err := s.enqueue(f)
	if write {
		s.write(false)
	}
	return err
}

// enqueue queues a frame; write says that the caller has to write it, and nobody else does.
func (s *stream) enqueue(f frame) (write bool, err error) {
	if s.d.opt.Trace != nil {
		s.traceOut(f)
	}
	s.mu.Lock()
	if s.err != nil {
		err := s.err
		s.mu.Unlock()
		f.done()
		return false, err
	}
	if f.own > 0 && s.owed+f.own > 2*s.d.maxAnswers() {
		s.mu.Unlock()
		f.done()
		err := s.reached(unreadAnswers, s.d.maxAnswers())
		s.fail(err)
		return false, err
	}
	if len(s.queue) == 0 && !s.writing {
		s.progress = time.Now()
	}
	s.queue = append(s.queue, f)
	s.queued += f.size() + messageCost
	if s.owed += f.own; f.own > 0 && s.owed > s.d.maxAnswers() && s.relief == nil {
		s.relief = make(chan struct{})
		s.owing.Store(true)
	}
	write = !s.writing
	s.writing = true
	s.mu.Unlock()
	return write, nil
}

// send is offer that first waits for room.
func (s *stream) send(ctx context.Context, f frame) error {
	if err := s.waitRoom(ctx); err != nil {
		f.done()
		return err
	}
	return s.offer(f)
}

// load tells whether there is no room (full), whether overfull times the bound waits (over), and whether the stream
// is full and nothing was read for StallTimeout (stalled).
func (s *stream) load() (full, over, stalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full = s.queued >= s.d.opt.MaxPending
	return full, s.queued >= overfull*s.d.opt.MaxPending, full && time.Since(s.progress) > s.d.opt.StallTimeout
}

// waitRoom waits until there is room, ctx ends, the stream is lost, or nothing was read for StallTimeout.
func (s *stream) waitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.err != nil || s.queued < s.d.opt.MaxPending {
			s.mu.Unlock()
			return nil
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		stalled := s.d.opt.StallTimeout - time.Since(s.progress)
		s.mu.Unlock()
		if stalled <= 0 {
			return s.d.errStalled()
		}
		t := time.NewTimer(stalled)
		select {
		case <-room:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// write empties the queue. The caller has set writing; write clears it, or gives it to a writeLoop if the pipe is
// full. A sender (block is false) writes its own frame and what waited with it; what others queue in the meantime is
// left to a writeLoop.
func (s *stream) write(block bool) {
	out := s.out
	if out == nil {
		out = &outgoing{}
		s.out = out
	}
	for first := true; ; {
		s.mu.Lock()
		if out.next == len(out.batch) && len(s.queue) == 0 || s.err != nil {
			s.writing = false
			parting := s.parting != nil
			for ; out.next < len(out.batch); out.next++ {
				out.batch[out.next].done()
			}
			s.mu.Unlock()
			if parting {
				s.shut()
			}
			return
		}
		if out.next == len(out.batch) {
			if !block && !first {
				s.mu.Unlock()
				s.handOver()
				return
			}
			out.batch, s.queue, out.next = s.queue, out.batch[:0], 0
			first = false
		}
		s.mu.Unlock()
		n, err := s.writev(out, block)
		s.account(out, n)
		switch {
		case err == errNotWritten:
			if !s.grown {
				s.grown = true
				growPipe(s.wraw)
			}
			s.handOver()
			return
		case err != nil:
			s.fail(fmt.Errorf("write: %w", err))
		}
	}
}

// handOver gives the writing side to a writeLoop. While the stream has not failed, the daemon waits for its readLoop,
// also at the end, and so another goroutine can be counted.
func (s *stream) handOver() {
	s.mu.Lock()
	failed := s.err != nil
	if !failed {
		s.d.wg.Add(1)
	}
	s.mu.Unlock()
	if failed {
		s.write(true) // writes nothing any more
		return
	}
	go s.writeLoop()
}

// writeLoop writes what a sender could not, until the queue is empty.
func (s *stream) writeLoop() {
	defer s.d.wg.Done()
	s.write(true)
}

// account takes n written bytes off the batch and wakes senders that wait for room.
func (s *stream) account(out *outgoing, n int) {
	s.bytesOut.Add(int64(n))
	total, owed := n, 0
	for n > 0 {
		f := &out.batch[out.next]
		n = f.shift(n)
		if f.size() > 0 {
			break
		}
		total += messageCost
		owed += f.own
		f.done()
		out.next++
	}
	s.mu.Lock()
	s.queued -= total
	s.owed -= owed
	if s.relief != nil && s.owed < s.d.maxAnswers()/2 {
		s.relieve()
	}
	if total > 0 {
		s.progress = time.Now()
	}
	if (s.room != nil || s.lost != nil) && s.queued < s.d.opt.MaxPending/2 {
		if s.room != nil {
			close(s.room)
			s.room = nil
		}
		s.lost = nil
	}
	s.mu.Unlock()
}

// Linux takes at most 1024 parts in one call.
const maxParts = 512

func (s *stream) writev(out *outgoing, block bool) (int, error) {
	out.iov = out.iov[:0]
	for _, f := range out.batch[out.next:] {
		if len(f.head) > 0 {
			out.iov = append(out.iov, f.head)
		}
		if len(f.body) > 0 {
			out.iov = append(out.iov, f.body)
		}
		rest := f.rest[:min(len(f.rest), maxParts-2)]
		out.iov = append(out.iov, rest...)
		if len(out.iov) >= maxParts || len(rest) < len(f.rest) {
			break
		}
	}
	out.wrote, out.err, out.block = 0, nil, block
	if err := s.wraw.Write(s.wfn); err != nil {
		return out.wrote, err
	}
	return out.wrote, out.err
}

func (s *stream) writeOnce(fd uintptr) bool {
	out := s.out
	for {
		var n int
		var err error
		if len(out.iov) == 1 {
			n, err = rawWrite(int(fd), out.iov[0])
		} else {
			n, err = unix.Writev(int(fd), out.iov)
		}
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && out.block:
			return false
		case err == unix.EAGAIN:
			out.err = errNotWritten
		case err != nil:
			out.err = err
		default:
			out.wrote = n
		}
		return true
	}
}

// fail records why the stream ended and makes both of its loops end. The first cause counts.
func (s *stream) fail(err error) {
	if s.first(err) && s.place.Unpark() {
		go s.Resume()
	}
}

// first is fail, but for resuming a stream that is parked. It tells whether err is the first cause.
func (s *stream) first(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	s.lose()
	if s.parting != nil {
		s.parting.Stop()
	}
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if s.relief != nil {
		s.relieve()
	}
	for i := range s.queue {
		s.queue[i].done()
	}
	s.queue = nil
	// This wakes readLoop and a blocked writeLoop, but leaves the descriptor to the teardown.
	_ = s.r.SetReadDeadline(past)
	_ = s.w.SetWriteDeadline(past)
	return true
}

// past is a deadline that ends a wait at once.
var past = time.Unix(1, 0)

func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// readLoop reads frames until the stream ends, and then tears it down.
func (s *stream) readLoop(first []byte) {
	if s.proc != nil {
		s.proc.AfterDone(s.drain)
	}
	if len(first) > 0 {
		s.in = getBuffer(len(first) > smallBuffer)
		s.end = copy(s.in.b, first)
	}
	s.place.Begin(s)
	s.Resume()
}

// Resume is readLoop, also of a stream that was parked. The daemon waits for it meanwhile.
func (s *stream) Resume() {
	err := s.read()
	for err == errQuiet {
		if s.park() {
			return
		}
		err = s.read()
	}
	s.place.End()
	s.fail(err)
	if s.in != nil {
		s.in.release()
		s.in = nil
	}
	s.d.teardown(s)
	close(s.ended)
	s.d.wg.Done()
}

// park is true if the stream is somebody else's to resume. It lets go of what the stream needs while there is traffic.
func (s *stream) park() bool {
	s.mu.Lock()
	if !s.writing {
		s.queue, s.out = nil, nil
	}
	s.mu.Unlock()
	if !s.place.Park(s.rraw) {
		return false
	}
	// It may have failed just before, and then nobody has resumed it.
	return s.failure() == nil || !s.place.Unpark()
}

// Nudge ends the wait of a readLoop for more.
func (s *stream) Nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		_ = s.r.SetReadDeadline(past)
	}
}

// nudged tells whether a read has failed for a Nudge only, and can go on.
func (s *stream) nudged(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	_ = s.r.SetReadDeadline(time.Time{})
	return true
}

// errQuiet says that nothing came for a while, and nothing is there in part. It never leaves this file.
var errQuiet = errorf("nothing comes")

// read handles frames until the stream ends, or is quiet.
func (s *stream) read() (err error) {
	defer s.survive("a message")
	for err == nil {
		if err = s.handle(); err == nil && s.owing.Load() {
			err = s.breathe()
		}
		if err == nil {
			err = s.fill()
		}
	}
	return err
}

// survive is deferred where a peer's message is handled: a fault of ours ends that peer's stream, and no other.
func (s *stream) survive(what string) {
	if fault := recover(); fault != nil {
		s.d.log.Error("a fault of the daemon ends a stream", zap.String("stream", s.name), zap.String("handling", what),
			zap.Any("panic", fault), zap.ByteString("stack", debug.Stack()))
		s.fail(fmt.Errorf("a fault of the daemon: %v", fault))
	}
}

// relieve lets a readLoop that waits in breathe go on. mu is held.
func (s *stream) relieve() {
	close(s.relief)
	s.relief = nil
	s.owing.Store(false)
}

// breathe waits while the peer leaves much of the daemon's own messages unread: a peer that asks and does not read is
// not read either. It is given up when it takes nothing for StallTimeout.
func (s *stream) breathe() error {
	for {
		s.mu.Lock()
		relief := s.relief
		stalled := s.d.opt.StallTimeout - time.Since(s.progress)
		s.mu.Unlock()
		switch {
		case relief == nil:
			return nil
		case stalled <= 0:
			return s.reached(unreadAnswers, s.d.maxAnswers())
		}
		t := time.NewTimer(stalled)
		select {
		case <-relief:
		case <-t.C:
		}
		t.Stop()
	}
}

// fill reads more into the buffer. While nothing comes, an empty buffer is given back.
func (s *stream) fill() error {
	if s.in != nil && s.start == s.end && s.in.refs.Load() == 1 {
		s.start, s.end = 0, 0
	}
	var n int
	var rerr error
	err := s.rraw.Read(func(fd uintptr) bool {
		if s.in == nil {
			s.in, s.start, s.end = getBuffer(s.much), 0, 0
		} else if s.end == len(s.in.b) {
			fresh := getBuffer(s.much || s.end-s.start > smallBuffer/2)
			s.end = copy(fresh.b, s.in.b[s.start:s.end])
			s.start = 0
			s.in.release()
			s.in = fresh
		}
		for {
			n, rerr = rawRead(int(fd), s.in.b[s.end:])
			if rerr != unix.EINTR {
				break
			}
		}
		if rerr == unix.EAGAIN {
			if s.start == s.end {
				s.in.release()
				s.in = nil
			}
			return false
		}
		return true
	})
	if s.nudged(err) {
		if s.in != nil && s.start == s.end {
			s.in.release()
			s.in = nil
		}
		if s.in == nil {
			return errQuiet
		}
		return nil
	}
	if err == nil {
		err = rerr
	}
	if err == nil && n == 0 || err != nil && bootstrap.IsEOF(err) {
		return errEOF
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	s.end += n
	s.much = s.end == len(s.in.b) || s.much && n > smallBuffer
	s.came(n)
	return nil
}

// came counts n bytes that were read.
func (s *stream) came(n int) {
	s.bytesIn.Add(int64(n))
	s.place.Active()
}

// readRest is a read in the middle of a message.
func (s *stream) readRest(b []byte) (n int, err error) {
	n, err = s.r.Read(b)
	for s.nudged(err) {
		n, err = s.r.Read(b)
	}
	if err != nil && bootstrap.IsEOF(err) {
		err = errEOF
	}
	s.came(n)
	return n, err
}

// eofError is io.EOF in the words of a stream.
type eofError struct{}

var errEOF error = eofError{}

func (eofError) Error() string { return "the connection was closed by the other side" }

func (eofError) Is(target error) bool { return target == io.EOF }

// handle routes the frames that are in the buffer.
func (s *stream) handle() error {
	for s.end-s.start >= pyproto.HeaderLen {
		h, err := pyproto.ParseHeader(s.in.b[s.start:])
		if err != nil {
			e := foreignError(bytes.Clone(s.in.b[s.start:min(s.end, s.start+maxForeign)]))
			if s.proc == nil {
				return fmt.Errorf("it is no frame of Mitogen's: %q", e.line())
			}
			return e
		}
		size := pyproto.HeaderLen + int(h.Length)
		if int(h.Length) > s.d.opt.MaxMessage {
			if err := s.skip(h, size); err != nil {
				return err
			}
			continue
		}
		if s.end-s.start < size {
			if size <= readBuffer/2 {
				// The rest comes with the next reads.
				return nil
			}
			if err := s.awaited(h); err != nil {
				return err
			}
			continue
		}
		payload := s.in.b[s.start+pyproto.HeaderLen : s.start+size : s.start+size]
		s.start += size
		s.d.route(s, h, payload, s.in)
	}
	return nil
}

// foreignError is what came in place of a frame: text of a program that has the connection's descriptors, too.
type foreignError []byte

// maxForeign is how many bytes of it are shown.
const maxForeign = 80

func (e foreignError) Error() string {
	return fmt.Sprintf("something else wrote into the connection: %q (a background job of a start-up file, ssh's LocalCommand?)", e.line())
}

func (e foreignError) line() string {
	text := string(e)
	if i := strings.IndexByte(text, '\n'); i > 0 {
		text = text[:i]
	}
	return text
}

// awaited reads and routes a large message. The result of a call with a Room is read when there is room, or after
// StallTimeout. It counts until it is released.
func (s *stream) awaited(h pyproto.Header) error {
	call := s.d.callOf(s, h)
	if call == nil {
		payload, err := s.readLarge(int(h.Length), func(int) {})
		if err == nil {
			s.d.route(s, h, payload, nil)
		}
		return err
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.d.opt.StallTimeout, s.d.errStalled())
	defer cancel()
	part := call.room.Begin(ctx, s.name, s.fail)
	defer func() {
		if call.kept != part {
			part.Done()
		}
	}()
	if err := part.Grow(int(h.Length)); err != nil && ctx.Err() == nil {
		return err
	}
	payload, err := s.readLarge(int(h.Length), part.Came)
	if err != nil {
		return err
	}
	part.Whole()
	call.arriving = part
	s.d.route(s, h, payload, nil)
	return nil
}

// readLarge reads a payload into memory of its own, and tells came of each piece.
func (s *stream) readLarge(length int, came func(int)) ([]byte, error) {
	part := s.d.assembly.Begin(s.ctx, s.name, s.fail)
	defer part.Done()
	if err := part.Grow(min(length, growStep)); err != nil {
		return nil, err
	}
	if !s.large {
		s.large = true
		growPipe(s.rraw)
	}
	payload := make([]byte, min(length, growStep))
	have := s.in.b[s.start+pyproto.HeaderLen : s.end]
	n := copy(payload, have)
	s.start, s.end = 0, 0
	s.in.release()
	s.in = nil
	for n < length {
		if n == len(payload) {
			size := min(length, 4*len(payload))
			if err := part.Grow(size - len(payload)); err != nil {
				return nil, err
			}
			grown := make([]byte, size)
			copy(grown, payload)
			payload = grown
		}
		k, err := s.readRest(payload[n:])
		if err != nil {
			return nil, err
		}
		n += k
		part.Came(k)
		came(k)
	}
	return payload, nil
}

// skip reads over a message that is too large, and answers that it is.
func (s *stream) skip(h pyproto.Header, size int) error {
	left := size - (s.end - s.start)
	if left <= 0 {
		s.start += size
	} else {
		if s.in.refs.Load() > 1 {
			// Frames in it wait in other streams' queues.
			s.in.release()
			s.in = getBuffer(true)
		}
		s.start, s.end = 0, 0
	}
	for left > 0 {
		n, err := s.readRest(s.in.b[:min(left, len(s.in.b))])
		if err != nil {
			return err
		}
		left -= n
	}
	if s.mayRoute(h) {
		s.d.refuse(h, fmt.Sprintf("message is %d bytes; at most %d are sent", h.Length, s.d.opt.MaxMessage))
	}
	return nil
}
