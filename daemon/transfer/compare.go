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

// keep counts what is kept of what a child lists.
func (g *get) keep(texts ...string) error {
	n := listedSize
	for _, s := range texts {
		n += len(s)
	}
	g.kept += n
	if g.kept > maxListed || g.o.Keep != nil && !g.o.Keep(n) {
		return ErrTooMany
	}
	return nil
}

// compare answers which of the child's files are the same here, and deletes what is not there.
func (g *get) compare(ctx context.Context) error {
	seen := map[string]bool{}   // of Delete
	differ := map[string]bool{} // of HardLinks: files that are to come
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
			seen[e.path] = true
			err = g.keep(e.path)
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
			g.result.Same++
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
			g.deleteRest(top, seen)
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
	switch e.kind() {
	case unix.S_IFLNK:
		to, err := g.root.Readlink(e.path)
		return err == nil && to == e.link, nil
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
	switch {
	case info.Size() != e.size:
		return false, nil
	case g.o.Checksum:
		d, err := g.whole(ctx, e.path, e.size)
		if err != nil || string(d[:]) != string(sum) {
			return false, err
		}
	case !timely:
		return false, nil
	}
	owned := !g.o.Owner || g.id(e.user, int(e.uid), userID) == int(st.Uid) &&
		g.id(e.group, int(e.gid), groupID) == int(st.Gid)
	if !g.o.DryRun && (!timely || !owned || st.Mode&0o777 != e.mode&0o777 || !g.sameXattrs(e.path, e)) {
		return true, g.finish(e.path, e)
	}
	return true, nil
}

func abs(n int64) int64 { return max(n, -n) }

// whole is the digest of all of a file here; see Source.whole.
func (g *get) whole(ctx context.Context, name string, size int64) (digest, error) {
	f, err := g.open(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return digest{}, err
	}
	defer f.Close()
	root := g.a.new()
	err = g.a.eachBlock(f, size, func(d digest) error {
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
	_, err := f.WriteAt(buf, at)
	return g.a.sum(buf), err
}

// deleteRest removes what was not listed below a directory, which stays itself.
func (g *get) deleteRest(dir string, seen map[string]bool) {
	f, err := openDir(g.root, dir)
	var names []os.DirEntry
	if err == nil {
		names, err = f.ReadDir(-1)
		_ = f.Close()
	}
	if err != nil {
		g.result.fail(dir + ": " + cause(err).Error())
		return
	}
	for _, each := range names {
		name := path.Join(dir, each.Name())
		// What is listed has its directories listed, too.
		if each.IsDir() {
			g.deleteRest(name, seen)
		}
		if seen[name] || strings.HasPrefix(each.Name(), ".mitogend-") {
			continue
		}
		if !g.o.DryRun {
			if err := g.root.Remove(name); err != nil {
				g.result.fail(name + ": " + cause(err).Error())
				continue
			}
		}
		g.result.Deleted++
		if g.o.OnFile != nil {
			g.o.OnFile("delete", path.Join(g.root.Name(), name))
		}
	}
}
