package daemon

import (
	"context"
	"fmt"

	"mitogend/importer"
)

// Importer is what the child's modules come from, as it is for such a child.
func (c *Child) Importer() *importer.Importer {
	im := c.d.importer
	if c.opt.Importer != nil {
		im = c.opt.Importer
	}
	return im.For(c.Platform())
}

// Platform is what is known of the child: no more than its version as long as nothing that it is served hangs on more.
func (c *Child) Platform() importer.Platform {
	if p := c.platform.Load(); p != nil {
		return *p
	}
	return importer.Platform{Version: c.Version()}
}

// learn asks the child what it is, once, if what it is served hangs on that. Mitogen's own can not be asked, and load no extension
// modules.
func (c *Child) learn(ctx context.Context) error {
	if c.runtime != nil || c.platform.Load() != nil || !c.Importer().Asks(c.Version()) {
		return nil
	}
	select {
	case c.asking <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.asking }()
	if c.platform.Load() != nil {
		return nil
	}
	var said []string
	if err := c.Call(ctx, "mitogen.extension:about").Decode(&said); err != nil {
		return err
	}
	if len(said) != 4 {
		return fmt.Errorf("daemon: %s: what it says of itself can not be read", c.name)
	}
	p, err := importer.NewPlatform(c.Version(), said[0], said[1], said[2], said[3])
	if err != nil {
		return fmt.Errorf("daemon: %s: what it says of itself can not be read: %w", c.name, err)
	}
	if err := c.Importer().Prepare(ctx, p); err != nil {
		return err
	}
	c.platform.Store(&p)
	if c.ownResponder {
		c.responder.Learn(p)
	} else {
		c.responder.Add(p)
	}
	return nil
}
