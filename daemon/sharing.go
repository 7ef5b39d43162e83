package daemon

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"

	"mitogend/pyproto"
)

const (
	// maxShared bounds what each hop keeps of what was sent to several contexts behind it (parent.py). minShared is the
	// smallest payload that is kept.
	maxShared = 32 << 20
	minShared = 16 << 10
	// maxForgotten is how many pieces are known that the hops have kept before: who is that late gets them from here.
	maxForgotten = 1 << 14
	// shareIdle is when the hops are told to keep nothing any more.
	shareIdle = 10 * time.Second
	// sharePatience is how long a program waits in all for those that are given the same input and come later.
	sharePatience = 2 * time.Second
)

// sharing is what goes to several contexts behind a stream, and to each hop on the way once. The hops keep the latest
// of it; this knows what they keep.
type sharing struct {
	// mu protects the following. stream.mu is taken under it: what is queued in its order is kept in its order.
	mu        sync.Mutex
	numbers   map[sum]uint64 // 0 for what is kept no more
	kept      []piece        // the oldest first
	bytes     int            // of kept
	forgotten []sum          // the oldest first
	last      uint64         // number
	used      time.Time      // for the last time
	idle      *time.Timer    // nil while nothing is kept
	late      int            // feeders that get what is forgotten
	caught    chan struct{}  // closed when none is late any more; nil if nobody waits
}

// shared is what the stream shares. Most streams share nothing.
func (s *stream) shared() *sharing {
	if sh := s.sharing.Load(); sh != nil {
		return sh
	}
	s.sharing.CompareAndSwap(nil, &sharing{})
	return s.sharing.Load()
}

type piece struct {
	sum  sum
	size int
}

// sum tells contents apart. Nobody outside can make two that have the same, since the seeds are secret.
type sum [2]uint64

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func (f *frame) sum() (out sum) {
	for i := range out {
		var h maphash.Hash
		h.SetSeed(seeds[i])
		_, _ = h.Write(f.head[pyproto.HeaderLen:])
		_, _ = h.Write(f.body)
		out[i] = h.Sum64()
	}
	return out
}

// feeder gives a program standard input. It is for one goroutine.
type feeder struct {
	c        *Child
	patience time.Duration

	// Guarded by sharing.mu.
	late, ended bool
}

