package importer

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"mitogend/pyproto"
)

// Kind says what a module is.
type Kind string

const (
	KindModule    Kind = "module"
	KindPackage   Kind = "package"
	KindNamespace Kind = "namespace package" // PEP 420: directories without __init__.py
	KindVirtual   Kind = "built in"          // from Options.Virtual
	KindMain      Kind = "script"            // __main__
)

// Module is what is served for one name. Nothing in it may be changed.
type Module struct {
	Name  string
	Kind  Kind
	IsPkg bool
	// Present are the names of a package's direct children, as pkgutil.iter_modules lists them.
	Present []string
	// Packages are the packages among them, and Namespaces the namespace packages.
	Packages, Namespaces []string
	// Path is the file, in an archive the archive's path with the member's; a namespace package's first directory.
	Path string
	// Size is the length of the source in bytes.
	Size int
	// Compressed is the source as zlib.
	Compressed []byte
	// Imports is all that the source imports, anywhere. Related is what importing it will probably import from here.
	Imports []Import
	Related []string

	unit *unit
	loc  location
}

// markOf is made of the source, the file's path and the names of a package's modules: all that the child was sent of it.
func (s *search) markOf(sp *spec, u *unit) (mark [16]byte) {
	data := append(u.hash[:len(u.hash):len(u.hash)], s.path(sp)...)
	for _, loc := range s.portions(sp) {
		if l := s.list(loc); l != nil {
			data = append(append(data, 0), l.moduleNames()...)
		}
	}
	if s.v.Major == 2 && sp.isPkg() {
		// Directories count only if they have an __init__.py.
		_, packages, _ := s.children(sp)
		data = append(append(data, 0), strings.Join(packages, ",")...)
	}
	sum := sha256.Sum256(data)
	copy(mark[:], sum[:])
	return mark
}

// moduleNames are the modules in a package's directory, as far as names tell: nothing more is looked at for it.
func (l *listing) moduleNames() string {
	l.once.Do(func() {
		names := slices.Collect(maps.Keys(l.compiled))
		for name, mode := range l.types {
			leaf, source := strings.CutSuffix(name, ".py")
			if !source && !mode.IsRegular() && name != "__pycache__" {
				leaf += "/"
			} else if !source {
				continue
			}
			names = append(names, leaf)
		}
		names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, ".") })
		slices.Sort(names)
		l.modules = strings.Join(slices.Compact(names), ",")
	})
	return l.modules
}

// Source gives the module's source.
func (m *Module) Source() ([]byte, error) { return inflate(m.Compressed) }

// Look is one look at what is served to children of a version: each file and directory is looked at once, when a name first needs it. It is
// not safe for concurrent use, and holds the sources that it has come across.
type Look struct{ s *search }

// Look makes one.
func (im *Importer) Look(v Version) Look { return Look{im.search(v)} }

// Mark tells what is served under a name from anything else that was, or will be; false where nothing is.
func (l Look) Mark(name string) (mark [16]byte, ok bool) {
	sp := l.s.find(name)
	u, err := l.s.unit(sp)
	if err != nil {
		return mark, false
	}
	return l.s.markOf(sp, u), true
}

// module builds what is served for a name.
func (s *search) module(ctx context.Context, name string) (*Module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.ctx = ctx
	sp := s.find(name)
	u, err := s.unit(sp)
	if err != nil {
		return nil, err
	}
	s.tellKept(name)
	m := &Module{
		Name: name, Kind: sp.kind, IsPkg: sp.isPkg(), Path: s.path(sp), Size: u.size,
		Compressed: u.compressed(), Imports: u.src.imports, unit: u, loc: sp.file,
	}
	for _, rel := range s.relatedOf(sp, u) {
		if !s.unpacked(rel) {
			m.Related = append(m.Related, rel)
		}
	}
	if m.IsPkg {
		m.Present, m.Packages, m.Namespaces = s.children(sp)
	}
	return m, nil
}

// path is what the child shows in tracebacks.
func (s *search) path(sp *spec) string {
	switch sp.kind {
	case KindMain:
		return s.main.Path
	case KindNamespace:
		return sp.dirs[0].String()
	}
	return sp.file.String()
}

// sent is a path as a child is told it.
func sent(path string) string { return strings.ToValidUTF8(path, "\ufffd") }

// record gives the encoded LOAD_MODULE of a module; it is kept for the next child.
func (s *search) record(ctx context.Context, name string) ([]byte, error) {
	m, err := s.module(ctx, name)
	if err != nil {
		return nil, err
	}
	present := m.Present
	if s.mark && m.IsPkg {
		present = marked(m)
	}
	key := strings.Join([]string{name, m.Path, string(m.Kind), strings.Join(present, ","), strings.Join(m.Related, ",")}, "\x00")
	rec, made, err := m.unit.record(key, func() ([]byte, error) {
		lm := pyproto.LoadModule{
			Name: name, IsPkg: m.IsPkg, Pkg: present, Path: sent(m.Path),
			Source: m.Compressed, Related: m.Related,
		}
		return lm.AppendPickle(nil)
	})
	if err != nil {
		return nil, &NotFoundError{Name: name, Reason: err.Error()}
	}
	if made {
		s.im.cache.charge(m.loc, m.unit, int64(len(rec)+len(key)))
	}
	return rec, nil
}

// marked has the names of packages end in a dot. A namespace package is there twice, also with two dots: it can be imported, and
// is not walked.
func marked(m *Module) []string {
	out := make([]string, 0, len(m.Present)+len(m.Namespaces))
	for _, child := range m.Present {
		if _, ok := slices.BinarySearch(m.Packages, child); ok {
			child += "."
		} else if _, ok := slices.BinarySearch(m.Namespaces, child); ok {
			out = append(out, child+".")
			child += ".."
		}
		out = append(out, child)
	}
	return out
}

// negative encodes the answer that there is no such module. A name that is not UTF-8 can only have come from a 2.x child,
// which gets it back as the bytes that it waits for. The reason takes the place of the path, where stock peers have None.
func negative(name, reason string) ([]byte, error) {
	t := pyproto.Tuple{name, nil, nil, nil, pyproto.Tuple{}}
	if clean := strings.ToValidUTF8(name, ""); clean != name {
		t[0] = []byte(name)
	}
	if reason != "" {
		t[2] = reason
	}
	return pyproto.Marshal(t)
}
