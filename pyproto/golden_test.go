package pyproto

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

type goldenCase struct {
	name, kind, versions string
	data                 []byte
}

// readGolden reads what testdata/golden.py wrote.
func readGolden(t testing.TB, path string) []goldenCase {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cases []goldenCase
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) != 4 {
			t.Fatalf("%s: line %q", path, sc.Text())
		}
		packed, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		z, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, goldenCase{fields[0], fields[1], fields[3], data})
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return cases
}

func seq(n int, f func(i int64) any) []any {
	l := make([]any, n)
	for i := range l {
		l[i] = f(int64(i))
	}
	return l
}

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// golden has what each case of golden.py is in Go. Those that are errors are in refused.
func golden() map[string]any {
	shared := []any{int64(1), "x"}
	pow := func(n uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), n) }
	longDict := NewDict(0)
	for i := range 1100 {
		_ = longDict.Set(i, "v"+big.NewInt(int64(i)).String())
	}
	return map[string]any{
		"none":  nil,
		"bools": []any{true, false},
		"ints": []any{int64(0), int64(1), int64(255), int64(256), int64(65535), int64(65536), int64(-1), int64(-256),
			int64(2147483647), int64(-2147483648), int64(2147483648), int64(-2147483649), int64(math.MaxInt64), int64(math.MinInt64)},
		"longs": []any{int64(7), pow(63), new(big.Int).Sub(big.NewInt(-1), pow(63)), pow(64), pow(2039),
			new(big.Int).Neg(pow(2039)), new(big.Int).Add(pow(3000), big.NewInt(5))},
		"floats": []any{0.0, math.Copysign(0, -1), 1.5, -1e300, 5e-324, math.Inf(1), math.Inf(-1)},
		"nan":    math.NaN(),
		"text": []any{"", "abc", "caf\u00e9", "\u20ac", "\U0001f600", "a\\b\n'\"\t\x00", "\\u0041", strings.Repeat("x", 300),
			strings.Repeat("\u00e9", 600)},
		"surrogate": "a\xed\xb2\x80b",
		"bytes": []any{[]byte(""), []byte("abc"), []byte("\x00\xff\\'\"\n\r\t"), allBytes(), bytes.Repeat([]byte("y"), 300),
			bytes.Repeat([]byte("\xe9"), 600)},
		"lists":     []any{[]any{}, []any{int64(1)}, []any{int64(1), []any{int64(2), []any{int64(3), []any{}}}}},
		"long_list": seq(1100, func(i int64) any { return i }),
		"tuples": []any{Tuple{}, Tuple{int64(1)}, Tuple{int64(1), int64(2)}, Tuple{int64(1), int64(2), int64(3)},
			Tuple{int64(1), int64(2), int64(3), int64(4)}, Tuple{Tuple{}, Tuple{Tuple{}}}},
		"dicts": []any{&Dict{}, DictOf("a", int64(1)),
			DictOf(1, "x", Tuple{int64(1), "y"}, []any{int64(2)}, nil, &Dict{})},
		"long_dict": longDict,
		"shared":    []any{shared, shared, Tuple{shared}, "shared", "shared", DictOf("shared", "shared")},
		"rows": seq(5, func(i int64) any {
			n := big.NewInt(i).String()
			return DictOf("id", i, "name", "n"+n, "raw", []byte("\xff"+n))
		}),
		"blob":             Blob("abc\xff"),
		"empty_blob":       Blob(""),
		"secret":           Secret("pa\u00df"),
		"kwargs":           Kwargs{{"a", int64(1)}},
		"byte_kwargs":      Kwargs{{"a", int64(1)}},
		"empty_kwargs":     Kwargs(nil),
		"call_error":       &CallError{Text: "builtins.ValueError: x"},
		"context":          Context{ID: 3, Name: "web"},
		"nameless_context": Context{ID: 4},
		"sender":           Sender{Context: 3, Handle: 1000},
		"call":             Tuple{nil, "mod", nil, "fn", Tuple{int64(1), "x"}, Kwargs{{"k", []byte("v")}}},
		"module":           Tuple{"a.b", []any{"c", "d"}, "/x/a/b/__init__.py", Blob("x\x9c\xff"), []any{"a.c"}},
		"frames":           []any{strings.Repeat("z", 30000), bytes.Repeat([]byte("z"), 70000), strings.Repeat("z", 30000), "end"},
	}
}

var refused = map[string]string{
	"set":             "set",
	"complex":         "complex",
	"exception":       "ValueError",
	"function":        "len",
	"recursive_list":  "recursive",
	"recursive_dict":  "recursive",
	"recursive_tuple": "recursive",
}

