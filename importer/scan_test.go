package importer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shown writes imports one a line: line, statement, condition.
func shown(src *source) string {
	var out []string
	for i := range src.imports {
		imp := &src.imports[i]
		line := fmt.Sprintf("%d %s", imp.Line, imp)
		if when := imp.guard.String(); when != "" {
			line += " [" + when + "]"
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func TestScan(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"plain", "import os\nimport a.b as c, d\n", "1 import os\n2 import a.b\n2 import d"},
		{"from", "from a import b as c, d\nfrom . import x\nfrom .. y import z\nfrom ...p.q import *\n",
			"1 from a import b, d\n2 from . import x\n3 from ..y import z\n4 from ...p.q import *"},
		{"parentheses", "from a import (b, # one\n  c as d,\n\n e,)\nimport f\n", "1 from a import b, c, e\n5 import f"},
		{"continuation", "from a \\\n import b, \\\r\n c\nimport \\\n d\n", "1 from a import b, c\n4 import d"},
		{"semicolons", "x = 1; import a; import b # import c\n", "1 import a\n1 import b"},
		{"blanks around dots", "import a . b\nfrom . a import c\n", "1 import a.b\n2 from .a import c"},
		{"strings", "'''\nimport a\n'''\nx = 'import b'; y = \"\\\"import c\"\nr'\\'; import d\n'\nimport e\n", "7 import e"},
		{"string continued", "x = 'a\\\nimport b'\nimport c\n", "3 import c"},
		{"triple with quotes inside", "\"\"\"a\"b\"\"c\\\"\"\"\nimport no\n\"\"\"\nimport a\n", "4 import a"},
		{"comments", "# import a\nx = 1 # import b\nimport c# import d\n", "3 import c"},
		{"brackets", "x = [\nimport_a,\n 'import b'\n]\nimport c\n", "5 import c"},
		{"not the word", "importer = 1\nimport_x = 2\nfrom_ = 3\nx.import_y()\nimporting()\n", ""},
		{"yield from, raise from", "def f():\n  yield from x\n  raise y from z\nimport a\n", "4 import a"},
		{"one-line suites", "if x: import a\nelse: import b\ntry: import c\nexcept ImportError: import d; import e\nclass A: import f\n",
			"1 import a [if x]\n2 import b [unless x]\n3 import c [in a try]\n4 import d [when an import fails]\n4 import e [when an import fails]\n5 import f"},
		{"blocks", "if x:\n  import a\n  if y:\n    import b\n  import c\nimport d\n",
			"2 import a [if x]\n4 import b [if x, if y]\n5 import c [if x]\n6 import d"},
		{"elif", "if x:\n  pass\nelif y:\n  import a\nelif z:\n  import b\nelse:\n  import c\n",
			"4 import a [unless x, if y]\n6 import b [unless x, unless y, if z]\n8 import c [unless x, unless y, unless z]"},
		{"tabs and blanks", "if x:\n\timport a\n        import b\nimport c\n", "2 import a [if x]\n3 import b [if x]\n4 import c"},
		{"dedent in brackets and strings", "if x:\n    y = [\n1]\n    z = '''\n'''\n    import a\n", "6 import a [if x]"},
		{"try", "try:\n  import a\nexcept (ImportError, KeyError) as e:\n  import b\nexcept ValueError:\n  import c\nelse:\n  import d\nfinally:\n  import e\n",
			"2 import a [in a try]\n4 import b [when an import fails]\n6 import c [when something else fails]\n8 import d [when the try succeeds]\n10 import e"},
		{"functions", "def f(x=lambda: 1):\n  import a\nclass C:\n  import b\n  def m(self):\n    import c\n  async def n(self): import d\n",
			"2 import a [in a function]\n4 import b\n6 import c [in a function]\n7 import d [in a function]"},
		{"f-strings", "x = f'{a['b']}' f\"{f\"{1}\"}\"; import a\ny = f'{x!r:{w}}'; import b\nz = f'{{'; import c\nw = f'''\n{x:'^10}\n{\n# comment '\ny}'''\nimport d\n",
			"1 import a\n2 import b\n3 import c\n9 import d"},
		{"f-string edges", "a = rf'\\{x}'; import a\nb = f'\\N{DASH}'; import b\nc = f\"{x:{'>'}{10}}\"; import c\nd = fr\"{'#'}\"; import d\nif'x': import e\n",
			"1 import a\n2 import b\n3 import c\n4 import d\n5 import e [if \"x\"]"},
		{"unterminated", "x = 'abc\nimport a\ny = f'{\nimport b\n", "2 import a"},
		{"line ends", "import a\r\nimport b\rimport c\n\fimport d\r\n", "1 import a\n2 import b\n3 import c\n4 import d"},
		{"no newline at the end", "import a", "1 import a"},
		{"byte order mark", "\xef\xbb\xbfimport a\n", "1 import a"},
		{"double bytes", "# coding: shift_jis\nx = '\x83\x5c'\nimport a\n", "3 import a"},
		{"calls", "__import__('a')\nimport_module('b.c')\nx = importlib.import_module(name)\nimport_module('.d', __package__)\nimport_module('.e', 'p.q')\nimport_module('x' + y)\n__import__('f %s' % g)\n",
			"1 import_module('a')\n2 import_module('b.c')\n4 import_module('.d')\n5 import_module('p.q.e')"},
		{"hints", "@util.preload_module('a.b', \"c.d\")\ndef f(): import_string('e.f')\nlazy_import('g.h')\nis_importable('i.j')\nimport_x('nodot')\n",
			"1 ...import...('a.b')\n1 ...import...('c.d')\n2 ...import...('e.f') [in a function]"},
		{"python 2", "print 'import a'\nexec \"import b\"\nraise E, 'x'\nprint >>f, `import_`\nimport c\n", "5 import c"},
		{"walrus and slices", "if (x := y[1:2]): import a\nif x[1:2]: import b\nif z := 1: import c\n", "1 import a [if ...]\n2 import b [if ...]\n3 import c [if ...]"},
		{"match", "match x:\n  case 1:\n    import a\n  case _: import b\n", "3 import a\n4 import b"},
		{"while and with", "while False:\n  import a\nwith x as y: import b\nfor a in b:\n  import c\nelse:\n  import d\n",
			"2 import a [if False]\n3 import b\n5 import c\n7 import d"},
		{"nonsense", "import\nfrom\nfrom x\nfrom x import\nfrom x import (\n1, )\nimport 1\n", ""},
		{"lazy", "lazy import a, b.c; import d\nlazy from .e import f\nlazy = 1; lazy.x = 2\nlazy(import_)\nimport g\ntry:\n  lazy  import h\nexcept A, ImportError:\n  import i\n",
			"1 import a [in a function]\n1 import b.c [in a function]\n1 import d\n2 from .e import f [in a function]\n5 import g\n7 import h [in a try, in a function]\n9 import i [when an import fails]"},
		{"t-strings", "x = t'{a['b']}' rt\"{t\"{1}\"}\"; import a\ny = t'''\nimport no\n{z\n}'''\nimport b\n", "1 import a\n6 import b"},
		{"lambda", "f = lambda: __import__('a')\nimport b\n", "2 import b"},
	} {
		if got := shown(scanSource([]byte(c.src))); got != c.want {
			t.Errorf("%s: %q\n got:\n%s\nwant:\n%s", c.name, c.src, got, c.want)
		}
	}
}

func TestScanFlags(t *testing.T) {
	src := scanSource([]byte("from __future__ import (print_function, absolute_import)\n__all__ = ['a', \"b\"] + x\n__all__ += ('c',)\n" +
		"__path__ = pkgutil.extend_path(__path__, __name__)\nPY3 = sys.version_info >= (3,)\nmitogen.main()\n"))
	if !src.absolute || !src.extends || !src.mitogenMain {
		t.Errorf("absolute %v, extends %v, mitogen.main %v", src.absolute, src.extends, src.mitogenMain)
	}
	equal(t, "__all__", src.all, []string{"a", "b", "c"})
	if got := (&env{v: py3}).decide(src.names["PY3"]); got != yes {
		t.Errorf("PY3 is %v", got)
	}
	if src := scanSource([]byte("'from __future__ import absolute_import'\n# extend_path(x)\n'declare_namespace(x)'\n")); src.absolute || src.extends {
		t.Error("strings and comments are taken for code")
	}
}

func TestCutMain(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"import a\nif __name__ == '__main__':\n    main()\n", "import a\n"},
		{"\xef\xbb\xbfx = 1\nif __name__ == \"__main__\" :\n    main()\n", "\xef\xbb\xbfx = 1\n"},
		{"if (__name__) == '__main__': main()\n", ""},
		{"x = '''\nif __name__ == '__main__':\n'''\nif '__main__' == __name__ and y:\n  z()\n", "x = '''\nif __name__ == '__main__':\n'''\n"},
		{"@mitogen.main()\ndef main(router): pass\n", "@mitogen.main()\ndef main(router): pass\n"},
	} {
		if got, ok := CutMain([]byte(c.src)); !ok || string(got) != c.want {
			t.Errorf("%q: %q, %v", c.src, got, ok)
		}
	}
	for _, src := range []string{"", "main()\n", "# if __name__ == '__main__':\n", "def f():\n  if __name__ == '__main__': pass\n", "if __name__ != '__main__':\n  x\n"} {
		if got, ok := CutMain([]byte(src)); ok {
			t.Errorf("%q is cut to %q", src, got)
		}
	}
}

