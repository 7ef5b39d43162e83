package importer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"mitogend/pyproto"
)

// Options say where modules come from and what may be served.
type Options struct {
	// Path has directories and zip, egg or wheel files (or directories in them), looked at in this order. Entries that do not
	// exist are passed over, until they do.
	Path []string
	// Venv is a virtual environment whose site-packages come behind Path; empty for none.
	Venv string
	// Wheels are directories of wheels, of which each child is served what fits it, behind Path: of each project the newest version, or
	// the newest that the constraint files allow.
	Wheels, Constraints []string
	// Requirements are what a child needs besides. For each kind of child they are resolved once, by Resolve, which gives a directory of
	// wheels; its error is shown to the user.
	Requirements Requirements
	Resolve      func(context.Context, Requirements, Platform) (dir string, err error)
	// Policy limits what is served, to every child.
	Policy Policy
	// Main is the script that is served as __main__; nil for none.
	Main *Main
	// Virtual has modules that are on no path, by name. They win over the path and the standard library, and no policy applies.
	Virtual map[string]Virtual
	// Reserved has packages of which nothing is served that is not in Virtual, with the reason that a child is given.
	Reserved map[string]string
	// Libs are directories, absolute, with libraries that a child is sent that lacks what an extension module needs; LibsSystem stands
	// for those of this machine. None: it is to have them itself, unless they lie beside the module.
	Libs []string
	// Unpack names packages and modules whose files a child of ours lays down in memory, to load them from there; see unpack.go.
	Unpack []string
	// MaxSource is the size of the largest source that is served, in bytes; 0 means DefaultMaxSource.
	MaxSource int64
	// MaxResource is the same for data files; 0 means DefaultMaxResource.
	MaxResource int64
	// MaxCache bounds the memory for sources and records, in bytes; 0 means DefaultMaxCache.
	MaxCache int64
	// Logger may be nil.
	Logger *zap.Logger
}

// Defaults of Options.
const (
	DefaultMaxSource   = 16 << 20
	DefaultMaxResource = 64 << 20
	DefaultMaxCache    = 128 << 20
)

// Requirements name projects, as pip takes them.
type Requirements struct {
	Lines []string // name>=1,<2
	Files []string // with such lines
	Links []string // directories, or addresses, where wheels are looked for as well (--find-links)
	// Python says which versions of Python may be served, as >=3.11; empty for all.
	Python string
}

// Empty tells whether nothing is needed.
func (r Requirements) Empty() bool { return len(r.Lines)+len(r.Files)+len(r.Python) == 0 }

// Main is a script.
type Main struct {
	Path string
	// Source is read from Path when nil.
	Source []byte
	// Run serves the script whole, for a child that runs it. Otherwise it is served for its functions, cut at its guard
	// if __name__ == '__main__', and refused when it has none.
	Run bool
}

// NotFoundError says why a module is not served.
type NotFoundError struct {
	Name   string
	Reason string
	// Absent: there is nothing of that name. Otherwise there is something, or may be, and it can not or must not be served.
	Absent bool
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("importer: %s is not served: %s", shorten(e.Name), e.Reason)
}

