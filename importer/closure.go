package importer

// closure lists names, and all that importing them imports from here, in the order in which it is needed: each module after the
// packages it lies in.
func (s *search) closure(names ...string) []string {
	c := closer{search: s, seen: map[string]bool{}}
	if s.by == nil {
		s.by = map[string]string{}
	}
	for _, name := range names {
		c.visit(name, "")
	}
	if len(names) == 1 {
		// For its own sake, even if its package imports it, too. Several may be the closure of a script.
		delete(s.by, names[0])
	}
	return c.out
}

type closer struct {
	*search
	seen map[string]bool
	out  []string
}

func (c *closer) visit(name, by string) {
	if c.seen[name] {
		return
	}
	for _, up := range ancestors(name) {
		c.visit(up, by)
	}
	if c.seen[name] {
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
	if c.by[name] == "" {
		c.by[name] = by
	}
	for _, rel := range c.relatedOf(sp, u) {
		c.visit(rel, name)
	}
}
