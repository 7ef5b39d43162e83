package daemon

import (
	"mitogend/importer"
	"mitogend/pyproto"
)

// withPaths is the module by which files of what is served are opened.
const withPaths = "mitogen.files"

// newResponder starts the goroutine that answers the module requests of the child and of those behind it.
func (c *Child) newResponder() error {
	im := c.Importer()
	opt := importer.ResponderOptions{
		Version: c.Version(), Policy: c.opt.Policy, Reasons: true, MarkPackages: true,
		With: []string{"mitogen.resources", "mitogen.disk", "mitogen.finders", "mitogen.projects"}, WithPaths: withPaths, Observe: c.observers.tell,
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
	c.early = nil
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
	c.mu.Unlock()
	if full {
		c.Reached("modules asked for before the connect is done", maxEarly)
	}
	if r != nil && own {
		if err := r.Request(name); err != nil {
			c.fail(err)
		}
	}
	return own
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
