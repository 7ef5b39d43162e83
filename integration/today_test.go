package integration

import (
	"path/filepath"
	"testing"

	"mitogend/integration/pythons"
)

// Lazy imports (PEP 810, since 3.15) of served modules happen when the name is first used, in any thread, and at exit.
func TestLazyImports(t *testing.T) {
	p := clean(t, pythons.Of(t, "3.15"))
	dir := t.TempDir()
	Write(t, dir, "served/late.py", "print('late is imported')\nVALUE = 7\n")
	Write(t, dir, "served/work.py", "def square(x):\n    return x * x\n")
	Write(t, dir, "served/bye.py", "def twice(x):\n    return 2 * x\n")
	Write(t, dir, "p.py", `
import atexit, sys, threading
lazy import late, nothere
lazy from work import square
lazy import bye
print('late' in sys.modules)
out = []
threads = [threading.Thread(target=lambda: out.append((late.VALUE, square(3)))) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(len(out), set(out))
try:
    nothere.x
except ImportError as e:
    print(type(e).__name__, e.name)
atexit.register(lambda: print(bye.twice(2)))
`)
	for _, mode := range []string{"", " -X lazy_imports=all", " -X lazy_imports=normal"} {
		target := Python{p.Version, p.Command + mode, nil}.Target()
		r := Mitogend(t, dir, "run", "--daemon", "none", "-I", "served", "-H", target, "--trace-imports", "p.py")
		want := "False\nlate is imported\n8 {(7, 9)}\nModuleNotFoundError nothere\n4\n"
		if r.Status != 0 || r.Stdout != want {
			t.Errorf("%q: %v\nwant %q", mode, r, want)
		}
	}
}

// A release newer than our tables: calls, programs, served packages, its own library first, and bytecode for it.
func TestLaterRelease(t *testing.T) {
	newest := clean(t, pythons.Any(t))
	dir := t.TempDir()
	// It claims to be a 3.99 without a module that all of ours have.
	later := script(t, "python3.99", "#!/bin/sh\nshift\nstub=$1\nshift\nexec "+newest.Command+` -c "
import sys
class Gone(object):
    def find_spec(self, name, path=None, target=None):
        return None
sys.hexversion = 0x036300f0
import _frozen_importlib_external as external
external.MAGIC_NUMBER = external.MAGIC_NUMBER[:$MAGIC] + b'xx'[:2-$MAGIC] + external.MAGIC_NUMBER[2:]
sys.version_info = (3, 99, 0, 'final', 0)
sys.stdlib_module_names = frozenset(sys.stdlib_module_names) - {'colorsys'}
old = sys.meta_path[-1].find_spec
sys.meta_path[-1].find_spec = staticmethod(lambda name, path=None, target=None: None if name == 'colorsys' else old(name, path, target))
$stub" "$@"
`)
	Write(t, dir, "lib/colorsys.py", "WHENCE = 'served'\n")
	Write(t, dir, "lib/shop/__init__.py", "")
	Write(t, dir, "lib/shop/orders.py", "import json, decimal\nfrom . import prices\ndef total():\n    return prices.one * 3\n")
	Write(t, dir, "lib/shop/prices.py", "one = 14\n")
	Write(t, dir, "p.py", "import sys, colorsys, shop.orders\nprint(sys.version_info[:2], colorsys.WHENCE, shop.orders.total())\n")
	source := Write(t, dir, "lib/cached.py", "WHENCE = 'source'\n")
	compile := Write(t, t.TempDir(), "compile.py", `
import os, py_compile, sys
source, cached = sys.argv[1:]
stat = os.stat(source)
with open(cached, 'w') as f:
    f.write("WHENCE = 'cached'\n")
os.utime(cached, ns=(stat.st_atime_ns, stat.st_mtime_ns))
os.mkdir(os.path.dirname(source) + '/__pycache__')
py_compile.compile(cached, os.path.dirname(source) + '/__pycache__/cached.cpython-399.pyc', doraise=True)
`)
	newest.Local(t, dir, "", compile, source, filepath.Join(dir, "compiled.py")).Want(t, 0, "", "")
	target := "local:?python=" + later
	// As it is, and in a release with another magic number.
	for drop, want := range map[string]string{"2": "\"cached\"\n", "1": "\"source\"\n"} {
		t.Setenv("MAGIC", drop)
		if r := Mitogend(t, dir, "call", "--daemon", "none", "-I", "lib", "-H", target, "cached:WHENCE.lower"); r.Status != 0 || r.Stdout != want {
			t.Errorf("%s: %v", drop, r)
		}
	}
	if r := Mitogend(t, dir, "run", "--daemon", "none", "-I", "lib", "-H", target, "p.py"); r.Status != 0 || r.Stdout != "(3, 99) served 42\n" {
		t.Errorf("%v", r)
	}
	if r := Mitogend(t, dir, "call", "--daemon", "none", "-I", "lib", "-H", target, "shop.orders:total"); r.Status != 0 || r.Stdout != "42\n" {
		t.Errorf("%v", r)
	}
}
