package importer

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
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

// Resource reads a data file of a package, for GET_RESOURCE, pkgutil.get_data and importlib.resources. name is relative to the
// package's directory, with slashes. The error is a *NotFoundError, or ctx's.
func (im *Importer) Resource(ctx context.Context, pkg, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	full := pkg + "/" + name
	s := im.search(Version{})
	reason := "the package has no such file"
	dirs, err := s.resourceDirs(pkg, name, full)
	if err != nil {
		return nil, err
	}
	for _, loc := range dirs {
		file := loc.inside(name)
		var data []byte
		var err error
		if file.arc != nil {
			data, err = file.arc.read(file.dir, im.opt.MaxResource)
		} else {
			data, _, err = readFile(file.dir, im.opt.MaxResource)
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

// Resources lists a directory of a package, sorted by name; dir is relative to the package's own, "" is that one. A namespace
// package shows what its directories have together, of two files with one name the first.
func (im *Importer) Resources(pkg, dir string) ([]ResourceInfo, error) {
	full := strings.TrimSuffix(pkg+"/"+dir, "/")
	s := im.search(Version{})
	dirs, err := s.resourceDirs(pkg, dir, full)
	if err != nil {
		return nil, err
	}
	found := false
	seen := map[string]bool{}
	var out []ResourceInfo
	for _, loc := range dirs {
		loc = loc.inside(dir)
		l := s.list(loc)
		if l == nil {
			continue
		}
		found = true
		for name := range l.types {
			info, ok := s.resourceInfo(loc, l, name)
			if ok && !seen[name] && name != "__pycache__" {
				seen[name] = true
				out = append(out, info)
			}
		}
	}
	if !found {
		return nil, &NotFoundError{Name: full, Reason: "the package has no such directory"}
	}
	slices.SortFunc(out, func(a, b ResourceInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (s *search) resourceInfo(loc location, l *listing, name string) (ResourceInfo, bool) {
	mode, _ := s.typeOf(loc, l, name)
	info := ResourceInfo{Name: name, Dir: mode.IsDir()}
	if info.Dir {
		return info, true
	}
	if !mode.IsRegular() {
		return info, false
	}
	key, err := s.key(loc.join(name))
	info.Size = key.size
	return info, err == nil
}

// resourceDirs gives the directories that a package's data is in. A plain module's is that of the package it lies in; one
// that lies in none has no directory of its own, only the path's.
func (s *search) resourceDirs(pkg, name, full string) ([]location, error) {
	if name != "" && (!fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00")) {
		return nil, &NotFoundError{Name: full, Reason: "the name leads out of the package"}
	}
	sp := s.find(pkg)
	if sp.why == "" && !sp.isPkg() {
		parent, _ := parentName(pkg)
		if parent == "" {
			return nil, &NotFoundError{Name: full, Reason: pkg + " is no package"}
		}
		sp = s.find(parent)
	}
	if sp.why != "" {
		return nil, &NotFoundError{Name: full, Reason: sp.why}
	}
	return s.portions(sp), nil
}

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
