package pyproto

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"math/big"
	"slices"
)

// Dict is a Python dict: it keeps the order of insertion and takes any hashable value as a key. Keys are equal when
// Python 3 says so: 1, 1.0 and True are one key; text and bytes never are. The zero Dict is empty and ready for use.
// Reading from several goroutines at once is safe, writing is not.
type Dict struct {
	keys *dictKeys // nil for an empty dict
	vals []any     // as many as keys
}

// dictKeys are the keys of a dict, or of many: the rows of a table, say.
type dictKeys struct {
	list []any
	// index is an open-addressed hash table of key numbers plus one; nil while there are few keys.
	index []uint32
	// shared keys belong to several dicts and are not written to any more.
	shared bool
}

// smallDict is the number of keys up to which a lookup compares one after the other.
const smallDict = 16

// NewDict gives an empty dict with room for n entries.
func NewDict(n int) *Dict {
	return &Dict{keys: &dictKeys{list: make([]any, 0, n)}, vals: make([]any, 0, n)}
}

// DictOf builds a dict from keys and values in turn. It panics on an odd count or a key that cannot be hashed, and is
// meant for literals.
func DictOf(kv ...any) *Dict {
	if len(kv)%2 != 0 {
		panic("pyproto: DictOf: odd number of arguments")
	}
	d := NewDict(len(kv) / 2)
	for i := 0; i < len(kv); i += 2 {
		if err := d.Set(kv[i], kv[i+1]); err != nil {
			panic(err.Error())
		}
	}
	return d
}

// Len is the number of entries. A nil dict has none.
func (d *Dict) Len() int {
	if d == nil {
		return 0
	}
	return len(d.vals)
}

// At gives entry i in the order of insertion, for i from 0 to Len()-1.
func (d *Dict) At(i int) (key, value any) { return d.keys.list[i], d.vals[i] }

// All ranges over the entries in their order.
func (d *Dict) All() iter.Seq2[any, any] {
	return func(yield func(any, any) bool) {
		for i := range d.Len() {
			if !yield(d.At(i)) {
				return
			}
		}
	}
}

// Get finds the value of a key.
func (d *Dict) Get(key any) (any, bool) {
	if d.Len() == 0 {
		return nil, false
	}
	if i, ok := d.keys.find(normalKey(key)); ok {
		return d.vals[i], true
	}
	return nil, false
}

// Lookup finds the value of a text key, or of the same key as ASCII bytes, which is what Python 2 makes of a plain
// string literal.
func (d *Dict) Lookup(name string) (any, bool) {
	if v, ok := d.Get(name); ok {
		return v, true
	}
	return d.Get([]byte(name))
}

// Set stores a value, in the place of an equal key or at the end. Go's integers of any size are taken as keys too. The
// error names the type of a key that cannot be hashed.
func (d *Dict) Set(key, value any) error {
	return d.put(normalKey(key), value)
}

func (d *Dict) put(key, value any) error {
	if d.keys == nil {
		d.keys = new(dictKeys)
	}
	k := d.keys
	if k.index == nil && len(k.list) < smallDict {
		if !hashable(key, 0) {
			return badKey(key)
		}
		for i := range k.list {
			if equalKeys(k.list[i], key) {
				d.vals[i] = value
				return nil
			}
		}
		d.add(key, value)
		return nil
	}
	h, ok := hashKey(key, 0)
	if !ok {
		return badKey(key)
	}
	if 2*(len(k.list)+1) > len(k.index) {
		k = d.own()
		k.grow(4 * (len(k.list) + 1))
	}
	place, found := k.probe(h, key)
	if found {
		d.vals[k.index[place]-1] = value
		return nil
	}
	d.add(key, value)
	d.keys.index[place] = uint32(len(d.vals))
	return nil
}

func badKey(key any) error {
	return fmt.Errorf("pyproto: a value of type %T cannot be a dict key", key)
}

func (d *Dict) add(key, value any) {
	k := d.own()
	k.list = append(k.list, key)
	d.vals = append(d.vals, value)
}

// own gives keys that may be written to.
func (d *Dict) own() *dictKeys {
	if d.keys.shared {
		d.keys = &dictKeys{list: slices.Clone(d.keys.list), index: slices.Clone(d.keys.index)}
	}
	return d.keys
}

// find gives the number of a key.
func (k *dictKeys) find(key any) (int, bool) {
	if k.index == nil {
		if !hashable(key, 0) {
			return 0, false
		}
		for i := range k.list {
			if equalKeys(k.list[i], key) {
				return i, true
			}
		}
		return 0, false
	}
	h, ok := hashKey(key, 0)
	if !ok {
		return 0, false
	}
	place, found := k.probe(h, key)
	if !found {
		return 0, false
	}
	return int(k.index[place] - 1), true
}

// probe finds the place of key in the index, or the free one where it belongs. The index is never full.
func (k *dictKeys) probe(h uint64, key any) (place int, found bool) {
	mask := len(k.index) - 1
	for i := int(h) & mask; ; i = (i + 1) & mask {
		n := k.index[i]
		if n == 0 {
			return i, false
		}
		if equalKeys(k.list[n-1], key) {
			return i, true
		}
	}
}

// grow makes a new index of at least n places, of which at most half will be used.
func (k *dictKeys) grow(n int) {
	size := 32
	for size < n {
		size *= 2
	}
	k.index = make([]uint32, size)
	for i := range k.list {
		h, _ := hashKey(k.list[i], 0)
		j := int(h) & (size - 1)
		for k.index[j] != 0 {
			j = (j + 1) & (size - 1)
		}
		k.index[j] = uint32(i + 1)
	}
}

