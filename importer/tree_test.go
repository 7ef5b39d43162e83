package importer

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// treeFiles are served from a directory and from a Tree, with the same outcome.
var treeFiles = map[string]string{
	"mod.py": "import pkg.part, ns.inner\n", "pkg/__init__.py": "from . import part\n", "pkg/part.py": "X = 1\n", "pkg/data/a.txt": "A",
	"pkg/data/b.bin": "\x00\xff", "pkg/secret.py": "Y = 2\n", "ns/inner.py": "Z = 3\n", "extends/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
	"extends/one.py": "", "project-1.2.dist-info/METADATA": "Name: project\nVersion: 1.2\n", "data/only.txt": "no module",
	"compiled.pyc": "",
}

func mapFS(files map[string]string, under string) fs.FS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[under+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

func TestTreeIsLikeADirectory(t *testing.T) {
	dir := tree(t, treeFiles)
	policy := Policy{Deny: []string{"pkg.secret"}}
	disk := newImporter(t, Options{Path: []string{dir}, Policy: policy})
	for name, tr := range map[string]Tree{
		"memory": {FS: mapFS(treeFiles, ""), Name: "t"},
		"below":  {FS: mapFS(treeFiles, "x/y/"), Root: "x/y", Name: "t"},
		"os":     {FS: os.DirFS(dir), Name: "t"},
	} {
		t.Run(name, func(t *testing.T) {
			im := newImporter(t, Options{Modules: []Tree{tr}, Policy: policy})
			same(t, "Path", im.Path(), []string{"embed:t"})
			for _, v := range []Version{py2, py3} {
				for _, name := range []string{"mod", "pkg", "pkg.part", "pkg.secret", "pkg.none", "pkg.data", "ns", "ns.inner", "extends", "extends.one", "data", "compiled", "os", "none"} {
					a, erra := disk.Module(context.Background(), name, v)
					b, errb := im.Module(context.Background(), name, v)
					if erra != nil || errb != nil {
						if erra == nil || errb == nil || strings.ReplaceAll(erra.Error(), dir, "embed:t") != errb.Error() {
							t.Errorf("%s for %v: %v, and %v", name, v, erra, errb)
						}
						continue
					}
					same(t, name+": path", b.Path, strings.Replace(a.Path, dir, "embed:t", 1))
					same(t, name+": kind", b.Kind, a.Kind)
					same(t, name+": related", b.Related, a.Related)
					same(t, name+": present", b.Present, a.Present)
					same(t, name+": namespaces", b.Namespaces, a.Namespaces)
					same(t, name+": source", sourceOf(t, im, name, v), sourceOf(t, disk, name, v))
				}
				same(t, "closure", im.Closure(v, "mod"), disk.Closure(v, "mod"))
				same(t, "top level", im.TopLevel(v), disk.TopLevel(v))
			}
			for _, name := range []string{"data/a.txt", "data/b.bin", "secret.py", "part.py", "none", "../mod.py", "data"} {
				a, erra := disk.Resource(context.Background(), none, "pkg", name)
				b, errb := im.Resource(context.Background(), none, "pkg", name)
				same(t, name, string(b), string(a))
				same(t, name+": fails", errb != nil, erra != nil)
			}
			for _, sub := range []string{"", "data"} {
				a, erra := disk.Resources(none, "pkg", sub)
				b, errb := im.Resources(none, "pkg", sub)
				same(t, "list of "+sub, b, a)
				if len(a) == 0 || erra != nil || errb != nil {
					t.Errorf("%v, %v", erra, errb)
				}
			}
		})
	}
}

// TestTreeOrder: what a directory of the path has wins over a tree, and an earlier tree over a later one.
func TestTreeOrder(t *testing.T) {
	im := newImporter(t, Options{
		Path: []string{tree(t, map[string]string{"a.py": "disk"})},
		Modules: []Tree{
			{FS: mapFS(map[string]string{"a.py": "first", "b.py": "first"}, ""), Name: "one"},
			{FS: mapFS(map[string]string{"lib/b.py": "second", "lib/c.py": "second"}, ""), Root: "lib"},
		},
	})
	for name, want := range map[string]string{"a": "disk", "b": "first", "c": "second"} {
		same(t, name, sourceOf(t, im, name, py3), want)
	}
	m, err := im.Module(context.Background(), "c", py3)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "path", m.Path, "embed:lib/c.py")
}

// TestTreeLinks: a link to a file is the file, and one that leads nowhere or to a directory is nothing.
func TestTreeLinks(t *testing.T) {
	dir := tree(t, map[string]string{"a.py": "A", "pkg/__init__.py": ""})
	for link, to := range map[string]string{"b.py": "a.py", "c.py": "none", "d": "pkg", "e": "."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	im := newImporter(t, Options{Modules: []Tree{{FS: os.DirFS(dir)}}})
	same(t, "top level", im.TopLevel(py3), []string{"a", "b", "pkg."})
	same(t, "b", sourceOf(t, im, "b", py3), "A")
}

func TestTreeFaults(t *testing.T) {
	fsys := mapFS(map[string]string{"lib/a.py": ""}, "")
	for want, trees := range map[string][]Tree{
		"it has no FS":            {{}},
		"is no path of an FS":     {{FS: fsys, Root: "../x"}},
		"it cannot be named so":   {{FS: fsys, Name: "/x"}},
		"two have that name":      {{FS: fsys, Root: "lib"}, {FS: fsys, Name: "lib"}},
		"file does not exist":     {{FS: fsys, Root: "none"}},
		"its root is no director": {{FS: fsys, Root: "lib/a.py"}},
	} {
		if _, err := New(Options{Modules: trees}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
