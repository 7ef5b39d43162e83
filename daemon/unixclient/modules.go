package unixclient

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/pyproto"
)

// Bounds on what is kept of one client.
const (
	maxModules     = 20000 // also of those that it was asked for and has not answered
	maxModuleBytes = 256 << 20
	// maxUnanswered are the names that were asked for over one connection and have no answer.
	maxUnanswered = maxModules / 16
)

// modules are those of one client, for its own children only. A client is asked once for each name, since Mitogen's
// responder ignores a second request.
type modules struct {
	c *client

	// mu protects the following. Nothing is locked under it but a stream's queue.
	mu    sync.Mutex
	m     map[string]*module
	bytes int
	found int // of m: what the client has sent and is a module
	asked int // requests that are not answered yet
	// By connection:
	sent   map[pyproto.ContextID]map[string]bool
	misses map[pyproto.ContextID]int // names that were asked for and are no modules, as far as is known
	open   map[pyproto.ContextID]int // names that were asked for and have no answer
	where  chan string               // takes where the client has its Mitogen from; nil while it is not asked
	ended  bool
}

// module is one that was asked for, or that came along with one.
type module struct {
	payload []byte // nil while it is not there
	related []string
	waiting []*daemon.Child
	asked   bool
	by      pyproto.ContextID // the connection over which it was asked for first
	timer   *time.Timer
}

func (t *modules) init(c *client) {
	t.c, t.m = c, map[string]*module{}
	t.sent, t.misses = map[pyproto.ContextID]map[string]bool{}, map[pyproto.ContextID]int{}
	t.open = map[pyproto.ContextID]int{}
}

// want is daemon.ConnectOptions.Miss.
func (t *modules) want(child *daemon.Child, name string) bool {
	if name == "mitogen" || strings.HasPrefix(name, "mitogen.") {
		return false // the runtime's, and not there
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	m := t.m[name]
	switch {
	case m != nil && m.payload != nil:
		t.deliver(child, name, m)
		return true
	case m != nil:
		if len(m.waiting) == 0 {
			m.timer.Reset(t.c.s.opt.ModuleTimeout) // it has expired, but the client may still answer
		}
		// A child that asks again and again waits once.
		if !slices.Contains(m.waiting, child) {
			m.waiting = append(m.waiting, child)
		}
		return true
	}
	by := t.c.s.d.Stream(child.ID())
	if by == 0 || t.found >= maxModules || t.asked >= maxModules {
		return false
	}
	if limit := t.c.s.opt.MaxMisses; t.misses[by] >= limit {
		child.Reached("names that a client has no modules for", limit)
		return false
	}
	if t.open[by] >= maxUnanswered {
		child.Reached("names that a client has not answered", maxUnanswered)
		return false
	}
	m = &module{asked: true, by: by, waiting: []*daemon.Child{child}}
	if err := t.c.peer.Send(pyproto.GetModule, 0, []byte(name)); err != nil {
		return false
	}
	t.m[name] = m
	t.misses[by]++
	t.open[by]++
	t.asked++
	m.timer = time.AfterFunc(t.c.s.opt.ModuleTimeout, func() { t.expire(name, m) })
	return true
}

// ofMitogen is a small module of every Mitogen's. Clients do not answer for the package and its core.
const ofMitogen = "mitogen.minify"

// mitogenAt asks the client where the Mitogen is that it has imported: only the client knows what its program has put
// on the path. It gives "" where the client does not say.
func (t *modules) mitogenAt(ctx context.Context) string {
	where := make(chan string, 1)
	t.mu.Lock()
	if t.ended || t.c.peer.Send(pyproto.GetModule, 0, []byte(ofMitogen)) != nil {
		t.mu.Unlock()
		return ""
	}
	t.where = where
	t.asked++
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, t.c.s.opt.ModuleTimeout)
	defer cancel()
	select {
	case path := <-where:
		return path
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.where == where {
		t.where = nil
		t.asked--
	}
	return ""
}

// expire answers those who wait that there is no such module. The entry stays: a late answer counts for those who ask
// later, and the client would not answer twice.
func (t *modules) expire(name string, m *module) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[name] != m || m.payload != nil || t.ended {
		return // it was answered while the timer waited for mu
	}
	t.c.s.log.Warn("a client has not answered a module request", zap.Int("pid", t.c.pid), zap.String("module", name))
	t.refuse(name, m)
}

