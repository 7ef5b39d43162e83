package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/wire"
)

const (
	// How many bytes may wait in a stream for its client; one item may be larger. What a function prints cannot be
	// held back, so it gets more room before it is dropped.
	streamBytes = 1 << 20
	printBytes  = 32 << 20
	// How many bytes one read gives unless it asks for another size.
	defaultRead = 256 << 10
	// The largest piece of a program's output.
	outputChunk = 64 << 10
)

// stream is what comes to a client over time: the output and the end of a call or program, messages, events.
type stream struct {
	id     uint32
	c      *conn
	ctx    context.Context // ends when the client closes the stream or is gone, or its timeout passes
	cancel context.CancelCauseFunc
	work   bool // a shutdown waits for it
	max    int  // bytes of items
	prints int  // the same for what functions print, if it is more

	// write takes what the client writes; nil where it cannot write. It may be called before the work has begun.
	write func(ctx context.Context, w *wire.Write) error

	changed chan struct{} // one token: read looks again
	room    chan struct{} // one token: put looks again
	over    chan struct{} // closed when nothing more comes
	done    chan struct{} // closed when its work has ended
	gone    chan struct{} // closed when the client has closed it or read its end

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	items   []wire.Item
	bytes   int
	dropped int64
	ended   bool
	child   *wire.Connected
	// progressed is when the last item of progress was added.
	progressed time.Time
	begun      int    // how many targets of call_many and its like have begun
	told       int    // how many of those the client knows of
	release    func() // gives back what the result takes of conn.room; nil for nothing
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds an item when there is room for it. An error says that the stream was given up.
func (s *stream) put(item wire.Item) error {
	for {
		s.mu.Lock()
		if len(s.items) == 0 || s.bytes+item.Size() <= s.max {
			s.add(item)
			if s.bytes < s.max {
				token(s.room) // others may wait as well
			}
			s.mu.Unlock()
			s.dropIfGone()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// message is put for a value that a child has sent.
func (s *stream) message(target int, v any, exact bool) error {
	value, err := s.c.s.value(v, exact)
	if err != nil {
		return err
	}
	return s.put(wire.Item{Kind: wire.ItemMessage, Target: target, Value: value})
}

// result ends the stream with a function's result. release is called when the client has taken it, or will not.
func (s *stream) result(v any, exact bool, release func()) error {
	value, err := s.c.s.value(v, exact)
	if err != nil {
		release()
		return err
	}
	s.mu.Lock()
	s.release = release
	s.mu.Unlock()
	s.finish(wire.Item{Kind: wire.ItemResult, Value: value})
	s.dropIfGone()
	return nil
}

// dropIfGone drops what was added after forget had dropped all.
func (s *stream) dropIfGone() {
	select {
	case <-s.gone:
		s.drop()
	default:
	}
}

// drop forgets the items of a stream that nobody reads any more.
func (s *stream) drop() {
	s.mu.Lock()
	release, items := s.release, s.items
	s.release, s.items, s.bytes = nil, nil, 0
	s.mu.Unlock()
	for _, item := range items {
		if item.Taken != nil {
			item.Taken()
		}
	}
	if release != nil {
		release()
	}
}

// output is daemon.CallOptions.Output of a function on a target; nil for a client that does not want it.
func (s *stream) output(target int, wanted bool) func(data []byte) {
	if !wanted {
		return nil
	}
	return func(data []byte) { s.offer(wire.Item{Kind: wire.ItemOutput, Target: target, Data: bytes.Clone(data)}) }
}

// offer adds an item if there is room, and counts it as dropped otherwise. It never blocks.
func (s *stream) offer(item wire.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	room := max(s.max, s.prints)
	if len(s.items) > 0 && s.bytes+item.Size() > room || s.dropped > 0 && s.bytes > room/2 {
		n := int64(max(len(item.Data), 1))
		s.dropped += n
		s.c.s.hub.dropped.Add(n)
		return
	}
	s.add(item)
}

// skip counts n events that are dropped ahead of what comes.
func (s *stream) skip(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped += n
	s.c.s.hub.dropped.Add(n)
}

// add adds an item. mu is held.
func (s *stream) add(item wire.Item) {
	if s.dropped > 0 {
		dropped := wire.Item{Kind: wire.ItemDropped, Count: s.dropped}
		s.items = append(s.items, dropped)
		s.bytes += dropped.Size()
		s.dropped = 0
	}
	if n := len(s.items); n > 0 && item.Kind == wire.ItemOutput && s.items[n-1].Kind == wire.ItemOutput && s.items[n-1].Target == item.Target &&
		len(s.items[n-1].Data) < outputChunk {
		// Output that comes byte by byte is kept as one piece.
		s.items[n-1].Data = append(s.items[n-1].Data, item.Data...)
		s.bytes += len(item.Data)
		token(s.changed)
		return
	}
	s.items = append(s.items, item)
	s.bytes += item.Size()
	token(s.changed)
}

// finish adds the last items, for which there is always room.
func (s *stream) finish(last ...wire.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	for _, item := range last {
		s.add(item)
	}
	s.ended = true
	close(s.over)
	token(s.changed)
}

// fail ends the stream with an error.
func (s *stream) fail(err error) {
	s.finish(wire.Item{Kind: wire.ItemError, Error: faults.FromError(caused(s.ctx, err))})
}

// read waits until there is something to read. The reply takes about max bytes of it.
func (s *stream) read(ctx context.Context, max int) (any, error) {
	if max <= 0 {
		max = defaultRead
	}
	closed := func() error { return wire.Errorf(wire.KindUnknown, "stream %d was closed", s.id) }
	for !s.ready() {
		select {
		case <-s.changed:
		case <-s.gone:
			return nil, closed()
		case <-ctx.Done():
			return nil, s.cutOff(context.Cause(ctx))
		}
	}
	return late(func() (any, error) {
		out := s.take(max)
		if out == nil {
			return nil, closed()
		}
		if out.End {
			s.c.forget(s)
		}
		return out, nil
	}), nil
}

// cutOff gives the error of a read that waits in vain. If the daemon ends, what runs on a target may have run.
func (s *stream) cutOff(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work && s.child != nil && errors.Is(err, daemon.ErrShutdown) {
		return faults.CutOff(s.child.Name)
	}
	return err
}

func (s *stream) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items) > 0 || s.ended || s.dropped > 0 || s.begun > s.told
}

// begin says how many targets have begun.
func (s *stream) begin(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = max(s.begun, n)
	token(s.changed)
}

func (s *stream) take(max int) *wire.Items {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.items) == 0 && !s.ended && s.dropped == 0 && s.begun == s.told {
		return nil
	}
	out := &wire.Items{Stream: s.id, Items: []wire.Item{}, Child: s.child}
	n := 0
	for len(s.items) > 0 && (len(out.Items) == 0 || n+s.items[0].Size() <= max) {
		item := s.items[0]
		s.items[0] = wire.Item{}
		s.items = s.items[1:]
		n += item.Size()
		if item.Taken != nil {
			item.Taken()
		}
		out.Items = append(out.Items, item)
	}
	s.bytes -= n
	if len(s.items) == 0 && s.dropped > 0 {
		out.Items = append(out.Items, wire.Item{Kind: wire.ItemDropped, Count: s.dropped})
		s.dropped = 0
	}
	out.End = s.ended && len(s.items) == 0
	out.Begun, s.told = s.begun, s.begun
	token(s.room)
	return out
}

// writer is a program's stdout or stderr.
type writer struct {
	s      *stream
	kind   string
	target int
	many   bool // many programs share the stream and its room
}

// Write is daemon.Keeper.
func (w writer) Write(p []byte) (int, error) { return w.Keep(bytes.Clone(p)) }

// Keep waits for room, and the program waits for Keep.
func (w writer) Keep(p []byte) (int, error) {
	if !w.many {
		w.s.setMax(w.s.c.s.d.OutputShare())
	}
	for n := 0; n < len(p); {
		k := min(len(p)-n, outputChunk)
		if err := w.s.put(wire.Item{Kind: w.kind, Target: w.target, Data: p[n : n+k : n+k]}); err != nil {
			return n, err
		}
		n += k
	}
	return len(p), nil
}

// input is a program's standard input, which the client writes.
type input struct {
	s     *stream
	data  chan []byte
	ended chan struct{}
	once  sync.Once
	rest  []byte
}

func newInput(s *stream) *input {
	return &input{s: s, data: make(chan []byte), ended: make(chan struct{})}
}

// write gives data to the reader, and returns when the reader has taken it.
func (i *input) write(ctx context.Context, w *wire.Write) error {
	if len(w.Data) > 0 {
		select {
		case i.data <- w.Data:
		case <-i.ended:
			return wire.Errorf(wire.KindUsage, "standard input was ended before")
		case <-i.s.over:
			return wire.Errorf(wire.KindLost, "the program has ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if w.End {
		i.once.Do(func() { close(i.ended) })
	}
	return nil
}

// Read ends with the input, and once nothing runs that would read it. While what runs is being ended it does not end:
// what came before is not all of the input.
func (i *input) Read(p []byte) (int, error) {
	if len(i.rest) == 0 {
		select {
		case i.rest = <-i.data:
		case <-i.ended:
			return 0, io.EOF
		case <-i.s.over:
			return 0, io.EOF
		}
	}
	n := copy(p, i.rest)
	i.rest = i.rest[n:]
	return n, nil
}

func (s *stream) setMax(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = n
}
