package importer

import "strings"

// related lists the modules that importing sp imports at once, in the order of its source: on the path, not in the standard
// library, each after the packages it lies in. Neither sp nor its own packages are among them. missed are the names that it
// will look for here in vain.
func (s *search) related(sp *spec, src *source) (related, missed []string) {
	r := resolver{search: s, sp: sp, src: src}
	seen := map[string]bool{sp.name: true}
	for _, up := range ancestors(sp.name) {
		seen[up] = true
	}
	add := func(to, names []string) []string {
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				to = append(to, name)
			}
		}
		return to
	}
	for i := range src.imports {
		if imp := &src.imports[i]; r.active(imp.guard) {
			related = add(related, r.targets(imp))
			missed = add(missed, append(r.misses(imp), r.asks(imp)...))
		}
	}
	return related, missed
}

type resolver struct {
	*search
	sp  *spec
	src *source
}

// active tells whether a block is likely to run when the module is imported.
func (r *resolver) active(g *guard) bool {
	for ; g != nil; g = g.parent {
		switch {
		case g.lazy && !r.src.called[g.fn] || g.try != nil && g.part == partRare:
			return false
		case g.try != nil && g.part == partHandler:
			if !r.fails(g.try) {
				return false
			}
		case g.try != nil && g.part == partElse:
			if r.failsSurely(g.try) {
				return false
			}
		case r.decide(g) == no:
			return false
		}
	}
	return true
}

// decide gives the truth of the guard's own condition.
func (r *resolver) decide(g *guard) truth {
	if g.cond == nil {
		return yes
	}
	t := (&env{v: r.v, names: r.src.names, main: r.sp.kind == KindMain}).decide(g.cond.expr)
	if g.negate {
		return t.not()
	}
	return t
}

// fails tells whether one of the imports in a try statement's body can not be had from here or from the standard library.
func (r *resolver) fails(t *tryBlock) bool {
	for _, i := range t.imports {
		imp := &r.src.imports[i]
		if !r.runs(imp.guard, t) {
			continue
		}
		base, ok := r.base(imp)
		if !(ok && r.served(base)) && !r.ownOrStdlib(imp) || len(r.misses(imp)) > 0 {
			return true
		}
	}
	return false
}

// failsSurely tells whether one of them is of a module that a package of ours lacks, or has in a form that can not be sent:
// then the child can not have it either.
func (r *resolver) failsSurely(t *tryBlock) bool {
	for _, i := range t.imports {
		imp := &r.src.imports[i]
		base, ok := r.base(imp)
		if !ok || imp.hint || !r.runs(imp.guard, t) {
			continue
		}
		for _, up := range append(ancestors(base), base) {
			if !r.served(up) {
				if parent, _ := parentName(up); parent != "" {
					return true
				}
				break
			}
		}
	}
	return false
}

// runs is active for a guard inside the body of t, without asking about t again.
func (r *resolver) runs(g *guard, t *tryBlock) bool {
	for ; g != nil && g.try != t; g = g.parent {
		if r.decide(g) == no {
			return false
		}
	}
	return true
}

// ownOrStdlib: imports that succeed although nothing is to be sent for them.
func (r *resolver) ownOrStdlib(imp *Import) bool {
	if imp.Level > 0 {
		base, ok := r.base(imp)
		return ok && (base == r.sp.name || within(r.sp.name, base))
	}
	// With an unknown version a name that only some versions have may fail.
	if !r.v.Known() && Stdlib(imp.Module, r.v) {
		return Stdlib(imp.Module, Version{2, 7}) && Stdlib(imp.Module, Version{3, 99})
	}
	return Stdlib(imp.Module, r.v) || within(r.sp.name, imp.Module)
}

// pkg is the package that relative imports of the module start from.
func (r *resolver) pkg() string {
	if r.sp.isPkg() {
		return r.sp.name
	}
	parent, _ := parentName(r.sp.name)
	return parent
}

// base is the absolute name of the module that an import names before the word import.
func (r *resolver) base(imp *Import) (string, bool) {
	pkg := r.pkg()
	if imp.Level > 0 {
		for range imp.Level - 1 {
			pkg, _ = parentName(pkg)
		}
		if pkg == "" {
			return "", false
		}
		if imp.Module == "" {
			return pkg, true
		}
		return pkg + "." + imp.Module, true
	}
	if pkg != "" && r.implicitRelative(pkg, imp) {
		return pkg + "." + imp.Module, true
	}
	return imp.Module, true
}

