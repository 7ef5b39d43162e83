package importer

import (
	"context"
	"slices"
	"testing"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// presentOf gives what the record of a package tells of its children.
func presentOf(t *testing.T, s *search, name string) []string {
	t.Helper()
	rec, err := s.record(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	lm, err := pyproto.ParseLoadModule(rec)
	if err != nil {
		t.Fatal(err)
	}
	return lm.Pkg
}

func TestMarkPackages(t *testing.T) {
	im := onPath(t, map[string]string{
		"top/__init__.py": "", "top/mod.py": "", "top/sub/__init__.py": "", "top/ns/deep.py": "", "top/both.py": "", "top/both/__init__.py": "",
	})
	s := im.search(py3)
	equal(t, "plain", presentOf(t, s, "top"), []string{"both", "mod", "ns", "sub"})
	s.mark = true
	equal(t, "marked", presentOf(t, s, "top"), []string{"both.", "mod", "ns.", "ns..", "sub."})
	s = im.search(py2)
	s.mark = true
	equal(t, "marked for 2.x", presentOf(t, s, "top"), []string{"both.", "mod", "sub."})
	m, err := im.Module(context.Background(), "top", py3)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "Packages", m.Packages, []string{"both", "sub"})
	equal(t, "Namespaces", m.Namespaces, []string{"ns"})
}

func TestReserved(t *testing.T) {
	dir := tree(t, map[string]string{"own/__init__.py": "", "own/other.py": "", "own/part.py": "disk = 1", "owner.py": "", "use.py": "import own.other, owner"})
	im := newImporter(t, Options{
		Path:     []string{dir},
		Virtual:  map[string]Virtual{"own.part": NewVirtual("own/part.py", false, func() []byte { return []byte("virtual = 1") })},
		Reserved: map[string]string{"own": "kept for us"},
	})
	for _, name := range []string{"own", "own.other", "own.absent.deep"} {
		if reason := reasonOf(t, im, name, py3); reason != "kept for us" {
			t.Errorf("%s: %q", name, reason)
		}
	}
	if src := sourceOf(t, im, "own.part", py3); src != "virtual = 1" {
		t.Errorf("own.part: %q", src)
	}
	equal(t, "closure", im.Closure(py3, "use"), []string{"use", "owner"})
}

func TestWith(t *testing.T) {
	im := onPath(t, map[string]string{"with.py": "", "a.py": "", "b.py": ""})
	for _, push := range []bool{true, false} {
		sink := &recorder{}
		r := serve(t, im, sink, ResponderOptions{Version: py3, With: []string{"with"}})
		for _, name := range []string{"absent", "a", "b"} {
			var err error
			if push {
				err = r.Push(context.Background(), name)
			} else {
				err = r.Request(name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"a", "with", "b"}
		if !push {
			want = append([]string{"-absent"}, want...)
		}
		poll.Until(t, "all are sent", func() bool { return len(sink.names()) >= len(want) })
		equal(t, "sent", sink.names(), want)
	}
}

func TestWithPaths(t *testing.T) {
	im := onPath(t, map[string]string{"paths.py": "", "a.py": "", "b.py": "import c, d", "c.py": "HERE = __file__", "d.py": "__path__ = []"})
	for _, push := range []bool{true, false} {
		sink := &recorder{}
		r := serve(t, im, sink, ResponderOptions{Version: py3, WithPaths: "paths"})
		for _, name := range []string{"a", "b"} {
			var err error
			if push {
				err = r.Push(context.Background(), name)
			} else {
				err = r.Request(name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		poll.Until(t, "all are sent", func() bool { return len(sink.names()) >= 5 })
		names := sink.names()
		if slices.Index(names, "paths") > slices.Index(names, "c") || slices.Index(names, "paths") < slices.Index(names, "a") {
			t.Errorf("push %v: sent %v", push, names)
		}
	}
}

// TestBundledModules: what setuptools takes from its _vendor by the name of extern goes ahead by the name that it has.
func TestBundledModules(t *testing.T) {
	im := onPath(t, map[string]string{
		"pkg_resources/__init__.py":                   "from pkg_resources.extern import packaging\nfrom pkg_resources.extern.other.deep import x\n__import__('pkg_resources.extern.more')",
		"pkg_resources/extern/__init__.py":            "",
		"pkg_resources/_vendor/__init__.py":           "",
		"pkg_resources/_vendor/packaging/__init__.py": "",
		"pkg_resources/_vendor/other/__init__.py":     "",
		"pkg_resources/_vendor/other/deep.py":         "x = 1",
		"pkg_resources/_vendor/more.py":               "from ..extern import packaging",
	})
	got := im.Closure(py3, "pkg_resources")
	for _, want := range []string{"pkg_resources.extern", "pkg_resources._vendor.packaging", "pkg_resources._vendor.other.deep", "pkg_resources._vendor.more"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not in %v", want, got)
		}
	}
}
