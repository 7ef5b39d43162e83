package transfer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/integration/pythons"
)

// liar is a child whose program says what a test wants.
type liar struct {
	daemon.Remote
	args *[]string // of the program, if it is not nil
	say  func(w wire, r *reader) error
}

func (liar) Version() importer.Version { return importer.Version{Major: 3, Minor: 11} }

func (l liar) Run(_ context.Context, o daemon.RunOptions) (daemon.ExitStatus, error) {
	if l.args != nil {
		*l.args = o.Args
	}
	w := wire{bufio.NewWriter(o.Stdout)}
	err := l.say(w, &reader{r: bufio.NewReader(o.Stdin)})
	_ = w.w.Flush()
	if err != nil {
		return daemon.ExitStatus{Code: 1}, nil
	}
	return daemon.ExitStatus{}, nil
}

func file(path string, mode uint32, size int64) []byte {
	e := entry{path: path, mode: mode, size: size, mtime: 1e18}
	return e.append(nil)
}

func small(w wire, path, data string) error {
	d := algorithmOf(3).sum([]byte(data))
	return w.write('f', file(path, unix.S_IFREG|0o6755, int64(len(data))), d[:], []byte(data))
}

func linkTo(w wire, path, to string) error {
	e := entry{path: path, link: to, mode: unix.S_IFLNK | 0o777}
	return w.write('l', e.append(nil))
}

// TestGetOfALiar: whatever a child says, nothing is written outside of the destination, and no wrong byte is called
// right.
func TestGetOfALiar(t *testing.T) {
	for name, test := range map[string]struct {
		say  func(w wire, r *reader) error
		want string // in the error; empty for none
		file string // what top has then; empty for no such file
	}{
		"an honest one":    {func(w wire, _ *reader) error { return small(w, "top", "x") }, "", "x"},
		"a path upwards":   {func(w wire, _ *reader) error { return small(w, "../out", "x") }, errProtocol.Error(), ""},
		"an absolute path": {func(w wire, _ *reader) error { return small(w, "/out", "x") }, errProtocol.Error(), ""},
		"a hidden one":     {func(w wire, _ *reader) error { return small(w, "top/../../out", "x") }, errProtocol.Error(), ""},
		"by a link": {func(w wire, _ *reader) error {
			return errors.Join(w.write('d', file("top", unix.S_IFDIR|0o777, 0)), linkTo(w, "top/link", "../.."), small(w, "top/link/out", "x"), w.write('q'))
		}, "top/link/out: path escapes from parent", ""},
		"a link as a directory": {func(w wire, _ *reader) error {
			return errors.Join(w.write('d', file("top", unix.S_IFDIR|0o777, 0)), linkTo(w, "top/link", "../.."), w.write('d', file("top/link", unix.S_IFDIR|0o777, 0)), w.write('q'))
		}, "top/link: path escapes from parent", ""},
		"a hard link upwards": {func(w wire, _ *reader) error {
			e := entry{path: "top", link: "../out", mode: unix.S_IFREG | 0o777}
			return w.write('h', e.append(nil))
		}, errProtocol.Error(), ""},
		"a hard link to a link": {func(w wire, _ *reader) error {
			e := entry{path: "top/x", link: "top/link", mode: unix.S_IFREG | 0o777}
			return errors.Join(w.write('d', file("top", unix.S_IFDIR|0o777, 0)), linkTo(w, "top/link", "../../passwd"), w.write('h', e.append(nil)), w.write('q'))
		}, "is no file", ""},
		"another digest": {func(w wire, _ *reader) error {
			return w.write('f', file("top", unix.S_IFREG, 1), make([]byte, digestLen), []byte("x"))
		}, "top: " + errDiffers.Error(), ""},
		"another size": {func(w wire, _ *reader) error {
			d := algorithmOf(3).sum([]byte("x"))
			return w.write('f', file("top", unix.S_IFREG, 2), d[:], []byte("x"))
		}, errProtocol.Error(), ""},
		"a short message":  {func(w wire, _ *reader) error { return w.write('f', []byte("x")) }, errProtocol.Error(), ""},
		"a long message":   {func(w wire, _ *reader) error { _, err := w.w.Write([]byte{'f', 255, 255, 255, 255}); return err }, errProtocol.Error(), ""},
		"no such message":  {func(w wire, _ *reader) error { return w.write('?', file("top", 0, 0)) }, errProtocol.Error(), ""},
		"an early end":     {func(w wire, _ *reader) error { return io.ErrUnexpectedEOF }, "ended with status 1", ""},
		"blocks without E": {func(w wire, _ *reader) error { return w.write('F', file("top", unix.S_IFREG, 2*block)) }, "too early", ""},
		"more than there is": {func(w wire, _ *reader) error {
			return errors.Join(w.write('F', file("top", unix.S_IFREG, block)), w.write('B', make([]byte, block)), w.write('B', make([]byte, block)))
		}, errProtocol.Error(), ""},
		"zeros without end": {func(w wire, _ *reader) error {
			return errors.Join(w.write('F', file("top", unix.S_IFREG, block)), w.write('Z', binary.BigEndian.AppendUint64(nil, 1<<63)))
		}, errProtocol.Error(), ""},
		"what is not here": {func(w wire, _ *reader) error {
			return errors.Join(w.write('F', file("top", unix.S_IFREG, block)), w.write('K', binary.BigEndian.AppendUint64(nil, 1)))
		}, errProtocol.Error(), ""},
		"an early E": {func(w wire, _ *reader) error {
			d := algorithmOf(3).sum(nil)
			return errors.Join(w.write('F', file("top", unix.S_IFREG, block)), w.write('E', d[:]), w.write('q'))
		}, errDiffers.Error(), ""},
		"errors without end": {func(w wire, _ *reader) error {
			for range 10 * maxErrors {
				if err := w.write('e', []byte("no")); err != nil {
					return err
				}
			}
			return w.write('q')
		}, "and 990 more", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inside := filepath.Join(dir, "inside")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l := liar{say: func(w wire, r *reader) error {
				over := make(chan struct{})
				go func() {
					defer close(over)
					for { // the answers
						if _, _, err := r.read(); err != nil {
							return
						}
					}
				}()
				err := test.say(w, r)
				if err == nil && !strings.Contains(name, " E") && name != "an early end" {
					err = w.write('q')
				}
				err = errors.Join(err, w.w.Flush())
				if name != "an early end" && name != "blocks without E" {
					<-over
				}
				return err
			}}
			_, err := Get(ctx, l, []string{"top"}, inside+"/", Options{HardLinks: true})
			switch {
			case err == nil && test.want != "", err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, not %q", err, test.want)
			}
			if _, err := os.Lstat(filepath.Join(dir, "out")); err == nil {
				t.Error("a file was written outside of the destination")
			}
			got, _ := os.ReadFile(filepath.Join(inside, "top"))
			if string(got) != test.file {
				t.Errorf("%q", got)
			}
			if info, err := os.Stat(filepath.Join(inside, "top")); err == nil && info.Mode()&^(fs.ModeDir|0o777) != 0 {
				t.Error("it has ", info.Mode())
			}
		})
	}
}

