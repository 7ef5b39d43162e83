package importer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFind(t *testing.T) {
	im := onPath(t, map[string]string{
		"plain.py":             "x = 1\n",
		"pkg/__init__.py":      "import pkg.a\n",
		"pkg/a.py":             "a\n",
		"pkg/sub/__init__.py":  "",
		"pkg/sub/deep.py":      "deep\n",
		"pkg/0001_initial.py":  "migration\n",
		"pkg/data/file.txt":    "no module",
		"both.py":              "module\n",
		"both/__init__.py":     "package\n",
		"naïve.py":             "accent\n",
		"space/inner/thing.py": "thing\n",
		"nothing/here.txt":     "",
		"sqlite3.py":           "not the standard library's\n",
		"configparser.py":      "a backport\n",
		"fast.abi3.so":         "",
		"slow.so":              "",
		"oldmodule.so":         "",
		"compiled.pyc":         "",
		"ext/__init__.cpython-311-x86_64-linux-gnu.so": "",
		"mixed.cpython-311-x86_64-linux-gnu.so":        "",
		"mixed.py":                                     "pure\n",
		"dir.py/x":                                     "",
		"win.pyd":                                      "",
		"bytes/x.py":                                   "",
	})
	for _, c := range []struct {
		name, source string
		v            Version
		kind         Kind
		present      []string
	}{
		{"plain", "x = 1\n", py3, KindModule, nil},
		{"pkg", "import pkg.a\n", py3, KindPackage, []string{"0001_initial", "a", "data", "sub"}},
		{"pkg.a", "a\n", py2, KindModule, nil},
		{"pkg.sub", "", py3, KindPackage, []string{"deep"}},
		{"pkg.sub.deep", "deep\n", py3, KindModule, nil},
		{"pkg.0001_initial", "migration\n", py3, KindModule, nil},
		{"both", "package\n", py3, KindPackage, []string{}},
		{"naïve", "accent\n", py3, KindModule, nil},
		{"space", "", py3, KindNamespace, []string{"inner"}},
		{"pkg.data", "", py3, KindNamespace, []string{}},
		{"space.inner.thing", "thing\n", py3, KindModule, nil},
		{"configparser", "a backport\n", py2, KindModule, nil},
		{"mixed", "pure\n", py3, KindModule, nil},
	} {
		m, err := im.Module(context.Background(), c.name, c.v)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if src, _ := m.Source(); string(src) != c.source || m.Kind != c.kind || m.Size != len(c.source) {
			t.Errorf("%s: a %s with %q", c.name, m.Kind, src)
		}
		if m.IsPkg != (c.kind != KindModule) {
			t.Errorf("%s: IsPkg is %v", c.name, m.IsPkg)
		}
		equal(t, c.name+": present", m.Present, c.present)
		if (m.Present == nil) != (c.present == nil) {
			t.Errorf("%s: present is %#v, want %#v", c.name, m.Present, c.present)
		}
	}
	for _, c := range []struct {
		name, reason string
		v            Version
	}{
		{"absent", "no such module", py3},
		{"pkg.absent", "package pkg has no such module", py3},
		{"plain.x", "plain is no package", py3},
		{"absent.x", "its package absent: no such module", py3},
		{"space", "Python 2 has no namespace packages", py2},
		{"nothing", "no such module", py3},
		{"pkg.data", "Python 2 has no namespace packages", py2},
		{"sqlite3", "standard library of Python 3.11", py3},
		{"sqlite3", "standard library", none},
		{"configparser", "standard library", py3},
		{"os.path", "standard library", py2},
		{"fast", "extension module", py3},
		{"slow", "extension module", py3},
		{"old", "extension module", py2},
		{"ext", "extension module", py3},
		{"win", "extension module", py3},
		{"compiled", "bytecode without its source", py3},
		{"dir", "dir.py is a directory", py3},
		{"__main__", "there is no script", py3},
	} {
		wantReason(t, im, c.name, c.v, c.reason)
	}
}

func TestNames(t *testing.T) {
	outside := tree(t, map[string]string{"secret.py": "secret", "top/inside.py": "", "top/__init__.py": ""})
	im := newImporter(t, Options{Path: []string{filepath.Join(outside, "top")}})
	for _, name := range []string{
		"", ".", "..", "a..b", ".a", "a.", "../secret", "..secret", "/etc/passwd", "../../etc/passwd", "inside/../../secret",
		"a\x00b", "inside\x00", "a/b", `a\b`, "C:a", "a b", "a\nb", "\xff\xfe", "\u202e", "inside\u2028",
		strings.Repeat("a", MaxName+1), strings.Repeat("a.", MaxName),
	} {
		if m, err := im.Module(context.Background(), name, none); err == nil {
			t.Errorf("%q is served from %s", name, m.Path)
		}
		if nameFault(name) == "" {
			t.Errorf("%q passes", name)
		}
	}
	for _, name := range []string{"a", "_a.b1", "x-y", "café", "模块.子", "a.0001_x", strings.Repeat("a", MaxName)} {
		if fault := nameFault(name); fault != "" {
			t.Errorf("%q: %s", name, fault)
		}
	}
	if sourceOf(t, im, "inside", py3) != "" {
		t.Error("inside is not served")
	}
}