// end says that it gives nothing any more.
func (f *feeder) end() {
	sh := f.c.stream.sharing.Load()
	if sh == nil {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.mark(f, false)
	f.ended = true
}

// mark says whether a feeder is late.
func (sh *sharing) mark(f *feeder, late bool) {
	if f == nil || f.late == late || f.ended {
		return
	}
	if f.late = late; late {
		sh.late++
		return
	}
	if sh.late--; sh.late == 0 && sh.caught != nil {
		close(sh.caught)
		sh.caught = nil
	}
}

// sharer gives the last parent on the way to dst, which is the child or a context behind it. It gives 0 if a frame is
// too small to be SHARED or too large to be kept beside others, or if one of the parents does not know the handle.
func (c *Child) sharer(f *frame, dst pyproto.ContextID) pyproto.ContextID {
	if size := f.size() - pyproto.HeaderLen; size < minShared || size > min(maxShared/4, c.d.opt.MaxMessage-shareLen) || len(f.rest) > 0 {
		return 0
	}
	last := c
	if dst == c.id {
		last = c.via
	}
	for parent := last; parent != nil; parent = parent.via {
		if parent.runtime != nil {
			return 0
		}
	}
	if last == nil {
		return 0
	}
	return last.id
}

// severalBehind tells whether there are more children than one behind the stream's own.
func (s *stream) severalBehind() bool {
	n := s.children.len()
	if s.childOf(s.id) != nil {
		n--
	}
	return n >= 2
}

// send is Child.send of what others behind the same hops may be sent as well.
func (f *feeder) send(ctx context.Context, fr frame) error {
	c := f.c
	last := c.sharer(&fr, c.id)
	if last == 0 || !c.stream.severalBehind() {
		return c.send(ctx, fr)
	}
	err := c.d.waitGate(ctx, c.id)
	if err != nil {
		fr.done()
		return err
	}
	return c.sendShared(ctx, fr, last, f)
}

// shareAnswer sends what others are likely to ask for as well to the child, or to a context behind it.
func (c *Child) shareAnswer(ctx context.Context, dst pyproto.ContextID, f frame) error {
	last := c.sharer(&f, dst)
	if last == 0 {
		return c.stream.send(ctx, f)
	}
	return c.sendShared(ctx, f, last, nil)
}

// shareLen is the length of what stands before the payload of SHARED.
const shareLen = 8 + 4 + 4

// sendShared sends a frame towards the child as SHARED, once there is room. A feeder that is ahead waits a little for
// late ones.
func (c *Child) sendShared(ctx context.Context, f frame, last pyproto.ContextID, from *feeder) error {
	of := f.sum()
	for {
		if err := c.stream.waitRoom(ctx); err != nil {
			f.done()
			return err
		}
		write, caught, err := c.stream.shared().enqueue(c.stream, of, f, last, from)
		if write {
			c.stream.write(false)
		}
		if caught == nil {
			return err
		}
		if err := from.wait(ctx, caught); err != nil {
			f.done()
			return err
		}
	}
}

// wait waits for late feeders, for as long as there is patience.
func (f *feeder) wait(ctx context.Context, caught <-chan struct{}) error {
	begin := time.Now()
	t := time.NewTimer(f.patience)
	defer t.Stop()
	select {
	case <-caught:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.patience -= time.Since(begin)
	return nil
}

// enqueue queues a frame: as it is, with its number, or its number alone. Or it gives what to wait for first.
func (sh *sharing) enqueue(
	s *stream, of sum, f frame, last pyproto.ContextID, from *feeder,
) (write bool, caught <-chan struct{}, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	number, known := sh.numbers[of]
	size := f.size() - pyproto.HeaderLen
	sh.mark(from, known && number == 0)
	switch {
	case known && number == 0:
	case known:
		short := shareFrame(f, number, last, false)
		f.done()
		f = short
	case from != nil && from.patience > 0 && sh.late > 0 && sh.bytes+size > maxShared:
		if sh.caught == nil {
			sh.caught = make(chan struct{})
		}
		return false, sh.caught, nil
	default:
		f = shareFrame(f, sh.keep(s, of, size), last, true)
	}
	sh.used = time.Now()
	write, err = s.enqueue(f)
	return write, nil, err
}

// shareFrame makes the frame of SHARED of another, with its payload or without.
func shareFrame(f frame, number uint64, last pyproto.ContextID, whole bool) frame {
	h, _ := pyproto.ParseHeader(f.head)
	handle, more := h.Handle, f.head[pyproto.HeaderLen:]
	if !whole {
		more, f = nil, frame{}
	}
	h.Handle, h.Length = pyproto.Shared, uint32(shareLen+len(more)+len(f.body))
	head := h.Append(make([]byte, 0, pyproto.HeaderLen+shareLen+len(more)))
	head = binary.BigEndian.AppendUint64(head, number)
	head = binary.BigEndian.AppendUint32(head, uint32(handle))
	head = binary.BigEndian.AppendUint32(head, uint32(last))
	f.head = append(head, more...)
	return f
}

// keep gives what the hops will keep a number, and forgets what they forget then: Pieces.add of parent.py does the same.
func (sh *sharing) keep(s *stream, of sum, size int) uint64 {
	if sh.numbers == nil {
		sh.numbers = map[sum]uint64{}
	}
	if sh.idle == nil {
		sh.idle = time.AfterFunc(shareIdle, func() { sh.expire(s) })
	}
	sh.last++
	sh.numbers[of] = sh.last
	sh.kept = append(sh.kept, piece{of, size})
	for sh.bytes += size; sh.bytes > maxShared; {
		old := sh.kept[0]
		sh.kept = sh.kept[1:]
		sh.bytes -= old.size
		sh.numbers[old.sum] = 0
		sh.forgotten = append(sh.forgotten, old.sum)
		if len(sh.forgotten) > maxForgotten {
			delete(sh.numbers, sh.forgotten[0])
			sh.forgotten = sh.forgotten[1:]
		}
	}
	return sh.last
}

// expire has the hops keep nothing, once nothing was shared for a while.
func (sh *sharing) expire(s *stream) {
	sh.mu.Lock()
	if left := shareIdle - time.Since(sh.used); left > 0 && s.failure() == nil {
		sh.idle.Reset(left)
		sh.mu.Unlock()
		return
	}
	sh.numbers, sh.kept, sh.forgotten, sh.bytes, sh.idle = nil, nil, nil, 0, nil
	write, _ := s.enqueue(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: s.id, Handle: pyproto.Shared}, nil))
	sh.mu.Unlock()
	if write {
		s.write(false)
	}
}
