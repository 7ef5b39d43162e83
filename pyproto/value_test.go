package pyproto

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCallError(t *testing.T) {
	tb := "  File \"a.py\", line 1, in f\n    g()\n"
	for _, c := range []struct{ text, err, typ, msg, tb string }{
		{"builtins.ValueError: bad: x\n" + tb, "builtins.ValueError: bad: x", "builtins.ValueError", "bad: x", tb},
		{"exceptions.ValueError: two\nlines\n" + tb, "exceptions.ValueError: two\nlines", "exceptions.ValueError", "two\nlines", tb},
		{"builtins.KeyError: ", "builtins.KeyError: ", "builtins.KeyError", "", ""},
		{"builtins.SystemExit: 3\n", "builtins.SystemExit: 3", "builtins.SystemExit", "3", ""},
		{"no such service: x", "no such service: x", "", "no such service: x", ""},
		{"", "", "", "", ""},
	} {
		e := &CallError{Text: c.text}
		if e.Error() != c.err || e.Type() != c.typ || e.Message() != c.msg || e.Traceback() != c.tb {
			t.Errorf("%q: got %q, %q, %q, %q", c.text, e.Error(), e.Type(), e.Message(), e.Traceback())
		}
	}
}

// TestLongCallError: peers refuse a text of 10,000 characters, and then lose the error altogether.
func TestLongCallError(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 9999), strings.Repeat("\u20ac", 9999)} {
		if got := roundTrip(t, &CallError{Text: text}).(*CallError).Text; got != text {
			t.Errorf("%d characters were cut to %d", 9999, utf8.RuneCountInString(got))
		}
	}
	for _, fill := range []string{"x", "\u20ac"} {
		text := "start" + strings.Repeat(fill, 50000) + "end"
		got := roundTrip(t, &CallError{Text: text}).(*CallError).Text
		if n := utf8.RuneCountInString(got); n != MaxCallError-1 || !strings.HasPrefix(got, "start") || !strings.HasSuffix(got, "end") {
			t.Errorf("%d characters are left, %.10q ... %q", n, got, got[len(got)-10:])
		}
	}
}

func roundTrip(t *testing.T, v any) any {
	t.Helper()
	b, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSecretIsMasked(t *testing.T) {
	s := Secret("hunter2")
	for _, format := range []string{"%v", "%s", "%q", "%x", "%d", "%#v", "%+v"} {
		for _, v := range []any{s, &s, []any{s}, Tuple{s}, Kwargs{{"p", s}}, struct{ S Secret }{s}} {
			if out := fmt.Sprintf(format, v); strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") {
				t.Errorf("%s of a %T shows %q", format, v, out)
			}
		}
	}
	if _, err := Marshal(Secret("hunter2\xff")); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

type celsius float64

func TestMarshalGoTypes(t *testing.T) {
	n := 5
	for _, c := range []struct{ in, want any }{
		{int8(-3), int64(-3)},
		{uint16(3), int64(3)},
		{uint64(1 << 63), bigInt("9223372036854775808")},
		{uint64(1<<64 - 1), bigInt("18446744073709551615")},
		{float32(0.5), 0.5},
		{celsius(1.5), 1.5},
		{named("x"), "x"},
		{&n, int64(5)},
		{(*int)(nil), nil},
		{(*Dict)(nil), nil},
		{(*CallError)(nil), nil},
		{CallError{Text: "x"}, &CallError{Text: "x"}},
		{[]string{"a"}, []any{"a"}},
		{[]string(nil), []any{}},
		{[]any(nil), []any{}},
		{[2]bool{true}, []any{true, false}},
		{[2]byte{1, 2}, []byte{1, 2}},
		{[]byte(nil), []byte{}},
		{map[string]int{"b": 1, "a": 2, "aa": 0}, DictOf("a", int64(2), "b", int64(1), "aa", int64(0))},
		{map[int]string{3: "x", -1: "y"}, DictOf(3, "x", -1, "y")},
		{map[string]any(nil), &Dict{}},
		{owner{}, &Dict{}},
		{owner{3}, DictOf("id", int64(3))},
	} {
		if got := roundTrip(t, c.in); !sameValue(got, c.want) {
			t.Errorf("%T: got %v, want %v", c.in, show(got), show(c.want))
		}
	}
	for _, v := range []any{
		make(chan int), func() {}, "\xff", []any{"\xff"}, Tuple{"\xff"}, map[string]any{"a": make(chan int)}, owner2{}, Kwargs{{"\xff", 1}},
		Kwargs{{"a", "\xff"}}, Context{ID: 1, Name: strings.Repeat("x", 100)}, Context{Name: "\xff"}, DictOf("a", "\xff"),
		DictOf(Secret("\xff"), 1), map[owner]int{{}: 1}, &CallError{Text: "\xff"}, []chan int{nil}, complex(1, 1),
	} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("%T was sent as %q", v, b)
		}
	}
}

