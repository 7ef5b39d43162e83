package importer

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// finder keeps what was read of the path: directories, archives, .pth files.
type finder struct {
	// Constant after newFinder; absolute and clean.
	path  []string
	sites []string

	// mu guards the maps only; it is never held across I/O.
	mu       sync.Mutex
	dirs     map[string]*listing
	archives map[string]*archive
	pth      map[string]*siteDir
	choices  map[Platform]*choice
	passed   map[string]string // files of wheelhouses that are passed over, and why
}

// maxListings bounds finder.dirs; when it is reached the cache starts anew.
const maxListings = 20000

func newFinder(paths []string, venv string) (*finder, error) {
	f := &finder{dirs: map[string]*listing{}, archives: map[string]*archive{}, pth: map[string]*siteDir{},
		choices: map[Platform]*choice{}, passed: map[string]string{}}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("importer: path entry %s: %w", p, err)
		}
		if !slices.Contains(f.path, abs) {
			f.path = append(f.path, abs)
		}
	}
	if venv != "" {
		abs, err := filepath.Abs(venv)
		if err != nil {
			return nil, fmt.Errorf("importer: virtual environment %s: %w", venv, err)
		}
		if f.sites, err = sitePackages(abs); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// listDir lists a directory on disk, from the cache while its key shows no change.
func (f *finder) listDir(dir string) (*listing, error) {
	key, err := statFile(dir)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	l := f.dirs[dir]
	f.mu.Unlock()
	if l != nil && l.settled && l.key == key {
		return l, nil
	}
	if l, err = readDir(dir); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if len(f.dirs) >= maxListings {
		clear(f.dirs)
	}
	f.dirs[dir] = l
	f.mu.Unlock()
	return l, nil
}

func (f *finder) archive(file string) (*archive, error) {
	key, err := statFile(file)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	a := f.archives[file]
	f.mu.Unlock()
	if a != nil && a.settled && a.key == key {
		return a, nil
	}
	if a, err = openArchive(file); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.archives[file] = a
	f.mu.Unlock()
	return a, nil
}

// location is a directory on disk or, with arc, in an archive ("" is its root).
type location struct {
	arc *archive
	dir string
}

func (l location) join(name string) location {
	if l.arc == nil {
		return location{dir: l.dir + string(filepath.Separator) + name}
	}
	return location{arc: l.arc, dir: path.Join(l.dir, name)}
}

// String is the path as the user would write it.
func (l location) String() string {
	if l.arc == nil {
		return l.dir
	}
	return filepath.Join(l.arc.path, filepath.FromSlash(l.dir))
}

// spec is what was found for one name.
type spec struct {
	name string
	kind Kind
	file location // the source; its dir is the file's path. None for a namespace package.
	key  fileKey
	dirs []location // where submodules are looked for; nil for a plain module
	why  string     // why there is nothing; the rest is empty then
	// absent: because nothing of that name exists.
	absent bool
	ext    []string // names of the shared objects in file's directory, of an extension module; file is the first of them

	// Filled in by search when first asked for.
	unit, packed    *unit // packed: of the source itself, see search.load
	resolved        bool
	related, missed []string
}

func (s *spec) isPkg() bool { return s.dirs != nil }

// search is one look at the path for a child's Python. Within one search every directory and file is looked at once, so it
// sees one state of the disk; it is made for one operation, and not safe for concurrent use.
type search struct {
	im        *Importer
	v         Version
	ctx       context.Context // of the operation: waiting for what another search reads
	main      *Main
	mark      bool   // records show which of a package's children are packages
	withPaths string // see ResponderOptions
	stock     bool   // the child is Mitogen's own: it can not load extension modules, nor unpack
	roots     []location
	platform  Platform
	chosen    *choice // of wheels; nil where there is no wheelhouse
	specs     map[string]*spec
	dirs      map[location]*listing // nil where there is none
	by        map[string]string     // which module had a closure take in another one
	unpack    map[string]bool       // see unpacks

	places map[*Policy]*places // see denied
}

// search is for children of version v; what else is known of them, the importer knows.
func (im *Importer) search(v Version) *search {
	p := im.platform
	if v.Known() && v != p.Version {
		p = Platform{Version: v}
	}
	return im.searchFor(v, p)
}

func (im *Importer) searchFor(v Version, p Platform) *search {
	s := &search{im: im, v: v, platform: p, ctx: context.Background(), main: im.opt.Main, specs: map[string]*spec{}, dirs: map[location]*listing{}}
	f := im.finder
	for _, p := range f.path {
		s.addRoot(p)
	}
	s.addWheels(p)
	for _, dir := range f.sites {
		l := s.list(location{dir: dir})
		if l == nil {
			continue
		}
		f.mu.Lock()
		old := f.pth[dir]
		f.mu.Unlock()
		paths, site := sitePaths(dir, l, old)
		if site != old {
			f.mu.Lock()
			f.pth[dir] = site
			f.mu.Unlock()
		}
		for _, p := range paths {
			s.addRoot(p)
		}
	}
	return s
}

// addRoot adds a path entry: a directory, an archive, or a directory in an archive. Others are left out, as Python does.
func (s *search) addRoot(p string) {
	loc := location{dir: p}
	inner := ""
	for file := p; ; file = filepath.Dir(file) {
		key, err := statFile(file)
		if err == nil && key.mode.IsRegular() {
			arc, err := s.im.finder.archive(file)
			if err != nil {
				return
			}
			loc = location{arc: arc, dir: inner}
			break
		}
		if err == nil && inner == "" {
			break
		}
		if err == nil || file == filepath.Dir(file) {
			return
		}
		inner = path.Join(filepath.Base(file), inner)
	}
	if !slices.Contains(s.roots, loc) {
		s.roots = append(s.roots, loc)
	}
}

// list gives a directory's entries, nil when it can not be read.
func (s *search) list(loc location) *listing {
	if loc.arc != nil {
		return loc.arc.dirs[loc.dir]
	}
	l, ok := s.dirs[loc]
	if !ok {
		l, _ = s.im.finder.listDir(loc.dir)
		s.dirs[loc] = l
	}
	return l
}

// typeOf gives the type of an entry of the listing, links followed.
func (s *search) typeOf(loc location, l *listing, name string) (fs.FileMode, bool) {
	mode, ok := l.types[name]
	if ok && mode&fs.ModeSymlink != 0 {
		key, err := statFile(loc.join(name).dir)
		if err != nil {
			return fs.ModeSymlink, true
		}
		mode = key.mode
	}
	return mode, ok
}

// find looks a module up as the interpreter's path finder would, and remembers the outcome.
func (s *search) find(name string) *spec {
	if sp, ok := s.specs[name]; ok {
		return sp
	}
	sp := s.findNew(name)
	if sp.why == "" {
		// Not before: that there is nothing is the better reason.
		sp.name = name
		if why := s.refuses(&s.im.opt.Policy, sp); why != "" {
			sp = &spec{why: why}
		}
	}
	sp.name = name
	s.specs[name] = sp
	return sp
}

func (s *search) findNew(name string) *spec {
	if sp := s.special(name); sp != nil {
		return sp
	}
	parent, leaf := parentName(name)
	if parent == "" {
		// A child of a release that the table does not know refuses by itself what is in its own library.
		if Stdlib(name, s.v) && !s.v.later() {
			return &spec{why: s.stdlibReason(name)}
		}
		sp := s.findIn(s.roots, leaf, "")
		if why := s.wheelReason(leaf); sp.absent && why != "" {
			return &spec{why: why}
		}
		return sp
	}
	up := s.find(parent)
	switch {
	case up.why != "":
		return &spec{why: fmt.Sprintf("its package %s: %s", parent, up.why), absent: up.absent}
	case !up.isPkg():
		return &spec{why: parent + " is no package", absent: true}
	}
	sp := s.findIn(up.dirs, leaf, parent)
	if sp.absent || sp.kind == KindNamespace {
		if more := s.portions(up); len(more) > len(up.dirs) {
			up.dirs = more
			sp = s.findIn(more, leaf, parent)
		}
	}
	return sp
}

func (s *search) stdlibReason(name string) string {
	if s.v.Known() {
		return fmt.Sprintf("part of the standard library of Python %s, which is never served", s.v)
	}
	return "part of the standard library, which is never served"
}

// findIn looks for one component in a list of directories, which are those of the package pkg, or the path's if that is empty. A package or
// a module ends the walk; directories without __init__.py make a namespace package when nothing else is found. What can not be served is
// passed over, and is the reason when nothing better comes.
//
// In a package all directories count, as for Python itself: data are looked up by such names. Elsewhere only those with modules do,
// or any directory that happens to lie on the path would hide what the child has of that name.
func (s *search) findIn(dirs []location, leaf, pkg string) *spec {
	var reason string
	var portions []location
	for _, loc := range dirs {
		l := s.list(loc)
		if l == nil {
			continue
		}
		sp, portion, fault := s.findAt(loc, l, leaf, pkg != "")
		if sp != nil {
			return sp
		}
		if portion {
			portions = append(portions, loc.join(leaf))
		}
		if reason == "" {
			reason = fault
		}
	}
	switch {
	case portions != nil && s.v.Major == 2 && reason == "":
		reason = fmt.Sprintf("%s has no __init__.py, and Python 2 has no namespace packages", portions[0])
	case portions != nil && s.v.Major != 2:
		return &spec{kind: KindNamespace, dirs: portions}
	case reason == "":
		if reason = fmt.Sprintf("package %s has no such module", pkg); pkg == "" {
			reason = fmt.Sprintf("no such module in the %d entries of the path", len(s.roots))
		}
		return &spec{why: reason, absent: true}
	}
	return &spec{why: reason}
}

// findAt looks for a component in one directory: what it is, or that it is a namespace portion, or why it can not be served.
func (s *search) findAt(loc location, l *listing, leaf string, inPackage bool) (sp *spec, portion bool, fault string) {
	if mode, ok := s.typeOf(loc, l, leaf); ok && mode.IsDir() {
		sub := loc.join(leaf)
		if subl := s.list(sub); subl != nil {
			if sp, fault = s.source(sub, subl, "__init__"); sp != nil {
				sp.dirs = []location{sub}
				if sp.kind != KindExtension {
					sp.kind = KindPackage
				}
				return sp, false, ""
			}
			portion = fault == "" && (inPackage || s.hasModules(sub, subl))
		} else {
			fault = fmt.Sprintf("%s can not be listed", sub)
		}
	} else if ok && mode&fs.ModeSymlink != 0 {
		fault = s.linkFault(loc.join(leaf))
	}
	sp, other := s.source(loc, l, leaf)
	if sp != nil {
		if sp.kind != KindExtension {
			sp.kind = KindModule
		}
		return sp, false, ""
	}
	if other != "" {
		fault, portion = other, false
	}
	return nil, portion, fault
}

// source finds NAME.py, or says why there is only something else.
func (s *search) source(loc location, l *listing, leaf string) (sp *spec, fault string) {
	file := loc.join(leaf + ".py")
	if mode, ok := s.typeOf(loc, l, leaf+".py"); ok {
		switch {
		case mode&fs.ModeSymlink != 0:
			fault = s.linkFault(file)
		case !mode.IsRegular():
			fault = fmt.Sprintf("%s %v", file, notRegular(mode))
		default:
			key, err := s.key(file)
			if err == nil {
				return &spec{file: file, key: key}, ""
			}
			fault = fmt.Sprintf("%s: %s", file, why(err))
		}
	}
	if bin, ok := l.compiled[leaf]; ok {
		if isBytecode(bin) {
			return nil, fmt.Sprintf("%s is bytecode without its source", loc.join(bin))
		}
		if s.stock {
			return nil, fmt.Sprintf("%s is an extension module, which a child of Mitogen's can not load", loc.join(bin))
		}
		return s.extension(loc, l, leaf, bin)
	}
	return nil, fault
}

// extension finds the shared objects that are a module.
func (s *search) extension(loc location, l *listing, leaf, bin string) (*spec, string) {
	names, misfit := l.extensions(leaf, s.v)
	sp := &spec{kind: KindExtension}
	for _, name := range names {
		file := loc.join(name)
		switch b, err := s.object(file); {
		case err != nil:
			bin, misfit = name, "that can not be read: "+why(err)
		case b.why != "":
			bin, misfit = name, "that "+b.why
		default:
			if sp.ext == nil {
				sp.file, sp.key = file, b.key
			}
			sp.ext = append(sp.ext, name)
		}
	}
	if sp.ext == nil {
		return nil, fmt.Sprintf("%s is an extension module %s", loc.join(bin), cmp.Or(misfit, "of another system"))
	}
	return sp, ""
}

func (s *search) key(file location) (fileKey, error) {
	if file.arc != nil {
		return file.arc.fileKey(file.dir), nil
	}
	return statFile(file.dir)
}

func (s *search) linkFault(file location) string {
	_, err := statFile(file.dir)
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%s: %s", file, why(err))
}

// Bounds of hasModules.
const (
	probeDepth = 3
	probeDirs  = 16
)

// hasModules tells whether a directory without __init__.py has modules, in it or a few levels below: what makes it a namespace
// portion, rather than a directory of data. It gives up, and says yes, after probeDirs directories.
func (s *search) hasModules(loc location, l *listing) bool {
	budget := probeDirs
	return s.probe(loc, l, probeDepth, &budget)
}

func (s *search) probe(loc location, l *listing, depth int, budget *int) bool {
	if len(l.compiled) > 0 {
		return true
	}
	for name, mode := range l.types {
		if strings.HasSuffix(name, ".py") && !mode.IsDir() {
			return true
		}
	}
	if depth == 0 {
		return false
	}
	for name := range l.types {
		if mode, _ := s.typeOf(loc, l, name); !mode.IsDir() || name == "__pycache__" || nameFault(name) != "" {
			continue
		}
		if *budget--; *budget < 0 {
			return true
		}
		sub := loc.join(name)
		if subl := s.list(sub); subl != nil && s.probe(sub, subl, depth-1, budget) {
			return true
		}
	}
	return false
}

// portions gives the directories of a package that extends its own __path__ over the whole path, as pkgutil.extend_path and
// pkg_resources.declare_namespace do; for other packages what it has already.
func (s *search) portions(sp *spec) []location {
	if sp.kind != KindPackage || len(sp.dirs) != 1 || !s.extendsPath(sp) {
		return sp.dirs
	}
	parent, leaf := parentName(sp.name)
	in := s.roots
	if parent != "" {
		in = s.find(parent).dirs
	}
	dirs := slices.Clone(sp.dirs)
	for _, loc := range in {
		l := s.list(loc)
		if l == nil {
			continue
		}
		if mode, ok := s.typeOf(loc, l, leaf); ok && mode.IsDir() && !slices.Contains(dirs, loc.join(leaf)) {
			dirs = append(dirs, loc.join(leaf))
		}
	}
	return dirs
}

// children lists the direct modules of a package, sorted, as pkgutil.iter_modules does, and its namespace packages as well
// where the child's Python has them.
func (s *search) children(sp *spec) (present, packages, namespaces []string) {
	names := map[string]Kind{}
	note := func(leaf string) {
		if names[leaf] != KindPackage {
			names[leaf] = KindModule
		}
	}
	for name, v := range s.im.opt.Virtual {
		if parent, leaf := parentName(name); parent == sp.name {
			names[leaf] = KindModule
			if v.isPkg {
				names[leaf] = KindPackage
			}
		}
	}
	for _, loc := range s.portions(sp) {
		l := s.list(loc)
		if l == nil {
			continue
		}
		for name, mode := range l.types {
			if leaf, ok := strings.CutSuffix(name, ".py"); ok {
				note(leaf)
			} else if mode.IsDir() || mode&fs.ModeSymlink != 0 {
				if name == "__pycache__" || nameFault(name) != "" || strings.Contains(name, ".") {
					continue
				}
				if kind := s.packageDir(loc, l, name); kind == KindPackage || kind == KindNamespace && names[name] == "" {
					names[name] = kind
				}
			}
		}
		for leaf := range l.compiled {
			note(leaf)
		}
	}
	delete(names, "__init__")
	present = make([]string, 0, len(names))
	for name := range names {
		if nameFault(name) == "" && !strings.Contains(name, ".") {
			present = append(present, name)
		}
	}
	slices.Sort(present)
	for _, name := range present {
		switch names[name] {
		case KindPackage:
			packages = append(packages, name)
		case KindNamespace:
			namespaces = append(namespaces, name)
		}
	}
	return present, packages, namespaces
}

// packageDir tells what sort of package a directory in a package is, if any.
func (s *search) packageDir(loc location, l *listing, name string) (none Kind) {
	if mode, _ := s.typeOf(loc, l, name); !mode.IsDir() {
		return none
	}
	sub := loc.join(name)
	subl := s.list(sub)
	if subl == nil {
		return none
	}
	if _, ok := subl.types["__init__.py"]; ok || subl.compiled["__init__"] != "" {
		return KindPackage
	}
	if s.v.Major != 2 {
		return KindNamespace
	}
	return none
}
