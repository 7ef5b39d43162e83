package importer

import "strings"

// related lists the modules that importing sp imports at once, in the order of its source, each after the packages it lies in. They are
// on the path, not in the standard library; sp and its own packages are not among them. missed are the names that sp will look for
// here in vain.
func (s *search) related(sp *spec, src *source) (related, missed []string) {
	f := follower{search: s, sp: sp, src: src}
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
		if imp := &src.imports[i]; f.active(imp.guard) {
			related = add(related, f.targets(imp))
			missed = add(missed, append(f.misses(imp), f.asks(imp)...))
		}
	}
	return related, missed
}

// follower follows the imports of one source, for one child.
type follower struct {
	*search
	sp  *spec
	src *source
}

// active tells whether a block is likely to run when the module is imported.
func (f *follower) active(g *guard) bool {
	for ; g != nil; g = g.parent {
		switch {
		case g.lazy && !f.src.called[g.fn] || g.try != nil && g.part == partRare:
			return false
		case g.try != nil && g.part == partHandler:
			if !f.fails(g.try) {
				return false
			}
		case g.try != nil && g.part == partElse:
			if f.failsSurely(g.try) {
				return false
			}
		case f.decide(g) == no:
			return false
		}
	}
	return true
}

// decide gives the truth of the guard's own condition.
func (f *follower) decide(g *guard) truth {
	if g.cond == nil {
		return yes
	}
	t := (&env{v: f.v, names: f.src.names, main: f.sp.kind == KindMain}).decide(g.cond.expr)
	if g.negate {
		return t.not()
	}
	return t
}

// fails tells whether one of the imports in a try statement's body cannot be had from here or from the standard library.
func (f *follower) fails(t *tryBlock) bool {
	for _, i := range t.imports {
		imp := &f.src.imports[i]
		if !f.runs(imp.guard, t) {
			continue
		}
		base, ok := f.base(imp)
		if !(ok && f.served(base)) && !f.ownOrStdlib(imp) || len(f.misses(imp)) > 0 {
			return true
		}
	}
	return false
}

// failsSurely tells whether one of them is of a module that a package of ours lacks, or has in a form that cannot be sent:
// then the child cannot have it either.
func (f *follower) failsSurely(t *tryBlock) bool {
	for _, i := range t.imports {
		imp := &f.src.imports[i]
		base, ok := f.base(imp)
		if !ok || imp.hint || !f.runs(imp.guard, t) {
			continue
		}
		for _, up := range append(ancestors(base), base) {
			if !f.served(up) {
				if parent, _ := parentName(up); parent != "" {
					return true
				}
				break
			}
		}
	}
	return false
}

// runs is active for a guard inside the body of t. It does not look at t itself.
func (f *follower) runs(g *guard, t *tryBlock) bool {
	for ; g != nil && g.try != t; g = g.parent {
		if f.decide(g) == no {
			return false
		}
	}
	return true
}

// ownOrStdlib tells of imports that succeed although nothing is sent for them.
func (f *follower) ownOrStdlib(imp *Import) bool {
	if imp.Level > 0 {
		base, ok := f.base(imp)
		return ok && (base == f.sp.name || within(f.sp.name, base))
	}
	// With an unknown version a name that only some versions have may fail.
	if !f.v.Known() && Stdlib(imp.Module, f.v) {
		return Stdlib(imp.Module, Version{2, 7}) && Stdlib(imp.Module, Version{3, 99})
	}
	return Stdlib(imp.Module, f.v) || within(f.sp.name, imp.Module)
}

// pkg is the package that relative imports of the module start from.
func (f *follower) pkg() string {
	if f.sp.isPkg() {
		return f.sp.name
	}
	parent, _ := parentName(f.sp.name)
	return parent
}

// base is the absolute name of the module that an import names before the word import.
func (f *follower) base(imp *Import) (string, bool) {
	pkg := f.pkg()
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
	if pkg != "" && f.implicitRelative(pkg, imp) {
		return pkg + "." + imp.Module, true
	}
	return imp.Module, true
}

// implicitRelative tells whether "import x" in package p means p.x, as on 2.x where there is one.
func (f *follower) implicitRelative(pkg string, imp *Import) bool {
	if f.v.Major == 3 || f.src.absolute || imp.hint {
		return false
	}
	first := firstComponent(imp.Module)
	if !f.v.Known() && (Stdlib(first, f.v) || f.served(first)) {
		return false
	}
	return f.served(pkg + "." + first)
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
func (f *follower) targets(imp *Import) []string {
	base, ok := f.base(imp)
	if !ok {
		return nil
	}
	var out []string
	for _, up := range append(ancestors(base), base) {
		if bundled := f.bundled(up); bundled != "" {
			up = bundled
		}
		if !f.served(up) {
			if imp.hint && len(out) < 2 {
				return nil // only the name of a package, or nothing of ours
			}
			return out
		}
		out = append(out, up)
	}
	for _, name := range imp.Names {
		if name != "*" {
			out = f.submodule(out, base, name)
			continue
		}
		sp := f.find(base)
		if u, err := f.unit(sp); sp.isPkg() && err == nil {
			for _, name := range u.src.all {
				out = f.submodule(out, base, name)
			}
		}
	}
	return out
}

// misses lists the names that the interpreter will look for because of an import, and that are not served. It leaves out those whose
// absence the child can tell from the lists of its packages: it does not ask for them.
func (f *follower) misses(imp *Import) []string {
	base, ok := f.base(imp)
	if !ok || imp.hint {
		return nil
	}
	for _, up := range append(ancestors(base), base) {
		if !f.served(up) {
			return f.miss(nil, up)
		}
	}
	var out []string
	for _, name := range imp.Names {
		if name != "*" && f.find(base).isPkg() {
			out = f.miss(out, base+"."+name)
		}
	}
	return out
}

// stdlibAsks are packages that modules of the standard library import if they are there. No source of ours has such an import: unless
// the package is refused ahead, a target that lacks it asks for it, which costs a round trip.
var stdlibAsks = map[string]string{"zoneinfo": "tzdata"}

// asks lists what an import has the standard library look for in vain.
func (f *follower) asks(imp *Import) []string {
	ask := stdlibAsks[imp.Module]
	if ask == "" || imp.Level > 0 || imp.hint || !Stdlib(imp.Module, f.v) {
		return nil
	}
	return f.miss(nil, ask)
}

func (f *follower) miss(out []string, name string) []string {
	sp := f.find(name)
	parent, _ := parentName(name)
	if sp.why == "" || nameFault(name) != "" || parent == "" && Stdlib(name, f.v) || parent != "" && sp.absent {
		return out
	}
	return append(out, name)
}

func (f *follower) submodule(out []string, base, name string) []string {
	full := base + "." + name
	if bundled := f.bundled(full); bundled != "" {
		return append(out, bundled)
	}
	if f.find(base).isPkg() && f.served(full) {
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

// relatedOf remembers related for the search. What is sent with paths is related to what makes them: whoever passes the one on
// passes on both.
func (s *search) relatedOf(sp *spec, u *unit) []string {
	if !sp.followed {
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
		sp.followed = true
	}
	return sp.related
}
