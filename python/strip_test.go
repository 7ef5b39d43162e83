package python

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

func TestStrip(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"comments", "#!/usr/bin/python\n# coding: latin-1\n# gone\nx = 1  # gone\ny = '#' # gone", "#!/usr/bin/python\n# coding: latin-1\n\nx = 1\ny = '#'"},
		{"docstring", "'''a\nb'''\nx = 1\n", "\n\nx = 1\n"},
		{"only a docstring", "class A:\n    '''a\n    b'''\n\n\nx = 1\n", "class A:\n pass\n\n\n\nx = 1\n"},
		{"only a docstring at the end", "def f():\n    def g():\n        'a' \"b\"\n", "def f():\n def g():\n  pass\n"},
		{"docstring and more", "def f():\n    r'a'\n    # c\n    return 1\n", "def f():\n\n\n return 1\n"},
		{"a comment of another level", "def f():\n    'a'\n# c\n    return 1\n", "def f():\n\n\n return 1\n"},
		{"string of an expression", "def f():\n    'a'.x()\n    b'c'\n    ('d')\n    'e'; g()\n", "def f():\n 'a'.x()\n b'c'\n ('d')\n 'e'; g()\n"},
		{"brackets", "\n\nx = [  # c\n    'a',\n\n    # c\n    'b' '''\n  #''',\n]\n", "\n\nx = [\n'a',\n\n\n'b' '''\n  #''',\n]\n"},
		{"continued", "if a and \\\n   b:\n        c()\n", "if a and \\\n   b:\n c()\n"},
		{"escaped quotes", "x = 'a\\'#'  # c\ny = '''\\'''#'''\n", "x = 'a\\'#'  # c\ny = '''\\'''#'''\n"},
		{"escaped quotes, later", "\n\nx = 'a\\'#'  # c\ny = '''\\'''#'''\n", "\n\nx = 'a\\'#'\ny = '''\\'''#'''\n"},
		{"levels", "if a:\n  if b:\n          c()\n  d()\nelse:\n  e()\n", "if a:\n if b:\n  c()\n d()\nelse:\n e()\n"},
		{"tabs", "if a:\n\tb() # c\n", "if a:\n\tb() # c\n"},
		{"f-string", "\n\nx = f'{'a'}' # c\n", "\n\nx = f'{'a'}' # c\n"},
		{"open string", "\n\nx = 1 # c\ny = 'a\n", "\n\nx = 1 # c\ny = 'a\n"},
		{"no level of before", "if a:\n    b()\n  c() # d\n", "if a:\n    b()\n  c() # d\n"},
		{"an encoding below a string", "'a'\n# coding: latin-1\nx = 1\n", "'a'\n# coding: latin-1\nx = 1\n"},
	} {
		if got := Strip(test.in); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// compareTrees reads a pair of sources a line. What is left out of the trees is what may differ.
const compareTrees = `
import ast, json, sys
def tree(source):
    root = ast.parse(source.encode('utf-8'))
    for node in ast.walk(root):
        for field in 'body', 'orelse', 'finalbody':
            body = getattr(node, field, None)
            if isinstance(body, list):
                body[:] = [x for x in body if not (isinstance(x, ast.Pass) or isinstance(x, ast.Expr) and
                    (isinstance(x.value, getattr(ast, 'Str', ())) or isinstance(getattr(x.value, 'value', None), str)
                     and type(x.value).__name__ == 'Constant'))]
    out = []
    def walk(node):
        out.append((type(node).__name__, getattr(node, 'lineno', 0)))
        for name, value in ast.iter_fields(node):
            for x in value if isinstance(value, list) else [value]:
                if isinstance(x, ast.AST):
                    walk(x)
                else:
                    out.append((name, repr(x)))
    walk(root)
    return out
for line in sys.stdin:
    name, old, new = json.loads(line)
    try:
        want = tree(old)
    except (SyntaxError, ValueError):
        continue
    try:
        got = tree(new)
    except SyntaxError as e:
        got = [str(e)]
    if got != want:
        print(name, [x for x in zip(got, want) if x[0] != x[1]][:3])
`

// What Python reads of stripped source is what it read before, in the same lines, but for strings that are statements.
func TestStripKeepsMeaning(t *testing.T) {
	list := pythons.All(t)
	for i, py := range list {
		if i > 0 && i < len(list)-1 && py.Version != "3.6" { // 3.6's library has few f-strings
			continue
		}
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			out, err := exec.Command(py.Path, "-c", "import os; print(os.path.dirname(os.__file__))").Output()
			if err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.py"))
			if err != nil {
				t.Fatal(err)
			}
			more, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*", "*.py"))
			step := 31
			if os.Getenv("MITOGEND_LONG") != "" {
				step = 1
			}
			var input strings.Builder
			changed := 0
			for i, path := range append(files, more...) {
				source, err := os.ReadFile(path)
				if err != nil || i%step != 0 {
					continue
				}
				stripped := Strip(string(source))
				if stripped == string(source) {
					continue
				}
				changed++
				line, err := json.Marshal([]string{path, string(source), stripped})
				if err != nil {
					t.Fatal(err)
				}
				input.Write(append(line, '\n'))
			}
			cmd := exec.Command(py.Path, "-W", "ignore", "-c", compareTrees)
			cmd.Stdin = strings.NewReader(input.String())
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 || changed < 5 {
				t.Errorf("%d files changed, %v\n%s", changed, err, out)
			}
		})
	}
}

func BenchmarkStrip(b *testing.B) {
	source, err := os.ReadFile("core.py")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		Strip(string(source))
	}
}
