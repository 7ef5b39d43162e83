package daemon

import (
	"sort"
	"sync"
	"sync/atomic"

	"mitogend/pyproto"
)

// The numbers of contexts, in ranges that never meet and never wrap. Numbers that children ask for have a range of
// their own, so that none of them can use up the numbers of the children that we connect.
const (
	// Up to here are the children that we connect.
	firstAsked = 1 << 29
	// Up to here is what children ask for: blocks, and forks beyond the first few.
	endAsked = 1<<30 - 1<<20
	// Up to here are clients.
	firstPeer = 1 << 30
	endPeer   = 1 << 31
)

// idBlock is how many context ids one ALLOCATE_ID gives, and how many of the daemon's own range one stream may use up
// by other requests.
const idBlock = 1000

var errNoIDs = errorf("all numbers for contexts are used up; restart the daemon")

// take reserves n numbers after *last and below end, and gives the first; 0 if there are fewer left.
func take(last *atomic.Uint32, n, end uint32) pyproto.ContextID {
	for {
		l := last.Load()
		if l >= end || end-l <= n {
			return 0
		}
		if last.CompareAndSwap(l, l+n) {
			return pyproto.ContextID(l + 1)
		}
	}
}

// allocate reserves n context ids for the daemon and gives the first; 0 when they are used up (errNoIDs).
func (d *Daemon) allocate(n uint32) pyproto.ContextID {
	if id := take(&d.lastID, n, firstAsked); id != 0 {
		return id
	}
	return take(&d.lastAsked, n, endAsked)
}

// allocateFor is allocate(1) on behalf of a context behind a stream.
func (d *Daemon) allocateFor(s *stream) pyproto.ContextID {
	if s.ids.asked.Add(1) <= idBlock {
		return d.allocate(1)
	}
	return take(&d.lastAsked, 1, endAsked)
}

// ids are the numbers that a stream may announce: those of children that are being started behind it, and the blocks
// that were given to contexts behind it.
type ids struct {
	asked atomic.Uint32

	// mu protects the following. Nothing is locked under it.
	mu     sync.Mutex
	given  map[pyproto.ContextID]bool
	blocks []block // ascending
	count  int64   // of the ids in them that were announced
}

type block struct {
	first pyproto.ContextID // of idBlock
	owner pyproto.ContextID
	used  *[(idBlock + 63) / 64]uint64 // bits: which were announced
}

// give lets the stream announce an id, once.
func (t *ids) give(id pyproto.ContextID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given == nil {
		t.given = map[pyproto.ContextID]bool{}
	}
	t.given[id] = true
}

// takeBack is the reverse of give. It tells whether the id was given, and not announced.
func (t *ids) takeBack(id pyproto.ContextID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	given := t.given[id]
	delete(t.given, id)
	return given
}

func (t *ids) addBlock(first, owner pyproto.ContextID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.blocks), func(i int) bool { return t.blocks[i].first > first })
	t.blocks = append(t.blocks, block{})
	copy(t.blocks[i+1:], t.blocks[i:])
	t.blocks[i] = block{first, owner, new([(idBlock + 63) / 64]uint64)}
}

// owner is the context that the block with this id was given to; 0 for none.
func (t *ids) owner(id pyproto.ContextID) pyproto.ContextID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.block(id); b != nil {
		return b.owner
	}
	return 0
}

// block finds the block with this id. The lock is held.
func (t *ids) block(id pyproto.ContextID) *block {
	i := sort.Search(len(t.blocks), func(i int) bool { return t.blocks[i].first > id })
	if i == 0 || id >= t.blocks[i-1].first+idBlock {
		return nil
	}
	return &t.blocks[i-1]
}

// used is how many ids of the blocks were announced, each counted once.
func (t *ids) used() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// mayAnnounce tells whether the stream may announce an id.
func (t *ids) mayAnnounce(id pyproto.ContextID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	given := t.given[id]
	delete(t.given, id)
	b := t.block(id)
	if b != nil {
		n := id - b.first
		if bit := uint64(1) << (n % 64); b.used[n/64]&bit == 0 {
			b.used[n/64] |= bit
			t.count++
		}
	}
	return given || b != nil
}