var hashSeed = maphash.MakeSeed()

// maxKeyDepth bounds the nesting of tuples in a key.
const maxKeyDepth = 50

// hashable reports whether k can be a key, without the cost of a hash.
func hashable(k any, depth int) bool {
	switch k := k.(type) {
	case string, int64, nil, bool, float64, []byte, *big.Int, Blob, Secret, Context, Sender:
		return true
	case Tuple:
		if depth >= maxKeyDepth {
			return false
		}
		for i := range k {
			if !hashable(k[i], depth+1) {
				return false
			}
		}
		return true
	}
	return false
}

// hashKey hashes so that equal keys have equal hashes. The seed is random: a peer cannot choose keys that collide.
func hashKey(k any, depth int) (uint64, bool) {
	switch k := k.(type) {
	case string:
		return maphash.String(hashSeed, k), true
	case int64:
		return maphash.Comparable(hashSeed, k), true
	case nil:
		return 1, true
	case bool:
		if k {
			return maphash.Comparable(hashSeed, int64(1)), true
		}
		return maphash.Comparable(hashSeed, int64(0)), true
	case float64:
		switch n := integral(k).(type) {
		case int64:
			return maphash.Comparable(hashSeed, n), true
		case *big.Int:
			return maphash.Bytes(hashSeed, n.Bytes()), true
		}
		return maphash.Comparable(hashSeed, math.Float64bits(k)), true
	case *big.Int:
		return maphash.Bytes(hashSeed, k.Bytes()), true
	case []byte:
		return ^maphash.Bytes(hashSeed, k), true
	case Blob:
		return ^maphash.Bytes(hashSeed, k), true
	case Secret:
		return maphash.String(hashSeed, string(k)), true
	case Context:
		return maphash.Comparable(hashSeed, k.ID), true
	case Sender:
		return maphash.Comparable(hashSeed, k), true
	case Tuple:
		return hashTuple(k, depth)
	}
	return 0, false
}

func hashTuple(t Tuple, depth int) (uint64, bool) {
	if depth >= maxKeyDepth {
		return 0, false
	}
	h := uint64(len(t)) + 0x9e3779b97f4a7c15
	for i := range t {
		e, ok := hashKey(t[i], depth+1)
		if !ok {
			return 0, false
		}
		h = (h ^ e) * 0x9fb21c651e98df25
		h ^= h >> 32
	}
	return h, true
}

// integral gives a float that is a whole number as int64 or *big.Int, as which Python hashes and compares it, and nil
// for any other float.
func integral(f float64) any {
	if f != math.Trunc(f) || math.IsInf(f, 0) {
		return nil
	}
	if f >= -(1<<63) && f < 1<<63 {
		return int64(f)
	}
	n, _ := new(big.Float).SetFloat64(f).Int(nil)
	return n
}

func equalKeys(a, b any) bool {
	switch a := a.(type) {
	case string:
		switch b := b.(type) {
		case string:
			return a == b
		case Secret:
			return a == string(b)
		}
		return false
	case int64:
		if b, ok := b.(int64); ok {
			return a == b
		}
	case []byte:
		return equalBytes(a, b)
	case Blob:
		return equalBytes(a, b)
	case Secret:
		return equalKeys(string(a), b)
	case Tuple:
		return equalTuples(a, b)
	case Context:
		b, ok := b.(Context)
		return ok && a.ID == b.ID
	case Sender, nil:
		return a == b
	}
	return equalNumbers(a, b)
}

func equalTuples(a Tuple, b any) bool {
	t, ok := b.(Tuple)
	if !ok || len(a) != len(t) {
		return false
	}
	for i := range a {
		if !equalKeys(a[i], t[i]) {
			return false
		}
	}
	return true
}

func equalBytes(a []byte, b any) bool {
	switch b := b.(type) {
	case []byte:
		return bytes.Equal(a, b)
	case Blob:
		return bytes.Equal(a, b)
	}
	return false
}

func equalNumbers(a, b any) bool {
	switch a := wholeNumber(a).(type) {
	case int64:
		n, ok := wholeNumber(b).(int64)
		return ok && a == n
	case *big.Int:
		n, ok := wholeNumber(b).(*big.Int)
		return ok && a.Cmp(n) == 0
	case float64:
		f, ok := b.(float64)
		return ok && a == f
	}
	return false
}

// wholeNumber brings numbers that Python holds for equal to one Go type.
func wholeNumber(v any) any {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case float64:
		if n := integral(v); n != nil {
			return n
		}
	}
	return v
}

// normalKey brings Go's other integer types to those that decoding gives.
func normalKey(k any) any {
	switch k := k.(type) {
	case int:
		return int64(k)
	case int8:
		return int64(k)
	case int16:
		return int64(k)
	case int32:
		return int64(k)
	case uint8:
		return int64(k)
	case uint16:
		return int64(k)
	case uint32:
		return int64(k)
	case uint:
		return fromUint64(uint64(k))
	case uint64:
		return fromUint64(k)
	case float32:
		return float64(k)
	case *big.Int:
		if k != nil && k.IsInt64() {
			return k.Int64()
		}
	}
	return k
}

func fromUint64(n uint64) any {
	if n <= math.MaxInt64 {
		return int64(n)
	}
	return new(big.Int).SetUint64(n)
}
