package pyproto

import (
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
)

type host struct {
	Name    string            `py:"name"`
	Port    uint16            `py:"port"`
	Load    *float64          `py:"load"`
	Tags    []string          `py:"tags"`
	Env     map[string]string `py:"env"`
	Owner   *owner            `py:"owner"`
	Any     any               `py:"any"`
	Raw     []byte            `py:"raw"`
	Pair    [2]int            `py:"pair"`
	Plain   int
	Skipped int `py:"-"`
	hidden  int
}

type owner struct {
	ID int `py:"id,omitempty"`
}

type named string

func TestAssign(t *testing.T) {
	load := 0.5
	d := DictOf(
		"name", []byte("web1"), []byte("port"), int64(22), "load", 0.5, "tags", Tuple{"a", []byte("b")},
		"env", Kwargs{{"K", "v"}}, "owner", DictOf("id", int64(7)), "any", Tuple{int64(1)}, "raw", Blob("\xff"),
		"pair", []any{int64(1), true}, "Plain", int64(3), "Skipped", int64(4), "hidden", int64(5), "unknown", int64(6),
		int64(1), "no name")
	var got host
	if err := Assign(&got, d); err == nil || !strings.Contains(err.Error(), ".pair[1]: a Python bool does not fit in a int") {
		t.Fatalf("got %v", err)
	}
	if err := d.Set("pair", []any{int64(1), int64(2)}); err != nil {
		t.Fatal(err)
	}
	got = host{Skipped: 1, hidden: 2}
	if err := Assign(&got, d); err != nil {
		t.Fatal(err)
	}
	want := host{
		Name: "web1", Port: 22, Load: &load, Tags: []string{"a", "b"}, Env: map[string]string{"K": "v"}, Owner: &owner{7},
		Any: Tuple{int64(1)}, Raw: []byte("\xff"), Pair: [2]int{1, 2}, Plain: 3, Skipped: 1, hidden: 2,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// The way back.
	b, err := Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got = host{Skipped: 1, hidden: 2}
	if err := Decode(b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestAssignValues(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 70)
	seven := 7
	for _, c := range []struct {
		v    any
		want any    // a value of the type to store in
		err  string // what the error says; want is then of the type only
	}{
		{int64(7), int64(7), ""},
		{int64(7), int8(7), ""},
		{int64(7), uint(7), ""},
		{int64(7), &seven, ""},
		{int64(7), float32(7), ""},
		{int64(7), big.NewInt(7), ""},
		{true, big.NewInt(1), ""},
		{huge, huge, ""},
		{new(big.Int).SetUint64(math.MaxUint64), uint64(math.MaxUint64), ""},
		{huge, math.Ldexp(1, 70), ""},
		{int64(200), int8(0), "200 overflows int8"},
		{int64(-1), uint(0), "-1 overflows uint"},
		{huge, int64(0), "an int of 71 bits overflows int64"},
		{huge, uint64(0), "an int of 71 bits overflows uint64"},
		{new(big.Int).Lsh(big.NewInt(1), 3000), 0.0, "int does not fit"},
		{1.5, int64(0), "a Python float does not fit in a int64"},
		{1e300, float32(0), "overflows float32"},
		{math.Inf(1), float32(math.Inf(1)), ""},
		{true, true, ""},
		{int64(1), true, "a Python int does not fit in a bool"},
		{"x", "x", ""},
		{[]byte("x"), "x", ""},
		{"x", named("x"), ""},
		{Secret("x"), "x", ""},
		{Secret("x"), Secret("x"), ""},
		{[]byte("\xff"), "", "no UTF-8"},
		{"x", []byte(nil), "a Python text does not fit in a []uint8"},
		{[]byte("x"), []byte("x"), ""},
		{Blob("x"), []byte("x"), ""},
		{[]byte("x"), Blob("x"), ""},
		{[]byte("ab"), [2]byte{'a', 'b'}, ""},
		{[]byte("ab"), [3]byte{}, "2 bytes do not fit"},
		{[]byte("ab"), []int(nil), "a Python bytes does not fit in a []int"},
		{[]any{int64(1)}, []int{1}, ""},
		{Tuple{}, []int{}, ""},
		{[]any{int64(1), "x"}, []int(nil), "[1]: a Python text does not fit in a int"},
		{[]any{int64(1)}, [2]int{}, "a list of 1 items does not fit"},
		{Tuple{int64(1)}, []any{int64(1)}, ""},
		{[]any{int64(1)}, Tuple{int64(1)}, ""},
		{nil, []int(nil), ""},
		{nil, map[string]int(nil), ""},
		{nil, (*int)(nil), ""},
		{nil, 0, "a Python None does not fit in a int"},
		{DictOf("a", int64(1)), map[string]int{"a": 1}, ""},
		{DictOf("a", int64(1)), map[any]any{"a": int64(1)}, ""},
		{DictOf([]byte("a"), int64(1)), map[any]any{}, "key of type bytes"},
		{DictOf(int64(1), "x"), map[string]string{}, "(key): a Python int does not fit"},
		{DictOf("k", "x"), map[string]int{}, `["\"k\""]`},
		{DictOf("k", DictOf("id", "x")), map[string]owner{}, ".id: a Python text"},
		{int64(1), map[string]int{}, "a Python int does not fit"},
		{int64(1), owner{}, "a Python int does not fit"},
		{Context{ID: 3}, Context{ID: 3}, ""},
		{Context{ID: 3}, "", "a Python Context does not fit in a string"},
		{DictOf("ID", int64(3)), Context{ID: 3}, ""},
	} {
		dst := reflect.New(reflect.TypeOf(c.want))
		err := Assign(dst.Interface(), c.v)
		if c.err != "" {
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `["k"]`, `["\"k\""]`), c.err) {
				t.Errorf("%v in a %T: got error %v, want %q", c.v, c.want, err, c.err)
			}
			continue
		}
		if got := dst.Elem().Interface(); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v in a %T: got %v, %v", c.v, c.want, got, err)
		}
	}
	for _, dst := range []any{nil, 5, (*int)(nil)} {
		if err := Assign(dst, int64(1)); err == nil {
			t.Errorf("a value was stored in %#v", dst)
		}
	}
}

func TestAssignCallError(t *testing.T) {
	raised := &CallError{Text: "builtins.KeyError: 'x'"}
	var n int
	var ce *CallError
	if err := Assign(&n, raised); !errors.As(err, &ce) || ce != raised {
		t.Errorf("got %v", err)
	}
	for _, dst := range []any{new(any), new(error), new(*CallError)} {
		if err := Assign(dst, raised); err != nil {
			t.Errorf("in a %T: %v", dst, err)
		} else if got := reflect.ValueOf(dst).Elem().Interface(); got != raised {
			t.Errorf("in a %T: got %v", dst, got)
		}
	}
	if err := Decode([]byte("x"), &n); err == nil {
		t.Error("no pickle was decoded")
	}
}