func (t *modules) refuse(name string, m *module) {
	payload, err := pyproto.Marshal(pyproto.Tuple{name, nil, nil, nil, pyproto.Tuple{}})
	if err != nil {
		return // a name that is no text has never been asked for
	}
	for _, child := range m.waiting {
		_ = child.SendModule(payload)
	}
	m.waiting = nil
}

// loaded takes a LOAD_MODULE of the client: an answer, or what the answer needs, which comes before it.
func (t *modules) loaded(payload []byte) {
	lm, err := pyproto.ParseLoadModule(payload)
	log := t.c.s.log.With(zap.Int("pid", t.c.pid))
	if err != nil {
		log.Warn("a client's module cannot be read", zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.m[lm.Name]
	switch {
	case t.ended:
		return
	case t.where != nil && lm.Name == ofMitogen:
		t.where <- filepath.Dir(lm.Path)
		t.where = nil
		t.asked--
		return
	case m != nil && m.payload != nil:
		log.Debug("a client has sent a module twice", zap.String("module", lm.Name))
		return
	case m == nil && t.asked == 0:
		log.Warn("a client has sent a module that nobody asked for", zap.String("module", lm.Name))
		return
	case t.found >= maxModules && !lm.Missing || t.bytes+len(payload) > maxModuleBytes:
		log.Warn("a client has sent too many modules", zap.String("module", lm.Name))
		if m == nil {
			return
		}
		t.answered(m)
		t.refuse(lm.Name, m)
		delete(t.m, lm.Name)
		return
	case m == nil:
		m = &module{}
		t.m[lm.Name] = m
	}
	m.payload, m.related = payload, lm.Related
	t.bytes += len(payload)
	if !lm.Missing {
		t.found++
		if n, ok := t.misses[m.by]; ok {
			t.misses[m.by] = n - 1
		}
	}
	if m.asked {
		t.answered(m)
	}
	for _, child := range m.waiting {
		t.deliver(child, lm.Name, m)
	}
	m.waiting = nil
}

// answered counts one that was asked for as answered. mu is held.
func (t *modules) answered(m *module) {
	m.timer.Stop()
	t.asked--
	if t.open[m.by]--; t.open[m.by] <= 0 {
		delete(t.open, m.by)
	}
}

// deliver sends a module behind the related ones that are here, as Mitogen's responder does: a submodule only behind
// its package.
func (t *modules) deliver(child *daemon.Child, name string, m *module) {
	key := t.c.s.d.Stream(child.ID())
	sent := t.sent[key]
	if sent == nil {
		sent = map[string]bool{}
		t.sent[key] = sent
	}
	for _, rel := range m.related {
		r := t.m[rel]
		if r == nil || r.payload == nil || sent[rel] {
			continue
		}
		if parent, _, isSub := strings.Cut(rel, "."); isSub && parent != name && !sent[parent] {
			continue
		}
		sent[rel] = true
		_ = child.SendModule(r.payload)
	}
	if !sent[name] {
		sent[name] = true
		_ = child.SendModule(m.payload)
	}
}

// forget drops what is kept for a child's connection.
func (t *modules) forget(id pyproto.ContextID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sent, id)
	delete(t.misses, id)
	delete(t.open, id)
}

// end answers everybody that nothing more comes.
func (t *modules) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for name, m := range t.m {
		if m.timer != nil {
			m.timer.Stop()
		}
		t.refuse(name, m)
	}
	t.m = nil
}

// onLoadModule is the daemon's handler.
func (s *Server) onLoadModule(in *daemon.Incoming) {
	if c := s.client(in.Src); c != nil && !in.IsDead() {
		c.modules.loaded(in.Payload)
	}
}
