package integration

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// sealed gives the target of an interpreter in a read-only root: it and all mounts in it, but /proc, are read-only. binds are paths
// of this machine that it has as well.
func sealed(t *testing.T, root, python string, binds ...string) (target string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\nset -eu\n[ \"${SEALED-}\" ] || SEALED=1 exec unshare --mount --propagation private \"$0\" \"$@\"\nunset SEALED\nroot=%s\n"+
		"mount --bind $root $root\nmount -t proc proc $root/proc\nmount --bind /dev/null $root/dev/null\n", root)
	for _, path := range binds {
		to := filepath.Join(root, path)
		info, err := os.Stat(path)
		switch {
		case err != nil:
		case info.IsDir():
			err = os.MkdirAll(to, 0o755)
		default:
			if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
				err = os.WriteFile(to, nil, 0o755)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "mount --bind %s %s\nmount -o remount,bind,ro %[2]s\n", path, to)
	}
	b.WriteString("mount -o remount,bind,ro $root/dev/null\nmount -o remount,bind,ro $root\ncd /\nexec chroot $root \"$@\"\n")
	enter := script(t, "enter", b.String())
	if out, err := exec.Command(enter, "/bin/sh", "-c", "exit 0").CombinedOutput(); err != nil {
		pythons.Missing(t, fmt.Sprintf("no root can be entered here: %v: %s", err, out))
	}
	return "exec:" + value(enter) + "?python=" + python
}

// minbase unpacks the machine without Python.
func minbase(t *testing.T) (root string) {
	t.Helper()
	image := filepath.Join(pythons.Tree(), "minbase.tar")
	if _, err := os.Stat(image); err != nil {
		pythons.Missing(t, ".ci/minbase has made no machine without Python: ", err)
	}
	root = t.TempDir()
	if out, err := exec.Command("tar", "-C", root, "-xf", image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return root
}

// needed gives the libraries of a program or a shared object that a root lacks, by their paths here.
func needed(t *testing.T, root string, files ...string) (paths []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, file := range files {
		out, err := exec.Command("ldd", file).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", file, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			_, path, _ := strings.Cut(line, " => ")
			if path, _, _ = strings.Cut(path, " ("); !filepath.IsAbs(path) || seen[path] {
				continue
			}
			seen[path] = true
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// sealedProbe is the end of a program: it checks that nothing can be written, and that mitogend's files are mapped from unnamed memory.
const sealedProbe = `
import errno, os, sys
for place in '/', '/tmp', '/dev', '/dev/shm', '/run', '/var/tmp', '/usr/lib/python3':
    try:
        os.close(os.open(place + '/written', os.O_CREAT | os.O_WRONLY))
        print(place, 'can be written to')
    except OSError as e:
        if e.errno not in (errno.EROFS, errno.ENOENT):
            print(place, e)
mounts = [line.split() for line in open('/proc/self/mountinfo')]
print('writable:', [m[4] for m in mounts if 'rw' in m[5].split(',')])
mapped = {line.split(None, 5)[5].strip() + line.split()[4] for line in open('/proc/self/maps') if 'memfd:mitogend' in line}
print('in memory:', len(mapped) >= LEAST, sorted({name.split('(')[0] for name in mapped}) != [])
served = [m for m in list(sys.modules.values()) if str(getattr(m, '__file__', '')).endswith('.so') and not m.__file__.startswith('/usr/lib/python3')]
print('served:', len(served) >= LEAST, [m.__file__ for m in served if not m.__file__.startswith('/master:')])
`

const sealedWant = "writable: ['/proc']\nin memory: True True\nserved: True []\n"

// Debian's own packages in C run under Debian's own Python, in a root that does not have them and cannot be written to.
func TestExtensionsOnSealedRoot(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root")
	}
	const python = "/usr/bin/python3.11"
	packages := filepath.Join(pythons.Tree(), "extensions")
	if _, err := os.Stat(python); err != nil {
		pythons.Missing(t, "Debian's packages are for its Python 3.11: ", err)
	} else if _, err := os.Stat(packages); err != nil {
		pythons.Missing(t, ".ci/extensions has unpacked no packages: ", err)
	}
	t.Parallel()
	root := minbase(t)
	// The files that Debian's Python depends on, and those that OpenSSL itself loads.
	var found []string
	for _, pattern := range []string{"lib-dynload/_ctypes.*.so", "lib-dynload/_ssl.*.so", "../*-linux-gnu/ossl-modules"} {
		paths, err := filepath.Glob("/usr/lib/python3.11/" + pattern)
		if err != nil || len(paths) != 1 {
			t.Fatal(pattern, paths, err)
		}
		found = append(found, paths...)
	}
	binds := append([]string{python, "/usr/lib/python3.11", found[2]}, needed(t, root, python, found[0], found[1])...)
	target := sealed(t, root, python, binds...)
	lib, err := filepath.Glob(filepath.Join(packages, "usr/lib/*-linux-gnu"))
	if err != nil || len(lib) != 1 {
		t.Fatal(lib, err)
	}
	libs := "--libs=" + strings.Join([]string{lib[0], lib[0] + "/blas", lib[0] + "/lapack"}, ",")
	dir := t.TempDir()
	for _, c := range []struct{ name, source, want, least string }{
		{"numpy", `
import numpy
a = numpy.array([[4.0, 7, 2], [2, 6, 1], [1, 0, 3]])
b = numpy.linalg.inv(a)
print(numpy.allclose(a @ b, numpy.eye(3)), round(float(numpy.linalg.det(a)), 6), numpy.linalg.eigvalsh(a @ a.T).round(3).tolist())
print(numpy.fft.fft([1, 0, 0, 0]).real.tolist(), numpy.random.default_rng(1).integers(0, 9, 4).tolist())
`, "True 25.0 [0.608, 9.335, 110.057]\n[1.0, 1.0, 1.0, 1.0] [4, 4, 6, 8]\n", "12"},
		{"lxml", `
from lxml import etree
doc = etree.XML('<r><a n="2"/><a n="1">x</a></r>')
sheet = etree.XSLT(etree.XML('<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">'
    '<o><xsl:for-each select="r/a"><xsl:sort select="@n"/><xsl:value-of select="@n"/></xsl:for-each></o></xsl:template></xsl:stylesheet>'))
print(doc.xpath('string(//a[@n="1"])'), etree.tostring(sheet(doc)).decode())
`, "x <o>12</o>\n", "1"},
		{"psutil", `
import os, psutil
p = psutil.Process()
print(p.pid == os.getpid(), p.memory_info().rss > 0, psutil.cpu_count() == os.cpu_count(), psutil.virtual_memory().total > 0)
`, "True True True True\n", "2"},
		{"cryptography", `
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
f = Fernet(Fernet.generate_key())
key = ec.generate_private_key(ec.SECP256R1())
key.public_key().verify(key.sign(b'text', ec.ECDSA(hashes.SHA256())), b'text', ec.ECDSA(hashes.SHA256()))
print(f.decrypt(f.encrypt(b'secret')).decode(), key.curve.name)
`, "secret secp256r1\n", "2"},
		{"yaml", `
import yaml
print(yaml.__with_libyaml__, yaml.load('a: [1, 2.5, x]\nb: {c: null}', Loader=yaml.CSafeLoader), yaml.CSafeLoader.__mro__[1].__name__)
`, "True {'a': [1, 2.5, 'x'], 'b': {'c': None}} CParser\n", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			script := Write(t, dir, c.name+"_program.py", c.source+strings.ReplaceAll(sealedProbe, "LEAST", c.least))
			if r := Mitogend(t, dir, "run", "-H", target, script); r.Status != 1 || !strings.Contains(r.Stderr, "No module named '"+c.name) {
				t.Fatalf("the root has it itself: %v", r)
			}
			Mitogend(t, dir, "run", "-I", filepath.Join(packages, "usr/lib/python3/dist-packages"), libs, "-H", target, script).
				Want(t, 0, c.want+sealedWant, "")
		})
	}
}

// arc4random gives the version of glibc that a file needs for the function that glibc has since 2.36.
func arc4random(t *testing.T, file string) string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == "arc4random" && s.Version != "" {
			return strings.TrimPrefix(s.Version, "GLIBC_")
		}
	}
	pythons.Missing(t, "this machine's own glibc is older than 2.36")
	return ""
}

