package importer

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

func TestTags(t *testing.T) {
	for _, c := range []struct {
		files   string
		v       Version
		want    string
		misfits string
	}{
		{"m.so", py3, "m.so", ""},
		{"m.so", py2, "m.so", ""},
		{"mmodule.so", py2, "mmodule.so", ""},
		{"mmodule.so", py3, "", ""},
		{"m.so mmodule.so m.x86_64-linux-gnu.so", py2, "m.x86_64-linux-gnu.so mmodule.so m.so", ""},
		{"m.x86_64-linux-gnu.so", py3, "", "built for Python 2; this child is 3.11"},
		{"m.abi3.so", py3, "m.abi3.so", ""},
		{"m.abi3-x86_64-linux-gnu.so", py3, "m.abi3-x86_64-linux-gnu.so", ""},
		{"m.abi3.so", py2, "", "built for Python 3; this child is 2.7"},
		{"m.cpython-311-x86_64-linux-gnu.so m.so m.abi3.so", py3, "m.cpython-311-x86_64-linux-gnu.so m.abi3.so m.so", ""},
		{"m.cpython-311-x86_64-linux-musl.so m.cpython-311-aarch64-linux-gnu.so", py3,
			"m.cpython-311-aarch64-linux-gnu.so m.cpython-311-x86_64-linux-musl.so", ""},
		{"m.cpython-310-x86_64-linux-gnu.so m.cpython-39-x86_64-linux-gnu.so", py3, "", "built for cpython-310 and cpython-39; this child is 3.11"},
		{"m.cpython-37m-x86_64-linux-gnu.so", Version{3, 7}, "m.cpython-37m-x86_64-linux-gnu.so", ""},
		{"m.cpython-313t-x86_64-linux-gnu.so", Version{3, 13}, "m.cpython-313t-x86_64-linux-gnu.so", ""},
		{"m.cpython-31-x86_64-linux-gnu.so", py3, "", "built for cpython-31; this child is 3.11"},
		{"m.pypy39-pp73-x86_64-linux-gnu.so", py3, "", "built for pypy39; this child is 3.11"},
		{"m.cpython-310-x86_64-linux-gnu.so m.so", Version{}, "m.cpython-310-x86_64-linux-gnu.so m.so", ""},
		{"other.so m.py m.so.1 mm.so", py3, "", ""},
	} {
		l := newListing()
		for _, name := range strings.Fields(c.files) {
			l.add(name, 0)
		}
		got, _, why := l.extensions("m", c.v)
		if strings.Join(got, " ") != c.want || why != c.misfits {
			t.Errorf("%s for %s: %q, %q; want %q, %q", c.files, c.v, got, why, c.want, c.misfits)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"2.34", "2.4", true}, {"2.4", "2.34", false}, {"2.2.5", "2.2", true}, {"2.2", "2.2.5", false}, {"2.34", "2.34", false}, {"2.4", "", true}} {
		if Newer(c.a, c.b) != c.want {
			t.Errorf("Newer(%q, %q) is %v", c.a, c.b, !c.want)
		}
	}
}

