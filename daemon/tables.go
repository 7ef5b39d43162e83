package daemon

import (
	"sync"

	"mitogend/pyproto"
)

// routes says over which stream a context is reached. Each stream keeps the contexts behind it, so that its end costs
// no more than those.
type routes struct {
	m sync.Map // pyproto.ContextID to *stream
}

func (t *routes) get(id pyproto.ContextID) *stream {
	if v, ok := t.m.Load(id); ok {
		return v.(*stream)
	}
	return nil
}

// add is false if the context is reached over another stream.
func (t *routes) add(id pyproto.ContextID, s *stream) bool {
	s.behind.store(id, plain)
	if old, there := t.m.LoadOrStore(id, s); there && old != s {
		s.behind.take(id)
		return false
	}
	return true
}

// drop is false if the context is not reached over s.
func (t *routes) drop(id pyproto.ContextID, s *stream) bool {
	if !t.m.CompareAndDelete(id, s) {
		return false
	}
	s.behind.take(id)
	return true
}

// children are the children in the tree. Each stream keeps its own, as with routes.
type children struct {
	m sync.Map // pyproto.ContextID to *Child
}

func (t *children) Load(id pyproto.ContextID) (*Child, bool) {
	if v, ok := t.m.Load(id); ok {
		return v.(*Child), true
	}
	return nil, false
}

// Store is for a child whose stream is known.
func (t *children) Store(id pyproto.ContextID, c *Child) { t.LoadOrStore(id, c) }

func (t *children) LoadOrStore(id pyproto.ContextID, c *Child) (there *Child, taken bool) {
	c.stream.children.store(c, struct{}{})
	if old, loaded := t.m.LoadOrStore(id, c); loaded && old != c {
		c.stream.children.take(c)
		return old.(*Child), true
	}
	return c, false
}

// CompareAndDelete tells whether the child was there. Whoever takes it out ends it.
func (t *children) CompareAndDelete(id pyproto.ContextID, c *Child) bool {
	if !t.m.CompareAndDelete(id, c) {
		return false
	}
	c.stream.children.take(c)
	return true
}

// takeOut takes the child out of the tree and ends it. False says that another caller does.
func (c *Child) takeOut(reason string) bool {
	if !c.d.children.CompareAndDelete(c.id, c) {
		return false
	}
	c.end(reason)
	return true
}

// lose is takeOut for one that was connected, and tells of it: first, since the hop that it gives back may end, and be told of, next.
func (c *Child) lose(reason string) bool {
	if !c.d.children.CompareAndDelete(c.id, c) {
		return false
	}
	c.d.ended(c, reason)
	c.end(reason)
	return true
}

// Range calls fn for each child until fn is false.
func (t *children) Range(fn func(*Child) bool) {
	t.m.Range(func(_, c any) bool { return fn(c.(*Child)) })
}

// eachChild calls fn for the children that are reached through s.
func (s *stream) eachChild(fn func(*Child)) {
	for _, c := range s.children.keys() {
		fn(c)
	}
}

// talkers are the streams that have sent to a context, and hear of its end. Each part of the table has a lock;
// nothing is locked under it.
type talkers [64]struct {
	mu sync.Mutex
	m  map[pyproto.ContextID]map[*stream]bool
}

// said is what a stream has sent to a context, as far as its end is concerned.
type said uint8

const (
	toldEnd said = iota // nothing since it was told that the context ends
	spoken              // something
	asked               // something that has an answer
)

// add notes that s has sent to a context.
func (t *talkers) add(id pyproto.ContextID, s *stream, what said) {
	if before, known := s.sent.load(id); known && before >= what {
		return
	}
	s.sent.store(id, what)
	p := &t[id%64]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = map[pyproto.ContextID]map[*stream]bool{}
	}
	if p.m[id] == nil {
		p.m[id] = map[*stream]bool{}
	}
	p.m[id][s] = true
}

// take gives the streams that have sent to a context, and forgets them.
func (t *talkers) take(id pyproto.ContextID) map[*stream]bool {
	p := &t[id%64]
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.m[id]
	delete(p.m, id)
	return out
}

// leave forgets a lost stream. The stream's readLoop calls it, as the only one that adds.
func (t *talkers) leave(s *stream) {
	for _, id := range s.sent.keys() {
		p := &t[id%64]
		p.mu.Lock()
		delete(p.m[id], s)
		if len(p.m[id]) == 0 {
			delete(p.m, id)
		}
		p.mu.Unlock()
	}
}
