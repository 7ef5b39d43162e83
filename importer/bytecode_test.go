package importer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// TestBytecodeIsTrusted: bytecode counts only if nobody could have written it who could not have written the source.
func TestBytecodeIsTrusted(t *testing.T) {
	const other = 54321 // a group and a user that the source has nothing to do with
	for _, c := range []struct {
		name  string
		want  bool
		root  bool // needs root
		spoil func(source, dir, pyc string) error
	}{
		{name: "as it is", want: true},
		{name: "group may write all", want: true, spoil: func(source, dir, pyc string) error { return chmods(source, 0o664, dir, 0o775, pyc, 0o664) }},
		{name: "group may write the file only", spoil: func(_, _, pyc string) error { return os.Chmod(pyc, 0o664) }},
		{name: "group may write the directory only", spoil: func(_, dir, _ string) error { return os.Chmod(dir, 0o775) }},
		{name: "others may write the file", spoil: func(_, _, pyc string) error { return os.Chmod(pyc, 0o646) }},
		{name: "others may write all", spoil: func(source, dir, pyc string) error { return chmods(source, 0o666, dir, 0o777, pyc, 0o666) }},
		{name: "others may write the directory", spoil: func(_, dir, _ string) error { return os.Chmod(dir, 0o1777) }},
		{name: "another group may write the file", root: true, spoil: func(source, dir, pyc string) error {
			return first(chmods(source, 0o664, dir, 0o775, pyc, 0o664), os.Chown(pyc, -1, other))
		}},
		{name: "another group may write the directory", root: true, spoil: func(source, dir, pyc string) error {
			return first(chmods(source, 0o664, dir, 0o775, pyc, 0o664), os.Chown(dir, -1, other))
		}},
		{name: "another group may read", want: true, root: true, spoil: func(_, _, pyc string) error { return os.Chown(pyc, -1, other) }},
		{name: "another user's file", root: true, spoil: func(_, _, pyc string) error { return os.Chown(pyc, other, -1) }},
		{name: "another user's directory", root: true, spoil: func(_, dir, _ string) error { return os.Chown(dir, other, -1) }},
		{name: "the source's owner", want: true, root: true, spoil: func(source, dir, pyc string) error {
			return first(os.Chown(source, other, -1), os.Chown(dir, other, -1), os.Chown(pyc, other, -1))
		}},
		{name: "a link for the directory", spoil: func(_, dir, _ string) error {
			return first(os.Rename(dir, dir+".real"), os.Symlink(dir+".real", dir))
		}},
		{name: "a link for the file", spoil: func(_, _, pyc string) error {
			return first(os.Rename(pyc, pyc+".real"), os.Symlink(pyc+".real", pyc))
		}},
		{name: "a FIFO for the file", spoil: func(_, _, pyc string) error { return first(os.Remove(pyc), unix.Mkfifo(pyc, 0o600)) }},
		{name: "a directory for the file", spoil: func(_, _, pyc string) error { return first(os.Remove(pyc), os.Mkdir(pyc, 0o700)) }},
		{name: "a file for the directory", spoil: func(_, dir, _ string) error { return first(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				pythons.Missing(t, "gives files away: needs root")
			}
			dir := tree(t, map[string]string{"mod.py": "X = 1\n"})
			source, pyc := codeBeside(t, dir, "X = 1\n", time.Now().Add(-time.Hour))
			cache := filepath.Dir(pyc)
			if err := chmods(source, 0o644, cache, 0o755, pyc, 0o644); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				if err := c.spoil(source, cache, pyc); err != nil {
					t.Fatal(err)
				}
			}
			s := newImporter(t, Options{Path: []string{dir}}).search(py3)
			if _, err := s.unit(s.find("mod")); err != nil {
				t.Fatal(err)
			}
			magic, code := s.bytecode("mod")
			if code != nil {
				if code, _ = inflate(code); code == nil {
					t.Fatal("it is no zlib")
				}
			}
			if (string(magic) == "12\r\n" && string(code) == "code") != c.want || !c.want && code != nil {
				t.Errorf("got %q, %q", magic, code)
			}
		})
	}
}