// shorten makes a name fit for a message.
func shorten(name string) string {
	if len(name) > 100 {
		name = name[:100] + "..."
	}
	if nameFault(name) != "" {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// Importer finds modules and builds their records. It is safe for concurrent use, and shared by all streams.
type Importer struct {
	// Constant after New.
	opt    Options
	finder *finder
	cache  *cache
	// Of shared objects.
	objects *objects
	empty   *unit // of namespace packages
	log     *zap.Logger

	// Which children it is for, see For; and the others of the same.
	platform Platform
	views    *views
}

// views are importers that share everything but what their children are.
type views struct {
	mu sync.Mutex
	by map[Platform]*Importer
	// resolved has the directories that Options.Resolve has given.
	resolved map[Platform]string
}

func newViews() *views {
	return &views{by: map[Platform]*Importer{}, resolved: map[Platform]string{}}
}

// New checks the options. It reads nothing of the path yet, save for what Venv has.
func New(opt Options) (*Importer, error) {
	if err := opt.Policy.check(); err != nil {
		return nil, err
	}
	for _, name := range opt.Unpack {
		if fault := nameFault(name); fault != "" {
			return nil, fmt.Errorf("importer: package to unpack %q: %s", name, fault)
		}
	}
	f, err := newFinder(opt.Path, opt.Venv)
	if err != nil {
		return nil, err
	}
	if opt.Wheels, err = absolute(opt.Wheels); err != nil {
		return nil, err
	}
	if opt.Constraints, err = absolute(opt.Constraints); err != nil {
		return nil, err
	}
	if _, err := readConstraints(opt.Constraints); err != nil {
		return nil, err
	}
	for p, def := range map[*int64]int64{
		&opt.MaxSource: DefaultMaxSource, &opt.MaxResource: DefaultMaxResource, &opt.MaxCache: DefaultMaxCache,
	} {
		if *p <= 0 {
			*p = def
		}
	}
	im := &Importer{opt: opt, finder: f, cache: newCache(opt.MaxCache), objects: &objects{known: map[location]*object{}}, empty: newUnit(nil), log: opt.Logger,
		views: newViews()}
	if im.log == nil {
		im.log = zap.NewNop()
	}
	if err := checkVirtual(opt.Virtual); err != nil {
		return nil, err
	}
	return im, nil
}

func absolute(files []string) ([]string, error) {
	var out []string
	for _, file := range files {
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("importer: %s: %w", file, err)
		}
		out = append(out, abs)
	}
	return out, nil
}

// Path lists the path entries in the order in which they are looked at, those of the virtual environment last.
func (im *Importer) Path() []string {
	var out []string
	for _, root := range im.search(Version{}).roots {
		out = append(out, root.String())
	}
	return out
}

// Directory lists the modules, and with a dot behind them the packages, that one entry of the path has for a child of version v:
// those that Python would find there, before it looks further.
func (im *Importer) Directory(dir string, v Version) []string {
	s := im.search(v)
	var names []string
	for _, root := range s.roots {
		if sameFile(root.String(), dir) {
			names = append(names, s.directory(root)...)
		}
	}
	slices.Sort(names)
	return names
}

// TopLevel lists the same of the whole path, but for what policies refuse.
func (im *Importer) TopLevel(v Version, also ...Policy) []string {
	s := im.search(v)
	seen := map[string]bool{}
	var names []string
	for _, root := range s.roots {
		for _, name := range s.directory(root) {
			leaf := strings.TrimSuffix(name, ".")
			if seen[leaf] {
				continue
			}
			seen[leaf] = true
			sp := s.find(leaf)
			refused := sp.why != ""
			for i := range also {
				refused = refused || s.refuses(&also[i], sp) != ""
			}
			if !refused {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (s *search) directory(root location) []string {
	l := s.list(root)
	if l == nil {
		return nil
	}
	var names []string
	for name, mode := range l.types {
		leaf, isFile := strings.CutSuffix(name, ".py")
		if nameFault(leaf) != "" || strings.ContainsAny(leaf, ". ") || leaf == "__init__" || leaf == "__main__" || Stdlib(leaf, s.v) {
			continue
		}
		switch {
		case isFile && !mode.IsDir():
			names = append(names, leaf)
		case !isFile && !mode.IsRegular() && s.hasInit(root.join(name)):
			names = append(names, leaf+".")
		}
	}
	return names
}

// hasInit tells whether a directory is a package by its __init__.py.
func (s *search) hasInit(loc location) bool {
	if loc.arc != nil {
		l := s.list(loc)
		return l != nil && l.types["__init__.py"].IsRegular()
	}
	key, err := statFile(loc.join("__init__.py").dir)
	return err == nil && key.mode.IsRegular()
}

// Module is what is served for one name. Nothing in it may be changed.
type Module struct {
	Name  string
	Kind  Kind
	IsPkg bool
	// Present are the names of a package's direct children, as pkgutil.iter_modules lists them.
	Present []string
	// Packages are those of them that are packages, and Namespaces those that are namespace packages.
	Packages, Namespaces []string
	// Path is the file, in an archive the archive's path with the member's; a namespace package's first directory.
	Path string
	// Size is the length of the source in bytes.
	Size int
	// Compressed is the source as zlib.
	Compressed []byte
	// Imports is all that the source imports, anywhere; Related what importing it is to be expected to import from here.
	Imports []Import
	Related []string

	unit *unit
	loc  location
}

// Mark tells a module from what has been, or will be, served under its name: by its source and the file's path.
func (m *Module) Mark() [16]byte { return m.unit.mark(m.Path) }

func (u *unit) mark(path string) (mark [16]byte) {
	sum := sha256.Sum256(append(u.hash[:len(u.hash):len(u.hash)], path...))
	copy(mark[:], sum[:])
	return mark
}

// Look is one look at what is served to children of a version: each file and directory is looked at once, when a name first needs it. It is
// not safe for concurrent use, and holds the sources that it has come across.
type Look struct{ s *search }

// Look makes one.
func (im *Importer) Look(v Version) Look { return Look{im.search(v)} }

// Mark gives Module.Mark of what is served under a name; false where nothing is.
func (l Look) Mark(name string) (mark [16]byte, ok bool) {
	sp := l.s.find(name)
	u, err := l.s.unit(sp)
	if err != nil {
		return mark, false
	}
	return u.mark(l.s.path(sp)), true
}

// Source gives the module's source.
func (m *Module) Source() ([]byte, error) { return inflate(m.Compressed) }

// Module finds and builds a module for a child of version v. The error is a *NotFoundError, or ctx's.
func (im *Importer) Module(ctx context.Context, name string, v Version) (*Module, error) {
	return im.search(v).module(ctx, name)
}

// Related lists what importing name directly imports at once and can be served from here. It is empty when name can not be served.
func (im *Importer) Related(name string, v Version) []string {
	s := im.search(v)
	sp := s.find(name)
	u, err := s.unit(sp)
	if err != nil {
		return nil
	}
	return s.relatedOf(sp, u)
}

// Closure lists the modules that importing the names loads from here, the names and the packages they lie in included, in the
// order in which they are needed. What can not be served is left out.
func (im *Importer) Closure(v Version, names ...string) []string {
	return im.search(v).closure(names...)
}

// ScriptClosure is Closure for the imports of a script that has no name.
func (im *Importer) ScriptClosure(v Version, script []byte) []string {
	s := im.search(v)
	related, _ := s.related(&spec{name: "__main__", kind: KindMain}, scanSource(script))
	return s.closure(related...)
}

// units gives the sources of modules of a closure.
func (s *search) units(names []string) []*unit {
	var out []*unit
	for _, name := range names {
		if u := s.find(name).unit; u != nil {
			out = append(out, u)
		}
	}
	return out
}

// within tells of a virtual module that lies in a package which the child has from the beginning: none of ours to send.
func (im *Importer) within(name, parent string) bool {
	_, module := im.opt.Virtual[name]
	_, pkg := im.opt.Virtual[parent]
	return module && !pkg
}

// refuses applies a policy, which virtual modules are exempt from: they are the child runtime's own.
func (im *Importer) refuses(p *Policy, name string) string {
	if _, ok := im.opt.Virtual[name]; ok {
		return ""
	}
	return p.Refuses(name)
}

// special answers for names that the path is not asked for; nil means none of these.
func (s *search) special(name string) *spec {
	im := s.im
	if fault := nameFault(name); fault != "" {
		return &spec{why: fault}
	}
	if name == "__main__" {
		if s.main == nil {
			return &spec{why: "there is no script"}
		}
		return &spec{kind: KindMain}
	}
	v, ok := im.opt.Virtual[name]
	if !ok {
		for prefix, why := range im.opt.Reserved {
			if within(name, prefix) {
				return &spec{why: why}
			}
		}
		return nil
	}
	sp := &spec{kind: KindVirtual, file: location{dir: v.path}}
	if v.isPkg {
		sp.dirs = []location{}
	}
	return sp
}

// unit gives the source of what was found. An error is the reason why it can not be served after all, and is kept in sp.
func (s *search) unit(sp *spec) (*unit, error) {
	if sp.why == "" && sp.unit == nil {
		u, err := s.load(sp)
		if err != nil {
			if s.ctx.Err() != nil {
				return nil, s.ctx.Err()
			}
			sp.why = err.Error()
		}
		sp.unit = u
	}
	if sp.why != "" {
		return nil, &NotFoundError{sp.name, sp.why, sp.absent}
	}
	return sp.unit, nil
}

func (s *search) load(sp *spec) (*unit, error) {
	u, err := s.packedUnit(sp)
	if err != nil || s.unpackTop(sp.name) != sp.name {
		return u, err
	}
	return s.unpackStub(sp, u)
}

// packedUnit is what a package's own source is, whether or not something else is served for it.
func (s *search) packedUnit(sp *spec) (*unit, error) {
	if sp.packed != nil {
		return sp.packed, nil
	}
	u, err := s.loadPacked(sp)
	sp.packed = u
	return u, err
}

func (s *search) loadPacked(sp *spec) (*unit, error) {
	switch sp.kind {
	case KindNamespace:
		return s.im.empty, nil
	case KindVirtual:
		return s.im.opt.Virtual[sp.name].unit(), nil
	case KindMain:
		return s.loadMain()
	case KindExtension:
		stub, err := s.stub(sp)
		if err != nil {
			return nil, err
		}
		return newUnit(stub), nil
	}
	limit := s.im.opt.MaxSource
	for try := 1; ; try++ {
		u, err := s.im.cache.get(s.ctx, sp.file, sp.key, func() ([]byte, fileKey, error) {
			if arc := sp.file.arc; arc != nil {
				data, err := arc.read(sp.file.dir, limit)
				return data, sp.key, err
			}
			return readFile(sp.file.dir, limit)
		})
		if err == nil {
			return u, nil
		}
		if !errors.Is(err, errStale) || try == maxTries || !s.reopen(sp) {
			return nil, fmt.Errorf("%s: %s", sp.file, why(err))
		}
	}
}

// reopen turns to what an archive has become since the module was found in it.
func (s *search) reopen(sp *spec) bool {
	arc, err := s.im.finder.archive(sp.file.arc.path)
	if err != nil || arc.files[sp.file.dir] == nil {
		return false
	}
	sp.file.arc = arc
	sp.key = arc.fileKey(sp.file.dir)
	return true
}

// loadMain reads the script, and cuts it unless it is to be run.
func (s *search) loadMain() (*unit, error) {
	src := s.main.Source
	if src == nil {
		var err error
		if src, _, err = readFile(s.main.Path, s.im.opt.MaxSource); err != nil {
			return nil, fmt.Errorf("%s: %s", s.main.Path, why(err))
		}
	}
	if !s.main.Run {
		var ok bool
		if src, ok = CutMain(src); !ok {
			return nil, fmt.Errorf("%s has no guard if __name__ == '__main__', so importing it would run it", s.main.Path)
		}
	}
	return newUnit(src), nil
}

// CutMain gives the part of a script that is before its guard if __name__ == '__main__', and that is safe to import. A script
// that calls mitogen.main() guards itself and is not cut. It is not ok when the script has no guard.
func CutMain(script []byte) (cut []byte, ok bool) {
	src := scanSource(script)
	switch {
	case src.mainGuard >= 0:
		return script[:src.mainGuard], true
	case src.mitogenMain:
		return script, true
	}
	return nil, false
}

// extendsPath tells whether a package spreads itself over the path.
func (s *search) extendsPath(sp *spec) bool {
	u, err := s.packedUnit(sp)
	return err == nil && u.src.extends
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
