package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestResources(t *testing.T) {
	dir := tree(t, map[string]string{
		"pkg/__init__.py": "", "pkg/mod.py": "", "pkg/data.txt": "data", "pkg/dir/x.bin": "\x00\xff", "pkg/dir/empty": "",
		"pkg/big": strings.Repeat("x", 1001), "secret": "secret", "top.py": "", "ns/one.txt": "1", "ns/m.py": "",
	})
	other := tree(t, map[string]string{"ns/two.txt": "2", "ns/one.txt": "hidden", "ns/n.py": ""})
	wheel := filepath.Join(dir, "w.whl")
	zipTree(t, wheel, map[string]string{"zipped/__init__.py": "", "zipped/t/a.html": "<a>"})
	im := newImporter(t, Options{Path: []string{dir, other, wheel}, MaxResource: 1000})
	ctx := context.Background()
	for _, c := range [][3]string{
		{"pkg", "data.txt", "data"}, {"pkg", "dir/x.bin", "\x00\xff"}, {"pkg", "dir/empty", ""}, {"pkg", "mod.py", ""},
		{"pkg.mod", "data.txt", "data"}, {"ns", "one.txt", "1"}, {"ns", "two.txt", "2"}, {"zipped", "t/a.html", "<a>"},
	} {
		if data, err := im.Resource(ctx, none, c[0], c[1]); err != nil || string(data) != c[2] {
			t.Errorf("%s %s: %q, %v", c[0], c[1], data, err)
		}
	}
	for _, c := range [][3]string{
		{"pkg", "../secret", "leads out"}, {"pkg", "/etc/passwd", "leads out"}, {"pkg", "dir/../../secret", "leads out"},
		{"pkg", `dir\x`, "leads out"}, {"pkg", "a\x00", "leads out"}, {"pkg", ".", "leads out"}, {"pkg", "", "is a directory"},
		{"pkg", "dir", "is a directory"}, {"pkg", "absent", "no such file"}, {"pkg", "data.txt/x", "no such file"}, {"pkg", "big", "too large"},
		{"top", "secret", "top is no package"}, {"absent", "x", "no such module"}, {"os", "x", "standard library"},
		{"../x", "y", "empty component"},
	} {
		_, err := im.Resource(ctx, none, c[0], c[1])
		var nf *NotFoundError
		if !errors.As(err, &nf) || !strings.Contains(nf.Reason, c[2]) {
			t.Errorf("%s %s: %v, want a reason with %q", c[0], c[1], err, c[2])
		}
	}
	for _, c := range [][3]string{
		{"pkg", "", "[{__init__.py false 0} {big false 1001} {data.txt false 4} {dir true 0} {mod.py false 0}]"},
		{"pkg", "dir", "[{empty false 0} {x.bin false 2}]"},
		{"ns", "", "[{m.py false 0} {n.py false 0} {one.txt false 1} {two.txt false 1}]"},
		{"zipped", "t", "[{a.html false 3}]"},
	} {
		if got, err := im.Resources(none, c[0], c[1]); err != nil || fmt.Sprint(got) != c[2] {
			t.Errorf("%s %s: %v, %v", c[0], c[1], got, err)
		}
	}
	for _, dir := range []string{"..", "absent", "data.txt"} {
		if got, err := im.Resources(none, "pkg", dir); err == nil {
			t.Errorf("%s is listed: %v", dir, got)
		}
	}
}

