package transfer

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mitogend/daemon"
)

// child connects to a Python of this machine.
func child(t *testing.T) *daemon.Child {
	t.Helper()
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Shutdown(t.Context()) })
	c, err := d.Connect(t.Context(), "local:?python=python3")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestSourceIsReplaced: what has taken a file's place since it was listed is copied as it is now, or not at all.
func TestSourceIsReplaced(t *testing.T) {
	c := child(t)
	dir := t.TempDir()
	large := bytes.Repeat([]byte("large"), block)
	listed := map[string][]byte{"small": []byte("old"), "grown": large, "cut": large, "now large": []byte("old"), "now small": large, "link": []byte("old"), "fifo": []byte("old"), "gone": []byte("old")}
	now := map[string][]byte{"small": []byte("a new one"), "grown": slices.Concat(large, large), "cut": large[:3*block], "now large": large, "now small": []byte("new")}
	for name, data := range listed {
		write(t, dir+"/here/"+name, data)
	}
	write(t, dir+"/secret", []byte("secret"))
	for _, o := range []Options{{}, {Sync: true, Checksum: true}} {
		s, err := NewSource([]string{dir + "/here"}, o)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range now {
			write(t, dir+"/new", data)
			if err := os.Rename(dir+"/new", dir+"/here/"+name); err != nil {
				t.Fatal(err)
			}
		}
		_ = errors.Join(os.Remove(dir+"/here/link"), os.Remove(dir+"/here/fifo"), os.Remove(dir+"/here/gone"))
		if err := errors.Join(os.Symlink("../secret", dir+"/here/link"), unix.Mkfifo(dir+"/here/fifo", 0o600)); err != nil {
			t.Fatal(err)
		}
		there := t.TempDir() + "/there"
		r, err := Put(t.Context(), c, s, there, o)
		var incomplete *Error
		if !errors.As(err, &incomplete) || len(r.Errors) != 3 {
			t.Errorf("%v, %q", err, r.Errors) // each once
		}
		bytes := int64(0)
		for name, data := range now {
			got, err := os.ReadFile(filepath.Join(there, name))
			if string(got) != string(data) {
				t.Errorf("%s has %d bytes of %d, or others: %v", name, len(got), len(data), err)
			}
			bytes += int64(len(data))
		}
		if r.Bytes != bytes || r.Files != len(now) {
			t.Errorf("%d files of %d bytes, not %d", r.Files, r.Bytes, bytes)
		}
		for _, name := range []string{"link", "fifo", "gone"} {
			if _, err := os.Lstat(filepath.Join(there, name)); err == nil {
				t.Errorf("%s is there", name)
			}
			if err := os.RemoveAll(filepath.Join(dir, "here", name)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "here", name), []byte("old"))
		}
	}
}

// TestSourceOfSomebodyElse: nothing of a file that was listed is mixed with the one that has taken its place.
func TestSourceOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	c := child(t)
	const somebody = 1234
	for name, o := range map[string]Options{
		"put": {Owner: true, Xattrs: true}, "checksum": {Owner: true, Xattrs: true, Sync: true, Checksum: true},
		"sync": {Owner: true, Xattrs: true, Sync: true},
	} {
		for _, data := range [][]byte{[]byte("theirs"), bytes.Repeat([]byte("theirs"), block/2)} {
			dir := t.TempDir()
			here, there := dir+"/here/x", dir+"/there/x"
			write(t, here, data)
			now := unix.NsecToTimeval(1e18)
			set := func(name string) error { return unix.Utimes(name, []unix.Timeval{now, now}) }
			if err := errors.Join(unix.Chmod(here, 0o4755), set(here)); err != nil {
				t.Fatal(err)
			}
			if unix.Setxattr(here, "user.of", []byte("root"), 0) != nil {
				t.Skip("no extended attributes")
			}
			s, err := NewSource([]string{dir + "/here"}, o)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/new", data)
			err = errors.Join(os.Chown(dir+"/new", somebody, somebody), unix.Chmod(dir+"/new", 0o4711),
				unix.Setxattr(dir+"/new", "user.by", []byte("them"), 0), set(dir+"/new"), os.Rename(dir+"/new", here))
			if o.Sync {
				write(t, there, data) // it is the same, and gets what was asked about
				err = errors.Join(err, set(there))
			}
			if err != nil {
				t.Fatal(err)
			}
			if !o.Sync {
				there = dir + "/put/x"
			}
			r, err := Put(t.Context(), c, s, filepath.Dir(there), o)
			if err != nil || o.Sync && r.Same != 1 {
				t.Fatal(name, err, r)
			}
			var st unix.Stat_t
			list := make([]byte, 100)
			err = unix.Stat(there, &st)
			n, err2 := unix.Listxattr(there, list)
			if err = errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if st.Uid != somebody || st.Gid != somebody || st.Mode&0o7777 != 0o4711 || string(list[:n]) != "user.by\x00" {
				t.Errorf("%s: uid %d, gid %d, mode %o, %q", name, st.Uid, st.Gid, st.Mode, list[:n])
			}
		}
	}
}