// implicitRelative: on 2.x "import x" in package p means p.x when there is one.
func (r *resolver) implicitRelative(pkg string, imp *Import) bool {
	if r.v.Major == 3 || r.src.absolute || imp.hint {
		return false
	}
	first := firstComponent(imp.Module)
	if !r.v.Known() && (Stdlib(first, r.v) || r.served(first)) {
		return false
	}
	return r.served(pkg + "." + first)
}

func firstComponent(name string) string {
	for i := range name {
		if name[i] == '.' {
			return name[:i]
		}
	}
	return name
}

func (s *search) served(name string) bool { return s.find(name).why == "" }

// targets lists the modules that an import loads and that are served from here.
func (r *resolver) targets(imp *Import) []string {
	base, ok := r.base(imp)
	if !ok {
		return nil
	}
	var out []string
	for _, up := range append(ancestors(base), base) {
		if bundled := r.bundled(up); bundled != "" {
			up = bundled
		}
		if !r.served(up) {
			if imp.hint && len(out) < 2 {
				return nil // only the name of a package, or nothing of ours
			}
			return out
		}
		out = append(out, up)
	}
	for _, name := range imp.Names {
		if name != "*" {
			out = r.submodule(out, base, name)
			continue
		}
		sp := r.find(base)
		if u, err := r.unit(sp); sp.isPkg() && err == nil {
			for _, name := range u.src.all {
				out = r.submodule(out, base, name)
			}
		}
	}
	return out
}

// misses lists the names that the interpreter will look for on behalf of an import, that are not served, and whose absence it
// can not tell by what its packages have: it would have to ask.
func (r *resolver) misses(imp *Import) []string {
	base, ok := r.base(imp)
	if !ok || imp.hint {
		return nil
	}
	for _, up := range append(ancestors(base), base) {
		if !r.served(up) {
			return r.miss(nil, up)
		}
	}
	var out []string
	for _, name := range imp.Names {
		if name != "*" && r.find(base).isPkg() {
			out = r.miss(out, base+"."+name)
		}
	}
	return out
}

// stdlibAsks are packages that modules of the standard library import by themselves if there are any. Such an import stands in
// no source of ours: without a word ahead it would cost a round trip on a target that lacks the package.
var stdlibAsks = map[string]string{"zoneinfo": "tzdata"}

// asks lists what an import has the standard library look for in vain.
func (r *resolver) asks(imp *Import) []string {
	ask := stdlibAsks[imp.Module]
	if ask == "" || imp.Level > 0 || imp.hint || !Stdlib(imp.Module, r.v) {
		return nil
	}
	return r.miss(nil, ask)
}

func (r *resolver) miss(out []string, name string) []string {
	sp := r.find(name)
	parent, _ := parentName(name)
	if sp.why == "" || nameFault(name) != "" || parent == "" && Stdlib(name, r.v) || parent != "" && sp.absent {
		return out
	}
	return append(out, name)
}

func (r *resolver) submodule(out []string, base, name string) []string {
	full := base + "." + name
	if bundled := r.bundled(full); bundled != "" {
		return append(out, bundled)
	}
	if r.find(base).isPkg() && r.served(full) {
		return append(out, full)
	}
	return out
}

// bundled gives the module that P.extern.NAME stands for in setuptools and pkg_resources, whose extern has a finder that takes NAME
// from P._vendor; "" for other names.
func (s *search) bundled(name string) string {
	top, inner, ok := strings.Cut(name, ".extern.")
	if !ok || strings.Contains(top, ".") || s.served(name) {
		return ""
	}
	if name = top + "._vendor." + inner; !s.served(name) {
		return ""
	}
	return name
}

// closure lists name and all that importing it imports from here, in the order in which it is needed: each module after the
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

// relatedOf remembers related for the search. What is sent with paths is related to what makes them: whoever passes the one on
// passes on both.
func (s *search) relatedOf(sp *spec, u *unit) []string {
	if !sp.resolved {
		sp.related, sp.missed = s.related(sp, u.src)
		if u.src.paths && s.withPaths != "" && sp.kind != KindVirtual {
			sp.related = append([]string{s.withPaths}, sp.related...)
		}
		switch {
		case sp.kind == KindExtension:
			sp.related = append([]string{"mitogen.extension"}, sp.related...)
		case sp.kind != KindVirtual && s.unpackTop(sp.name) == sp.name:
			sp.related = append([]string{"mitogen.unpack"}, sp.related...)
		}
		sp.resolved = true
	}
	return sp.related
}
