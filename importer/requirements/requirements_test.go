package requirements

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mitogend/importer"
	"mitogend/integration/pythons"
)

func TestScript(t *testing.T) {
	for _, c := range []struct {
		source, want, python, err string
	}{
		{"print(1)\n", "", "", ""},
		{"#!/usr/bin/env python3\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"six\", # why\n#   \"numpy<2\",\n# ]\n# ///\nimport six\n", "six numpy<2", ">=3.11", ""},
		{"# /// script\r\n# dependencies = [\"a\"]\r\n#\r\n# [tool.x]\r\n# y = 1\r\n# ///\r\n", "a", "", ""},
		{"# /// script\n# dependencies = [\"a\"]\n# ///", "a", "", ""},
		{"# /// script\n# dependencies = [\"a\"]\nprint(1)\n# ///\n", "", "", ""}, // without an end
		{"# /// other\n# x = 1\n# ///\n# /// script\n# dependencies = []\n# ///\n", "", "", ""},
		{"x = '''\n  # /// script\n'''\n", "", "", ""},
		{"# /// script\n# dependencies = [\n# ///\n", "", "", "is no TOML"},
		{"# /// script\n# dependencies = [\"-r x\"]\n# ///\n", "", "", "that is no requirement"},
		{"# /// script\n# ///\n\n# /// script\n# ///\n", "", "", "two blocks"},
		{"# /// script\n# dependencies = 1\n# ///\n", "", "", "is no TOML"},
	} {
		lines, python, err := Script([]byte(c.source))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v", c.source, err)
			}
			continue
		}
		if err != nil || strings.Join(lines, " ") != c.want || python != c.python {
			t.Errorf("%q: %q, %q, %v", c.source, lines, python, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, line := range []string{"numpy", "numpy>=1.26,<2", "a[b]~=1.0; python_version < '3'", "A.b-c==1"} {
		if err := Check(line); err != nil {
			t.Error(err)
		}
	}
	for _, line := range []string{"", "-r x", "--index-url=http://x", "a\n-r x", "/etc/passwd", "=="} {
		if Check(line) == nil {
			t.Errorf("%q is a requirement", line)
		}
	}
}

func TestSystems(t *testing.T) {
	got := systems(importer.Platform{Machine: "x86_64", Libc: "glibc", LibcVersion: "2.17"})
	if got[0] != "manylinux_2_17_x86_64" || got[1] != "manylinux2014_x86_64" || !slices.Contains(got, "manylinux1_x86_64") || got[len(got)-1] != "linux_x86_64" ||
		slices.Contains(got, "manylinux_2_4_x86_64") {
		t.Errorf("%q", got)
	}
	if got := systems(importer.Platform{Machine: "aarch64", Libc: "musl", LibcVersion: "1.2.5"}); strings.Join(got, " ") !=
		"musllinux_1_2_aarch64 musllinux_1_1_aarch64 musllinux_1_0_aarch64 linux_aarch64" {
		t.Errorf("%q", got)
	}
	if got := systems(importer.Platform{Machine: "x86_64"}); strings.Join(got, " ") != "linux_x86_64" {
		t.Errorf("%q", got)
	}
}

// Wheels that somebody else could have put there are not served.
func TestCacheOfOthers(t *testing.T) {
	caches := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", caches)
	if err := os.Chmod(caches, 0o777); err != nil {
		t.Fatal(err)
	}
	r := importer.Requirements{Lines: []string{"six"}}
	p := importer.Platform{Version: importer.Version{Major: 3, Minor: 11}, ABI: "cp311", Machine: "x86_64"}
	key, err := keyOf(r, p, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(caches, "mitogend", "requirements", key), 0o700); err != nil {
		t.Fatal(err)
	}
	if dir, err := Fetch(context.Background(), r, p, os.Environ()); err == nil || !strings.Contains(err.Error(), "others may write to") {
		t.Error(dir, err)
	}
}

// A directory that would not be used is not made: by sudo with the user's HOME it would be root's.
func TestNothingIsMadeForOthers(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, ".cache"))
	if err := os.Chmod(home, 0o777); err != nil {
		t.Fatal(err)
	}
	p := importer.Platform{Version: importer.Version{Major: 3, Minor: 11}, ABI: "cp311", Machine: "x86_64"}
	if dir, err := Fetch(context.Background(), importer.Requirements{Lines: []string{"six"}}, p, os.Environ()); err == nil || !strings.Contains(err.Error(), "others may write to the directory "+home) {
		t.Error(dir, err)
	}
	if made, err := os.ReadDir(home); err != nil || len(made) != 0 {
		t.Error(made, err)
	}
}

