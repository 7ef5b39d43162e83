package daemon

import (
	"strings"
	"sync"

	"mitogend/importer"
	"mitogend/pyproto"
)

// withPaths is the module by which files of what is served are opened.
const withPaths = "mitogen.files"

// withFirst are the modules that go along with the first one that is sent.
var withFirst = []string{"mitogen.resources", "mitogen.disk", "mitogen.finders", "mitogen.projects"}

// newResponder starts the goroutine that answers the module requests of the child and of those behind it.
func (c *Child) newResponder() error {
	im := c.Importer()
	opt := importer.ResponderOptions{
		Version: c.Version(), Policy: c.opt.Policy, Reasons: true, MarkPackages: true,
		With: withFirst, WithPaths: withPaths, Observe: c.observers.tell,
		Reached: c.Reached,
	}
	if c.stream.proc != nil {
		c.sendCode(c.stream.proc, &opt)
	}
	if c.runtime != nil {
		var err error
		if im, err = c.d.runtimes.importer(im, c.runtime); err != nil {
			return err
		}
		// Mitogen's own children use the parts of Mitogen that they have, and ask for the rest.
		opt.Reasons, opt.MarkPackages, opt.With, opt.WithPaths, opt.Local = false, false, nil, "", []string{"mitogen"}
		opt.Stock = true
		if c.opt.Miss != nil {
			opt.Miss = func(name string) bool { return c.opt.Miss(c, name) }
		}
	}
	r, err := importer.NewResponder(im, sink{c}, opt)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.responder, c.ownResponder = r, true
	early := c.early
	c.early, c.starter = nil, nil
	c.mu.Unlock()
	if c.gone() != nil {
		// Behind a hop the child may have ended before it had a responder to close.
		r.Close()
	}
	for _, name := range early {
		_ = r.Request(name)
	}
	r.Start(c.d.ctx, c.d.run, c.fail)
	return nil
}

// newStarter makes what serves a child the runtime's own modules before its version is known, and so its responder: it
// may need some before it tells the version. Its responder sends again what the child has asked for until then.
func (c *Child) newStarter() (*importer.Responder, error) {
	im, opt := c.Importer(), importer.ResponderOptions{MarkPackages: true}
	if c.runtime != nil {
		var err error
		if im, err = c.d.runtimes.importer(im, c.runtime); err != nil {
			return nil, err
		}
		opt = importer.ResponderOptions{Local: []string{"mitogen"}, Stock: true}
	}
	r, err := importer.NewResponder(im, sink{c}, opt)
	if err != nil {
		return nil, err
	}
	r.Start(c.d.ctx, c.d.run, func(error) {}) // what fails here fails the connect
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starter = r
	return r, nil
}

// onGetModule handles a child's request. False says that the child before it serves it. It runs on a readLoop.
func (c *Child) onGetModule(name string) bool {
	c.mu.Lock()
	r := c.responder
	full := r == nil && (len(c.early) >= maxEarly || c.earlyBytes+len(name) > maxEarlyBytes)
	if r == nil && !full {
		c.early = append(c.early, name)
		c.earlyBytes += len(name)
	}
	own := c.ownResponder || r == nil
	starter := c.starter
	c.mu.Unlock()
	if full {
		c.Reached("modules asked for before the connect is done", maxEarly)
	}
	if starter != nil && !full && strings.HasPrefix(name, "mitogen.") {
		_ = starter.Request(name)
	}
	if r != nil && own {
		if err := r.Request(name); err != nil {
			c.fail(err)
		}
	}
	return own
}

// arrivals are the modules that contexts ask for which a stock child is connecting: until it has said which contexts
// these are, nobody serves them.
type arrivals struct {
	// mu protects the following. Nothing is locked under it.
	mu       sync.Mutex
	connects int
	asked    map[pyproto.ContextID][]string
	n, bytes int
}

func (a *arrivals) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connects++
}

// end forgets everything with the last connect.
func (a *arrivals) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.connects--; a.connects == 0 {
		a.asked, a.n, a.bytes = nil, 0, 0
	}
}

// take gives what the context has asked for. From then on it has to be a child.
func (a *arrivals) take(id pyproto.ContextID) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := a.asked[id]
	delete(a.asked, id)
	a.n -= len(names)
	for _, name := range names {
		a.bytes -= len(name)
	}
	return names
}

// keep keeps a name, unless the context is a child by now.
func (a *arrivals) keep(s *stream, id pyproto.ContextID, name string) (c *Child, waiting, full bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c = s.childOf(id); c != nil || a.connects == 0 {
		return c, false, false
	}
	if a.n >= maxEarly || a.bytes+len(name) > maxEarlyBytes || len(a.asked[id]) >= maxArrival {
		return nil, true, true
	}
	if a.asked == nil {
		a.asked = map[pyproto.ContextID][]string{}
	}
	a.asked[id] = append(a.asked[id], name)
	a.n++
	a.bytes += len(name)
	return nil, true, false
}

// earlyModule keeps a request of a context that is no child yet, if a stock child may be connecting it.
func (s *stream) earlyModule(id pyproto.ContextID, name string) (refused string) {
	via := s.childOf(s.ids.owner(id))
	if via == nil || via.runtime == nil {
		return notAdmitted
	}
	switch c, waiting, full := via.arrivals.keep(s, id, name); {
	case full:
		return s.reached("modules asked for before the connect is done", maxArrival).Error()
	case c != nil && !c.onGetModule(name):
		return servedBefore
	case c == nil && !waiting:
		return notAdmitted
	}
	return ""
}

// sink is how a responder reaches its child.
type sink struct{ c *Child }

func (k sink) LoadModule(payload []byte, _ string) error {
	return k.send(pyproto.LoadModuleHandle, payload)
}

func (k sink) ForwardModule(payload []byte, _ uint32, _ string) error {
	return k.send(pyproto.ForwardModule, payload)
}

func (k sink) send(handle pyproto.Handle, payload []byte) error {
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: k.c.id, Handle: handle}
	return k.c.send(k.c.d.ctx, newFrame(h, payload))
}
