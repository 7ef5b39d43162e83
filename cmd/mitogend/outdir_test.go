package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The file of --failed keeps its mode, and a link to it stays one. A new file has the mode that the umask leaves.
func TestFailedFileIsReplaced(t *testing.T) {
	dir := t.TempDir()
	mask := os.FileMode(unix.Umask(0o027)) // no other test of this package runs beside it
	defer unix.Umask(int(mask))
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(at("old"), nil, 0o600), os.Mkdir(at("sub"), 0o755), os.WriteFile(at("sub/file"), []byte("before"), 0o640),
		os.Symlink("sub/file", at("link")), os.Symlink("link", at("link2")), os.Symlink("sub/none", at("loose")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		file string
		mode os.FileMode
	}{"old": {"old", 0o600}, "new": {"new", 0o640}, "link": {"sub/file", 0o640}, "link2": {"sub/file", 0o640}, "loose": {"sub/none", 0o640}} {
		f, err := newFailedFile(at(name))
		if err == nil {
			err = f.write([]string{name})
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := os.Lstat(at(want.file))
		text, _ := os.ReadFile(at(want.file))
		if err != nil || info.Mode() != want.mode || string(text) != name+"\n" {
			t.Errorf("%s: %v has %q, %v", name, want.file, text, info)
		}
	}
	for _, link := range []string{"link", "link2", "loose"} {
		if info, err := os.Lstat(at(link)); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s is no link any more: %v", link, info)
		}
	}
	if left, _ := filepath.Glob(at(".mitogend-*")); len(left) > 0 {
		t.Error(left)
	}
}
