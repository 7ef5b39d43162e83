package importer

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	wheel := filepath.Join(dir, "thing-1.0-py3-none-any.whl")
	zipTree(t, wheel, map[string]string{
		"thing/__init__.py": "thing\n", "thing/sub/mod.py": "mod\n", "thing/data/x.txt": "data", "flat.py": "flat\n",
		"thing-1.0.dist-info/METADATA": "Name: thing\nVersion: 1.0\n", "native.so": "", "../evil.py": "evil\n", "/abs.py": "abs\n",
		`back\slash.py`: "b\n",
	})
	nested := filepath.Join(dir, "nested.zip")
	zipTree(t, nested, map[string]string{"lib/python/inner.py": "inner\n", "lib/python/thing/late.py": ""})
	im := newImporter(t, Options{Path: []string{wheel, filepath.Join(nested, "lib/python"), filepath.Join(nested, "absent")}})
	for name, want := range map[string]string{"thing": "thing\n", "thing.sub.mod": "mod\n", "flat": "flat\n", "inner": "inner\n"} {
		if got := sourceOf(t, im, name, py3); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	m, err := im.Module(context.Background(), "thing", py3)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(wheel, "thing/__init__.py"); m.Path != want {
		t.Errorf("path %s, want %s", m.Path, want)
	}
	equal(t, "present", m.Present, []string{"data", "sub"})
	wantReason(t, im, "native", py3, "extension module")
	for _, name := range []string{"evil", "abs", "lib"} {
		wantReason(t, im, name, py3, "no such module")
	}

	zipTree(t, wheel, map[string]string{"thing/__init__.py": "newer thing\n"})
	if got := sourceOf(t, im, "thing", py3); got != "newer thing\n" {
		t.Errorf("after the wheel has changed: %q", got)
	}
	wantReason(t, im, "flat", py3, "no such module")
	for _, arc := range im.finder.archives {
		if arc.users != 0 || arc.file != nil {
			t.Errorf("%s is still open", arc.path)
		}
	}
}

// lyingZip has one deflated member whose headers give another size.
func lyingZip(t *testing.T, path string, real, claimed int) {
	t.Helper()
	zipTree(t, path, map[string]string{"liar.py": strings.Repeat("#", real)})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(data[at+24:], uint32(claimed))
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBadArchives(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.zip")
	for _, c := range []struct {
		real, claimed int
		reason        string
	}{
		{5000, 10, "liar.py: "},
		{10, 5000, "liar.py: "},
		{100, 2_000_000_000, "too large"},
		{2_000_000, 100, "liar.py: "},
	} {
		lyingZip(t, path, c.real, c.claimed)
		im := newImporter(t, Options{Path: []string{path}, MaxSource: 1_000_000})
		wantReason(t, im, "liar", py3, c.reason)
	}

	zipTree(t, path, map[string]string{"cut.py": strings.Repeat("import os\n", 1000)})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 10, len(data) / 2, len(data) - 1} {
		if err := os.WriteFile(path, data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		im := newImporter(t, Options{Path: []string{path}})
		wantReason(t, im, "cut", py3, "no such module")
	}
	flipped := slices.Clone(data)
	flipped[60] ^= 0xff
	if err := os.WriteFile(path, flipped, 0o644); err != nil {
		t.Fatal(err)
	}
	wantReason(t, newImporter(t, Options{Path: []string{path}}), "cut", py3, "cut.py: ")
}

func TestArchiveDuplicateNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.zip")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	for _, text := range []string{"old\n", "new\n"} {
		fw, err := w.Create("m.py")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := sourceOf(t, newImporter(t, Options{Path: []string{path}}), "m", py3); got != "new\n" {
		t.Errorf("served %q", got)
	}
}
