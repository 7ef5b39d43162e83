package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxListed bounds the names that a child lists, in bytes, and maxAsked the files: what Get of Sync keeps of it.
const (
	maxListed = 256 << 20
	maxAsked  = 1 << 25
)

// ErrTooMany: a list of so many files is not kept.
var ErrTooMany = errors.New("transfer: there are too many files to keep a list of")

// listedSize is about what an element of a list takes, beside its texts.
const listedSize = 128

// dirSize is about what a map of a directory's names takes, and what finds it.
const dirSize = 4 * listedSize

// keep counts what is kept of what a child lists.
func (g *get) keep(texts ...string) error {
	n := listedSize
	for _, s := range texts {
		n += len(s)
	}
	return g.count(n)
}

func (g *get) count(n int) error {
	g.kept += n
	if g.kept > maxListed || g.o.Keep != nil && !g.o.Keep(n) {
		return ErrTooMany
	}
	return nil
}

// see notes a file that is to be there, and a directory even if nothing is to be in it.
func (g *get) see(seen map[string]map[string]bool, e *entry) error {
	note := func(dir string) error {
		if seen[dir] != nil {
			return nil
		}
		seen[dir] = map[string]bool{}
		return g.count(dirSize + len(dir))
	}
	dir, name := path.Split(path.Clean(e.path))
	if dir = path.Clean(dir); name != top {
		if err := note(dir); err != nil {
			return err
		}
		seen[dir][name] = true
	}
	if err := g.keep(e.path); err != nil || e.special() || e.path == "" {
		return err // nothing is known of what is below a name that the child has for a socket or the like
	}
	isDir := e.kind() == unix.S_IFDIR
	if !isDir && g.root != nil {
		info, err := g.root.Lstat(e.path)
		isDir = err == nil && info.IsDir()
	}
	if isDir {
		return note(e.path)
	}
	return nil
}

// compare answers which of the child's files are the same here, and deletes what is not there.
func (g *get) compare(ctx context.Context) error {
	seen := map[string]map[string]bool{} // of Delete: names in each directory
	differ := map[string]bool{}          // of HardLinks: files that are to come
	var answers []byte
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tag, data, err := g.reader.read()
		if err != nil {
			return err
		}
		if tag == 'P' {
			break
		}
		if tag == 'e' {
			g.result.fail(string(data))
			continue
		}
		if tag != 'Q' {
			return errProtocol
		}
		e, rest, err := g.entry(data)
		if err != nil {
			return err
		}
		from := e.path
		if e.kind() == unix.S_IFDIR && !strings.Contains(from, "/") && !g.inside && g.base != nil {
			_ = g.enter(g.name) // it need not be there
		}
		e.path, err = g.place(from)
		if g.o.Delete && err == nil {
			err = g.see(seen, &e)
		}
		if g.o.HardLinks && err == nil {
			err = g.keep(e.path)
		}
		if len(answers)%block == 0 && g.o.Keep != nil && !g.o.Keep(block) || len(answers) == maxAsked {
			err = ErrTooMany
		}
		if err != nil {
			return err
		}
		if e.special() {
			answers = append(answers, 'n') // it is not deleted, and the child says what it is
			continue
		}
		same, err := g.same(ctx, &e, rest, differ)
		if !same && g.o.HardLinks {
			differ[e.path] = true
		}
		answer := byte('n')
		switch {
		case err != nil:
			g.result.fail(from + ": " + cause(err).Error())
			answer = '='
		case same:
			answer = '='
			if e.kind() != unix.S_IFDIR {
				g.result.Same++
			}
			g.done(e.size)
		case e.kind() != unix.S_IFDIR && g.o.OnFile != nil:
			g.o.OnFile("send", from)
		}
		if g.o.DryRun {
			answer = '='
		}
		answers = append(answers, answer)
	}
	if g.o.Delete && g.inside {
		if len(g.result.Errors) == 0 {
			g.deleteRest(seen)
		} else {
			g.result.fail("nothing is deleted while something cannot be read")
		}
	}
	for len(answers) > 0 {
		n := min(len(answers), block)
		if err := g.wire.write('A', answers[:n]); err != nil {
			return err
		}
		answers = answers[n:]
	}
	err := g.wire.write('p')
	if err == nil {
		err = g.wire.w.Flush()
	}
	return err
}

// same tells whether a file is here as it should be. Directories are made so in any case.
func (g *get) same(ctx context.Context, e *entry, sum []byte, differ map[string]bool) (bool, error) {
	if g.root == nil || e.path == "" {
		return false, nil
	}
	info, err := g.root.Lstat(e.path)
	if err != nil {
		return false, nil
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if st == nil || st.Mode&unix.S_IFMT != e.kind() {
		return false, nil
	}
	owned := true
	if g.o.Owner {
		uid, gid := g.owner(e)
		owned = uid == int(st.Uid) && gid == int(st.Gid)
	}
	switch e.kind() {
	case unix.S_IFLNK:
		to, err := g.root.Readlink(e.path)
		return err == nil && to == e.link && owned, nil
	case unix.S_IFDIR:
		return g.o.DryRun && st.Mode&0o777 == e.mode&0o777, nil
	}
	if e.link != "" {
		root, first, err := g.first(e)
		return err == nil && !differ[first] && linked(root, first, g.root, e.path), err
	}
	mtime := info.ModTime().UnixNano()
	// A 2.x gives times as floating point numbers; some file systems have whole seconds.
	timely := abs(mtime-e.mtime) < 2000 ||
		mtime%int64(time.Second) == 0 && mtime/int64(time.Second) == e.mtime/int64(time.Second)
	if info.Size() != e.size || !g.o.Checksum && !timely {
		return false, nil
	}
	other := !timely || !owned || st.Mode&0o777 != e.mode&0o777
	if !g.o.Checksum && (g.o.DryRun || !other && e.xattrs == nil) {
		return true, nil
	}
	f, err := g.open(e.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil // what is sent takes its place
	}
	defer f.Close()
	if there, err := f.Stat(); err != nil || !os.SameFile(info, there) {
		return false, err
	}
	if g.o.Checksum {
		d, err := g.whole(ctx, f, e.size)
		if err != nil || string(d[:]) != string(sum) {
			return false, err
		}
	}
	if !g.o.DryRun && (other || !sameXattrs(f, e)) {
		return true, g.finish(f, e)
	}
	return true, nil
}

func abs(n int64) int64 { return max(n, -n) }

// whole is the digest of all of a file here; see Source.whole.
func (g *get) whole(ctx context.Context, f *os.File, size int64) (digest, error) {
	root := g.a.new()
	err := g.a.eachBlock(f, size, func(d digest) error {
		_, _ = root.Write(d[:])
		return g.over(ctx)
	})
	return digest(root.Sum(nil)), err
}

// basis opens what is here of a large file, for the blocks that are the same; nil where there is none.
func (g *get) basis(name string) *os.File {
	f, err := g.open(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil
	}
	return f
}

// copyBlock takes a block of what was here, and gives its digest: others may write to that file meanwhile.
func (g *get) copyBlock(f, basis *os.File, at, n int64) (digest, error) {
	if g.buf == nil {
		g.buf = make([]byte, block)
	}
	buf := g.buf[:n]
	if _, err := io.ReadFull(io.NewSectionReader(basis, at, n), buf); err != nil {
		return digest{}, errDiffers
	}
	if string(buf) == string(zeros[:n]) {
		return g.a.zero(int(n)), nil // where nothing is written there are zeros
	}
	_, err := f.WriteAt(buf, at)
	return g.a.sum(buf), err
}

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
