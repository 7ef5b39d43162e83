package unixclient

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/pyproto"
)

// Bounds on questions that wait for a client or, once it has answered, for room on the way to the child.
const (
	maxResources      = 4096
	maxChildResources = 256
	maxResourceBytes  = 256 << 20
	// maxResourceName is the longest name of a package and a file in it that a client is asked for.
	maxResourceName = 4096
)

// resources are the questions for data files that a client's own children have and the daemon cannot answer. Clients
// answer since Mitogen 0.3.37, on Python 3.7 and later; others never do, and are not asked. Answers are not kept: a
// child asks for a file once.
type resources struct {
	c *client

	// mu protects the following. Nothing is locked under it but a stream's queue.
	mu    sync.Mutex
	m     map[resourceKey]*resource
	asked map[*daemon.Child]int // questions of m, by who has asked first
	of    map[*daemon.Child]int
	count int
	bytes int // of answers that wait for room
	ended bool
}

type resourceKey struct{ pkg, name string }

// resource is a question that the client was sent and has not answered, also when nobody waits any more: one who asks
// later waits for that answer.
type resource struct {
	by      *daemon.Child // who has asked first; nil when that is gone
	waiting []resourceWaiter
	timer   *time.Timer
}

type resourceWaiter struct {
	child *daemon.Child
	q     daemon.ResourceRequest
}

func (t *resources) init(c *client) {
	t.c, t.m = c, map[resourceKey]*resource{}
	t.asked, t.of = map[*daemon.Child]int{}, map[*daemon.Child]int{}
}

// want is daemon.ConnectOptions.MissResource.
func (t *resources) want(child *daemon.Child, q daemon.ResourceRequest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	// What a child that is gone has asked for may have been forgotten already.
	if gone(child) || t.c.mute() || t.ended || t.count >= maxResources || t.of[child] >= maxChildResources {
		return false
	}
	key := resourceKey{q.Package, q.Name}
	r := t.m[key]
	switch {
	case r != nil && len(r.waiting) == 0:
		r.timer.Reset(t.c.s.opt.ModuleTimeout)
	case r == nil:
		if len(t.m) >= maxResources {
			t.sweep()
		}
		if len(t.m) >= maxResources || t.asked[child] >= maxChildResources || len(q.Package)+len(q.Name) > maxResourceName {
			return false
		}
		question, err := pyproto.Marshal(t.c.question(key))
		if err != nil || t.c.peer.Send(pyproto.GetResource, 0, question) != nil {
			return false
		}
		r = &resource{by: child}
		t.m[key] = r
		t.asked[child]++
		r.timer = time.AfterFunc(t.c.s.opt.ModuleTimeout, func() { t.expire(key, r) })
	}
	r.waiting = append(r.waiting, resourceWaiter{child, q})
	t.of[child]++
	t.count++
	return true
}

// mute tells whether the client never answers: Mitogen's answer needs Python 3.7.
func (c *client) mute() bool { return c.own.version > 0 && c.own.version < 0x03070000 }

// question is the payload of a GET_RESOURCE that the client's Mitogen reads.
func (c *client) question(key resourceKey) pyproto.Tuple {
	if r := c.own.runtime; r != nil && r.AsksInBytes() {
		return pyproto.Tuple{[]byte(key.pkg), []byte(key.name)}
	}
	return pyproto.Tuple{key.pkg, key.name}
}

// expire answers those who wait that there is no such file.
func (t *resources) expire(key resourceKey, r *resource) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || t.m[key] != r || len(r.waiting) == 0 {
		return
	}
	t.c.s.log.Warn("a client has not answered a request for a resource", zap.Int("pid", t.c.pid),
		zap.String("package", key.pkg), zap.String("resource", key.name))
	t.answer(r, nil)
	if r.by == nil || gone(r.by) {
		t.remove(key, r)
	}
}

// gone tells whether a child is out of the tree.
func gone(child *daemon.Child) bool {
	select {
	case <-child.Done():
		return true
	default:
		return false
	}
}

