package transfer

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
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
