package daemon

import (
	"context"

	"mitogend/importer"
)

// Importer serves the child's modules, as they are for its platform.
func (c *Child) Importer() *importer.Importer {
	im := c.d.importer
	if c.opt.Importer != nil {
		im = c.opt.Importer
	}
	return im.For(c.Platform())
}

// Platform is what is known of the child. It is only the version as long as nothing that the child is served depends
// on more.
func (c *Child) Platform() importer.Platform {
	if p := c.platform.Load(); p != nil {
		return *p
	}
	return importer.Platform{Version: c.Version()}
}

// learn asks the child for its platform, once, if what it is served depends on that. Stock children cannot be asked,
// and load no extension modules.
func (c *Child) learn(ctx context.Context) error {
	if c.runtime != nil || c.platform.Load() != nil || !c.Importer().Asks(c.Version()) {
		return nil
	}
	if err := c.asking.take(ctx); err != nil {
		return err
	}
	defer c.asking.end()
	if c.platform.Load() != nil {
		return nil
	}
	var said []string
	if err := c.Call(ctx, "mitogen.extension:about").within(c.name, questionLimits).Decode(&said); err != nil {
		return err
	}
	if len(said) != 4 {
		return errorf("%s: its account of itself cannot be read", c.name)
	}
	p, err := importer.NewPlatform(c.Version(), said[0], said[1], said[2], said[3])
	if err != nil {
		return errorf("%s: its account of itself cannot be read: %w", c.name, err)
	}
	if p, err = c.Importer().Prepare(ctx, p); err != nil {
		return err
	}
	c.platform.Store(&p)
	if c.ownResponder {
		c.responder.Learn(p)
	} else {
		c.via.tellOf(c, p)
	}
	return nil
}
