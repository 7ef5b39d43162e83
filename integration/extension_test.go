package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// compile makes a shared object of testdata/extension.c.
func compile(t *testing.T, file string, args ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-shared", "-fPIC", "-O1", "-o", file, filepath.Join("testdata", "extension.c")}, args...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %v: %v\n%s", args, err, out)
	}
}

// extensions makes a package cx with extension modules for Python 2 or 3, one of which needs a library beside it.
func extensions(t *testing.T, python string) (dir string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		pythons.Missing(t, "there is no gcc")
	}
	dir = t.TempDir()
	suffix, flags := ".abi3.so", []string{}
	if python == "2.7" {
		suffix, flags = ".so", []string{"-DPYTHON2"}
	}
	build := func(name string, args ...string) {
		leaf := filepath.Base(name)
		if leaf == "__init__" {
			leaf = filepath.Base(filepath.Dir(name))
		}
		compile(t, filepath.Join(dir, name+suffix), append(append(args[:len(args):len(args)], "-DNAME="+leaf), flags...)...)
	}
	Write(t, dir, "cx/__init__.py", "")
	compile(t, filepath.Join(dir, "cx.libs/libanswer-1.so.1"), "-DLIBRARY", "-Wl,-soname,libanswer-1.so.1")
	needs := []string{"-DNEEDS", "-L" + filepath.Join(dir, "cx.libs"), "-l:libanswer-1.so.1"}
	build("cx/beside", append(needs, "-Wl,-rpath,$ORIGIN/../cx.libs")...)
	gone := filepath.Join(t.TempDir(), "libgone.so.2")
	compile(t, gone, "-DLIBRARY", "-Wl,-soname,libgone.so.2")
	build("cx/lacking", "-DNEEDS", gone)
	build("cx/single")
	build("cx/multi", "-DMULTIPHASE")
	build("cx/broken", "-DBROKEN")
	build("cx/later", "-DMULTIPHASE", "-DBROKEN")
	build("cx/pack/__init__", "-DMULTIPHASE")
	Write(t, dir, "cx/pack/inner.py", "from . import answer\nVALUE = answer()\n")
	build("top")
	whole, err := os.ReadFile(filepath.Join(dir, "top"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(whole)
	other[18], other[19] = 183, 0 // e_machine: aarch64
	for name, data := range map[string][]byte{"cx/half": whole[:len(whole)/2], "cx/text": []byte("#!/bin/sh\n"), "cx/arm": other} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const extensionProgram = `
from __future__ import print_function
import os, sys
import cx.beside, cx.single, cx.multi, cx.pack.inner, top
print(cx.beside.answer(), cx.single.answer(), cx.multi.answer(), cx.pack.inner.VALUE, top.answer())
print(cx.multi.started, cx.single.__name__, cx.multi.__package__, cx.pack.__name__, [p[-8:] for p in cx.pack.__path__])
print(sys.modules['cx.multi'] is cx.multi, os.path.basename(cx.multi.__file__).split('.')[0], cx.multi.__file__[:8])
for name in 'broken', 'later', 'lacking', 'half', 'text', 'arm':
    try:
        __import__('cx.' + name)
        print(name, 'is there')
    except (ImportError, ValueError) as e:
        print(name, (ValueError if isinstance(e, ValueError) else ImportError).__name__, 'cx.' + name in sys.modules, str(e))
r, w = os.pipe()
if not os.fork():
    os.close(r)
    try:
        os.write(w, b'%d' % cx.beside.answer())
    finally:
        os._exit(0)
os.close(w)
print(os.read(r, 9).decode())
os.wait()
print([f for f in os.listdir('/dev/shm') if 'mitogend-%d-' % os.getpid() in f], sorted(set(os.listdir('.'))))
`

func TestExtensionModules(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := extensions(t, p.Version)
		script := Write(t, t.TempDir(), "program.py", extensionProgram)
		empty := t.TempDir()
		run := func(target string, args ...string) {
			t.Helper()
			cmd := Command(t, empty, append(append([]string{"run", "-I", dir, "-H", target}, args...), script)...)
			got := runCommand(t, cmd)
			lines := strings.Split(got.Stdout, "\n")
			want := []string{
				"42 7 7 7 7",
				"1 cx.single cx cx.pack ['/cx/pack']",
				"True multi /master:",
				"broken ValueError False it does not start",
				"later ValueError False it does not start",
				"lacking ImportError False ... needs libgone.so.2, which the target lacks",
				"half ImportError False ...",
				"text ImportError False ... is an extension module that is no ELF file",
				"arm ImportError False ... for aarch64",
				"42",
				"[] []",
			}
			if p.Version == "2.7" {
				// Python drops a finder's reason.
				want[7] = "text ImportError False ..."
			}
			for i, line := range want {
				head, tail, _ := strings.Cut(line, "...")
				if i >= len(lines) || !strings.HasPrefix(lines[i], head) || !strings.Contains(lines[i], strings.TrimSpace(tail)) {
					t.Fatalf("line %d: want %q, got %v", i+1, line, got)
				}
			}
			if got.Status != 0 || got.Stderr != "" {
				t.Fatalf("%v", got)
			}
		}
		run(p.Target())
		run(p.Target() + "+" + p.Target())

		wheel := filepath.Join(t.TempDir(), "cx.whl")
		if out, err := exec.Command("python3", "-c", "import shutil, sys, os; shutil.make_archive(*sys.argv[1:]); os.rename(sys.argv[1] + '.zip', sys.argv[1])",
			wheel, "zip", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		short := "import sys\nif sys.argv[1:]:\n    import mitogen.extension as e\n" +
			"    def fail(): raise OSError(38, 'no memfd here')\n    if sys.argv[1] in ('shm', 'none'): e.memfd = fail\n    if sys.argv[1] == 'noexec': e.os.fstatvfs = lambda fd: type('', (), {'f_flag': e.os.ST_NOEXEC})\n" +
			"    if sys.argv[1] == 'none':\n        real = e.os.open\n        e.os = type('os', (), dict(e.os.__dict__, open=staticmethod(lambda *a: fail())))\n" +
			"    if sys.argv[1] in ('other', 'shm', 'none'): e.state = lambda fd: 'that of another file'\n" +
			"    find = e.File.find\n    def watched(*args):\n        path = find(*args)\n        sys.stderr.write('found\\n' if path else 'sent\\n')\n        return path\n" +
			"    e.File.find = watched\n" +
			"try:\n    import cx.beside\n    print(cx.beside.answer())\nexcept ImportError as e:\n    print(e)\n" +
			"import os\nprint([f for f in os.listdir('/dev/shm') if 'mitogend-%d-' % os.getpid() in f])\n"
		script = Write(t, t.TempDir(), "short.py", short)
		// A Python 3 on this machine loads the file from the disk, if it is the one that was served.
		found, sent, once := "found\nfound\n", "sent\nsent\n", "sent\n"
		if p.Version == "2.7" {
			found, sent, once = "", "", ""
		}
		for _, c := range []struct {
			want, stderr string
			args         []string
		}{
			{"42\n[]\n", "", []string{"-I", wheel, script}},
			{"42\n[]\n", "", []string{"-I", wheel, script, "watched"}},
			{"42\n[]\n", found, []string{"-I", dir, script, "watched"}},
			{"42\n[]\n", sent, []string{"-I", dir, script, "other"}},
			{"42\n[]\n", sent, []string{"-I", dir, script, "noexec"}},
			{"42\n[]\n", sent, []string{"-I", dir, script, "shm"}},
			{"no memfd here", once, []string{"-I", dir, script, "none"}},
			{"cx.beside", "", []string{"-I", dir, "--deny", "cx.beside", script}},
		} {
			got := runCommand(t, Command(t, empty, append([]string{"run", "-H", p.Target()}, c.args...)...))
			if got.Status != 0 || got.Stderr != c.stderr || !strings.Contains(got.Stdout, c.want) || strings.Contains(c.want, "\n") && got.Stdout != c.want {
				t.Errorf("%v: want %q, got %v", c.args, c.want, got)
			}
		}
	})
}

const extensionFileProgram = `
from __future__ import print_function
import hashlib, inspect, os, shutil, sys, tempfile
import cx.single, top
for module, original in zip((cx.single, top), sys.argv[1:]):
    path = module.__file__
    with open(path, 'rb') as f, open(original, 'rb') as g:
        print(os.path.isfile(path), os.path.isdir(path), os.stat(path).st_size == os.path.getsize(original), f.read() == g.read())
    print(module.__loader__.get_source(module.__name__))
copied = os.path.join(tempfile.mkdtemp(), 'copy')
shutil.copytree(os.path.dirname(cx.single.__file__), copied)
print(os.path.getsize(os.path.join(copied, os.path.basename(sys.argv[1]))) == os.path.getsize(sys.argv[1]))
shutil.rmtree(os.path.dirname(copied))
`

// The path of an extension module, in a package and in none, is that of a file with its content.
func TestExtensionFiles(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := extensions(t, p.Version)
		files, err := filepath.Glob(filepath.Join(dir, "cx", "single*.so"))
		tops, _ := filepath.Glob(filepath.Join(dir, "top*.so"))
		if err != nil || len(files) != 1 || len(tops) != 1 {
			t.Fatal(files, tops, err)
		}
		script := Write(t, t.TempDir(), "program.py", extensionFileProgram)
		for _, target := range []string{p.Target(), p.Target() + "+" + p.Target()} {
			got := runCommand(t, Command(t, t.TempDir(), "run", "-I", dir, "-H", target, script, files[0], tops[0]))
			got.Want(t, 0, strings.Repeat("True False True True\nNone\n", 2)+"True\n", "")
		}
	})
}