type owner2 struct{ C chan int }

func TestAppend(t *testing.T) {
	b, err := Append([]byte("head"), "x")
	if err != nil || string(b) != "head\x80\x02X\x01\x00\x00\x00x." {
		t.Errorf("got %q, %v", b, err)
	}
	if b, err := Append([]byte("head"), make(chan int)); err == nil || b != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestCallRecord(t *testing.T) {
	for _, c := range []*Call{
		{Module: "mod", Function: "fn", Args: Tuple{int64(1), "x"}, Kwargs: Kwargs{{"k", nil}}},
		{ChainID: "c-1", Module: "mod", Class: "Cls", Function: "fn"},
	} {
		b, err := c.AppendPickle(nil)
		if err != nil {
			t.Fatal(err)
		}
		args := c.Args
		if args == nil {
			args = Tuple{}
		}
		var kwargs any = c.Kwargs
		if len(c.Kwargs) == 0 {
			kwargs = &Dict{}
		}
		same, err := Marshal(Tuple{orNone(c.ChainID), c.Module, orNone(c.Class), c.Function, args, kwargs})
		if err != nil || string(same) != string(b) {
			t.Errorf("%q, want %q", b, same)
		}
		got, err := ParseCall(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.ChainID != c.ChainID || got.Module != c.Module || got.Class != c.Class || got.Function != c.Function ||
			!equalItems(got.Args, c.Args) || !sameValue(got.Kwargs, c.Kwargs) {
			t.Errorf("got %+v, want %+v", got, c)
		}
	}
	py2, err := ParseCall([]byte("(NU\x01mNU\x01f]cmitogen.core\nKwargs\n}\x85Rt."))
	if err != nil || py2.Module != "m" || py2.Function != "f" {
		t.Errorf("got %+v, %v", py2, err)
	}
	for _, v := range []any{
		nil, Tuple{}, Tuple{int64(1), "m", nil, "f", Tuple{}, Kwargs{}}, Tuple{nil, nil, nil, "f", Tuple{}, Kwargs{}},
		Tuple{nil, "m", nil, []byte("\xff"), Tuple{}, Kwargs{}}, Tuple{nil, "m", nil, "f", nil, Kwargs{}},
		Tuple{nil, "m", nil, "f", Tuple{}, DictOf("k", int64(1))},
	} {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := ParseCall(b); err == nil {
			t.Errorf("%v was read as %+v", v, c)
		}
	}
	bad := Call{Module: "m", Function: "f", Args: Tuple{make(chan int)}}
	if _, err := bad.AppendPickle(nil); err == nil {
		t.Error("a channel was sent")
	}
}

func TestCallParts(t *testing.T) {
	short, long, longer := make([]byte, 255), bytes.Repeat([]byte("ab"), 500), bytes.Repeat([]byte("c"), 70_000)
	for _, c := range []*Call{
		{Module: "m", Function: "f"},
		{Module: "m", Function: "f", Args: Tuple{int64(1), short}},
		{Module: "m", Function: "f", Args: Tuple{long}},
		{Module: "m", Function: "f", Args: Tuple{short, longer, []any{long}, long, "x"}, Kwargs: Kwargs{{"k", long}}},
	} {
		for _, c.Py3 = range []bool{false, true} {
			whole, err := c.AppendPickle([]byte("head"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseCall(whole[4:])
			if err != nil || !equalItems(got.Args, c.Args) {
				t.Fatalf("got %v, %v", show(got), err)
			}
			for _, min := range []int{0, 1000, 1001, 1 << 20} {
				head, rest, err := c.AppendParts([]byte("head"), min)
				if err != nil {
					t.Fatal(err)
				}
				if all := append(head, bytes.Join(rest, nil)...); !bytes.Equal(all, whole) {
					t.Errorf("from %d on: %q, want %q", min, all, whole)
				}
				want := 0
				for _, arg := range c.Args {
					if b, ok := arg.([]byte); ok && len(b) >= max(min, 256) {
						if want++; &rest[2*want-2][0] != &b[0] {
							t.Errorf("from %d on: argument %d was copied", min, want)
						}
					}
				}
				if len(rest) != 2*want {
					t.Errorf("from %d on: %d parts for %d arguments", min, len(rest), want)
				}
			}
		}
	}
	bad := Call{Module: "m", Function: "f", Args: Tuple{long, make(chan int)}}
	if _, _, err := bad.AppendParts(nil, 0); err == nil {
		t.Error("a channel was sent")
	}
}

func orNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func TestLoadModuleRecord(t *testing.T) {
	for _, c := range []struct {
		m    LoadModule
		want Tuple
	}{
		{LoadModule{Name: "a", Path: "/a.py", Source: []byte("z"), Related: []string{"b"}},
			Tuple{"a", nil, "/a.py", Blob("z"), []any{"b"}}},
		{LoadModule{Name: "a", Pkg: []string{}, Path: "/a.py", Source: []byte("z"), IsPkg: true},
			Tuple{"a", []any{}, "/a.py", Blob("z"), []any{}}},
		{LoadModule{Name: "a", Pkg: []string{"x", "y"}, IsPkg: true, Path: "", Source: []byte{}},
			Tuple{"a", []any{"x", "y"}, "", Blob{}, []any{}}},
		{LoadModule{Name: "a", Missing: true}, Tuple{"a", nil, nil, nil, Tuple{}}},
		{LoadModule{Name: "a", Missing: true, Path: "an extension module"}, Tuple{"a", nil, "an extension module", nil, Tuple{}}},
	} {
		b, err := c.m.AppendPickle(nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Unmarshal(b)
		if err != nil || !sameValue(v, c.want) {
			t.Errorf("got %s, %v", show(v), err)
		}
		got, err := ParseLoadModule(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := got.AppendPickle(nil); err != nil || string(again) != string(b) {
			t.Errorf("%+v became %+v", c.m, got)
		}
	}
	// As a 2.x client writes it, with bytes for its names.
	v := Tuple{[]byte("a"), []any{[]byte("x")}, []byte("/a"), []byte("z"), Tuple{"b"}}
	b, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ParseLoadModule(b); err != nil || m.Name != "a" || !m.IsPkg || m.Pkg[0] != "x" || m.Path != "/a" || m.Related[0] != "b" {
		t.Errorf("got %+v, %v", m, err)
	}
	for _, v := range []any{
		nil, Tuple{"a"}, Tuple{nil, nil, nil, nil, nil}, Tuple{"a", "x", "/a", Blob(""), Tuple{}}, Tuple{"a", nil, int64(1), Blob(""), Tuple{}},
		Tuple{"a", nil, "/a", "text", Tuple{}}, Tuple{"a", nil, "/a", Blob(""), nil}, Tuple{"a", []any{nil}, "/a", Blob(""), Tuple{}},
	} {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParseLoadModule(b); err == nil {
			t.Errorf("%v was read as %+v", v, m)
		}
	}
}
