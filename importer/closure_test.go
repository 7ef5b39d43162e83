package importer

import (
	"context"
	"mitogend/integration/pythons"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRelated(t *testing.T) {
	im := onPath(t, map[string]string{
		"app.py":          "import os, json.decoder\nimport lib.a.b as x, missing\nfrom lib import c, value, absent\nfrom lib.star import *\nimport app\n",
		"lib/__init__.py": "from . import early\n", "lib/early.py": "", "lib/a/__init__.py": "", "lib/a/b.py": "from .. import c\nfrom .sib import x\nfrom ... import beyond\n",
		"lib/a/sib.py": "", "lib/c.py": "import lib.a.b\n", "lib/star/__init__.py": "__all__ = ['one', 'name']\n", "lib/star/one.py": "", "lib/star/two.py": "",
		"native.abi3.so": "", "pure.py": "",
		"tries.py":      "try:\n  import native\nexcept ImportError:\n  import pure\ntry:\n  import lib.c\nexcept ImportError:\n  import lib.early\nelse:\n  import lib.star.two\ntry:\n  import json\nexcept ImportError:\n  import simplejson\ntry:\n  basestring\nexcept NameError:\n  import lib.a\n",
		"simplejson.py": "",
		"guards.py":     "if TYPE_CHECKING:\n  import lib.a.b\nif sys.version_info[0] == 2:\n  import two\nelif sys.version_info < (3, 8):\n  import old\nelse:\n  import fresh\nif os.name == 'nt':\n  import pure\n",
		"two.py":        "", "old.py": "", "fresh.py": "",
		"lazy.py":           "def f():\n  import two\ndef g():\n  import fresh\n  if sys.platform == 'win32':\n    import old\nclass C:\n  import pure\n  def f(self): import lib\ng()\nx.f()\n",
		"dyn.py":            "__import__('two')\nimportlib.import_module('lib.a')\npreload_module('lib.star.two', 'lib.star.one.Class', 'lib.nothing', 'json.decoder', 'lib')\n",
		"two_x/__init__.py": "import early, string, lib, sub\nfrom sub import thing\n", "two_x/early.py": "", "two_x/string.py": "", "two_x/lib.py": "",
		"two_x/sub/__init__.py": "import helper\n", "two_x/sub/thing.py": "", "two_x/sub/helper.py": "",
		"abs_x/__init__.py": "from __future__ import absolute_import\nimport lib\n", "abs_x/lib.py": "",
		"backport.py": "try:\n  import configparser\nexcept ImportError:\n  import ConfigParser as configparser\n", "configparser.py": "",
	})
	for _, c := range []struct {
		name string
		v    Version
		want []string
	}{
		{"app", py3, []string{"lib", "lib.a", "lib.a.b", "lib.c", "lib.star", "lib.star.one"}},
		{"lib", py3, []string{"lib.early"}},
		{"lib.a.b", py3, []string{"lib.c", "lib.a.sib"}},
		{"tries", py3, []string{"pure", "lib", "lib.c", "lib.star", "lib.star.two"}},
		{"guards", py2, []string{"two"}},
		{"guards", Version{3, 7}, []string{"old"}},
		{"guards", py3, []string{"fresh"}},
		{"guards", none, []string{"two", "old", "fresh"}},
		{"lazy", py3, []string{"fresh", "pure"}},
		{"dyn", py3, []string{"two", "lib", "lib.a", "lib.star", "lib.star.two", "lib.star.one"}},
		{"two_x", py2, []string{"two_x.early", "two_x.string", "two_x.lib", "two_x.sub", "two_x.sub.thing"}},
		{"two_x", py3, []string{"lib"}},
		{"two_x", none, []string{"two_x.early", "lib", "two_x.sub", "two_x.sub.thing"}},
		{"two_x.sub", py2, []string{"two_x.sub.helper"}},
		{"abs_x", py2, []string{"lib"}},
		{"backport", py2, []string{"configparser"}},
		{"backport", py3, nil},
		{"absent", py3, nil},
	} {
		equal(t, c.name+" "+c.v.String(), im.Related(c.name, c.v), c.want)
	}
	equal(t, "closure", im.Closure(py3, "app"), []string{"app", "lib", "lib.early", "lib.a", "lib.a.b", "lib.c", "lib.a.sib", "lib.star", "lib.star.one"})
	equal(t, "closure of two", im.Closure(py3, "lib.early", "fresh", "absent"), []string{"lib", "lib.early", "fresh"})
	equal(t, "script", im.ScriptClosure(py3, []byte("import fresh\nif __name__ == '__main__':\n  import two\n")), []string{"fresh", "two"})
}

// Third-party packages whose closure is compared with what interpreters import. extra is
// how much may be sent that is not imported: where the interpreter has an extension module, and what stands in a try.
var realPackages = []struct {
	module      string
	needs       []string
	first, last Version
	extra       int
	atLeast     int
}{
	{module: "jinja2", needs: []string{"jinja2", "markupsafe"}, first: Version{3, 7}, last: Version{3, 13}, extra: 1, atLeast: 15},
	{module: "sqlalchemy.orm", needs: []string{"sqlalchemy"}, first: Version{3, 8}, last: Version{3, 13}, extra: 2, atLeast: 90},
	{module: "django.db.models", needs: []string{"django", "asgiref", "pytz", "sqlparse"}, first: Version{3, 9}, last: Version{3, 11}, atLeast: 120},
}

const distPackages = "/usr/lib/python3/dist-packages"

// debianPath makes a directory with links to some of Debian's packages, and nothing else.
func debianPath(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		target := filepath.Join(distPackages, name)
		if _, err := os.Stat(target); err != nil {
			pythons.Missing(t, err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What importing a real package loads is in its closure, on every interpreter, and hardly anything else.
func TestClosureAgreesWithPython(t *testing.T) {
	for _, p := range realPackages {
		t.Run(p.module, func(t *testing.T) {
			dir := debianPath(t, p.needs...)
			im := newImporter(t, Options{Path: []string{dir}})
			for v, python := range interpreters(t) {
				if v.less(p.first) || p.last.less(v) {
					continue
				}
				loaded := loadedBy(t, python, dir, p.module)
				closure := im.Closure(v, p.module)
				extra := 0
				for _, name := range closure {
					if _, ok := loaded[name]; !ok {
						extra++
						t.Logf("%v: %s is sent and not imported", v, name)
					}
				}
				for name, file := range loaded {
					if !slices.Contains(closure, name) && !strings.HasSuffix(file, ".so") {
						t.Errorf("%v: %s is imported and not in the closure", v, name)
					}
				}
				if extra > p.extra || len(closure) < p.atLeast {
					t.Errorf("%v: %d modules, %d of them for nothing, want at least %d and at most %d", v, len(closure), extra, p.atLeast, p.extra)
				}
				checkOrder(t, closure)
			}
		})
	}
}

// checkOrder: packages come before what they have.
func checkOrder(t *testing.T, names []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			t.Errorf("%s comes twice", name)
		}
		if parent, _ := parentName(name); parent != "" && !seen[parent] {
			t.Errorf("%s comes before its package", name)
		}
		seen[name] = true
	}
}

func BenchmarkClosure(b *testing.B) {
	for _, p := range realPackages {
		dir := debianPath(b, p.needs...)
		b.Run(p.module+"/cold", func(b *testing.B) {
			for b.Loop() {
				newImporter(b, Options{Path: []string{dir}}).Closure(py3, p.module)
			}
		})
		im := newImporter(b, Options{Path: []string{dir}})
		b.Run(p.module+"/warm", func(b *testing.B) {
			for b.Loop() {
				im.Closure(py3, p.module)
			}
		})
	}
}

type nullSink struct{ bytes int }

func (s *nullSink) LoadModule(payload []byte, _ string) error {
	s.bytes += len(payload)
	return nil
}

func (s *nullSink) ForwardModule([]byte, uint32, string) error { return nil }

// BenchmarkPush is what one more child costs once the modules are built.
func BenchmarkPush(b *testing.B) {
	for _, p := range realPackages {
		im := newImporter(b, Options{Path: []string{debianPath(b, p.needs...)}})
		b.Run(p.module, func(b *testing.B) {
			for b.Loop() {
				r, err := NewResponder(im, &nullSink{}, ResponderOptions{Version: py3})
				if err != nil {
					b.Fatal(err)
				}
				if err := r.do(context.Background(), &job{names: []string{p.module}, platform: Platform{Version: py3}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFirst is what the first child costs: finding, scanning, compressing and encoding everything.
func BenchmarkFirst(b *testing.B) {
	for _, p := range realPackages {
		dir := debianPath(b, p.needs...)
		b.Run(p.module, func(b *testing.B) {
			for b.Loop() {
				s := newImporter(b, Options{Path: []string{dir}}).search(py3)
				closure := s.closure(p.module)
				wait := compressAhead(s.units(closure))
				for _, name := range closure {
					if _, err := s.record(context.Background(), name); err != nil {
						b.Fatal(err)
					}
				}
				wait()
			}
		})
	}
}
