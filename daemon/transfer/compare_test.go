package transfer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSyncFromALiar: nothing outside of the destination is changed, and nothing at all is deleted unless a child has
// listed everything.
func TestSyncFromALiar(t *testing.T) {
	ask := func(w wire, path string, mode uint32) error { return w.write('Q', file(path, mode, 0)) }
	const dir, link = unix.S_IFDIR | 0o755, unix.S_IFLNK | 0o777
	for name, test := range map[string]struct {
		say  func(w wire) error
		want string   // in the error; empty for none
		left []string // of a, b and out
	}{
		"an honest one":   {func(w wire) error { return ask(w, "x", dir) }, "", []string{"out"}},
		"one that fails":  {func(w wire) error { return errors.Join(ask(w, "x", dir), w.write('e', []byte("no disk"))) }, "nothing is deleted", []string{"a", "b", "out"}},
		"nothing at all":  {func(w wire) error { return nil }, "", []string{"a", "b", "out"}},
		"no top":          {func(w wire) error { return ask(w, "x/a", unix.S_IFREG) }, "", []string{"a", "b", "out"}},
		"upwards":         {func(w wire) error { return ask(w, "../out", dir) }, errProtocol.Error(), []string{"a", "b", "out"}},
		"another message": {func(w wire) error { return small(w, "x/c", "x") }, errProtocol.Error(), []string{"a", "b", "out"}},
		"by a link": {func(w wire) error {
			e := entry{path: "x/up", link: "../..", mode: link}
			return errors.Join(ask(w, "x", dir), w.write('Q', e.append(nil)), ask(w, "x/up/out", unix.S_IFREG))
		}, "", []string{"out"}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			for _, f := range []string{"x/a", "x/b", "out"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(top, f)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(top, f), []byte("data"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l := liar{say: func(w wire, r *reader) error {
				err := errors.Join(test.say(w), w.write('P'), w.w.Flush())
				for tag := byte(0); err == nil && tag != 'p'; {
					tag, _, err = r.read()
				}
				return errors.Join(err, w.write('q'))
			}}
			_, err := Get(ctx, l, []string{"x"}, filepath.Join(top, "x"), Options{Sync: true, Delete: true})
			if err == nil && test.want != "" || err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, not %q", err, test.want)
			}
			var left []string
			for _, f := range []string{"x/a", "x/b", "out"} {
				if _, err := os.Stat(filepath.Join(top, f)); err == nil {
					left = append(left, filepath.Base(f))
				}
			}
			if !slices.Equal(left, test.left) {
				t.Errorf("left is %q", left)
			}
		})
	}
	if _, err := Get(t.Context(), liar{}, []string{"x"}, "/", Options{Sync: true, Delete: true}); err == nil || !strings.Contains(err.Error(), "all of this machine") {
		t.Error(err)
	}
	s, err := NewSource([]string{t.TempDir()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{"/", "//", "/./"} {
		if _, err := Put(t.Context(), liar{}, s, dest, Options{Sync: true, Delete: true}); err == nil || !strings.Contains(err.Error(), "all of the target") {
			t.Error(dest, err)
		}
	}
}

// TestDeleteRest: what is there by another name than it is listed by stays, and so does what somebody writes to. What
// cannot be removed does not keep the rest.
func TestDeleteRest(t *testing.T) {
	dir := t.TempDir()
	g, err := newGet(dir, Options{Sync: true, Delete: true}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if g.root, err = os.OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	g.result, g.inside = &Result{}, true
	parts := []string{g.partOf("wanted"), g.partOf("gone"), g.partOf("locked")}
	for _, name := range append([]string{"Docs/x", "Docs/old", "a", "more/y/z", "more/.mitogend-1-2", "kept/" + hidden + "x"}, parts...) {
		write(t, filepath.Join(dir, name), nil)
	}
	// These stand for names that are looked up and not listed, and for those of one file.
	if err := errors.Join(os.Link(dir+"/a", dir+"/b"), os.Symlink("Docs", dir+"/docs")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, parts[2]))
	if err = errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_EX)); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := map[string]bool{"A": true, "wanted": true, "kept": true, "Docs": true, "docs": true}
	here, err := g.list(top)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/a", dir+"/A"); err != nil {
		t.Fatal(err)
	}
	if got := g.alike(top, want, here); len(got) != 2 || got["a"] != "A" || got["b"] != "A" {
		t.Errorf("%v", got)
	}
	want["a"] = true
	g.deleteRest(map[string]map[string]bool{top: want, "Docs": {"x": true}})
	var left []string
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			left = append(left, strings.TrimPrefix(name, dir+"/"))
		}
		return err
	})
	all := []string{parts[0], parts[2], "A", "Docs/x", "a", "docs", "kept/" + hidden + "x"}
	slices.Sort(all)
	slices.Sort(left)
	if !slices.Equal(left, all) || len(g.result.Errors) > 0 || g.result.Deleted != 6 {
		t.Errorf("%q, not %q; %v", left, all, g.result)
	}
}

// pull has a child list files with their modes, and deletes the rest.
func pull(t *testing.T, dest string, o Options, list ...any) (*Result, error) {
	t.Helper()
	l := liar{say: func(w wire, r *reader) error {
		var err error
		for i := 0; i < len(list); i += 2 {
			err = errors.Join(err, w.write('Q', file(list[i].(string), uint32(list[i+1].(int)), 0)))
		}
		return errors.Join(err, asked(w, r), w.write('q'))
	}}
	o.Sync, o.Delete = true, true
	return Get(t.Context(), l, []string{"x"}, dest, o)
}

