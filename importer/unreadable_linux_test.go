package importer

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// What may not be read is not served, with the reason.
func TestUnreadable(t *testing.T) {
	dir := tree(t, map[string]string{"closed.py": "x\n", "shut/__init__.py": "", "open.py": "ok\n"})
	for _, name := range []string{"closed.py", "shut"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	for p := dir; p != "/"; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && info.Mode().Perm()&0o055 != 0o055 {
			if err := os.Chmod(p, info.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
	asNobody(t, func() {
		im := newImporter(t, Options{Path: []string{dir}})
		wantReason(t, im, "closed", py3, "closed.py: permission denied")
		wantReason(t, im, "shut", py3, "cannot be listed")
		if got := sourceOf(t, im, "open", py3); got != "ok\n" {
			t.Errorf("open is %q", got)
		}
	})
	if err := os.Chmod(filepath.Join(dir, "shut"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// asNobody calls f without the right to read everything that root has.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const nobody = 65534
	if err := unix.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
