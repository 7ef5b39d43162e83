package importer

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// What a policy, which speaks of modules, means for files.
//
// Denied is a file whose name makes it, or a directory that it lies in, the denied module, by any entry of the path, and whatever
// link or other name it is reached by. With a list of what is allowed, only what lies in an allowed package is given, and the
// source of an allowed module itself.

// refuses says why a policy keeps back what was found, or "": the name is refused, or the file is a denied module's by another
// name.
func (s *search) refuses(p *Policy, sp *spec) string {
	if why := s.im.refuses(p, sp.name); why != "" {
		return why
	}
	switch sp.kind {
	case KindModule, KindPackage, KindExtension:
		return s.denied(p, sp.file)
	case KindNamespace:
		why := ""
		for _, dir := range sp.dirs {
			if why = s.denied(p, dir); why == "" {
				return ""
			}
		}
		return why
	}
	return ""
}

// fileID tells whether two paths lead to one file.
type fileID struct{ dev, ino uint64 }

func (k fileKey) id() fileID { return fileID{k.dev, k.ino} }

// places are the files and directories that a policy denies, as they lie on the path; for a search.
type places struct {
	ids  map[fileID]string // the prefix
	dirs map[string]string // why not, by real path; "" for what may be served
}

// denied says why a file or directory must not be served, or "".
func (s *search) denied(p *Policy, loc location) string {
	if len(p.Deny) == 0 {
		return ""
	}
	if loc.arc != nil {
		for _, root := range s.roots {
			if root.arc == nil || root.arc.key.id() != loc.arc.key.id() {
				continue
			}
			if rel, ok := strings.CutPrefix(loc.dir, root.dir); ok && (root.dir == "" || rel == "" || rel[0] == '/') {
				if why := p.denies("", strings.TrimPrefix(rel, "/")); why != "" {
					return why
				}
			}
		}
		if loc.arc.tree != nil {
			return ""
		}
		// Of an archive on the path only the members are denied, unless it is read as a file.
		return s.deniedPath(p, filepath.Dir(loc.arc.path))
	}
	return s.deniedPath(p, loc.dir)
}

// deniedPath looks at what is there in truth, and at all directories that it lies in.
func (s *search) deniedPath(p *Policy, file string) string {
	at := s.placesOf(p)
	if len(at.ids) == 0 {
		return ""
	}
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "" // nothing is read there
	}
	var up []string
	why := ""
	for dir := file; ; dir = filepath.Dir(dir) {
		known, ok := at.dirs[dir]
		if why = known; ok {
			break
		}
		up = append(up, dir)
		if key, err := statFile(dir); err == nil {
			if prefix, ok := at.ids[key.id()]; ok {
				why = deniedBy(prefix)
				break
			}
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for _, dir := range up {
		at.dirs[dir] = why
	}
	return why
}

// placesOf finds what the prefixes name: a directory, and every file of that name whatever its ending.
func (s *search) placesOf(p *Policy) *places {
	if at := s.places[p]; at != nil {
		return at
	}
	at := &places{ids: map[fileID]string{}, dirs: map[string]string{}}
	for _, prefix := range p.Deny {
		parts := strings.Split(prefix, ".")
		leaf := parts[len(parts)-1]
		for _, root := range s.roots {
			dir := root
			for _, part := range parts[:len(parts)-1] {
				dir = dir.join(part)
			}
			if dir.arc != nil && dir.arc.tree != nil {
				continue // its files have no other names
			}
			for _, dir := range []location{dir, dir.join("__pycache__")} {
				l := s.list(dir)
				if l == nil {
					continue
				}
				for name := range l.types {
					if !isLeaf(name, leaf) {
						continue
					}
					file := dir.join(name).dir
					if dir.arc != nil {
						file = dir.arc.path // the whole archive has it
					}
					if key, err := statFile(file); err == nil {
						at.ids[key.id()] = prefix
					}
				}
			}
		}
	}
	if s.places == nil {
		s.places = map[*Policy]*places{}
	}
	s.places[p] = at
	return at
}

// isLeaf tells whether a file of that name is, or goes with, a module: secret.py, secret.cpython-311.pyc, secretmodule.so.
func isLeaf(file, leaf string) bool {
	name, ending, _ := strings.Cut(file, ".")
	return name == leaf || ending == "so" && name == leaf+"module"
}

// denies says why a path in a package's directory is denied, or "". Without a package the path begins at an entry of the path.
func (p *Policy) denies(pkg, file string) string {
	names := []string{pkg}
	for _, part := range strings.Split(file, "/") {
		leaf, ending, _ := strings.Cut(part, ".")
		if leaf == "" || leaf == "__pycache__" || leaf == "__init__" {
			continue
		}
		name := strings.TrimPrefix(names[len(names)-1]+"."+leaf, ".")
		if short, ok := strings.CutSuffix(name, "module"); ok && ending == "so" {
			names = append(names, short)
		}
		names = append(names, name)
	}
	for _, name := range names {
		for _, prefix := range p.Deny {
			if within(name, prefix) {
				return deniedBy(prefix)
			}
		}
	}
	return ""
}

func deniedBy(prefix string) string { return fmt.Sprintf("denied by the policy (deny %s)", prefix) }

// refusesData says why a policy keeps back a file, or with isDir a directory, of a package, or "".
func (p *Policy) refusesData(pkg, file string, isDir bool) string {
	if why := p.denies(pkg, file); why != "" {
		return why
	}
	if len(p.Allow) == 0 {
		return ""
	}
	// A dot in a directory's name is none between packages.
	dir, base := path.Split(file)
	name := pkg
	for _, part := range strings.FieldsFunc(dir, func(r rune) bool { return r == '/' }) {
		name += "." + strings.ReplaceAll(part, ".", "\x00")
	}
	itself := name
	if leaf, ok := strings.CutSuffix(base, ".py"); isDir && base != "" {
		itself += "." + strings.ReplaceAll(base, ".", "\x00")
	} else if ok && leaf != "__init__" && !strings.Contains(leaf, ".") {
		itself += "." + leaf
	}
	for _, prefix := range p.Allow {
		if within(itself, prefix) || isDir && within(prefix, itself) {
			return ""
		}
	}
	return p.notAllowed()
}

// refusesData asks the importer's policy and another one.
func (s *search) refusesData(also []Policy, pkg, file string, isDir bool) string {
	if why := s.im.opt.Policy.refusesData(pkg, file, isDir); why != "" {
		return why
	}
	for i := range also {
		if why := also[i].refusesData(pkg, file, isDir); why != "" {
			return why
		}
	}
	return ""
}

func (s *search) deniedAlso(also []Policy, loc location) string {
	if why := s.denied(&s.im.opt.Policy, loc); why != "" {
		return why
	}
	for i := range also {
		if why := s.denied(&also[i], loc); why != "" {
			return why
		}
	}
	return ""
}

// private are directories that lie beside packages and are data of none: what version control keeps has passwords of remote
// repositories, and all that was ever taken out.
var private = []string{".git", ".hg", ".svn", ".bzr", ".ssh", ".gnupg"}

// dataFault says what is wrong with the path of a file in a package's directory, "" means nothing is.
func dataFault(name string) string {
	if name == "" {
		return ""
	}
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return "the name leads out of the package"
	}
	for _, part := range strings.Split(name, "/") {
		if slices.Contains(private, strings.ToLower(part)) {
			return part + " is not part of a package"
		}
	}
	return ""
}