// TestGetOfALiarWithoutEnd: what a child lists is kept within bounds, and in a dry run nothing is taken from it.
func TestGetOfALiarWithoutEnd(t *testing.T) {
	kept := 0
	few := func(n int) bool { kept += n; return kept < 1<<20 }
	for name, test := range map[string]struct {
		o    Options
		say  func(w wire) error
		want string
	}{
		"directories": {Options{Keep: few}, func(w wire) error { return w.write('d', file("x", unix.S_IFDIR|0o755, 0)) }, ErrTooMany.Error()},
		"names": {Options{Keep: few, Sync: true, Delete: true}, func(w wire) error {
			return w.write('Q', file("x", unix.S_IFDIR|0o755, 0))
		}, ErrTooMany.Error()},
		"files in a dry run": {Options{Sync: true, DryRun: true}, func(w wire) error { return errors.Join(w.write('P'), small(w, "x", "x")) }, errProtocol.Error()},
	} {
		kept = 0
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		l := liar{say: func(w wire, r *reader) error {
			go func() {
				for { // the answers
					if _, _, err := r.read(); err != nil {
						return
					}
				}
			}()
			var err error
			for err == nil {
				err = errors.Join(test.say(w), w.w.Flush())
			}
			return err
		}}
		_, err := Get(ctx, l, []string{"x"}, filepath.Join(dir, "new", "x"), test.o)
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, not %q", name, err, test.want)
		}
		if _, err := os.Lstat(filepath.Join(dir, "new")); test.o.DryRun && err == nil {
			t.Errorf("%s: something was written", name)
		}
		cancel()
	}
	r := &Result{}
	r.fail(strings.Repeat("x", 1<<20))
	if len(r.Errors[0]) != maxError {
		t.Error(len(r.Errors[0]))
	}
	if _, err := Put(t.Context(), liar{}, &Source{}, "", Options{Sync: true, Delete: true}); !errors.Is(err, ErrNoName) {
		t.Error("an empty destination is taken: ", err)
	}
}

