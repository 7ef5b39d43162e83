package importer

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"sync"
)

// finder keeps what was read of the path: directories, archives, .pth files.
type finder struct {
	// Constant after newFinder; absolute and clean.
	path  []string
	trees []location // of Options.Modules
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
	was := l
	if l, err = readDir(dir); err != nil {
		return nil, err
	}
	if was != nil && was.key == l.key {
		l.settled, l.seen = l.key.settledSince(was.seen, l.seen), was.seen
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
	was := a
	if a, err = openArchive(file); err != nil {
		return nil, err
	}
	if was != nil && was.key == a.key {
		a.settled, a.seen = a.key.settledSince(was.seen, a.seen), was.seen
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