func TestPathOrderAndPortions(t *testing.T) {
	a := tree(t, map[string]string{
		"ns/one.py": "1\n", "twice.py": "first\n", "shadow/x.py": "portion\n",
		"ext/__init__.py": "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n", "ext/a.py": "",
		"closed/__init__.py": "", "later.cpython-311-x86_64-linux-gnu.so": "",
	})
	b := tree(t, map[string]string{
		"ns/two.py": "2\n", "ns/one.py": "hidden\n", "twice.py": "second\n", "shadow/__init__.py": "regular\n",
		"ext/__init__.py": "", "ext/b/__init__.py": "", "closed/b.py": "", "later.py": "pure\n",
	})
	im := newImporter(t, Options{Path: []string{a, filepath.Join(a, "absent"), b}})
	if got := sourceOf(t, im, "twice", py3); got != "first\n" {
		t.Errorf("twice is %q", got)
	}
	if got := sourceOf(t, im, "ns.one", py3); got != "1\n" {
		t.Errorf("ns.one is %q", got)
	}
	if got := sourceOf(t, im, "ns.two", py3); got != "2\n" {
		t.Errorf("ns.two is %q", got)
	}
	if got := sourceOf(t, im, "shadow", py3); got != "regular\n" {
		t.Errorf("a regular package later on the path loses against a portion: %q", got)
	}
	if got := sourceOf(t, im, "later", py3); got != "pure\n" {
		t.Errorf("later is %q", got)
	}
	sourceOf(t, im, "ext.b", py2)
	wantReason(t, im, "closed.b", py3, "no such module")
	for name, want := range map[string][]string{"ns": {"one", "two"}, "ext": {"a", "b"}, "closed": {}} {
		m, err := im.Module(context.Background(), name, py3)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name, m.Present, want)
	}
}