func checkGolden(t *testing.T, cases []goldenCase) {
	t.Helper()
	want := golden()
	for _, c := range cases {
		for _, opts := range []DecodeOptions{{}, {Alias: true}} {
			got, err := opts.Unmarshal(c.data)
			if mark, bad := refused[c.name]; bad {
				var ge *GlobalError
				switch {
				case err == nil:
					t.Errorf("%s %s (%s) was not refused", c.name, c.kind, c.versions)
				case c.name == "set" && strings.Contains(err.Error(), "EMPTY_SET"):
				case !strings.HasPrefix(c.name, "recursive") && !errors.As(err, &ge), !strings.Contains(err.Error(), mark):
					t.Errorf("%s %s (%s): error %q does not name %s", c.name, c.kind, c.versions, err, mark)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s (%s): %v\n%.200q", c.name, c.kind, c.versions, err, c.data)
			} else if !sameValue(got, want[c.name]) {
				t.Errorf("%s %s (%s): got %.200q, want %.200q", c.name, c.kind, c.versions, show(got), show(want[c.name]))
			}
		}
	}
}

func show(v any) string {
	b, err := Marshal(v)
	if err != nil {
		return err.Error()
	}
	return Disassemble(b)
}

// sameValue is equal but for the order of dicts, which old Pythons do not keep, and NaN, which is not one bit pattern.
func sameValue(a, b any) bool {
	switch a := a.(type) {
	case *Dict:
		d, ok := b.(*Dict)
		if !ok || a.Len() != d.Len() {
			return false
		}
		for k, v := range a.All() {
			w, ok := d.Get(k)
			if !ok || !sameValue(v, w) {
				return false
			}
		}
		return true
	case []any:
		l, ok := b.([]any)
		return ok && sameItems(a, l)
	case Tuple:
		l, ok := b.(Tuple)
		return ok && sameItems(a, l)
	case Kwargs:
		k, ok := b.(Kwargs)
		if !ok || len(a) != len(k) {
			return false
		}
		for i := range a {
			if v, ok := k.Get(a[i].Name); !ok || !sameValue(a[i].Value, v) {
				return false
			}
		}
		return true
	case float64:
		f, ok := b.(float64)
		return ok && (math.Float64bits(a) == math.Float64bits(f) || math.IsNaN(a) && math.IsNaN(f))
	}
	return equal(a, b)
}

func sameItems(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !sameValue(a[i], b[i]) {
			return false
		}
	}
	return true
}

func TestGolden(t *testing.T) {
	cases := readGolden(t, "testdata/golden.txt")
	checkGolden(t, cases)
	seen := map[string]bool{}
	for _, c := range cases {
		seen[c.name] = true
	}
	for name := range golden() {
		if !seen[name] {
			t.Errorf("there is no pickle of %s", name)
		}
	}
}

// TestGoldenAgain reads our own encoding of every golden value.
func TestGoldenAgain(t *testing.T) {
	for name, want := range golden() {
		b, err := Marshal(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := Unmarshal(b)
		if err != nil || !sameValue(got, want) {
			t.Errorf("%s: %v, got %s", name, err, show(got))
		}
	}
}

// eachPython runs a subtest with each interpreter.
func eachPython(t *testing.T, f func(t *testing.T, python string)) {
	for _, p := range pythons.Whole(t) {
		t.Run(p.Version, func(t *testing.T) {
			t.Parallel()
			f(t, p.Path)
		})
	}
}

// TestGoldenLive has each interpreter write the pickles now, and checks that none is missing in the file.
func TestGoldenLive(t *testing.T) {
	known := map[string]bool{}
	for _, c := range readGolden(t, "testdata/golden.txt") {
		known[c.name+c.kind+string(c.data)] = true
	}
	eachPython(t, func(t *testing.T, python string) {
		path := filepath.Join(t.TempDir(), "golden.txt")
		cmd := exec.Command(python, "testdata/golden.py", path)
		// The order of a dict is random in 3.5 and older, and of a set everywhere.
		cmd.Env = append(os.Environ(), "PYTHONHASHSEED=0", "PYTHONPATH=", "GOLDEN_REAL=", "PYTHONDONTWRITEBYTECODE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cases := readGolden(t, path)
		checkGolden(t, cases)
		for _, c := range cases {
			if !known[c.name+c.kind+string(c.data)] {
				t.Errorf("%s %s of %s is not in golden.txt", c.name, c.kind, c.versions)
			}
		}
	})
}

// TestPythonReads has each interpreter read what we write, with its C pickler and with the one in Python.
func TestPythonReads(t *testing.T) {
	var lines strings.Builder
	for name, v := range golden() {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s %x\n", name, b)
	}
	path := filepath.Join(t.TempDir(), "pickles")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("stand-in", func(t *testing.T) {
		eachPython(t, func(t *testing.T, python string) { runRead(t, python, path) })
	})
	dir := realMitogen(t)
	if dir == "" {
		t.Log("no Mitogen installed: not tried with its own classes")
		return
	}
	t.Run("mitogen", func(t *testing.T) {
		eachPython(t, func(t *testing.T, python string) {
			out, err := exec.Command(python, "-c", "import sys; print(sys.version_info >= (3, 12))").Output()
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(out)) == "True" {
				t.Skip("releases before 0.3.5 need the module imp")
			}
			runRead(t, python, path, "GOLDEN_REAL=1", "PYTHONPATH="+dir)
		})
	})
}

func runRead(t *testing.T, python, path string, env ...string) {
	t.Helper()
	cmd := exec.Command(python, "testdata/read.py", path)
	cmd.Env = append(append(os.Environ(), "PYTHONPATH=", "GOLDEN_REAL=", "PYTHONDONTWRITEBYTECODE=1"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// realMitogen gives a directory with nothing in it but the Mitogen of the system's Python, or "" when it has none.
func realMitogen(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		out, err := exec.Command(python, "-c", "import mitogen, os; print(os.path.dirname(mitogen.__file__))").Output()
		if err != nil {
			continue
		}
		dir := t.TempDir()
		if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(dir, "mitogen")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	return ""
}