func TestMetadata(t *testing.T) {
	dir := tree(t, map[string]string{
		"Foo_Bar-2.0.dist-info/METADATA":         "Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 2.0\n\nVersion: text\n",
		"Foo_Bar-2.0.dist-info/entry_points.txt": "[console_scripts]\nfoo = foo:main\n",
		"Foo_Bar-2.0.dist-info/licenses/LICENSE": "",
		"dev.egg-info/PKG-INFO":                  "Name: dev\nVersion: 0.1.dev0\n",
		"single-3.egg-info":                      "Name: single\nVersion: 3\n",
		"broken.dist-info":                       "a file",
		"egged-1.5-py3.11.egg/EGG-INFO/PKG-INFO": "Name: egged\nVersion: 1.5\n",
	})
	late := tree(t, map[string]string{"foo.bar-9.dist-info/METADATA": "Name: foo-bar\nVersion: 9\n"})
	wheel := filepath.Join(dir, "w.whl")
	zipTree(t, wheel, map[string]string{"zipped-4.dist-info/METADATA": "Name: zipped\nVersion: 4\n"})
	im := newImporter(t, Options{Path: []string{dir, late, wheel, filepath.Join(dir, "egged-1.5-py3.11.egg")}})
	var got []string
	for _, d := range im.search(none).installed(nil) {
		got = append(got, d.Name+" "+d.Version)
	}
	equal(t, "distributions", got, []string{"dev ", "egged 1.5", "Foo_Bar 2.0", "single 3", "zipped 4"})
	for name, want := range map[string]string{
		"foo-bar": "Foo.Bar 2.0 3", "DEV": "dev 0.1.dev0 1", "single": "single 3 1", "zipped": "zipped 4 1", "egged": "egged 1.5 1",
	} {
		m, err := im.Metadata(context.Background(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprintf("%s %s %d", m.Name, m.Version, len(m.Files)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, err := im.Metadata(context.Background(), "broken"); err == nil {
		t.Error("broken has metadata")
	}
	if err := os.RemoveAll(filepath.Join(dir, "Foo_Bar-2.0.dist-info")); err != nil {
		t.Fatal(err)
	}
	if m, err := im.Metadata(context.Background(), "foo_bar"); err != nil || m.Version != "9" {
		t.Errorf("after the first one is removed: %v, %v", m, err)
	}
}

// Of a package in several directories, a child can name one: another's file of the same name is not that one's.
func TestResourcesInADirectory(t *testing.T) {
	a := tree(t, map[string]string{"co/x.py": "", "co/t.html": "a", "co/a.html": "a"})
	b := tree(t, map[string]string{"co/y.py": "", "co/t.html": "b", "co/sub/u.html": "b"})
	im := newImporter(t, Options{Path: []string{a, b}})
	first, second, elsewhere := filepath.Join(a, "co"), filepath.Join(b, "co"), filepath.Join(b, "x")
	for _, c := range [][3]string{{"", "t.html", "a"}, {"", "sub/u.html", "b"}, {first, "t.html", "a"}, {first, "sub/u.html", "-"}, {second, "t.html", "b"},
		{second, "sub/u.html", "b"}, {second, "a.html", "-"}, {elsewhere, "t.html", "-"}} {
		data, err := im.ResourceIn(context.Background(), py3, c[0], "co", c[1])
		if err != nil {
			data = []byte("-")
		}
		if string(data) != c[2] {
			t.Errorf("%q: %s, %v", c, data, err)
		}
	}
	for where, want := range map[string]string{"": "[a.html sub t.html x.py y.py]", first: "[a.html t.html x.py]", second: "[sub t.html y.py]", elsewhere: "[]"} {
		found, err := im.ResourcesIn(py3, where, "co", "")
		names := []string{}
		for _, e := range found {
			names = append(names, e.Name)
		}
		if got := fmt.Sprint(names); got != want || (err != nil) != (want == "[]") {
			t.Errorf("%q: %s, %v", where, got, err)
		}
	}
}

// A package may have the name of one that another Python's standard library has.
func TestResourcesOfAStdlibName(t *testing.T) {
	dir := tree(t, map[string]string{"parser/__init__.py": "", "parser/sub/__init__.py": "", "parser/grammar.lark": "data", "parser/sub/x": "more"})
	im := newImporter(t, Options{Path: []string{dir}})
	for _, v := range []Version{{3, 9}, {3, 10}, {3, 13}, none} {
		r, err := NewResponder(im, &recorder{}, ResponderOptions{Version: v})
		if err != nil {
			t.Fatal(err)
		}
		want := !Stdlib("parser", v)
		for _, c := range [][3]string{{"parser", "grammar.lark", "data"}, {"parser.sub", "x", "more"}} {
			data, err := im.Resource(context.Background(), v, c[0], c[1])
			stock, errs := r.Resource(context.Background(), c[0], c[1])
			if (err == nil && string(data) == c[2]) != want || (errs == nil && string(stock) == c[2]) != want {
				t.Errorf("%v: %s %s: %q, %v, %q, %v", v, c[0], c[1], data, err, stock, errs)
			}
			if got, err := im.Resources(v, c[0], ""); (err == nil && len(got) > 0) != want {
				t.Errorf("%v: %s: %v, %v", v, c[0], got, err)
			}
		}
	}
}

// What is told of all projects at once is what each of them tells; no other file is read for it.
func TestInstalled(t *testing.T) {
	files := map[string]string{
		"dev.egg-info/PKG-INFO": "Name: dev\nVersion: 0.1.dev0\n", "single-3.egg-info": "Name: single\nVersion: 3\n",
		"dev.egg-info/entry_points.txt": "[x]\nd = d\n", "bare-1.dist-info/": "",
	}
	const projects, large = 30, 1 << 20
	for i := range projects {
		dir := fmt.Sprintf("Some_Name%d-2.dist-info/", i)
		files[dir+"METADATA"] = fmt.Sprintf("Name: Some.Name%d\nVersion: 2\n", i)
		files[dir+"RECORD"] = strings.Repeat("x", large)
		if i%2 == 0 {
			files[dir+"entry_points.txt"] = fmt.Sprint("[x]\ny = ", i, "\n")
		}
	}
	im := onPath(t, files)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := im.Installed(context.Background(), "entry_points.txt")
	runtime.ReadMemStats(&after)
	if err != nil || len(got) != projects+3 {
		t.Fatalf("%d projects, %v", len(got), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > projects*large/4 {
		t.Errorf("%d bytes were read", n)
	}
	for _, m := range got {
		whole, err := im.Metadata(context.Background(), m.Name)
		if err != nil || whole.Name != m.Name || whole.Version != m.Version || whole.Path != m.Path {
			t.Errorf("%+v, %v, want %+v", m.Distribution, err, whole)
			continue
		}
		want, ok := whole.Files["entry_points.txt"]
		if data, has := m.Files["entry_points.txt"]; has != ok || string(data) != string(want) || len(m.Files) > 1 {
			t.Errorf("%s: %q", m.Name, m.Files)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := im.Installed(ctx, "entry_points.txt"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
