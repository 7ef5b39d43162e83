package importer

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// search is one look at the path for a child's Python. Within one search every directory and file is looked at once, so it
// sees one state of the disk; it is made for one operation, and not safe for concurrent use.
type search struct {
	im        *Importer
	v         Version
	ctx       context.Context // of the operation: waiting for what another search reads
	main      *Main
	mark      bool   // records show which of a package's children are packages
	withPaths string // see ResponderOptions
	stock     bool   // the child is Mitogen's own: it cannot load extension modules, nor unpack
	kept      func(Uncompiled) []byte
	ahead     func(Uncompiled)
	roots     []location
	platform  Platform
	chosen    *choice // of wheels; nil where there is no wheelhouse
	specs     map[string]*spec
	dirs      map[location]*listing // nil where there is none
	by        map[string]string     // which module had a closure take in another one
	unpack    map[string]bool       // see unpacks

	places map[*Policy]*places // see denied
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
	// Of an extension module: names of the shared objects in file's directory, which is the first of them; and those for other Pythons,
	// which children behind this one may be.
	ext, others []string

	// Filled in by search when first asked for.
	unit, packed    *unit // packed: of the source itself, see search.load
	followed        bool
	related, missed []string
}

func (s *spec) isPkg() bool { return s.dirs != nil }

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
	s.roots = append(s.roots, f.trees...)
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

// list gives a directory's entries, nil when it cannot be read.
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
	if sp.why != "" || sp.kind == KindNamespace {
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

// findIn looks for one component in the directories of the package pkg; if pkg is empty, in those of the path. A package or a module ends
// the walk. Directories without __init__.py make a namespace package when nothing else is found. What cannot be served is passed over,
// and is the reason when nothing better comes.
//
// In a package all directories count, as for Python itself: data are looked up by such names. On the path only directories with modules
// count; any other one would hide what the child has of that name.
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
			if reason = "no such module on the path"; len(s.roots) != 1 {
				reason = fmt.Sprintf("no such module in the %d entries of the path", len(s.roots))
			}
		}
		return &spec{why: reason, absent: true}
	}
	return &spec{why: reason}
}

// findAt looks for a component in one directory: what it is, or that it is a namespace portion, or why it cannot be served.
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
			fault = fmt.Sprintf("%s cannot be listed", sub)
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
			return nil, fmt.Sprintf("%s is an extension module, which a child of Mitogen's cannot load", loc.join(bin))
		}
		return s.extension(loc, l, leaf, bin)
	}
	return nil, fault
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