// A part that somebody else writes to is left alone. The file that is written instead goes when the transfer breaks
// off.
func TestGetBesideAnother(t *testing.T) {
	dir := t.TempDir()
	first := make(chan struct{})
	broken := errors.New("broken")
	hold := func(w wire, r *reader) error {
		err := errors.Join(w.write('F', file("top", unix.S_IFREG|0o600, 2*block)), w.w.Flush())
		for tag := byte(0); err == nil && tag != 'N'; {
			tag, _, err = r.read()
		}
		return errors.Join(err, w.write('B', make([]byte, block)), w.w.Flush())
	}
	ended := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		_, err := Get(t.Context(), liar{say: func(w wire, r *reader) error {
			err := hold(w, r)
			close(began)
			<-first
			return errors.Join(err, broken)
		}}, []string{"top"}, dir+"/", Options{})
		ended <- err
	}()
	<-began
	_, err := Get(t.Context(), liar{say: func(w wire, r *reader) error { return errors.Join(hold(w, r), broken) }}, []string{"top"}, dir+"/", Options{})
	if err == nil {
		t.Error("no error")
	}
	left, _ := filepath.Glob(dir + "/.mitogend-*")
	if len(left) != 1 || !strings.HasSuffix(left[0], ".part") {
		t.Errorf("%q are left", left)
	}
	close(first)
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}

// TestXattrsOfALiar: what was not asked for is not set, what gives rights is not set, and what is no list of
// attributes ends the transfer.
func TestXattrsOfALiar(t *testing.T) {
	told := func(x xattrs) []byte {
		b, err := x.append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := told(xattrs{"user.a": "1", "user.b": "", "security.capability": "x", "trusted.a": "x", "system.posix_acl_access": "x"})
	for name, test := range map[string]struct {
		asked bool
		told  []byte
		want  string // in the error; empty for none
		set   xattrs
	}{
		"asked":      {true, good, "", xattrs{"user.a": "1", "user.b": ""}},
		"not asked":  {false, good, errProtocol.Error(), nil},
		"none told":  {true, []byte{255, 255, 255, 255}, "", nil},
		"none":       {true, make([]byte, 4), "", nil},
		"nothing":    {true, nil, errProtocol.Error(), nil},
		"too many":   {true, append([]byte{0, 1, 0, 1}, make([]byte, 65537)...), errProtocol.Error(), nil},
		"cut off":    {true, good[:len(good)-1], errProtocol.Error(), nil},
		"no name":    {true, []byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 0}, errProtocol.Error(), nil},
		"half":       {true, []byte{0, 0, 0, 3, 0, 0, 0}, errProtocol.Error(), nil},
		"a long one": {true, []byte{0, 0, 0, 7, 0, 1, 255, 255, 255, 255, 'u'}, errProtocol.Error(), nil},
		"twice":      {true, []byte{0, 0, 0, 14, 0, 1, 0, 0, 0, 0, 'u', 0, 1, 0, 0, 0, 0, 'u'}, errProtocol.Error(), nil},
		"a zero":     {true, []byte{0, 0, 0, 7, 0, 1, 0, 0, 0, 0, 0}, errProtocol.Error(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			probe := filepath.Join(dir, "probe")
			if err := os.WriteFile(probe, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setxattr(probe, "user.a", nil, 0); err != nil {
				pythons.Missing(t, "no extended attributes: ", err)
			}
			d := algorithmOf(3).sum([]byte("x"))
			l := liar{say: func(w wire, _ *reader) error {
				err := w.write('d', file("top", unix.S_IFDIR|0o755, 0), test.told)
				return errors.Join(err, w.write('f', file("top/x", unix.S_IFREG|0o644, 1), test.told, d[:], []byte("x")), w.write('q'), w.w.Flush())
			}}
			_, err := Get(t.Context(), l, []string{"top"}, dir+"/", Options{Xattrs: test.asked})
			if err == nil && test.want != "" || err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, not %q", err, test.want)
			}
			for _, name := range []string{"top", "top/x"} {
				f, err := os.Open(filepath.Join(dir, name))
				if err != nil {
					continue
				}
				got, err := readXattrs(func(name string) bool { return name != "security.selinux" },
					func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) },
					func(name string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) })
				_ = f.Close()
				if err != nil || !maps.Equal(got, test.set) {
					t.Errorf("%s has %q, not %q: %v", name, got, test.set, err)
				}
			}
		})
	}
}