// TestTextIsTheSource: what was kept of a source is not compiled unless it is that source.
func TestTextIsTheSource(t *testing.T) {
	text := []byte("X = 1\n")
	for name, z := range map[string][]byte{"": stored(text), "shorter": stored(text[1:]), "longer": stored([]byte("X = 1\n\n")),
		"another": stored([]byte("X = 2\n")), "no zlib": text, "cut": stored(text)[:8]} {
		u := Uncompiled{Hash: sha256.Sum256(text), Size: len(text), Compressed: func() []byte { return z }}
		if got, err := u.Text(); (err == nil) != (name == "") || err == nil && string(got) != string(text) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func chmods(pairs ...any) error {
	var err error
	for i := 0; i < len(pairs); i += 2 {
		err = first(err, os.Chmod(pairs[i].(string), os.FileMode(pairs[i+1].(int))))
	}
	return err
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// codeBeside leaves what passes for the bytecode of mod.py.
func codeBeside(t *testing.T, dir, text string, when time.Time) (source, pyc string) {
	t.Helper()
	source, pyc = filepath.Join(dir, "mod.py"), filepath.Join(dir, "__pycache__", "mod.cpython-311.pyc")
	if err := os.Chtimes(source, when, when); err != nil {
		t.Fatal(err)
	}
	head := binary.LittleEndian.AppendUint32([]byte("12\r\n\x00\x00\x00\x00"), uint32(when.Unix()))
	write(t, pyc, string(binary.LittleEndian.AppendUint32(head, uint32(len(text))))+"code", false)
	return source, pyc
}

// TestKeep: whoever keeps sources is told, once, of each that had to be compressed.
func TestKeep(t *testing.T) {
	files := map[string]string{"mod.py": "X = 1\n", "bare.py": "Y = 1\n"}
	dir := tree(t, files)
	codeBeside(t, dir, files["mod.py"], time.Now().Add(-time.Hour))
	var told, coded []string
	none := ResponderOptions{Version: py3}
	keeps := none
	keeps.Keep = func(u Uncompiled) {
		if text, err := u.Text(); err != nil || string(text) != files[filepath.Base(u.Path)] {
			t.Errorf("%s is %q, %v", u.Path, text, err)
		}
		told = append(told, filepath.Base(u.Path))
	}
	near := keeps
	near.Code = func(name string, _, _ []byte) error { coded = append(coded, name); return nil }
	has := near
	has.Kept = func(u Uncompiled) []byte { return stored([]byte(files[filepath.Base(u.Path)])) }
	for _, c := range []struct {
		name        string
		opt         []ResponderOptions
		told, coded string
	}{
		{"without code", []ResponderOptions{keeps, keeps}, "[mod.py bare.py]", "[]"},
		{"with what lies beside it", []ResponderOptions{near, near}, "[mod.py bare.py]", "[mod mod]"},
		{"compressed for another", []ResponderOptions{none, near}, "[mod.py bare.py]", "[mod]"},
		{"kept", []ResponderOptions{has, near}, "[]", "[mod mod]"},
	} {
		told, coded = nil, nil
		im := newImporter(t, Options{Path: []string{dir}})
		for _, opt := range c.opt {
			ask(t, serve(t, im, &recorder{}, opt), "mod", "bare")
		}
		if fmt.Sprint(told) != c.told || fmt.Sprint(coded) != c.coded {
			t.Errorf("%s: told of %v, want %s; code of %v, want %s", c.name, told, c.told, coded, c.coded)
		}
	}
}

// TestStaleBytecode: bytecode does not count for a source of the same size and second that is newer.
func TestStaleBytecode(t *testing.T) {
	hour := time.Now().Add(-time.Hour).Truncate(time.Second)
	stat := func(t *testing.T, path string) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	// rewrite gives the source a later change time than the bytecode has, with the times that both have.
	rewrite := func(t *testing.T, source, pyc string) {
		t.Helper()
		when := time.Unix(0, func() int64 { st := stat(t, source); return st.Mtim.Nano() }())
		poll.Until(t, "the source is newer", func() bool {
			write(t, source, "X = 2\n", false)
			if err := os.Chtimes(source, when, when); err != nil {
				t.Fatal(err)
			}
			s, p := stat(t, source), stat(t, pyc)
			return s.Ctim.Nano() > p.Ctim.Nano()
		})
	}
	for _, c := range []struct {
		name  string
		want  bool
		spoil func(t *testing.T, source, pyc string)
	}{
		{"compiled", true, func(*testing.T, string, string) {}},
		{"within the second", false, func(t *testing.T, source, pyc string) {
			if err := first(os.Chtimes(source, hour, hour.Add(2)), os.Chtimes(pyc, hour, hour.Add(1))); err != nil {
				t.Fatal(err)
			}
		}},
		{"the source was replaced", false, rewrite},
		{"unpacked at once", true, func(t *testing.T, source, pyc string) {
			if err := os.Chtimes(pyc, hour, hour); err != nil {
				t.Fatal(err)
			}
			rewrite(t, source, pyc)
		}},
		{"there are other links", true, func(t *testing.T, source, pyc string) {
			rewrite(t, source, pyc)
			if err := os.Link(source, source+".link"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, map[string]string{"mod.py": "X = 1\n"})
			source, pyc := codeBeside(t, dir, "X = 1\n", hour)
			c.spoil(t, source, pyc)
			s := newImporter(t, Options{Path: []string{dir}}).search(py3)
			if _, err := s.unit(s.find("mod")); err != nil {
				t.Fatal(err)
			}
			if _, code := s.bytecode("mod"); (code != nil) != c.want {
				t.Errorf("bytecode is sent: %v", code != nil)
			}
		})
	}
}