// A target with an older C library than this machine loads modules that need no newer one, and refuses others before they are sent.
func TestExtensionsOnOlderLibc(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root")
	}
	tree := filepath.Join(pythons.Tree(), "older")
	if _, err := os.Stat(tree); err != nil {
		pythons.Missing(t, ".ci/extensions has made no tree with an older C library: ", err)
	}
	t.Parallel()
	target := sealed(t, tree, "/usr/bin/python3")
	dir := extensions(t, "3.9")
	compile(t, filepath.Join(dir, "cx/newer.abi3.so"), "-DNAME=newer", "-DNEWER")
	version := arc4random(t, filepath.Join(dir, "cx/newer.abi3.so"))
	compile(t, filepath.Join(dir, "cx.libs/libnewer.so.1"), "-DLIBRARY", "-DNEWER", "-Wl,-soname,libnewer.so.1")
	compile(t, filepath.Join(dir, "cx/leaning.abi3.so"), "-DNAME=leaning", "-DNEEDS", "-L"+filepath.Join(dir, "cx.libs"), "-l:libnewer.so.1",
		"-Wl,-rpath,$ORIGIN/../cx.libs")
	script := Write(t, dir, "program.py", `
import os
import cx.beside, cx.multi, top
print(cx.beside.answer(), cx.multi.answer(), top.answer(), os.confstr('CS_GNU_LIBC_VERSION'))
for name in 'newer', 'leaning':
    try:
        __import__('cx.' + name)
        print(name, 'is there')
    except ImportError as e:
        print(name, e)
`+strings.ReplaceAll(sealedProbe, "LEAST", "3"))
	r := Mitogend(t, dir, "run", "-H", target, script)
	var have string
	if _, rest, ok := strings.Cut(r.Stdout, "42 7 7 glibc "); ok {
		have, _, _ = strings.Cut(rest, "\n")
	}
	why := "(mitogend: %s needs GLIBC_" + version + ", the target has " + have + ")"
	want := "42 7 7 glibc " + have + "\nnewer cx.newer cannot be loaded " + fmt.Sprintf(why, "newer.abi3.so") +
		"\nleaning cx.leaning cannot be loaded " + fmt.Sprintf(why, "libnewer.so.1") + "\n" + sealedWant
	r.Want(t, 0, want, "")
}