// TestGetOfALiarByName: where the destination is a name, what lies beside it is outside.
func TestGetOfALiarByName(t *testing.T) {
	up := entry{path: "x/up", link: "..", mode: unix.S_IFLNK | 0o777}
	for name, test := range map[string]struct {
		say  func(w wire) error
		want string
	}{
		"by a link": {func(w wire) error {
			return errors.Join(w.write('d', file("x", unix.S_IFDIR|0o755, 0)), w.write('l', up.append(nil)), small(w, "x/up/out", "x"), w.write('q'))
		}, "path escapes"},
		"without a top": {func(w wire) error { return small(w, "x/out", "x") }, errProtocol.Error()},
		"a link as the top": {func(w wire) error {
			e := up
			e.path = "x"
			return errors.Join(w.write('l', e.append(nil)), small(w, "x/out", "x"))
		}, errProtocol.Error()},
		"a top twice": {func(w wire) error {
			return errors.Join(w.write('d', file("x", unix.S_IFDIR|0o755, 0)), small(w, "x/in", "x"), small(w, "x", "x"), w.write('q'))
		}, "is a directory"},
	} {
		for _, o := range []Options{{}, {Sync: true, Delete: true}} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "out"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			l := liar{say: func(w wire, r *reader) error {
				var err error
				if o.Sync {
					err = errors.Join(w.write('P'), w.w.Flush())
					for tag := byte(0); err == nil && tag != 'p'; {
						tag, _, err = r.read()
					}
				}
				return errors.Join(err, test.say(w), w.w.Flush())
			}}
			_, err := Get(ctx, l, []string{"x"}, filepath.Join(dir, "new"), o)
			cancel()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, not %q", name, err, test.want)
			}
			if got, _ := os.ReadFile(filepath.Join(dir, "out")); string(got) != "mine" {
				t.Errorf("%s: a file beside the destination is %q", name, got)
			}
		}
	}
}

// TestPutToALiar: answers to questions that nobody has asked end the transfer.
func TestPutToALiar(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), 3*block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewSource([]string{filepath.Join(dir, "large")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, say := range map[string]func(w wire) error{
		"answers":      func(w wire) error { return w.write('A', []byte("=====")) },
		"digests":      func(w wire) error { return w.write('N', []byte("x")) },
		"deletions":    func(w wire) error { return w.write('r', []byte("x")) },
		"nothing":      func(wire) error { return nil },
		"an early end": func(w wire) error { return w.write('T', make([]byte, 16)) },
		"no total":     func(w wire) error { return w.write('T') },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := Put(ctx, liar{say: func(w wire, _ *reader) error { return errors.Join(say(w), w.w.Flush()) }}, s, "dest", Options{})
			if err == nil || ctx.Err() != nil {
				t.Error("no error in time: ", err)
			}
		})
	}
}

