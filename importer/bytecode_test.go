package importer

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
			source := filepath.Join(dir, "mod.py")
			cache := filepath.Join(dir, "__pycache__")
			pyc := filepath.Join(cache, "mod.cpython-311.pyc")
			when := time.Now().Add(-time.Hour)
			head := []byte("12\r\n\x00\x00\x00\x00")
			head = binary.LittleEndian.AppendUint32(head, uint32(when.Unix()))
			head = binary.LittleEndian.AppendUint32(head, uint32(len("X = 1\n")))
			write(t, pyc, string(head)+"code", false)
			if err := first(os.Chtimes(source, when, when), chmods(source, 0o644, cache, 0o755, pyc, 0o644)); err != nil {
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