// TestDirectoriesOfSeveralNames: what is wanted of a directory by one name is not deleted since it is there by another,
// as where case is ignored, for which links stand here. What the source has for no directory is not emptied.
func TestDirectoriesOfSeveralNames(t *testing.T) {
	const dir, file, fifo = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644, unix.S_IFIFO | 0o644
	for name, test := range map[string]struct {
		asked []any
		left  []string
	}{
		"both": {[]any{"x", dir, "x/link", dir, "x/link/a", file, "x/link/sub", dir, "x/link/sub/a", file, "x/real", dir,
			"x/real/b", file, "x/real/sub", dir, "x/real/sub/b", file}, []string{"link", "real/a", "real/b", "real/sub/a", "real/sub/b"}},
		"both, the other first": {[]any{"x", dir, "x/real", dir, "x/real/a", file, "x/zlink", dir, "x/zlink/b", file},
			[]string{"real/a", "real/b", "zlink"}},
		"the link": {[]any{"x", dir, "x/link", dir, "x/link/a", file},
			[]string{"link", "real/a", "real/b", "real/old", "real/sub/a", "real/sub/b", "real/sub/old"}},
		"a link to what is deleted": {[]any{"x", dir, "x/far", dir, "x/far/a", file}, []string{"far", "other/deep/a"}},
		"a socket":                  {[]any{"x", dir, "x/real", fifo}, []string{"real/a", "real/b", "real/old", "real/sub/a", "real/sub/b", "real/sub/old"}},
		"an empty directory":        {[]any{"x", dir, "x/real", dir}, nil},
	} {
		top := t.TempDir()
		for _, each := range []string{"real/a", "real/b", "real/old", "real/sub/a", "real/sub/b", "real/sub/old", "other/deep/a", "other/old"} {
			write(t, filepath.Join(top, each), nil)
		}
		if err := errors.Join(os.Symlink("real", top+"/link"), os.Symlink("real", top+"/zlink"), os.Symlink("other/deep", top+"/far")); err != nil {
			t.Fatal(err)
		}
		r, err := pull(t, top, Options{}, test.asked...)
		var left []string
		_ = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
			if !d.IsDir() {
				left = append(left, strings.TrimPrefix(name, top+"/"))
			}
			return err
		})
		if err != nil || !slices.Equal(left, test.left) {
			t.Errorf("%s: %q, %v, %v", name, left, r, err)
		}
	}
}

// TestAllowed: a directory that is opened for a while keeps what others may do with it, and is closed again.
func TestAllowed(t *testing.T) {
	top := t.TempDir()
	root, err := os.OpenRoot(top)
	if err = errors.Join(err, os.MkdirAll(top+"/a/b", 0o755), os.Chmod(top+"/a", fs.ModeSetgid|0o555)); err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// An ordinary user could not remove what is in it.
	defer os.Chmod(top+"/a", 0o755)
	g := &get{o: &Options{}, root: root, result: &Result{}}
	mode := func() fs.FileMode {
		info, err := os.Stat(top + "/a")
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode() &^ fs.ModeDir
	}
	err = g.allowed("a", func() error {
		if mode()&0o700 != 0o700 {
			return unix.EACCES
		}
		return nil
	})
	if err != nil || mode() != fs.ModeSetgid|0o755 {
		t.Error(err, mode())
	}
	g.closeAgain()
	if mode() != fs.ModeSetgid|0o555 {
		t.Error(mode())
	}
}

// TestPullCountsDirectories: what is kept of a list is counted, also if each file is in a directory of its own.
func TestPullCountsDirectories(t *testing.T) {
	asked := []any{"x", unix.S_IFDIR | 0o755}
	for i := range 1000 {
		asked = append(asked, "x/"+strconv.Itoa(i)+"/f", unix.S_IFREG|0o644)
	}
	kept := 0
	if _, err := pull(t, t.TempDir(), Options{Keep: func(n int) bool { kept += n; return true }}, asked...); err != nil {
		t.Fatal(err)
	}
	if kept < 1000*(dirSize+listedSize) {
		t.Errorf("%d bytes", kept)
	}
}

// TestGetOfAnUnsteadyFile: nothing is left of one that came whole, and was another one then.
func TestGetOfAnUnsteadyFile(t *testing.T) {
	for blocks, want := range map[int]int{1: 1, 2: 0} {
		dir := t.TempDir()
		l := liar{say: func(w wire, r *reader) error {
			err := errors.Join(w.write('F', file("x", unix.S_IFREG|0o600, 2*block)), w.w.Flush())
			for tag := byte(0); err == nil && tag != 'N'; {
				tag, _, err = r.read()
			}
			for range blocks {
				err = errors.Join(err, w.write('B', make([]byte, block)))
			}
			return errors.Join(err, w.write('X'), w.write('e', []byte("it changes")), w.write('q'))
		}}
		r, err := Get(t.Context(), l, []string{"x"}, dir, Options{})
		list, err2 := os.ReadDir(dir)
		if err == nil || err2 != nil || len(list) != want || len(r.Errors) != 1 {
			t.Errorf("%d blocks: %v, %v, %v", blocks, list, err, err2)
		}
	}
}
