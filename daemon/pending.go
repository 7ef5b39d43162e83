package daemon

import (
	"sync"
	"sync/atomic"

	"mitogend/pyproto"
)

// handler gets the messages of one of our handles. fn runs on a readLoop, or where a route is lost: it must not
// block. If shared is true it must not keep the payload. A dead message (ReplyTo is IsDead) is the last one.
type handler struct {
	fn         func(h pyproto.Header, payload []byte, shared bool)
	respondent pyproto.ContextID
	once       bool
	call       *Tracked // the call that this is the result of, if it has a Room
}

// handles are the dynamic handles of context 0. They are split by respondent: streams do not meet on one lock, and
// the end of one stream does not look at the handles of all others. A shard's mutex guards its map only; nothing is
// locked under it.
type handles struct {
	// leadsTo tells whether a context is on the way to another.
	leadsTo func(id, respondent pyproto.ContextID) bool

	shards [handleShards]struct {
		last atomic.Uint32 // the last handle of the shard, divided by handleShards
		mu   sync.Mutex
		m    map[pyproto.Handle]handler // made with the first
	}
}

// handleShards is a power of two. A handle of shard n is n more than a multiple of it.
const handleShards = 256

func newHandles(leadsTo func(id, respondent pyproto.ContextID) bool) *handles {
	t := &handles{leadsTo: leadsTo}
	for i := range t.shards {
		t.shards[i].last.Store(uint32(pyproto.FirstDynamic) / handleShards)
	}
	return t
}

// add gives a fresh handle, never 0 nor a fixed one.
func (t *handles) add(e handler) pyproto.Handle {
	shard := uint32(e.respondent) % handleShards
	s := &t.shards[shard]
	for {
		// A number comes again after 16 million calls. A reply that is so late counts only if it is from the same
		// respondent.
		h := pyproto.Handle(s.last.Add(1)*handleShards + shard)
		if h < pyproto.FirstDynamic {
			// Wrapped around.
			continue
		}
		s.mu.Lock()
		_, taken := s.m[h]
		if !taken {
			if s.m == nil {
				s.m = map[pyproto.Handle]handler{}
			}
			s.m[h] = e
		}
		s.mu.Unlock()
		if !taken {
			return h
		}
	}
}

// unexpected is the reason for a reply that somebody else was asked for.
const unexpected = "reply from unexpected context"

// callOf gives the call with a Room whose result is coming in on s; nil if it is anything else, or a lie.
func (d *Daemon) callOf(s *stream, h pyproto.Header) *Tracked {
	if h.Dst != 0 || h.ReplyTo == pyproto.IsDead || !d.verify(s, h.Src) {
		return nil
	}
	shard := &d.handles.shards[h.Handle%handleShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if e := shard.m[h.Handle]; e.respondent == h.Src {
		return e.call
	}
	return nil
}

// remove tells whether the handle was there.
func (t *handles) remove(h pyproto.Handle) bool {
	s := &t.shards[h%handleShards]
	s.mu.Lock()
	_, ok := s.m[h]
	delete(s.m, h)
	s.mu.Unlock()
	return ok
}

// deliver hands a message to its handle. An empty reason says that it was taken. from is nil for a message of our
// own.
func (t *handles) deliver(from *stream, h pyproto.Header, payload []byte) (reason string) {
	return t.deliverShared(from, h, payload, false)
}

func (t *handles) deliverShared(from *stream, h pyproto.Header, payload []byte, shared bool) string {
	s := &t.shards[h.Handle%handleShards]
	s.mu.Lock()
	e, ok := s.m[h.Handle]
	// A reply comes from the respondent. A dead message comes from the respondent, from a hop on the way that has
	// noticed, or from ourselves.
	if ok && from != nil && e.respondent != h.Src && (h.ReplyTo != pyproto.IsDead || !t.leadsTo(h.Src, e.respondent)) {
		s.mu.Unlock()
		return unexpected
	}
	if ok && (e.once || h.ReplyTo == pyproto.IsDead) {
		delete(s.m, h.Handle)
	}
	s.mu.Unlock()
	if !ok {
		return "invalid handle"
	}
	e.fn(h, payload, shared)
	return ""
}

// drop ends every handle that waits for one of these contexts.
func (t *handles) drop(gone map[pyproto.ContextID]bool, reason string) {
	shards := map[uint32]bool{}
	for id := range gone {
		shards[uint32(id)%handleShards] = true
	}
	for i := range shards {
		s := &t.shards[i]
		var ended []handler
		s.mu.Lock()
		for h, e := range s.m {
			if gone[e.respondent] {
				delete(s.m, h)
				ended = append(ended, e)
			}
		}
		s.mu.Unlock()
		for _, e := range ended {
			e.fn(pyproto.Header{Enc: pyproto.EncMGC, Src: e.respondent, ReplyTo: pyproto.IsDead, Handle: 0}, []byte(reason), false)
		}
	}
}