// TestGetIntoADirectory: a child writes only what was asked for by name, and nothing beside it, also where both lie in
// one directory.
func TestGetIntoADirectory(t *testing.T) {
	top := func(w wire, name string) error { return w.write('d', file(name, unix.S_IFDIR|0o755, 0)) }
	hard := func(w wire, name, to string) error {
		e := entry{path: name, link: to, mode: unix.S_IFREG | 0o600}
		return w.write('h', e.append(nil))
	}
	large := func(w wire, r *reader, name string) error {
		data := bytes.Repeat([]byte("x"), block)
		one := algorithmOf(3).sum(data)
		all := algorithmOf(3).sum(one[:])
		err := errors.Join(w.write('F', file(name, unix.S_IFREG|0o600, block)), w.w.Flush())
		for tag := byte(0); err == nil && tag != 'N'; {
			tag, _, err = r.read()
		}
		return errors.Join(err, w.write('B', data), w.write('E', all[:]))
	}
	for name, test := range map[string]struct {
		ask  []string
		dest string
		o    Options
		say  func(w wire, r *reader) error
		want string // in the error; empty for none
	}{
		"what was asked for": {[]string{"/a/x", "y"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), small(w, "x/f", "x"), top(w, "x/d"), small(w, "x/d/f", "x"), small(w, "y", "x"))
		}, ""},
		"the first once more": {[]string{"x", "y"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), small(w, "x/f", "x"), top(w, "y"), small(w, "y/f", "x"), top(w, "x"), small(w, "x/g", "x"))
		}, ""},
		"another file":      {[]string{"/a/x"}, "home", Options{}, func(w wire, _ *reader) error { return small(w, ".profile", "x") }, errUnasked.Error()},
		"another large one": {[]string{"/a/x"}, "home", Options{}, func(w wire, r *reader) error { return large(w, r, ".profile") }, errUnasked.Error()},
		"another directory": {[]string{"/a/x"}, "home", Options{}, func(w wire, _ *reader) error { return top(w, ".ssh") }, errUnasked.Error()},
		"below another": {[]string{"/a/x"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), small(w, ".ssh/keys", "x"))
		}, errUnasked.Error()},
		"another link": {[]string{"/a/x"}, "home", Options{}, func(w wire, _ *reader) error { return linkTo(w, ".profile", "x") }, errUnasked.Error()},
		"another hard link": {[]string{"/a/x"}, "home", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return errors.Join(small(w, "x", "x"), hard(w, ".profile", "x"))
		}, errUnasked.Error()},
		"a name of its own for ~": {[]string{"~"}, "home", Options{}, func(w wire, _ *reader) error { return small(w, ".profile", "x") }, errUnasked.Error()},
		"a name of its own for .": {[]string{"."}, "home", Options{}, func(w wire, _ *reader) error { return top(w, ".ssh") }, errUnasked.Error()},
		"a link as the top":       {[]string{"x"}, "home", Options{}, func(w wire, _ *reader) error { return linkTo(w, "x", "/etc") }, errProtocol.Error()},
		"a link in a directory": {[]string{"x"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), linkTo(w, "x/l", "../.ssh"), small(w, "x/l/keys", "x"))
		}, "x/l/keys: path escapes"},
		"a link as a directory": {[]string{"x"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), linkTo(w, "x/l", "../.ssh"), top(w, "x/l"), small(w, "x/l/keys", "x"))
		}, "x/l: path escapes"},
		"a large file by a link": {[]string{"x"}, "home", Options{}, func(w wire, r *reader) error {
			return errors.Join(top(w, "x"), linkTo(w, "x/l", ".."), w.write('F', file("x/l/.profile", unix.S_IFREG|0o600, block)))
		}, "x/l/.profile: path escapes"},
		"a hard link to the user's": {[]string{"x"}, "home", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), hard(w, "x/h", ".ssh/keys"))
		}, errProtocol.Error()},
		"a hard link by a link": {[]string{"x", "y"}, "home", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), linkTo(w, "x/l", "../.ssh"), top(w, "y"), hard(w, "y/h", "x/l/keys"))
		}, "y/h: path escapes"},
		"hard links of two": {[]string{"x", "y", "z"}, "home", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), small(w, "x/f", "x"), top(w, "y"), hard(w, "y/h", "x/f"), hard(w, "z", "y/h"))
		}, ""},
		"a hard link into a FIFO": {[]string{"x", "fifo"}, "home", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return hard(w, "x", "fifo/x")
		}, "x: not a directory"},
		"below a FIFO": {[]string{"fifo"}, "home", Options{}, func(w wire, r *reader) error {
			err := errors.Join(top(w, "fifo"), w.write('F', file("fifo/x", unix.S_IFREG|0o600, block)), w.w.Flush())
			_, _, err2 := r.read()
			return errors.Join(err, err2)
		}, "2 files:\nfifo: not a directory"},
		"hard links unasked": {[]string{"x", "y"}, "home", Options{}, func(w wire, _ *reader) error {
			return errors.Join(small(w, "x", "x"), hard(w, "y", "x"))
		}, errProtocol.Error()},
		"a directory that is a file here": {[]string{"file", "y"}, "home", Options{}, func(w wire, r *reader) error {
			err := errors.Join(top(w, "file"), small(w, "file/f", "x"), w.write('F', file("file/large", unix.S_IFREG|0o600, block)), w.w.Flush())
			for tag := byte(0); err == nil && tag != 'x'; {
				tag, _, err = r.read()
			}
			return errors.Join(err, small(w, "y", "x"))
		}, "3 files:\nfile: not a directory\nfile/f: not a directory\nfile/large: not a directory"},
		"a new name, by a link": {[]string{"x"}, "home/new", Options{}, func(w wire, _ *reader) error {
			return errors.Join(linkTo(w, "x", ".ssh"), top(w, "x"), small(w, "x/keys", "x"))
		}, errProtocol.Error()},
		"a new name, another one": {[]string{"x"}, "home/new", Options{}, func(w wire, _ *reader) error { return small(w, "y", "x") }, errUnasked.Error()},
		"a new name, by a hard link": {[]string{"x"}, "home/new", Options{HardLinks: true}, func(w wire, _ *reader) error {
			return hard(w, "x", ".ssh/keys")
		}, errProtocol.Error()},
		"a file's name, by a link": {[]string{"x"}, "home/file", Options{}, func(w wire, _ *reader) error {
			return errors.Join(linkTo(w, "x", ".ssh"), top(w, "x"), small(w, "x/keys", "x"))
		}, errProtocol.Error()},
		"sync, by a link": {[]string{"x"}, "home/new", Options{Sync: true, Delete: true}, func(w wire, r *reader) error {
			return errors.Join(asked(w, r), linkTo(w, "x", ".ssh"), top(w, "x"), small(w, "x/keys", "x"))
		}, errProtocol.Error()},
		"sync, another one": {[]string{"x"}, "home/new", Options{Sync: true, Delete: true}, func(w wire, r *reader) error {
			return w.write('Q', file("y", unix.S_IFDIR|0o755, 0))
		}, errUnasked.Error()},
		"a name that goes up": {[]string{"x"}, "home/new/..", Options{}, func(w wire, _ *reader) error {
			return errors.Join(top(w, "x"), small(w, "x/f", "x"))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mine := map[string]string{".profile": "mine", ".ssh/keys": "mine", "file": "mine"}
			for name, text := range mine {
				name = filepath.Join(dir, "home", name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Mkfifo(filepath.Join(dir, "home/fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l := liar{say: func(w wire, r *reader) error {
				err := errors.Join(test.say(w, r), w.write('q'), w.w.Flush())
				for err == nil { // the answers
					_, _, err = r.read()
				}
				return nil
			}}
			_, err := Get(ctx, l, test.ask, dir+"/"+test.dest, test.o)
			if err == nil && test.want != "" || err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, not %q", err, test.want)
			}
			for name, text := range mine {
				info, err := os.Stat(filepath.Join(dir, "home", name))
				got, _ := os.ReadFile(filepath.Join(dir, "home", name))
				if string(got) != text || err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 {
					t.Errorf("%s is %q, or has other names: %v", name, got, err)
				}
			}
			for _, name := range []string{"home", "home/.ssh", ""} {
				list, err := os.ReadDir(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				for _, each := range list {
					switch path.Join(name, each.Name()) {
					case "home", "home/.profile", "home/.ssh", "home/.ssh/keys", "home/file", "home/fifo", "home/new", "home/x", "home/y", "home/z":
					default:
						t.Errorf("%s is there", path.Join(name, each.Name()))
					}
					if each.Type()&fs.ModeSymlink != 0 {
						t.Errorf("%s is a link", path.Join(name, each.Name()))
					}
				}
			}
		})
	}
}