// A venv's .pth files add paths; lines of code in them are not run.
func TestVenv(t *testing.T) {
	editable := tree(t, map[string]string{"src/mine.py": "editable\n"})
	venv := tree(t, map[string]string{
		"lib/python3.11/site-packages/third.py":   "third\n",
		"lib/python3.11/site-packages/a.pth":      "\xef\xbb\xbf# comment\r\nextra\r\n\r\nimport os; os.system('false')\nimport\tsys\n/does/not/exist\n",
		"lib/python3.11/site-packages/b.pth":      filepath.Join(editable, "src") + "  \n",
		"lib/python3.11/site-packages/.hid.pth":   "hidden\n",
		"lib/python3.11/site-packages/extra/e.py": "extra\n", "lib/python3.11/site-packages/hidden/h.py": "h\n",
	})
	first := tree(t, map[string]string{"third.py": "mine\n"})
	im := newImporter(t, Options{Path: []string{first}, Venv: venv})
	site := filepath.Join(venv, "lib/python3.11/site-packages")
	equal(t, "path", im.Path(), []string{first, site, filepath.Join(site, "extra"), filepath.Join(editable, "src")})
	for name, want := range map[string]string{"third": "mine\n", "e": "extra\n", "mine": "editable\n"} {
		if got := sourceOf(t, im, name, py3); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	wantReason(t, im, "h", py3, "no such module")

	write(t, filepath.Join(site, "b.pth"), "hidden\n", false)
	if got := sourceOf(t, im, "h", py3); got != "h\n" {
		t.Errorf("after the .pth file has changed h is %q", got)
	}
	wantReason(t, im, "mine", py3, "no such module")
	if _, err := New(Options{Venv: first}); err == nil || !strings.Contains(err.Error(), "no virtual environment") {
		t.Errorf("a directory that is no venv: %v", err)
	}
}

func TestChangesAreNoticed(t *testing.T) {
	dir := tree(t, map[string]string{"m.py": "one\n", "pkg/__init__.py": ""})
	im := newImporter(t, Options{Path: []string{dir}})
	file := filepath.Join(dir, "m.py")
	for _, text := range []string{"one\n", "two\n", "same\n", "size\n", "three\n"} {
		write(t, file, text, false)
		if got := sourceOf(t, im, "m", py3); got != text {
			t.Fatalf("served %q, the file has %q", got, text)
		}
	}
	// The same size and the same times, in a new file: only inode and change time tell.
	old, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file+".new", "THREE\n", false)
	if err := os.Chtimes(file+".new", old.ModTime(), old.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if got := sourceOf(t, im, "m", py3); got != "THREE\n" {
		t.Errorf("after a rename: %q", got)
	}

	wantReason(t, im, "pkg.new", py3, "no such module")
	write(t, filepath.Join(dir, "pkg/new.py"), "new\n", false)
	if got := sourceOf(t, im, "pkg.new", py3); got != "new\n" {
		t.Errorf("a new file: %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantReason(t, im, "m", py3, "no such module")
}

func TestStrangeFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"big.py": strings.Repeat("#", 1001), "fits.py": strings.Repeat("#", 1000), "real.py": "real\n", "real_pkg/__init__.py": "linked\n",
	})
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("loop.py", "loop.py")
	link("round", "round")
	link("nowhere", "dangling.py")
	link("real.py", "linked.py")
	link("real_pkg", "linked_pkg")
	link("..", "real_pkg/up")
	for _, fifo := range []string{"fifo.py", "fifodir"} {
		if err := unix.Mkfifo(filepath.Join(dir, fifo), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "fifopkg/x.py"), "", false)
	if err := unix.Mkfifo(filepath.Join(dir, "fifopkg/__init__.py"), 0o644); err != nil {
		t.Fatal(err)
	}
	im := newImporter(t, Options{Path: []string{dir, filepath.Join(dir, "fifodir")}, MaxSource: 1000})
	for name, part := range map[string]string{
		"big": "too large: 1001 bytes", "loop": "symbolic link loop", "round": "symbolic link loop", "dangling": "has disappeared",
		"fifo": "is a FIFO", "fifodir": "no such module", "fifopkg": "is a FIFO",
	} {
		wantReason(t, im, name, py3, part)
	}
	for name, want := range map[string]string{"linked": "real\n", "linked_pkg": "linked\n", "fits": strings.Repeat("#", 1000)} {
		if got := sourceOf(t, im, name, py3); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	m, err := im.Module(context.Background(), "real_pkg", py3)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "a package with a link to its own parent", m.Present, []string{"up"})
}

// Bytes are served as they are: the child's interpreter decodes them.
func TestBytesPassThrough(t *testing.T) {
	for name, text := range map[string]string{
		"bom": "\xef\xbb\xbfx = 1\n", "crlf": "x = 1\r\ny = 2\r\n", "latin": "# coding: latin-1\nx = '\xe9'\n",
		"nonl": "x = 1", "broken": "def (:\n", "empty": "", "zeros": "x = '\x00'\n",
	} {
		im := onPath(t, map[string]string{name + ".py": text})
		if got := sourceOf(t, im, name, py3); got != text {
			t.Errorf("%s: %q became %q", name, text, got)
		}
	}
}

func TestVirtual(t *testing.T) {
	im := newImporter(t, Options{
		Path: []string{tree(t, map[string]string{"mitogen/parent.py": "disk\n", "mitogen/__init__.py": "", "mitogen/extra.py": ""})},
		Virtual: map[string]Virtual{
			"mitogen":        NewVirtual("mitogend/mitogen", true, func() []byte { return nil }),
			"mitogen.parent": NewVirtual("mitogend/parent.py", false, func() []byte { return []byte("import socket\n") }),
		},
	})
	if got := sourceOf(t, im, "mitogen.parent", py3); got != "import socket\n" {
		t.Errorf("mitogen.parent is %q", got)
	}
	m, err := im.Module(context.Background(), "mitogen", py3)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "present", m.Present, []string{"parent"})
	wantReason(t, im, "mitogen.extra", py3, "no such module")
}

func TestPolicy(t *testing.T) {
	files := map[string]string{"a/__init__.py": "", "a/b/__init__.py": "import ab, a.c\n", "a/b/x.py": "", "a/c.py": "", "ab.py": ""}
	dir := tree(t, files)
	im := newImporter(t, Options{Path: []string{dir}, Policy: Policy{Allow: []string{"a.b"}, Deny: []string{"a.b.x"}}})
	for name, reason := range map[string]string{"a.c": "not allowed by the policy (allow a.b)", "ab": "not allowed", "a.b.x": "denied by the policy (deny a.b.x)"} {
		wantReason(t, im, name, py3, reason)
	}
	for _, name := range []string{"a", "a.b"} {
		sourceOf(t, im, name, py3)
	}
	equal(t, "closure", im.Closure(py3, "a.b"), []string{"a", "a.b"})
	if _, err := New(Options{Policy: Policy{Deny: []string{"../x"}}}); err == nil {
		t.Error("a prefix that is no name is accepted")
	}
}

