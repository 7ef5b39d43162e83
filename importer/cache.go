package importer

import (
	"bytes"
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zlib"
)

// unit is one source. It is scanned at once, and compressed when first sent, or taken from who has kept it so. It does
// not know its name: what depends on the child's version, or on other files, is made from it.
type unit struct {
	src  *source
	hash [sha256.Size]byte
	size int

	// The source as it is, until it has been compressed.
	once  sync.Once
	ready atomic.Bool
	raw   []byte
	zip   []byte

	// mu guards the following; held across nothing.
	mu      sync.Mutex
	records map[string][]byte
	kept    func() []byte // gives the source as zlib, if somebody has kept that
	begun   bool          // and is asked no more
	made    bool          // nobody had: it was compressed here
}

func newUnit(data []byte) *unit {
	return &unit{src: scanSource(data), hash: sha256.Sum256(data), size: len(data), raw: data}
}

// zlibLevel: higher levels save a few percent and take twice the time.
const zlibLevel = 5

var writers = writersOf(zlibLevel)

// writersOf has writers of a level: memory for one costs more than what it is used for mostly.
func writersOf(level int) *sync.Pool {
	return &sync.Pool{New: func() any {
		w, err := zlib.NewWriterLevel(io.Discard, level)
		if err != nil {
			panic(err)
		}
		return w
	}}
}

// keptBy tells who may have kept the source as zlib.
func (u *unit) keptBy(kept func() []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.begun {
		u.kept = kept
	}
}

// keepable tells, once, that the source was compressed here, and so may be kept.
func (u *unit) keepable() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	made := u.made
	u.made = false
	return made
}

// compressed gives the source as zlib. It is made, or read, once; others wait.
func (u *unit) compressed() []byte {
	u.once.Do(func() {
		defer func() {
			u.raw = nil
			u.ready.Store(true)
		}()
		u.mu.Lock()
		kept := u.kept
		u.kept, u.begun = nil, true
		u.mu.Unlock()
		if kept != nil {
			if u.zip = kept(); len(u.zip) > 0 {
				return
			}
		}
		u.mu.Lock()
		u.made = true
		u.mu.Unlock()
		var buf bytes.Buffer
		buf.Grow(u.size/3 + 64)
		w := writers.Get().(*zlib.Writer)
		w.Reset(&buf)
		_, _ = w.Write(u.raw) // a bytes.Buffer does not fail
		_ = w.Close()
		w.Reset(io.Discard)
		writers.Put(w)
		u.zip = bytes.Clone(buf.Bytes())
	})
	return u.zip
}

// aheadSize is the source that is worth a goroutine of its own: memory for another compressor costs half a millisecond.
const aheadSize = 128 << 10

// compressAhead compresses units on the other processors while the caller works through them, in order. The caller must call wait
// at the end.
func compressAhead(units []*unit) (wait func()) {
	left := make([]*unit, 0, len(units))
	size := 0
	for _, u := range units {
		if !u.ready.Load() {
			left = append(left, u)
			size += u.size
		}
	}
	var wg sync.WaitGroup
	n := min(runtime.GOMAXPROCS(0), 1+size/aheadSize)
	for k := 1; k < n; k++ {
		// Each goroutine takes every nth unit, and the caller the others.
		wg.Go(func() {
			for i := k; i < len(left); i += n {
				left[i].compressed()
			}
		})
	}
	return wg.Wait
}

