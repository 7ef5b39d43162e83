package transfer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
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
	say func(w wire, r *reader) error
}

func (liar) Version() importer.Version { return importer.Version{Major: 3, Minor: 11} }

func (l liar) Run(_ context.Context, o daemon.RunOptions) (daemon.ExitStatus, error) {
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
			e := entry{path: "link", link: "..", mode: unix.S_IFLNK | 0o777}
			return errors.Join(w.write('l', e.append(nil)), small(w, "link/out", "x"))
		}, "link/out: path escapes from parent", ""},
		"a link as a directory": {func(w wire, _ *reader) error {
			e := entry{path: "link", link: "..", mode: unix.S_IFLNK | 0o777}
			return errors.Join(w.write('l', e.append(nil)), w.write('d', file("link", unix.S_IFDIR|0o777, 0)), w.write('q'))
		}, "link: path escapes from parent", ""},
		"a hard link upwards": {func(w wire, _ *reader) error {
			e := entry{path: "top", link: "../out", mode: unix.S_IFREG | 0o777}
			return w.write('h', e.append(nil))
		}, errProtocol.Error(), ""},
		"a hard link to a link": {func(w wire, _ *reader) error {
			up, e := entry{path: "link", link: "../passwd", mode: unix.S_IFLNK | 0o777}, entry{path: "top", link: "link", mode: unix.S_IFREG | 0o777}
			return errors.Join(w.write('l', up.append(nil)), w.write('h', e.append(nil)), w.write('q'))
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
			_, err := Get(ctx, l, []string{"x"}, inside+"/", Options{})
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
			if info, err := os.Stat(filepath.Join(inside, "top")); err == nil && info.Mode()&^0o777 != 0 {
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
	if _, err := Put(t.Context(), liar{}, &Source{}, "", Options{Sync: true, Delete: true}); err == nil {
		t.Error("an empty destination is taken")
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
		}}, []string{"x"}, dir+"/", Options{})
		ended <- err
	}()
	<-began
	_, err := Get(t.Context(), liar{say: func(w wire, r *reader) error { return errors.Join(hold(w, r), broken) }}, []string{"x"}, dir+"/", Options{})
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
			_, err := Get(t.Context(), l, []string{"x"}, dir+"/", Options{Xattrs: test.asked})
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
		"an early end": func(w wire) error { return w.write('T', make([]byte, 8)) },
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