// What happens between finding a file and reading it.
func TestFoundThenGone(t *testing.T) {
	dir := tree(t, map[string]string{"gone.py": "", "changed.py": "old\n", "replaced.py": ""})
	wheel := filepath.Join(t.TempDir(), "w.whl")
	zipTree(t, wheel, map[string]string{"zipped.py": "old\n", "dropped.py": ""})
	im := newImporter(t, Options{Path: []string{dir, wheel}})
	s := im.search(py3)
	for _, name := range []string{"gone", "changed", "replaced", "zipped", "dropped"} {
		if sp := s.find(name); sp.why != "" {
			t.Fatal(sp.why)
		}
	}
	if err := os.Remove(filepath.Join(dir, "gone.py")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "changed.py"), "new\n", false)
	if err := os.Remove(filepath.Join(dir, "replaced.py")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "replaced.py"), 0o644); err != nil {
		t.Fatal(err)
	}
	zipTree(t, wheel, map[string]string{"zipped.py": "newer\n"})
	for name, part := range map[string]string{"gone": "has disappeared", "replaced": "is a FIFO", "dropped": "has changed"} {
		if _, err := s.module(context.Background(), name); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q", name, err, part)
		}
	}
	for name, want := range map[string]string{"changed": "new\n", "zipped": "newer\n"} {
		m, err := s.module(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		if src, err := m.Source(); err != nil || string(src) != want {
			t.Errorf("%s: %q, %v", name, src, err)
		}
	}
}

// What is found, and its mark, do not depend on what was looked for before: of packages that extend their paths one in the other, too.
func TestMarkWhateverWasLookedForBefore(t *testing.T) {
	const extends = "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
	x := tree(t, map[string]string{"a/__init__.py": extends, "a/b/__init__.py": extends, "a/b/one.py": "", "a/c.pyc": ""})
	y := tree(t, map[string]string{"a/__init__.py": extends, "a/b/__init__.py": extends, "a/b/two.py": "", "a/c.py": "", "a/only.py": ""})
	im := newImporter(t, Options{Path: []string{x, y}})
	names := []string{"a", "a.b", "a.b.one", "a.b.two", "a.c", "a.only"}
	for _, v := range []Version{py2, py3} {
		want := map[string][16]byte{}
		for _, name := range names {
			mark, ok := im.Look(v).Mark(name)
			if !ok {
				t.Errorf("%v: %s is not there", v, name)
			}
			want[name] = mark
		}
		for _, first := range names {
			look := im.Look(v)
			look.Mark(first)
			for _, name := range names {
				if mark, ok := look.Mark(name); !ok || mark != want[name] {
					t.Errorf("%v: %s is another one after %s", v, name, first)
				}
			}
		}
	}
}

// A package's mark is another one once a module is added to it, or removed: the child was sent its modules' names.
func TestMarkOfAPackage(t *testing.T) {
	for _, v := range []Version{py2, py3} {
		dir := tree(t, map[string]string{"jobs/__init__.py": "", "jobs/a.py": "", "jobs/data/x.txt": "", "space/sub/a.py": ""})
		other := t.TempDir()
		im := newImporter(t, Options{Path: []string{dir, other}})
		mark := func(name string) [16]byte {
			m, ok := im.Look(v).Mark(name)
			if !ok && v != py2 {
				t.Fatalf("%s is not there", name)
			}
			return m
		}
		last := mark("jobs")
		for _, c := range []struct {
			file    string
			changes bool
		}{
			{"jobs/b.py", true}, {"jobs/c/__init__.py", true}, {"jobs/d.so", true}, {"jobs/notes.txt", false}, {"jobs/.#b.py", false},
			{"jobs/__pycache__/a.cpython-311.pyc", false}, {"jobs/data/__init__.py", v == py2}, {"jobs/a.py", false},
		} {
			write(t, filepath.Join(dir, c.file), "", false)
			if now := mark("jobs"); (now != last) != c.changes {
				t.Errorf("%v: %s: it has changed: %v", v, c.file, now != last)
			} else {
				last = now
			}
		}
		if err := os.Remove(filepath.Join(dir, "jobs", "b.py")); err != nil {
			t.Fatal(err)
		}
		if mark("jobs") == last {
			t.Errorf("%v: a module was removed", v)
		}
		if v == py2 {
			continue
		}
		last = mark("space")
		write(t, filepath.Join(other, "space", "more.py"), "", false)
		if mark("space") == last {
			t.Error("a namespace package has another directory")
		}
	}
}
