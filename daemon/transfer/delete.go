package transfer

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// deleteRest removes what was not listed. seen has directories, with the names in each.
func (g *get) deleteRest(seen map[string]map[string]bool) {
	g.sameDirs(seen)
	g.deleteIn(top, seen)
	g.closeAgain()
}

// sameDirs finds directories that are to be here by several names, since case is ignored or a link leads to one: what
// is wanted of one is wanted of all.
func (g *get) sameDirs(seen map[string]map[string]bool) {
	g.paths = map[[2]uint64][]string{}
	for dir := range seen {
		if info, err := g.root.Stat(dir); err == nil && info.IsDir() {
			if id, ok := identityOf(info); ok {
				g.paths[id] = append(g.paths[id], dir)
			}
		}
	}
	for id, some := range g.paths {
		if len(some) == 1 && g.isDir(some[0]) {
			delete(g.paths, id)
			continue
		}
		want := map[string]bool{}
		for _, dir := range some {
			maps.Copy(want, seen[dir])
		}
		for _, dir := range some {
			seen[dir] = want
		}
	}
}

// isDir tells whether it is a directory, and no link to one.
func (g *get) isDir(name string) bool {
	info, err := g.root.Lstat(name)
	return err == nil && info.IsDir()
}

// isSeen tells whether sameDirs has found a directory.
func (g *get) isSeen(name string) bool {
	if len(g.paths) == 0 {
		return false
	}
	id, ok := identity(g.root, name)
	return ok && g.paths[id] != nil
}

// deleteIn does that in a directory, which stays itself.
func (g *get) deleteIn(dir string, seen map[string]map[string]bool) {
	want := seen[dir]
	if want == nil || !g.isDir(dir) {
		return
	}
	paths := []string{dir}
	if id, ok := identity(g.root, dir); ok {
		for _, other := range g.paths[id] {
			if other != dir && g.isDir(other) {
				paths = append(paths, other)
			}
		}
	}
	for _, each := range paths {
		delete(seen, each)
	}
	here, err := g.list(dir)
	if err != nil {
		g.result.fail(dir + ": " + cause(err).Error())
		return
	}
	var other map[string]string
	if slices.ContainsFunc(here, func(each os.DirEntry) bool { return !want[each.Name()] }) {
		other = g.alike(dir, want, here)
	}
	for _, each := range here {
		name := path.Join(dir, each.Name())
		_, isOther := other[each.Name()]
		switch {
		case isOther || want[each.Name()] || g.isSeen(name):
		case !strings.HasPrefix(each.Name(), hidden):
			g.remove(name, each.IsDir(), true)
		case strings.HasSuffix(name, partSuffix):
			g.removePart(name, want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		for _, each := range paths {
			g.deleteIn(path.Join(each, name), seen)
		}
	}
}

// alike gives the names here of what is wanted by another one: where case is ignored, or where characters have several
// forms, a file is there by a name that is not listed.
func (g *get) alike(dir string, want map[string]bool, here []os.DirEntry) map[string]string {
	listed, out := map[string]bool{}, map[string]string{}
	for _, each := range here {
		listed[each.Name()] = true
	}
	wanted := map[[2]uint64]string{}
	for name := range want {
		if listed[name] {
			continue
		}
		if id, ok := identity(g.root, path.Join(dir, name)); ok {
			wanted[id] = name
		}
	}
	for name := range listed {
		if len(wanted) == 0 || want[name] {
			continue
		}
		if id, ok := identity(g.root, path.Join(dir, name)); ok && wanted[id] != "" {
			out[name] = wanted[id]
		}
	}
	return out
}

func identity(root *os.Root, name string) (id [2]uint64, ok bool) {
	info, err := root.Lstat(name)
	if err != nil {
		return id, false
	}
	return identityOf(info)
}

func identityOf(info fs.FileInfo) (id [2]uint64, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return id, false
	}
	return [2]uint64{uint64(st.Dev), st.Ino}, true
}

func (g *get) list(dir string) (names []os.DirEntry, err error) {
	err = g.allowed(dir, func() error {
		f, err := openDir(g.root, dir)
		if err == nil {
			names, err = f.ReadDir(-1)
			_ = f.Close()
		}
		return err
	})
	return names, err
}

// allowed does something even if nobody may write to the directory, which gets its mode back if it stays.
func (g *get) allowed(dir string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EACCES) || g.o.DryRun {
		return err
	}
	info, lerr := g.root.Lstat(dir)
	if lerr != nil || !info.IsDir() || g.root.Chmod(dir, info.Mode()|0o700) != nil {
		return err
	}
	g.opened = append(g.opened, opened{dir, info.Mode()})
	return do()
}

// opened is a directory whose mode was changed.
type opened struct {
	name string
	mode fs.FileMode
}

// closeAgain gives directories their modes that allowed has changed.
func (g *get) closeAgain() {
	for _, each := range slices.Backward(g.opened) {
		_ = g.root.Chmod(each.name, each.mode) // it may be gone
	}
	g.opened = nil
}

// remove removes a file, or a directory with what is in it. What cannot be removed is told, and the rest goes.
func (g *get) remove(name string, isDir, tell bool) (gone bool) {
	defer g.closeAgain()
	return g.removeAll(name, isDir, tell)
}

func (g *get) removeAll(name string, isDir, tell bool) (gone bool) {
	if g.isSeen(name) {
		return false // a link leads to it by which something is wanted in it
	}
	var here []os.DirEntry
	var err error
	if isDir {
		here, err = g.list(name)
	}
	gone = true
	for _, each := range here {
		gone = g.removeAll(path.Join(name, each.Name()), each.IsDir(), tell) && gone
	}
	if !gone {
		return false
	}
	if err == nil && !g.o.DryRun {
		err = g.allowed(path.Dir(name), func() error { return g.root.Remove(name) })
	}
	if err != nil {
		g.result.fail(name + ": " + cause(err).Error())
		return false
	}
	if tell {
		g.result.Deleted++
	}
	if tell && g.o.OnFile != nil {
		g.o.OnFile("delete", path.Join(g.root.Name(), name))
	}
	return true
}

// removePart removes what has come of a file that is not to come, unless somebody writes to it.
func (g *get) removePart(name string, want map[string]bool) {
	for each := range want {
		if g.partOf(each) == path.Base(name) {
			return
		}
	}
	f, err := g.open(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if !g.o.DryRun && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = g.root.Remove(name)
	}
}
