package importer

// closure lists names, and all that importing them imports from here, in the order in which it is needed: each module after the
// packages it lies in.
func (s *search) closure(names ...string) (out []string) {
	_ = s.closureInParts(0, func(part []string) error {
		out = append(out, part...)
		return nil
	}, names...)
	return out
}

// closureInParts is closure, part by part: each is taken as soon as its sources are so many bytes, before those behind it are read. The
// error is take's, which ends it.
func (s *search) closureInParts(size int, take func(part []string) error, names ...string) error {
	c := closer{search: s, seen: map[string]bool{}, size: size, take: take}
	if len(names) == 1 {
		c.root = names[0]
		delete(s.by, c.root)
	}
	if s.by == nil {
		s.by = map[string]string{}
	}
	for _, name := range names {
		c.visit(name, "")
	}
	return c.flush()
}

type closer struct {
	*search
	root string // was asked for itself; empty for several, which may be the closure of a script
	seen map[string]bool
	size int // of a part; 0: all is one
	take func(part []string) error

	out   []string
	bytes int
	err   error
}

func (c *closer) flush() error {
	if c.err == nil && len(c.out) > 0 {
		c.err = c.take(c.out)
	}
	c.out, c.bytes = nil, 0
	return c.err
}

func (c *closer) visit(name, by string) {
	if c.seen[name] || c.err != nil {
		return
	}
	for _, up := range ancestors(name) {
		c.visit(up, by)
	}
	if c.seen[name] || c.err != nil {
		return // by way of a package's imports
	}
	c.seen[name] = true
	sp := c.find(name)
	if sp.why != "" {
		return
	}
	u, err := c.unit(sp)
	if err != nil {
		return
	}
	if u.src.paths && c.withPaths != "" && sp.kind != KindVirtual {
		c.visit(c.withPaths, name) // ahead of the module
	}
	if !c.unpacked(name) {
		c.out = append(c.out, name)
	}
	// What was asked for is there for its own sake, even if its package imports it, too.
	if c.by[name] == "" && name != c.root {
		c.by[name] = by
	}
	if c.bytes += u.size; c.size > 0 && c.bytes >= c.size {
		_ = c.flush()
	}
	for _, rel := range c.relatedOf(sp, u) {
		c.visit(rel, name)
	}
}