// TestSourceWhileItIsRead: a file that is written to is an error, but one that only grows is what it was at first.
func TestSourceWhileItIsRead(t *testing.T) {
	for name, test := range map[string]struct {
		change func(f *os.File) error
		want   error
	}{
		"nothing":  {func(*os.File) error { return nil }, nil},
		"it grows": {func(f *os.File) error { _, err := f.WriteAt([]byte("more"), 3*block); return err }, nil},
		"written": {func(f *os.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return errors.Join(err, unix.Futimes(int(f.Fd()), make([]unix.Timeval, 2)))
		}, errChanged},
		"cut":                   {func(f *os.File) error { return f.Truncate(block) }, errChanged},
		"cut, with holes after": {func(f *os.File) error { return errors.Join(f.Truncate(2*block), f.Truncate(2*block+1)) }, errChanged},
	} {
		dir := t.TempDir()
		write(t, dir+"/x", make([]byte, 3*block))
		s, err := NewSource([]string{dir + "/x"}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.read(s.items[0], sha, false)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if _, _, err := c.large.block(n); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.OpenFile(dir+"/x", os.O_WRONLY, 0)
		if err = errors.Join(err, test.change(f)); err != nil {
			t.Fatal(err)
		}
		if err := c.large.at.check(c.large.f); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		_ = f.Close()
		c.large.close()
	}
}

// TestSourceOfTheKernel: files of /proc and /sys have other sizes than they say.
func TestSourceOfTheKernel(t *testing.T) {
	c := child(t)
	dir := t.TempDir()
	for _, name := range []string{"/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/environ"} {
		want, err := os.ReadFile(name)
		if err != nil || len(want) == 0 {
			t.Logf("%s: %v", name, err)
			continue
		}
		s, err := NewSource([]string{name}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Put(t.Context(), c, s, dir+"/put", Options{}); err != nil {
			t.Error(err)
		}
		got, _ := os.ReadFile(dir + "/put")
		if string(got) != string(want) {
			t.Errorf("%s: %q was put", name, got)
		}
		if strings.Contains(name, "self") {
			continue
		}
		if _, err := Get(t.Context(), c, []string{name}, dir+"/got", Options{}); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(dir + "/got"); string(got) != string(want) {
			t.Errorf("%s: %q was got", name, got)
		}
	}
	const endless = "/proc/kallsyms"
	if info, err := os.Stat(endless); err != nil || info.Size() > 0 {
		t.Skip("no ", endless)
	}
	s, err := NewSource([]string{endless}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Put(t.Context(), c, s, dir+"/put", Options{}); err == nil || !strings.Contains(err.Error(), errEndless.Error()) {
		t.Error(err)
	}
	if _, err := Get(t.Context(), c, []string{endless}, dir+"/got", Options{}); err == nil || !strings.Contains(err.Error(), errEndless.Error()) {
		t.Error(err)
	}
}

// TestHardLinkOfNothing: where a file was not copied, its other names are no links to what was there before.
func TestHardLinkOfNothing(t *testing.T) {
	c := child(t)
	for _, get := range []bool{false, true} {
		here, there := t.TempDir()+"/here", t.TempDir()+"/there"
		write(t, here+"/a", []byte("new"))
		write(t, there+"/a/in the way", nil)
		if err := os.Link(here+"/a", here+"/b"); err != nil {
			t.Fatal(err)
		}
		o := Options{Sync: true, HardLinks: true}
		var r *Result
		var err error
		if get {
			r, err = Get(t.Context(), c, []string{here}, there, o)
		} else {
			var s *Source
			if s, err = NewSource([]string{here}, o); err == nil {
				r, err = Put(t.Context(), c, s, there, o)
			}
		}
		var incomplete *Error
		if !errors.As(err, &incomplete) || len(r.Errors) != 2 || !strings.Contains(r.Errors[1], errUnlinked.Error()) || r.Files != 0 || r.Bytes != 0 {
			t.Errorf("get %v: %v, %v", get, err, r)
		}
		if _, err := os.Lstat(there + "/b"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}