// The modules of the current directory, which may be somebody else's, do not run.
func TestPipIsNotFromHere(t *testing.T) {
	version := importer.Version{Major: 3, Minor: 99} // so that it is python3's
	if _, _, _, err := pip(context.Background(), version, os.Environ()); err != nil {
		pythons.Missing(t, err)
	}
	dir := t.TempDir()
	for _, name := range []string{"pip.py", "runpy.py", "optparse.py"} {
		write(t, filepath.Join(dir, name), "raise SystemExit('it is "+name+" of this directory that runs')\n")
	}
	t.Chdir(dir)
	argv, _, _, err := pip(context.Background(), version, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(argv[0], append(argv[1:], "--version")...).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "pip ") {
		t.Errorf("%v: %s", err, out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The key is another one once anything has changed that decides what is found, files that files name as well.
func TestKey(t *testing.T) {
	dir := t.TempDir()
	file, base, limits := filepath.Join(dir, "a.txt"), filepath.Join(dir, "base.txt"), filepath.Join(dir, "c.txt")
	write(t, file, "six\n-r base.txt\n")
	write(t, base, "--constraint="+limits+"\n-r a.txt\n-r none.txt\n")
	write(t, limits, "six<2\n")
	p := importer.Platform{Version: importer.Version{Major: 3, Minor: 11}, ABI: "cp311", Machine: "x86_64"}
	key := func() string {
		t.Helper()
		k, err := keyOf(importer.Requirements{Files: []string{file}}, p, os.Environ())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	last := key()
	if key() != last {
		t.Error("it is another one each time")
	}
	for _, change := range []func(){
		func() { write(t, base, "-c "+limits+"\n") }, func() { write(t, limits, "six<1\n") }, func() { t.Setenv("PIP_CONFIG_FILE", "x") },
		func() { t.Setenv("UV_INDEX_URL", "x") },
	} {
		change()
		if k := key(); k == last {
			t.Error("a change was not noticed")
		} else {
			last = k
		}
	}
}

// What children are served from stays as it is: what is found later lies beside it, unless it is the same, or others were faster.
func TestKeep(t *testing.T) {
	top := t.TempDir()
	for i, c := range []struct {
		old  bool
		text string
		want string // the directory's number, and what is in it
	}{{false, "a", "1 a"}, {true, "b", "2 b"}, {false, "c", "2 b"}, {true, "b", "2 b"}, {true, "a", "3 a"}} {
		dir, _ := newest(top, "key")
		if c.old {
			then := time.Now().Add(-2 * fresh)
			if err := os.Chtimes(dir, then, then); err != nil {
				t.Fatal(err)
			}
		}
		part := filepath.Join(top, "part")
		if err := os.MkdirAll(filepath.Join(part, "site"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(part, "site", "x.py"), c.text)
		dir, err := keep(part, top, "key")
		if err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(part)
		data, _ := os.ReadFile(filepath.Join(dir, "site", "x.py"))
		if got := strings.TrimPrefix(filepath.Base(dir), "key.") + " " + string(data); got != c.want || !isFresh(dir) {
			t.Errorf("%d: %s, want %s", i, got, c.want)
		}
	}
	if data, err := os.ReadFile(filepath.Join(top, "key.1", "site", "x.py")); string(data) != "a" {
		t.Errorf("the first one has changed: %q, %v", data, err)
	}
	if left, _ := filepath.Glob(filepath.Join(top, "*")); len(left) != 3 {
		t.Errorf("%q", left)
	}
	if dir, n := newest(top, "ke"); dir != "" || n != 0 {
		t.Error(dir, n)
	}
}

// Wheels that nobody asks for, and what killed processes have left, do not stay for ever.
func TestCacheIsTrimmed(t *testing.T) {
	caches := filepath.Join(t.TempDir(), "caches")
	t.Setenv("XDG_CACHE_HOME", caches)
	top := filepath.Join(caches, "mitogend", "requirements")
	for name, days := range map[string]int{"used": 2, "unused": 31, "part.now": 0, "part.killed": 2} {
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x.whl"), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
		if err := os.Chtimes(dir, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := CacheUsage(); err != nil || u != (Usage{top, 2, 400}) {
		t.Error(u, err)
	}
	if err := trim(); err != nil {
		t.Error(err)
	}
	left := func() (names []string) {
		entries, err := os.ReadDir(top)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := left(); !slices.Equal(got, []string{"part.now", "used"}) {
		t.Error(got)
	}
	if u, err := ClearCache(); err != nil || u != (Usage{top, 1, 200}) || len(left()) > 0 {
		t.Error(u, err, left())
	}
	// What somebody else may write to is left alone.
	if err := os.Chmod(top, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := ClearCache(); err == nil || !strings.Contains(err.Error(), "others may write to") {
		t.Error(err)
	}
	t.Setenv("XDG_CACHE_HOME", filepath.Join(caches, "none"))
	if u, err := CacheUsage(); err != nil || u.Sets != 0 {
		t.Error(u, err)
	}
}