// sweep forgets questions of children that are gone and that nobody watches: hops, and what is behind a child. mu is held.
func (t *resources) sweep() {
	for key, r := range t.m {
		if len(r.waiting) == 0 && (r.by == nil || gone(r.by)) {
			t.remove(key, r)
		}
	}
}

// remove forgets a question. mu is held.
func (t *resources) remove(key resourceKey, r *resource) {
	r.timer.Stop()
	delete(t.m, key)
	if r.by == nil {
		return
	}
	if t.asked[r.by]--; t.asked[r.by] == 0 {
		delete(t.asked, r.by)
	}
}

// forget drops what a child that is gone has asked for and nobody waits for.
func (t *resources) forget(child *daemon.Child) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked[child] == 0 {
		return
	}
	for key, r := range t.m {
		if r.by != child {
			continue
		}
		if len(r.waiting) == 0 {
			t.remove(key, r)
		} else {
			r.by = nil
		}
	}
	delete(t.asked, child)
}

// answer sends what has come to all who wait, on goroutines of their own: a child may read slowly. mu is held.
func (t *resources) answer(r *resource, data []byte) {
	for _, w := range r.waiting {
		content := data
		if t.bytes+len(content) > maxResourceBytes {
			t.c.s.log.Warn("too many resources wait for children that do not read them", zap.Int("pid", t.c.pid))
			content = nil
		}
		t.bytes += len(content)
		t.c.wg.Go(func() {
			if err := w.child.SendResource(t.c.ctx, w.q, content); err != nil && content != nil {
				_ = w.child.SendResource(t.c.ctx, w.q, nil) // the client has gone; the child may live on with another
			}
			t.done(w.child, len(content))
		})
	}
	r.waiting = nil
}

func (t *resources) done(child *daemon.Child, size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count--
	t.bytes -= size
	if t.of[child]--; t.of[child] == 0 {
		delete(t.of, child)
	}
}

// loaded takes a LOAD_RESOURCE of the client.
func (t *resources) loaded(payload []byte) {
	log := t.c.s.log.With(zap.Int("pid", t.c.pid))
	key, data, ok := parseResource(payload)
	if !ok {
		log.Warn("a client's resource cannot be read")
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.m[key]
	if r == nil {
		if !t.ended {
			log.Warn("a client has sent a resource that nobody waits for", zap.String("package", key.pkg),
				zap.String("resource", key.name))
		}
		return
	}
	t.answer(r, data)
	t.remove(key, r)
}

// parseResource reads LOAD_RESOURCE: one pickle of three values or, since 0.3.41, two in a row. No data means that
// there is no such file.
func parseResource(payload []byte) (key resourceKey, data []byte, ok bool) {
	v, rest, err := pyproto.UnmarshalPrefix(payload)
	t, _ := v.(pyproto.Tuple)
	var content any
	switch {
	case err == nil && len(t) == 3 && len(rest) == 0:
		content = t[2]
	case err == nil && len(t) == 2 && len(rest) > 0:
		if content, err = pyproto.Unmarshal(rest); err != nil {
			return key, nil, false
		}
	default:
		return key, nil, false
	}
	var ok1, ok2 bool
	key.pkg, ok1 = pyproto.Text(t[0])
	key.name, ok2 = pyproto.Text(t[1])
	switch x := content.(type) {
	case nil:
	case []byte:
		data = append([]byte{}, x...)
	case pyproto.Blob:
		data = append([]byte{}, x...)
	default:
		return key, nil, false
	}
	return key, data, ok1 && ok2
}

// end answers everybody that nothing more comes.
func (t *resources) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for key, r := range t.m {
		t.answer(r, nil)
		t.remove(key, r)
	}
}

// onLoadResource is the daemon's handler.
func (s *Server) onLoadResource(in *daemon.Incoming) {
	if c := s.client(in.Src); c != nil && !in.IsDead() {
		c.resources.loaded(in.Payload)
	}
}