// There is no Python with musl here. So a child with glibc refuses a file for musl, and a child that pretends to have no glibc refuses
// files for glibc.
func TestExtensionsForMusl(t *testing.T) {
	if _, err := exec.LookPath("musl-gcc"); err != nil {
		pythons.Missing(t, err)
	}
	dir := t.TempDir()
	compile(t, filepath.Join(dir, "gnu.abi3.so"), "-DNAME=gnu", "-Wl,--no-as-needed", "-lc")
	cmd := exec.Command("musl-gcc", "-shared", "-fPIC", "-o", filepath.Join(dir, "other.abi3.so"), filepath.Join("testdata", "extension.c"), "-DNAME=other")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := Write(t, t.TempDir(), "program.py", `
import sys
if sys.argv[1:]:
    import mitogen.extension
    mitogen.extension.libc = lambda: (None, None)
for name in ('neither', 'gnu', 'other')[not sys.argv[1:]:]:
    try:
        print(name, __import__(name).answer())
    except ImportError as e:
        print(e)
`)
	target := AnyPython(t).Target()
	Mitogend(t, dir, "run", "-I", dir, "-H", target, script).Want(t, 0, "gnu 7\nother cannot be loaded (mitogend: other.abi3.so is built for musl, and the target has glibc)\n", "")
	compile(t, filepath.Join(dir, "x.libs/libanswer.so.1"), "-DLIBRARY", "-Wl,-soname,libanswer.so.1")
	compile(t, filepath.Join(dir, "neither.abi3.so"), "-DNAME=neither", "-DNEEDS", "-L"+filepath.Join(dir, "x.libs"), "-l:libanswer.so.1",
		"-Wl,-rpath,$ORIGIN/x.libs")
	r := Mitogend(t, dir, "run", "-I", dir, "-H", target, script, "faked")
	if want := "neither cannot be loaded (mitogend: neither.abi3.so needs libanswer.so.1, and without glibc no library is found that is in memory)\n" +
		"gnu cannot be loaded (mitogend: gnu.abi3.so is built for glibc, and the target has another C library)\n"; r.Status != 0 || !strings.HasPrefix(r.Stdout, want) {
		t.Error(r)
	}
	r = Mitogend(t, dir, "modules", "-I", dir, "other")
	if r.Status != 0 || !strings.Contains(r.Stdout, "musl") {
		t.Error(r)
	}
}
