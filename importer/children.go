package importer

import (
	"io/fs"
	"slices"
	"strings"
)

// portions gives the directories of a package. A package may extend its own __path__ over the whole path, by pkgutil.extend_path or
// pkg_resources.declare_namespace.
func (s *search) portions(sp *spec) []location {
	if sp.kind != KindPackage || len(sp.dirs) != 1 || !s.extendsPath(sp) {
		return sp.dirs
	}
	parent, leaf := parentName(sp.name)
	in := s.roots
	if parent != "" {
		in = s.portions(s.find(parent)) // whether it was extended before or not
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

// extendsPath tells whether a package spreads itself over the path.
func (s *search) extendsPath(sp *spec) bool {
	u, err := s.packedUnit(sp)
	return err == nil && u.src.extends
}

// children lists the direct modules of a package, sorted, as pkgutil.iter_modules does; and its namespace packages, if the child's
// Python has them.
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
		if l == nil {
			return false
		}
		mode, ok := l.types["__init__.py"]
		return ok && mode.IsRegular()
	}
	key, err := statFile(loc.join("__init__.py").dir)
	return err == nil && key.mode.IsRegular()
}