// asked ends the questions of sync, and reads the answers.
func asked(w wire, r *reader) error {
	err := errors.Join(w.write('P'), w.w.Flush())
	for tag := byte(0); err == nil && tag != 'p'; {
		tag, _, err = r.read()
	}
	return err
}

// TestGetTwice: a link that a child has left is followed by no later transfer, and the user's own are.
func TestGetTwice(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.WriteFile(home+"/file", []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	tree := func(w wire) error {
		return errors.Join(w.write('d', file("x", unix.S_IFDIR|0o755, 0)), small(w, "x/f", "x"))
	}
	for _, o := range []Options{{}, {Sync: true, Delete: true}} {
		l := liar{say: func(w wire, r *reader) error {
			if o.Sync {
				if err := errors.Join(w.write('Q', file("x", unix.S_IFDIR|0o755, 0)), asked(w, r)); err != nil {
					return err
				}
			}
			return errors.Join(tree(w), w.write('q'), w.w.Flush())
		}}
		planter := liar{say: func(w wire, r *reader) error {
			if o.Sync {
				if err := asked(w, r); err != nil {
					return err
				}
			}
			return errors.Join(linkTo(w, "x", home), w.write('q'), w.w.Flush())
		}}
		_, _ = Get(t.Context(), planter, []string{"x"}, dir+"/new", o)
		if _, err := Get(t.Context(), l, []string{"x"}, dir+"/new", o); err != nil {
			t.Error(err)
		}
		list, err := os.ReadDir(home)
		if err != nil || len(list) != 1 || list[0].Name() != "file" {
			t.Errorf("home has %v: %v", list, err)
		}
		if err := errors.Join(os.RemoveAll(dir+"/new"), os.MkdirAll(dir+"/there", 0o700), os.Symlink(dir+"/there", dir+"/new")); err != nil {
			t.Fatal(err)
		}
		if _, err := Get(t.Context(), l, []string{"x"}, dir+"/new", o); err != nil {
			t.Error(err)
		}
		name := dir + "/there/x/f"
		if o.Sync {
			name = dir + "/there/f"
		}
		if got, err := os.ReadFile(name); string(got) != "x" {
			t.Error("the user's link is not followed: ", err)
		}
		if err := errors.Join(os.RemoveAll(dir+"/new"), os.RemoveAll(dir+"/there")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTopName: what a source is called where the target would have to be asked.
func TestTopName(t *testing.T) {
	for source, want := range map[string]string{
		"x": "x", "/a/x": "x", "a/x/": "x", "x/.": "x", "a/../x": "x", "x/y/..": "x", "../x": "x", "/": "root", "//": "root", "/..": "root",
		"": "current", ".": "current", "./": "current", "x/..": "current", "..": "parent", "../..": "parent", "~/..": "current", "~/../..": "parent",
		"~": "home", "~/": "home", "~/x": "x", "~/x/..": "home", "~/../x": "x", "~bob": "bob", "~bob/": "bob", "~bob/x": "x", "~..": "home", "~.": "home",
		"a/~": "~", "a/../~": "~", "~/../~": "~", "x\\y": "x\\y", "a/caf\xe9": "caf\xe9",
	} {
		if got := topName(source); got != want {
			t.Errorf("%q: %q, not %q", source, got, want)
		}
	}
}

// TestSourcesOfOneName: the first is copied, and another one is an error. The same one twice is one.
func TestSourcesOfOneName(t *testing.T) {
	var args []string
	l := liar{args: &args, say: func(w wire, _ *reader) error { return errors.Join(small(w, "log", "x"), w.write('q')) }}
	dir := t.TempDir()
	r, err := Get(t.Context(), l, []string{"/a/log", "/b/log", "/a//log", "c/log/"}, dir, Options{})
	if err == nil || len(r.Errors) != 2 || r.Errors[0] != "/b/log: "+errTwice.Error() || !strings.HasPrefix(r.Errors[1], "c/log/: ") || r.Files != 1 {
		t.Error(r, err)
	}
	if len(args) != 3 || args[1] != "log" || args[2] != "/a/log" {
		t.Errorf("%q", args)
	}
	for _, name := range []string{"a/x", "b/x", "c/x/f"} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewSource([]string{dir + "/a/x", dir + "/b/x", dir + "/c/x", dir + "/b/../a/x"}, Options{})
	if err != nil || len(s.items) != 1 || len(s.Errors) != 2 || s.Errors[0] != dir+"/b/x: "+errTwice.Error() {
		t.Error(s, err)
	}
}

// TestGetOfNoEnd: a file of nothing is counted no longer than there is somebody who sends it.
func TestGetOfNoEnd(t *testing.T) {
	for name, test := range map[string]struct {
		size int64
		want string
	}{
		"the largest":       {1<<63 - 1, "larger than"},
		"nearly as large":   {maxSize + 1, "larger than"},
		"as large as it is": {maxSize, "status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			l := liar{say: func(w wire, r *reader) error {
				err := errors.Join(w.write('F', file("x", unix.S_IFREG|0o600, test.size)), w.w.Flush())
				tag, _, err2 := r.read()
				if err = errors.Join(err, err2); tag == 'x' || err != nil {
					return errors.Join(err, w.write('q'))
				}
				count := uint64(test.size / block)
				_ = errors.Join(w.write('Z', binary.BigEndian.AppendUint64(nil, count)), w.w.Flush())
				return errors.New("it is gone")
			}}
			_, err := Get(ctx, l, []string{"x"}, t.TempDir(), Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) || ctx.Err() != nil {
				t.Errorf("%v, not %q", err, test.want)
			}
		})
	}
}

// TestGetOffersLittle: of a large file of holes that is here, no more is read than the child's has.
func TestGetOffersLittle(t *testing.T) {
	dir := t.TempDir()
	sum := algorithmOf(3).sum([]byte("x"))
	part := filepath.Join(dir, fmt.Sprintf(".mitogend-%x%s", sum[:8], partSuffix))
	if err := errors.Join(os.WriteFile(part, nil, 0o600), os.Truncate(part, 1<<40)); err != nil {
		t.Fatal(err)
	}
	offered := 0
	l := liar{say: func(w wire, r *reader) error {
		err := errors.Join(w.write('F', file("x", unix.S_IFREG|0o600, 2*block)), w.w.Flush())
		for tag := byte(0); err == nil && tag != 'N'; {
			var data []byte
			tag, data, err = r.read()
			offered += len(data)
		}
		return errors.Join(err, w.write('X'), w.write('e', []byte("enough")), w.write('q'))
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := Get(ctx, l, []string{"x"}, dir, Options{}); err == nil || offered != 2*digestLen {
		t.Error(offered, err)
	}
}

// TestGetSideBySide: many transfers of one process write to one directory.
func TestGetSideBySide(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			name := fmt.Sprint("f", n)
			l := liar{say: func(w wire, _ *reader) error {
				var err error
				for range 200 {
					err = errors.Join(err, small(w, name, name))
				}
				return errors.Join(err, w.write('q'))
			}}
			if _, err := Get(t.Context(), l, []string{name}, dir, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 8 {
		t.Error(list, err)
	}
}

// TestGetHoles: a hole of a part stays one, however large, and what is there elsewhere is overwritten.
func TestGetHoles(t *testing.T) {
	const blocks = 400
	dir := t.TempDir()
	sum := algorithmOf(3).sum([]byte("x"))
	part := filepath.Join(dir, fmt.Sprintf(".mitogend-%x%s", sum[:8], partSuffix))
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 * block, 300*block + 7, 301*block - 1} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate((blocks+100)*block), f.Close()); err != nil {
		t.Fatal(err)
	}
	l := liar{say: func(w wire, r *reader) error {
		err := errors.Join(w.write('F', file("x", unix.S_IFREG|0o600, blocks*block-1)), w.w.Flush())
		for tag := byte(0); err == nil && tag != 'N'; {
			tag, _, err = r.read()
		}
		a := algorithmOf(3)
		root := a.new()
		for n := range blocks {
			d := a.zero(block)
			if n == blocks-1 {
				d = a.zero(block - 1)
			}
			_, _ = root.Write(d[:])
		}
		return errors.Join(err, w.write('Z', binary.BigEndian.AppendUint64(nil, blocks)), w.write('E', root.Sum(nil)), w.write('q'))
	}}
	if _, err := Get(t.Context(), l, []string{"x"}, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + "/x")
	if err != nil || len(got) != blocks*block-1 || len(bytes.Trim(got, "\x00")) > 0 {
		t.Error("it is not what was sent: ", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/x", &st); err != nil || st.Blocks*512 > blocks*block/4 {
		t.Error("its holes are filled: ", st.Blocks, err)
	}
}

// TestOpenNoLink: neither a part nor what is compared is a link, though a Root would follow it.
func TestOpenNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/file", []byte("mine"), 0o600), os.Symlink("file", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	g, err := newGet(dir, Options{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if f, err := g.open("file", os.O_RDONLY, 0); err != nil || f.Close() != nil {
		t.Error(err)
	}
	if f, err := g.open("link", os.O_RDWR|os.O_CREATE, 0o600); !errors.Is(err, unix.ELOOP) {
		t.Error(f, err)
	}
	if f := g.basis("link"); f != nil {
		t.Error("a link is compared with")
	}
}

// TestGetRefuses what cannot be a destination.
func TestGetRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	never := liar{say: func(wire, *reader) error { t.Error("it was begun"); return nil }}
	for _, o := range []Options{{}, {Sync: true, Delete: true}} {
		if r, err := Get(t.Context(), never, []string{"x"}, "", o); !errors.Is(err, ErrNoName) || r != nil {
			t.Error(r, err)
		}
		for _, dest := range []string{dir + "/fifo", "/dev/null"} {
			if r, err := Get(t.Context(), never, []string{"x"}, dest, o); !errors.Is(err, errSpecial) || r != nil {
				t.Error(r, err)
			}
		}
	}
	if _, err := Get(t.Context(), never, []string{"x", "y"}, dir+"/new", Options{Sync: true}); err == nil {
		t.Error("sync of two")
	}
}