// inflate gives back the source.
func inflate(z []byte) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(z))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// record gives the encoded record under that key, made by encode when there is none yet.
func (u *unit) record(key string, encode func() ([]byte, error)) (rec []byte, made bool, err error) {
	u.mu.Lock()
	rec = u.records[key]
	u.mu.Unlock()
	if rec != nil {
		return rec, false, nil
	}
	if rec, err = encode(); err != nil {
		return nil, false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if old := u.records[key]; old != nil {
		return old, false, nil
	}
	if u.records == nil || len(u.records) >= maxRecords {
		u.records = map[string][]byte{}
	}
	u.records[key] = rec
	return rec, true, nil
}

// maxRecords is how many records a unit keeps: one per Python version, mostly fewer, times what changed around it.
const maxRecords = 16

// cache has the units of files, by path. Each is read and scanned once however many ask at the same time.
type cache struct {
	limit int64

	// mu guards the following; never held across I/O, a scan or a compression.
	mu    sync.Mutex
	slots map[place]*slot
	order *list.List // of *slot, most recently used first
	bytes int64
	// builds counts how often a file's content became a unit.
	builds int64
}

// place is where a file lies, in whatever archive is there now.
type place struct{ archive, file string }

func (l location) place() place {
	if l.arc == nil {
		return place{file: l.dir}
	}
	return place{l.arc.path, l.dir}
}

// slot is one file in the cache, or on its way there.
type slot struct {
	// Constant after claim. began is when the file was about to be read.
	loc   location
	began time.Time

	ready chan struct{} // closed when the following are set
	key   fileKey
	seen  time.Time // when that key was, at first
	unit  *unit
	err   error

	// Guarded by cache.mu.
	elem *list.Element
	cost int64
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, slots: map[place]*slot{}, order: list.New()}
}

// get gives the unit of the file, whose state the caller has seen to be key.
func (c *cache) get(ctx context.Context, loc location, key fileKey, read func() ([]byte, fileKey, error)) (*unit, error) {
	asked := time.Now()
	for {
		s, mine := c.claim(loc, key)
		if mine {
			c.fill(s, read)
		} else {
			select {
			case <-s.ready:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if s.err != nil {
			return nil, s.err
		}
		if s.key == key || !s.began.Before(asked) {
			return s.unit, nil
		}
		// Somebody else's reading, begun before the change that the caller has seen. The next one is begun after.
	}
}

// claim gives the slot for the file; mine means that the caller has to fill it.
func (c *cache) claim(loc location, key fileKey) (s *slot, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.slots[loc.place()]
	if old != nil {
		select {
		case <-old.ready:
			if old.key == key && key.settledSince(old.seen, old.began) {
				c.order.MoveToFront(old.elem)
				return old, false
			}
		default:
			return old, false
		}
	}
	s = &slot{loc: loc, began: time.Now(), ready: make(chan struct{})}
	if old != nil {
		s.unit, s.key, s.seen = old.unit, old.key, old.seen // for fill: the content may be the same
		c.drop(old)
	}
	c.slots[loc.place()] = s
	return s, true
}

// fill reads the file. Whatever happens, it wakes those who wait.
func (c *cache) fill(s *slot, read func() ([]byte, fileKey, error)) {
	old, was := s.unit, s.key
	s.unit = nil
	built := false
	defer func() {
		if v := recover(); v != nil {
			s.err = fmt.Errorf("importer: scanning %s: %v", s.loc, v)
		}
		c.mu.Lock()
		if built {
			c.builds++
		}
		if s.err != nil {
			delete(c.slots, s.loc.place())
		} else {
			s.elem = c.order.PushFront(s)
		}
		c.mu.Unlock()
		close(s.ready)
		if s.err == nil {
			c.charge(s.loc, s.unit, s.unit.cost())
		}
	}()
	data, key, err := read()
	if old == nil || was != key {
		s.seen = s.began
	}
	switch {
	case err != nil:
		s.err = err
	case old != nil && old.size == len(data) && old.hash == sha256.Sum256(data):
		s.key, s.unit = key, old
	default:
		built = true
		s.key, s.unit = key, newUnit(data)
	}
}

// cost estimates the memory of a unit without its records: the source until it is compressed, then about a third.
func (u *unit) cost() int64 { return int64(u.size) + 200*int64(len(u.src.imports)) + 500 }

// charge adds to a unit's cost. Beyond the limit it drops the units that were not used for longest.
func (c *cache) charge(loc location, u *unit, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slots[loc.place()]
	if s == nil || s.elem == nil || s.unit != u {
		return // it was dropped
	}
	s.cost += n
	c.bytes += n
	for c.bytes > c.limit && c.order.Len() > 1 {
		c.drop(c.order.Back().Value.(*slot))
	}
}

// drop is called with mu held.
func (c *cache) drop(s *slot) {
	c.bytes -= s.cost
	s.cost = 0
	c.order.Remove(s.elem)
	if at := s.loc.place(); c.slots[at] == s {
		delete(c.slots, at)
	}
}
