package pyproto

import (
	"fmt"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// TestDictKeys has keys in groups: those of one group are one key in Python 3, those of different groups are not.
func TestDictKeys(t *testing.T) {
	two70 := new(big.Int).Lsh(big.NewInt(1), 70)
	groups := [][]any{
		{nil},
		{"a", Secret("a")},
		{[]byte("a"), Blob("a")},
		{int64(0), false, 0.0, math.Copysign(0, -1), 0, uint8(0), big.NewInt(0)},
		{int64(1), true, 1.0, 1, uint64(1), float32(1)},
		{int64(-5), -5.0, int8(-5)},
		{1.5},
		{two70, math.Ldexp(1, 70), new(big.Int).Set(two70)},
		{new(big.Int).Neg(two70), -math.Ldexp(1, 70)},
		{new(big.Int).Add(two70, big.NewInt(1))},
		{uint64(math.MaxUint64), new(big.Int).SetUint64(math.MaxUint64)},
		{math.Inf(1)},
		{Tuple{}, Tuple(nil)},
		{Tuple{int64(1), "a"}, Tuple{1.0, Secret("a")}},
		{Tuple{int64(1), []byte("a")}},
		{Tuple{Tuple{int64(1)}}},
		{Context{ID: 1, Name: "x"}, Context{ID: 1}},
		{Context{ID: 2}},
		{Sender{Context: 1, Handle: 1000}},
	}
	for _, extra := range []int{0, 1000} { // with and without an index
		d := &Dict{}
		for i := range extra {
			if err := d.Set(fmt.Sprint("extra", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		for i, g := range groups {
			for _, k := range g {
				if err := d.Set(k, i); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d.Len() != extra+len(groups) {
			t.Errorf("%d keys, want %d", d.Len(), extra+len(groups))
		}
		for i, g := range groups {
			for _, k := range g {
				if got, ok := d.Get(k); !ok || got != i {
					t.Errorf("key %#v gives %v, %v; want %d", k, got, ok, i)
				}
			}
		}
		for _, k := range []any{"b", []any{}, &Dict{}, math.NaN(), Tuple{[]any{}}, struct{}{}, 7} {
			if v, ok := d.Get(k); ok {
				t.Errorf("key %#v gives %v", k, v)
			}
		}
		for _, k := range []any{[]any{}, &Dict{}, Tuple{int64(1), &Dict{}}, struct{}{}, Kwargs{}} {
			if err := d.Set(k, nil); err == nil {
				t.Errorf("key %#v was taken", k)
			}
		}
	}
	nested := Tuple{}
	for range maxKeyDepth + 1 {
		nested = Tuple{nested}
	}
	if err := (&Dict{}).Set(nested, nil); err == nil {
		t.Error("a bottomless key was taken")
	}
	var none *Dict
	if none.Len() != 0 {
		t.Error("a nil dict is not empty")
	}
	for range none.All() {
		t.Error("a nil dict has entries")
	}
	if v, ok := DictOf([]byte("k"), "v").Lookup("k"); !ok || v != "v" {
		t.Error("Lookup does not find a key of Python 2")
	}
	if v, ok := DictOf("k", "v").Lookup("k"); !ok || v != "v" {
		t.Error("Lookup does not find text")
	}
}

// TestDictModel compares with a map and a list of keys.
func TestDictModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, model, order := &Dict{}, map[int64]int{}, []int64(nil)
		for i := range rapid.IntRange(0, 200).Draw(t, "n") {
			k := rapid.Int64Range(-60, 60).Draw(t, "key")
			if err := d.Set(k, i); err != nil {
				t.Fatal(err)
			}
			if _, ok := model[k]; !ok {
				order = append(order, k)
			}
			model[k] = i
		}
		if d.Len() != len(order) {
			t.Fatalf("%d keys, want %d", d.Len(), len(order))
		}
		for i, k := range order {
			if gotKey, got := d.At(i); gotKey != k || got != model[k] {
				t.Fatalf("entry %d is %v: %v, want %v: %v", i, gotKey, got, k, model[k])
			}
			if got, ok := d.Get(k); !ok || got != model[k] {
				t.Fatalf("key %d gives %v, %v", k, got, ok)
			}
		}
	})
}

func TestKwargs(t *testing.T) {
	var k Kwargs
	k.Set("a", 1)
	k.Set("b", 2)
	k.Set("a", 3)
	if v, ok := k.Get("a"); len(k) != 2 || !ok || v != 3 {
		t.Errorf("got %v", k)
	}
	if _, ok := k.Get("c"); ok {
		t.Error("c is there")
	}
}