// The interpreters' own libraries, each scanned as its own parser reads it: a sample, or with MITOGEND_LONG all of them, and what is
// installed.
func TestScanAgreesWithPython(t *testing.T) {
	for v, python := range interpreters(t) {
		t.Run(v.String(), func(t *testing.T) {
			out, err := exec.Command(python, "-c", "import os; print(os.path.dirname(os.__file__))").Output()
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			err = filepath.WalkDir(strings.TrimSpace(string(out)), func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() && d.Name() == "site-packages" && os.Getenv("MITOGEND_LONG") == "" {
					return filepath.SkipDir
				}
				if err == nil && strings.HasSuffix(p, ".py") && !d.IsDir() {
					files = append(files, p)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			compareWithParser(t, python, sample(files, 40))
		})
	}
}

// sample takes every nth file, and those whose name promises odd syntax.
func sample(files []string, n int) []string {
	if testing.Short() {
		n *= 5
	}
	if os.Getenv("MITOGEND_LONG") != "" {
		n = 1
	}
	var out []string
	for i, f := range files {
		base := filepath.Base(f)
		if i%n == 0 || strings.Contains(base, "grammar") || strings.Contains(base, "string") || strings.Contains(base, "token") || strings.Contains(base, "import") {
			out = append(out, f)
		}
	}
	return out
}

func compareWithParser(t *testing.T, python string, files []string) {
	cmd := exec.Command(python, "-W", "ignore", filepath.Join("testdata", "imports.py"))
	cmd.Stdin = strings.NewReader(strings.Join(files, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", python, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<20)
	compared, imports := 0, 0
	for lines.Scan() {
		var truth struct {
			Path    string
			Imports [][]any
		}
		if err := json.Unmarshal(lines.Bytes(), &truth); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(truth.Path)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for _, imp := range scanSource(data).imports {
			if !imp.Dynamic {
				got = append(got, fmt.Sprint(imp.Line, imp.Level, imp.Module, imp.Names))
			}
		}
		for _, w := range truth.Imports {
			names := fmt.Sprint(w[3])
			want = append(want, fmt.Sprint(w[0], w[1], w[2], names))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", truth.Path, got, want)
		}
		compared++
		imports += len(want)
	}
	if compared < len(files)*9/10 || imports < compared {
		t.Errorf("only %d of %d files compared, with %d imports", compared, len(files), imports)
	}
}

func FuzzScan(f *testing.F) {
	for _, src := range []string{
		"import a\n", "from .a import (b, c)\n", "f'{x!r:{w}}'", "if x:\n\timport y\nelse: import z", "x = f'''{\n#'\ny}'''", "try:\n import a\nexcept: pass",
		"@x.import_y('a.b')\ndef f(): pass\nf()", "\xef\xbb\xbf# coding: gbk\n'\x81\x5c'", "def f():\n import a\nf()\n", "if sys.version_info[:2] >= (3, 4) and not PY2: import a",
	} {
		f.Add([]byte(src))
	}
	im := newImporter(f, Options{})
	f.Fuzz(func(t *testing.T, data []byte) {
		src := scanSource(data)
		for i := range src.imports {
			imp := &src.imports[i]
			if imp.Line < 1 || imp.Line > bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r"))+1 {
				t.Errorf("line %d", imp.Line)
			}
			_ = imp.String() + imp.guard.String()
		}
		if src.mainGuard > len(data) {
			t.Errorf("guard at %d of %d", src.mainGuard, len(data))
		}
		for _, v := range []Version{none, py2, py3} {
			_, _ = im.search(v).related(&spec{name: "a.b"}, src)
		}
	})
}
