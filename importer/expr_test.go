package importer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Conditions as they stand around imports. Every interpreter evaluates them itself.
var conditions = []string{
	"sys.version_info >= (3,)", "sys.version_info > (3, 0)", "sys.version_info < (3, 8)", "sys.version_info <= (3, 11)",
	"sys.version_info[0] == 2", "sys.version_info[0] >= 3", "sys.version_info[:2] >= (3, 10)", "sys.version_info[:2] == (2, 7)",
	"sys.version_info[:1] == (3,)", "sys.version_info.major == 3 and sys.version_info.minor < 9", "3 <= sys.version_info[0] < 4",
	"(sys.version_info >= (3, 0))", "not sys.version_info >= (3, 12)", "not (sys.version_info[0] == 2 or sys.version_info < (3, 7))",
	"(2, 7) <= sys.version_info", "(3, 8) > sys.version_info", "sys.version_info != (3,)", "sys.version_info[0] in (2, 3)",
	"sys.version_info[:2] in [(3, 6), (2, 7)]", "sys.version_info[:2] not in ((3, 6), (3, 9))", "sys.version_info.major in {2}",
	"sys.hexversion >= 0x03000000", "sys.hexversion < 0x30a0000", "sys.version >= '3'", "sys.version < '3'", "sys.version[0] == '2'",
	"sys.version[:3] == '3.6'", "sys.version.startswith('2')", "sys.version_info[1] >= 7",
	"sys.platform == 'win32'", "sys.platform.startswith('win')", "sys.platform.startswith(('win', 'cygwin'))", "sys.platform in ('win32', 'cygwin')",
	"sys.platform != 'win32'", "os.name == 'nt'", "os.name != 'posix'", "os.name in ('nt', 'dos', 'ce')", "platform.system() == 'Windows'",
	"platform.python_implementation() == 'PyPy'", "platform.python_implementation() == 'CPython'", "TYPE_CHECKING", "typing.TYPE_CHECKING and sys.version_info >= (3,)",
	"__name__ == '__main__'", "False", "0", "True", "1", "None", "not False", "''", "'x'", "()", "bool(0)", "bool(sys.version_info >= (3,))",
	"PY2", "PY3", "six.PY2", "not six.PY3", "PY37", "py38", "six.PY2 and sys.version_info < (2, 7)", "False or PY3", "PY3 if True else PY2",
}

// unsure are those of them, and more, on which nothing need be known.
var unsure = []string{
	"sys.version_info >= (3, 8, 1)", "sys.version_info[:3] >= (3, 8, 2)", "sys.version_info[2] > 3", "platform.python_version().startswith('3.')", "sys.platform == 'linux'", "sys.platform == 'darwin'",
	"hasattr(os, 'fork')", "x", "x.y(z)[1:2]", "os.environ.get('X')", "'linux' in sys.platform", "len(sys.argv) > 1", "x if y else z", "lambda: 1",
	"(", ")", "a b", "==", "'", "[1", "x[", "f'{x}'", "", "not", strings.Repeat("(", 1000), strings.Repeat("not ", 1000) + "x", "0x", "1e5", "b'x' == x", "-1", "a == b == ",
}

func TestConditionsAgreeWithPython(t *testing.T) {
	var quoted bytes.Buffer
	enc := json.NewEncoder(&quoted)
	enc.SetEscapeHTML(false) // 2.7's string literals do not know \u003e
	if err := enc.Encode(conditions); err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf(`
import sys, os, platform, json
TYPE_CHECKING = False
PY2 = sys.version_info[0] == 2
PY3 = not PY2
PY37 = sys.version_info >= (3, 7)
py38 = sys.version_info >= (3, 8)
class six:
    PY2 = PY2
    PY3 = PY3
class typing:
    TYPE_CHECKING = False
__name__ = 'module'
print(json.dumps([bool(eval(c)) for c in %s]))
`, strings.TrimSpace(quoted.String()))
	for v, python := range interpreters(t) {
		out, err := exec.Command(python, "-c", program).Output()
		if err != nil {
			t.Fatalf("%v: %v %s", v, err, stderrOf(err))
		}
		var truths []bool
		if err := json.Unmarshal(out, &truths); err != nil {
			t.Fatal(err)
		}
		for i, c := range conditions {
			if c == "PY3 if True else PY2" {
				continue
			}
			if got := (&env{v: v, names: nil}).decide(parseExpr([]byte(c))); got != truthOf(truths[i]) {
				t.Errorf("%v: %s: %v, Python says %v", v, c, got, truths[i])
			}
		}
	}
}

func TestUnsureConditions(t *testing.T) {
	for _, c := range unsure {
		for _, v := range []Version{none, {3, 8}} {
			if got := (&env{v: v, names: nil}).decide(parseExpr([]byte(c))); got != maybe {
				t.Errorf("%v: %s: %v", v, shorten(c), got)
			}
		}
	}
	for _, c := range []string{"sys.version_info >= (3,)", "PY2", "six.PY3", "sys.hexversion > 1", "sys.version[0] == '3'"} {
		if got := (&env{v: none, names: nil}).decide(parseExpr([]byte(c))); got != maybe {
			t.Errorf("unknown version: %s: %v", c, got)
		}
	}
}

func TestNamesOfConditions(t *testing.T) {
	src := scanSource([]byte("import sys\nTHREE = sys.version_info[0] == 3\nBOTH = sys.version_info > (2, 9)\nBOTH = platform.x()\nSELF = SELF or PYX\nPY2 = False if sys.version_info else 1\n"))
	for c, want := range map[string]truth{"THREE": yes, "not THREE": no, "BOTH": maybe, "SELF": maybe, "PY2": maybe} {
		if got := (&env{v: py3, names: src.names}).decide(parseExpr([]byte(c))); got != want {
			t.Errorf("%s: %v, want %v", c, got, want)
		}
	}
}
