package importer

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ResourceInfo is an entry in a package's directory.
type ResourceInfo struct {
	Name string
	Dir  bool
	Size int64 // of a file, in bytes
}

// Resource reads a data file of a package, for GET_RESOURCE, pkgutil.get_data and importlib.resources of a child of version v. name is
// relative to the package's directory, with slashes. Policies may apply in addition to the importer's. The error is a *NotFoundError, or
// ctx's.
func (im *Importer) Resource(ctx context.Context, v Version, pkg, name string, also ...Policy) ([]byte, error) {
	return im.ResourceIn(ctx, v, "", pkg, name, also...)
}

// ResourceIn is Resource for the one of the package's directories with that path, as children are told it; "" is any of them.
func (im *Importer) ResourceIn(ctx context.Context, v Version, where, pkg, name string, also ...Policy) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return im.search(v).resource(where, pkg, name, also)
}

func (s *search) resource(where, pkg, name string, also []Policy) ([]byte, error) {
	full := pkg + "/" + name
	reason := "the package has no such file"
	dirs, _, err := s.resourceDirs(pkg, name, full, false, also)
	if err != nil {
		return nil, err
	}
	for _, loc := range dirs {
		if !loc.isAt(where) {
			continue
		}
		file := loc.inside(name)
		if why := s.deniedAlso(also, file); why != "" {
			reason = why
			continue
		}
		var data []byte
		var err error
		if file.arc != nil {
			data, err = file.arc.read(file.dir, s.im.opt.MaxResource)
		} else {
			data, _, err = readFile(file.dir, s.im.opt.MaxResource)
		}
		if err == nil {
			return data, nil
		}
		if !isMissing(err) {
			reason = fmt.Sprintf("%s: %s", file, why(err))
		}
	}
	return nil, &NotFoundError{Name: full, Reason: reason}
}

// Resources lists a directory of a package as a child of version v has it, sorted by name; dir is relative to the package's own, "" is that
// one. A namespace package shows what its directories have together, of two files with one name the first. What policies refuse is not shown.
func (im *Importer) Resources(v Version, pkg, dir string, also ...Policy) ([]ResourceInfo, error) {
	return im.ResourcesIn(v, "", pkg, dir, also...)
}

// ResourcesIn is Resources for the one of the package's directories with that path, as children are told it; "" is all of them.
func (im *Importer) ResourcesIn(v Version, where, pkg, dir string, also ...Policy) ([]ResourceInfo, error) {
	entries, err := im.search(v).entries(where, pkg, dir, also)
	var out []ResourceInfo
	for _, e := range entries {
		out = append(out, e.info)
	}
	return out, err
}

// entry is one of a directory, with its file's state.
type entry struct {
	info ResourceInfo
	key  fileKey
}

func (s *search) entries(where, pkg, dir string, also []Policy) (out []entry, err error) {
	full := strings.TrimSuffix(pkg+"/"+dir, "/")
	dirs, base, err := s.resourceDirs(pkg, dir, full, true, also)
	if err != nil {
		return nil, err
	}
	found, reason := false, "the package has no such directory"
	seen := map[string]bool{}
	for _, loc := range dirs {
		if !loc.isAt(where) {
			continue
		}
		loc = loc.inside(dir)
		l := s.list(loc)
		if l == nil {
			continue
		}
		if why := s.deniedAlso(also, loc); why != "" {
			reason = why
			continue
		}
		found = true
		for name := range l.types {
			e, ok := s.entry(loc, l, name)
			ok = ok && dataFault(name) == "" && s.refusesData(also, base, path.Join(dir, name), e.info.Dir) == "" &&
				s.deniedAlso(also, loc.join(name)) == ""
			if ok && !seen[name] && name != "__pycache__" {
				seen[name] = true
				out = append(out, e)
			}
		}
	}
	if !found {
		return nil, &NotFoundError{Name: full, Reason: reason}
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Compare(a.info.Name, b.info.Name) })
	return out, nil
}

func (s *search) entry(loc location, l *listing, name string) (e entry, ok bool) {
	mode, _ := s.typeOf(loc, l, name)
	e.info = ResourceInfo{Name: name, Dir: mode.IsDir()}
	if e.info.Dir {
		return e, true
	}
	if !mode.IsRegular() {
		return e, false
	}
	key, err := s.key(loc.join(name))
	e.key, e.info.Size = key, key.size
	return e, err == nil
}

// resourceDirs gives the directories that a package's data is in, and the package. A plain module's is that of the package it lies
// in; one that lies in none has no directory of its own, only the path's.
func (s *search) resourceDirs(pkg, name, full string, isDir bool, also []Policy) (_ []location, base string, err error) {
	refuse := func(why string) ([]location, string, error) {
		return nil, "", &NotFoundError{Name: full, Reason: why}
	}
	if fault := dataFault(name); fault != "" {
		return refuse(fault)
	}
	for i := range also {
		if why := s.im.refuses(&also[i], pkg); why != "" {
			return refuse(why)
		}
	}
	sp := s.find(pkg)
	if sp.why == "" && !sp.isPkg() {
		parent, _ := parentName(pkg)
		if parent == "" {
			return refuse(pkg + " is no package")
		}
		sp = s.find(parent)
	}
	if sp.why != "" {
		return refuse(sp.why)
	}
	if why := s.refusesData(also, sp.name, name, isDir); why != "" {
		return refuse(why)
	}
	return s.portions(sp), sp.name, nil
}

// isAt tells whether a child knows the location by that path, or names none.
func (l location) isAt(where string) bool { return where == "" || sent(l.String()) == where }

// inside is join for a slash path, "" for the location itself.
func (l location) inside(name string) location {
	if name == "" {
		return l
	}
	if l.arc == nil {
		name = filepath.FromSlash(name)
	}
	return l.join(name)
}
