package importer

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mitogend/integration/pythons"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	py2  = Version{2, 7}
	py3  = Version{3, 11}
	none = Version{}
)

// tree writes files below a new directory. A name that ends in / makes an empty directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text, strings.HasSuffix(name, "/"))
	}
	return dir
}

func write(t testing.TB, path, text string, dir bool) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if dir {
		err = os.MkdirAll(path, 0o755)
	} else {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// zipTree writes files into an archive.
func zipTree(t testing.TB, path string, files map[string]string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fw, err := w.Create(name)
		if err == nil {
			_, err = fw.Write([]byte(files[name]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func newImporter(t testing.TB, opt Options) *Importer {
	t.Helper()
	im, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func onPath(t testing.TB, files map[string]string) *Importer {
	t.Helper()
	return newImporter(t, Options{Path: []string{tree(t, files)}})
}

// sourceOf gives the text that is served for a name.
func sourceOf(t testing.TB, im *Importer, name string, v Version) string {
	t.Helper()
	m, err := im.Module(context.Background(), name, v)
	if err != nil {
		t.Fatal(err)
	}
	src, err := m.Source()
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

// reasonOf gives the reason why a name is not served.
func reasonOf(t testing.TB, im *Importer, name string, v Version) string {
	t.Helper()
	_, err := im.Module(context.Background(), name, v)
	var nf *NotFoundError
	if !errors.As(err, &nf) {
		t.Fatalf("Module(%q): error %v, want a NotFoundError", name, err)
	}
	return nf.Reason
}

func wantReason(t testing.TB, im *Importer, name string, v Version, part string) {
	t.Helper()
	if reason := reasonOf(t, im, name, v); !strings.Contains(reason, part) {
		t.Errorf("Module(%q) for %v: reason %q, want one with %q", name, v, reason, part)
	}
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// interpreters gives the Pythons by version. In CI none may be missing.
func interpreters(t testing.TB) map[Version]string {
	t.Helper()
	out := map[Version]string{}
	for _, p := range pythons.Whole(t) {
		var v Version
		if _, err := fmt.Sscanf(p.Version, "%d.%d", &v.Major, &v.Minor); err != nil {
			t.Fatal(err)
		}
		out[v] = p.Path
	}
	return out
}

// stderrOf gives what a program printed before it failed.
func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}
