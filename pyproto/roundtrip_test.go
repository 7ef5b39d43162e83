package pyproto

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"testing"
)

func bigInt(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 0)
	if !ok {
		panic(s)
	}
	return n
}

// sample has every type of the table.
func sample() []any {
	return []any{
		nil, true, false, int64(0), int64(255), int64(256), int64(65535), int64(65536), int64(-1), int64(math.MaxInt32),
		int64(math.MinInt32), int64(math.MinInt32) - 1, int64(math.MaxInt64), int64(math.MinInt64),
		int64(1) << 31, int64(-1) << 39, int64(1)<<39 - 1, int64(1) << 39,
		bigInt("0x8000000000000000"), bigInt("-0x8000000000000001"), bigInt("0xffffffffffffffff"),
		new(big.Int).Lsh(big.NewInt(1), 3000), new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 2039)),
		1.5, math.Inf(-1), math.Copysign(0, -1), "", "text", "h\u00e9 \U0001f600", string(make([]byte, 5000)),
		[]byte{}, []byte("a\x00\xff"), make([]byte, 70000), []any{}, []any{int64(1), []any{"x"}},
		Tuple(nil), Tuple{int64(1)}, Tuple{int64(1), "b"}, Tuple{int64(1), "b", nil}, Tuple{int64(1), "b", nil, 2.5},
		&Dict{}, DictOf("b", int64(1), "a", int64(2), int64(3), Tuple{}, []byte("k"), "v"),
		Kwargs(nil), Kwargs{{"x", int64(1)}, {"y", nil}}, Blob("\xff\x00"), Secret("s\u00e9"), Context{ID: 3, Name: "web"}, Context{ID: 4},
		Sender{Context: 3, Handle: 1000}, &CallError{Text: "builtins.ValueError: x"},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, v := range append(sample(), sample()) {
		b, err := Marshal(v)
		if err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		got, err := Unmarshal(b)
		if err != nil {
			t.Errorf("%T %q: %v", v, b[:min(len(b), 60)], err)
			continue
		}
		if !equal(got, v) {
			t.Errorf("got %.100q, want %.100q", fmt.Sprint(got), fmt.Sprint(v))
		}
	}
}

// equal compares decoded values; lists and tuples without items are equal to nil ones.
func equal(a, b any) bool {
	switch a := a.(type) {
	case *Dict:
		d, ok := b.(*Dict)
		if !ok || a.Len() != d.Len() {
			return false
		}
		for i := range a.Len() {
			k1, v1 := a.At(i)
			k2, v2 := d.At(i)
			if !equal(k1, k2) || !equal(v1, v2) {
				return false
			}
		}
		return true
	case []any:
		l, ok := b.([]any)
		return ok && equalItems(a, l)
	case Tuple:
		l, ok := b.(Tuple)
		return ok && equalItems(a, l)
	case *big.Int:
		n, ok := b.(*big.Int)
		return ok && a.Cmp(n) == 0
	case float64:
		f, ok := b.(float64)
		return ok && math.Float64bits(a) == math.Float64bits(f)
	}
	return reflect.DeepEqual(a, b)
}

func equalItems(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
