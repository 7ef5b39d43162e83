package importer

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnpack(t *testing.T) {
	dir := tree(t, map[string]string{
		"pk/__init__.py": "import pk.inner, dep", "pk/inner.py": "from . import x\nimport far", "pk/x.py": "", "pk/data/a.bin": "ab", "pk/.git/config": "",
		"dep.py": "", "far.py": "", "user.py": "from pk import inner", "asks/__init__.py": "'''x'''\n# mitogend: unpack", "asks/sub.py": "",
		"talks/__init__.py": "text = 'as in # mitogend: unpack'", "one.py": "# mitogend: unpack\r\nx = 1\r\n", "certifi/__init__.py": "",
	})
	im := newImporter(t, Options{
		Path: []string{dir}, Unpack: []string{"pk"}, Virtual: map[string]Virtual{"mitogen.unpack": NewVirtual("u.py", false, func() []byte { return nil })},
	})
	for names, want := range map[string]string{
		// What lies in it comes with it; what that imports goes ahead.
		"user": "[user pk mitogen.unpack far dep]", "pk.inner": "[pk mitogen.unpack far dep]", "asks.sub": "[asks mitogen.unpack]",
		"talks": "[talks]", "one": "[one mitogen.unpack]",
	} {
		if got := fmt.Sprint(im.Closure(py3, strings.Fields(names)...)); got != want {
			t.Errorf("closure of %s: %s, want %s", names, got, want)
		}
	}
	for name, v := range map[string]Version{"pk": py2, "one": py3, "certifi": py2} {
		m, err := im.Module(context.Background(), name, v)
		if err != nil {
			t.Fatal(err)
		}
		if source, err := m.Source(); err != nil || !strings.HasPrefix(string(source), "import mitogen.unpack\nmitogen.unpack.load(__name__)\n") {
			t.Errorf("%s: %q, %v", name, source, err)
		}
	}
	if _, err := im.Unpack("certifi", py3); err == nil {
		t.Error("certifi is unpacked where it need not be")
	}
	for _, c := range []struct {
		name, want string
		also       Policy
	}{
		{"pk", "[__init__.py 20 data/a.bin 2 inner.py 26 x.py 0]", Policy{}},
		{"pk", "[__init__.py 20 data/a.bin 2 x.py 0]", Policy{Deny: []string{"pk.inner"}}},
		{"one", "[one.py 27]", Policy{}},
		{"dep", "it is not to be unpacked", Policy{}},
	} {
		files, err := im.Unpack(c.name, py3, c.also)
		var parts []string
		for _, f := range files {
			parts = append(parts, fmt.Sprintf("%s %d", f.Name, f.Size))
		}
		if got := fmt.Sprint(parts); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
	for _, c := range [][3]string{
		{"pk", "data/a.bin x.py __init__.py", "zabimport pk.inner, dep"}, {"one", "one.py", "z# mitogend: unpack\r\nx = 1\r\n"}, {"one", "dep.py", "no such file"},
		{"pk", "../dep.py", "leads out"}, {"pk", "inner.py", "denied"}, {"pk", ".git/config", "not part"}, {"dep", "dep.py", "no such file"},
	} {
		data, err := im.UnpackedData(context.Background(), c[0], strings.Fields(c[1]), "z", 100, py3, Policy{Deny: []string{"pk.inner"}})
		if err == nil && string(data) != c[2] || err != nil && !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s %s: %q, %v, want %s", c[0], c[1], data, err, c[2])
		}
	}
	if _, err := im.UnpackedData(context.Background(), "pk", []string{"__init__.py"}, "z", 10, py3); err == nil {
		t.Error("more than the limit is sent")
	}
	// A change of any file is one of the package.
	before, _ := im.Look(py3).Mark("pk")
	write(t, filepath.Join(dir, "pk/data/a.bin"), "abc", false)
	if after, ok := im.Look(py3).Mark("pk"); !ok || after == before {
		t.Error("a changed file is not noticed", ok)
	}
	if _, err := New(Options{Unpack: []string{"../x"}}); err == nil {
		t.Error("a name that is none is taken")
	}
}

func TestUnpackBounds(t *testing.T) {
	deep := "pk/" + strings.Repeat("d/", maxUnpackDepth+2)
	dir := tree(t, map[string]string{"pk/__init__.py": "", deep + "x": ""})
	im := newImporter(t, Options{Path: []string{dir}, Unpack: []string{"pk"}})
	if _, err := im.Module(context.Background(), "pk", py3); err == nil || !strings.Contains(err.Error(), "directories deep") {
		t.Error(err)
	}
}