// sharedObject compiles one.
func sharedObject(t *testing.T, file string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		pythons.Missing(t, "there is no gcc")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", append([]string{"-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", file}, args...)...)
	cmd.Stdin = strings.NewReader("int " + strings.NewReplacer(".", "_", "-", "_").Replace(filepath.Base(file)) + ";\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestExtensionPart(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	outside := t.TempDir()
	sharedObject(t, filepath.Join(dir, "p/libs/libinner.so.1"), "-Wl,-soname,libinner.so.1")
	inner := filepath.Join(dir, "p/libs/libinner.so.1")
	sharedObject(t, filepath.Join(dir, "p/libs/libouter.so.1"), "-Wl,-soname,libouter.so.1", "-Wl,--no-as-needed", inner, "-Wl,-rpath,$ORIGIN")
	sharedObject(t, filepath.Join(outside, "libout.so.1"), "-Wl,-soname,libout.so.1")
	rel, err := filepath.Rel(filepath.Join(dir, "p"), outside)
	if err != nil {
		t.Fatal(err)
	}
	sharedObject(t, filepath.Join(dir, "p/m.abi3.so"), "-Wl,--no-as-needed", filepath.Join(dir, "p/libs/libouter.so.1"), filepath.Join(outside, "libout.so.1"),
		"-Wl,-rpath,$ORIGIN/libs:$ORIGIN/"+rel+":"+outside, "-Wl,-rpath-link,"+filepath.Dir(inner))
	if err := os.WriteFile(filepath.Join(dir, "p/__init__.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pack := func(name string) string {
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		if err := z.AddFS(os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	whole, err := os.ReadFile(filepath.Join(dir, "p/m.abi3.so"))
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, pack("p.whl")} {
		im := newImporter(t, Options{Path: []string{root}})
		m, err := im.Module(ctx, "p.m", py3)
		if err != nil || m.Kind != KindExtension {
			t.Fatalf("%v, %v", m, err)
		}
		source, _ := m.Source()
		s := im.search(py3)
		sp := s.find("p.m")
		b, err := s.object(sp.file)
		if err != nil {
			t.Fatal(err)
		}
		libs, wants := s.libraries(b)
		// What leads out of the path is the target's to have.
		if len(libs) != 2 || libs[0].name != "libinner.so.1" || libs[1].name != "libouter.so.1" || !slices.Contains(wants, "libout.so.1") {
			t.Errorf("%s: libraries %v, wants %v", root, libs, wants)
		}
		for _, text := range []string{b.token(), libs[0].token(), `"x86_64",64,"glibc"`, `"libout.so.1"`} {
			if b.Machine == "x86_64" && !bytes.Contains(source, []byte(text)) {
				t.Errorf("the stub lacks %q: %s", text, source)
			}
		}
		part := func(module, file, lib, token string, offset int64, also ...Policy) ([]byte, error) {
			f, err := im.ExtensionFile(ctx, py3, module, file, lib, token, also...)
			if err != nil {
				return nil, err
			}
			if path := f.Path(); (path == "") != (root != dir) || path != "" && !strings.HasPrefix(path, dir) {
				t.Errorf("%s: its path is %q", root, path)
			}
			return f.Part(offset, "")
		}
		data, err := part("p.m", "m.abi3.so", "", b.token(), 10)
		if err != nil || !bytes.Equal(data, whole[10:]) {
			t.Errorf("%s: %d bytes, %v", root, len(data), err)
		}
		if data, err := part("p.m", "m.abi3.so", "libinner.so.1", libs[0].token(), 0); err != nil || len(data) == 0 {
			t.Errorf("%s: %d bytes, %v", root, len(data), err)
		}
		for name, c := range map[string]struct {
			module, file, lib, token string
			offset                   int64
			also                     []Policy
		}{
			"no such file":            {"p.m", "../../etc/passwd", "", b.token(), 0, nil},
			"has no such library":     {"p.m", "m.abi3.so", "libout.so.1", b.token(), 0, nil},
			"has changed":             {"p.m", "m.abi3.so", "", "1.2.3.4", 0, nil},
			"there is no such part":   {"p.m", "m.abi3.so", "", b.token(), int64(len(whole)) + 1, nil},
			"There is no such part":   {"p.m", "m.abi3.so", "", b.token(), -1, nil},
			"no such module":          {"p.n", "m.abi3.so", "", b.token(), 0, nil},
			"it has no such file":     {"p", "__init__.py", "", b.token(), 0, nil},
			"denied by the policy":    {"p.m", "m.abi3.so", "", b.token(), 0, []Policy{{Deny: []string{"p.m"}}}},
			"not among what is":       {"p.m", "m.abi3.so", "", b.token(), 0, []Policy{{Allow: []string{"q"}}}},
			"denied by the policy (d": {"p.m", "m.abi3.so", "libinner.so.1", libs[0].token(), 0, []Policy{{Deny: []string{"p.libs"}}}},
		} {
			_, err := part(c.module, c.file, c.lib, c.token, c.offset, c.also...)
			var none *NotFoundError
			if !errors.As(err, &none) {
				t.Errorf("%s: %v", name, err)
			}
			if name != "not among what is" && !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(name)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// Another state of the file is another module.
	im := newImporter(t, Options{Path: []string{dir}})
	old, _ := im.Look(py3).Mark("p.m")
	if err := os.WriteFile(filepath.Join(dir, "p/m.abi3.so"), append(whole, 0), 0o644); err != nil {
		t.Fatal(err)
	}
	if now, ok := im.Look(py3).Mark("p.m"); !ok || now == old {
		t.Errorf("the same mark, %v", ok)
	}
}

func TestNoSharedObject(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		pythons.Missing(t, err)
	}
	dir := tree(t, map[string]string{"text.so": "#!/bin/sh\n", "empty.so": "", "head.so": string(self[:100]), "program.so": string(self)})
	im := newImporter(t, Options{Path: []string{dir}})
	for _, name := range []string{"text", "empty", "head", "program"} {
		wantReason(t, im, name, py3, "extension module that is no ")
	}
	// Whatever is cut or overwritten, there is an answer.
	file := filepath.Join(t.TempDir(), "x.so")
	sharedObject(t, file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 1 + len(whole)/500 {
		readObject(bytes.NewReader(whole[:at]))
		bad := bytes.Clone(whole)
		for i := at; i < min(at+8, len(bad)); i++ {
			bad[i] ^= 0xff
		}
		readObject(bytes.NewReader(bad))
	}
}

// A hop passes on what it was sent: what is served of a module has the files for all versions, and each child picks its own.
func TestExtensionOfAllVersions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"m.cpython-311-x86_64-linux-gnu.so", "m.cpython-38-x86_64-linux-gnu.so"} {
		sharedObject(t, filepath.Join(dir, name))
	}
	write(t, filepath.Join(dir, "m.cpython-39-x86_64-linux-gnu.so"), "no shared object", false)
	sharedObject(t, filepath.Join(dir, "other.cpython-38-x86_64-linux-gnu.so"))
	im := newImporter(t, Options{Path: []string{dir}})
	for _, v := range []Version{py3, {3, 8}} {
		stub := sourceOf(t, im, "m", v)
		for name, want := range map[string]bool{"311": true, "38": true, "39": false} {
			if strings.Contains(stub, `"m.cpython-`+name+"-") != want {
				t.Errorf("%v: %s: %s", v, name, stub)
			}
		}
	}
	first := sourceOf(t, im, "m", py3)
	if strings.Index(first, "cpython-311") > strings.Index(first, "cpython-38") {
		t.Error("the hop's own file is not the first")
	}
	if d, err := im.Describe(context.Background(), "m", py3); err != nil || len(d.Objects) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	wantReason(t, im, "other", py3, "built for cpython-38")
}