// TestGetByLinks: a directory that a link leads to gets files and no mode or times; owners have all 32 bits.
func TestGetByLinks(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/x/far/below", 0o711), os.Chmod(dir+"/x/far", 0o711), os.Symlink("far", dir+"/x/link")); err != nil {
		t.Fatal(err)
	}
	o := Options{Owner: os.Geteuid() == 0}
	const owner = 0xfffffffd
	l := liar{say: func(w wire, _ *reader) error {
		var err error
		for _, name := range []string{"x", "x/link", "x/link/below", "x/link/new"} {
			e := entry{path: name, mode: unix.S_IFDIR | 0o755, mtime: 1e18}
			err = errors.Join(err, w.write('d', e.append(nil)))
		}
		d := algorithmOf(3).sum([]byte("x"))
		e := entry{path: "x/link/f", mode: unix.S_IFREG | 0o644, mtime: 1e18, size: 1, uid: owner, gid: owner}
		return errors.Join(err, w.write('f', e.append(nil), d[:], []byte("x")), w.write('q'))
	}}
	if _, err := Get(t.Context(), l, []string{"x"}, dir, o); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"x": 0o755, "x/far": 0o711, "x/far/below": 0o711, "x/far/new": 0o755, "x/far/f": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want || (info.ModTime().UnixNano() == 1e18) != (want != 0o711) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if name == "x/far/f" && o.Owner && info.Sys().(*syscall.Stat_t).Uid != owner {
			t.Error(info.Sys())
		}
	}
}
