package pyproto

import (
	"fmt"
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
	// index is an open-addressed hash table of key numbers plus one, and hashes has the keys' hashes; both are nil
	// while there are few keys, none of which is heavy.
	index  []uint32
	hashes []uint32
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
	return d.put(normalKey(key), value, nil)
}

// put is Set for a key of a type that decoding gives. m may be nil.
func (d *Dict) put(key, value any, m *meter) error {
	if d.keys == nil {
		d.keys = new(dictKeys)
	}
	k := d.keys
	if k.index == nil && len(k.list) < smallDict && light(key) {
		for i := range k.list {
			if m.equal(k.list[i], key) {
				d.vals[i] = value
				return nil
			}
		}
		d.add(key, value)
		return nil
	}
	h, ok := m.hash(key, 0)
	if !ok {
		return badKey(key)
	}
	if 2*(len(k.list)+1) > len(k.index) {
		k = d.own()
		k.grow(4 * (len(k.list) + 1))
	}
	place, found := k.probe(h, key, m)
	if found {
		d.vals[k.index[place]-1] = value
		return nil
	}
	d.add(key, value)
	k = d.keys
	k.hashes = append(k.hashes, h)
	k.index[place] = uint32(len(d.vals))
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
		d.keys = &dictKeys{list: slices.Clone(d.keys.list), index: slices.Clone(d.keys.index),
			hashes: slices.Clone(d.keys.hashes)}
	}
	return d.keys
}

// find gives the number of a key.
func (k *dictKeys) find(key any) (int, bool) {
	var m *meter
	if k.index == nil {
		for i := range k.list {
			if m.equal(k.list[i], key) {
				return i, true
			}
		}
		return 0, false
	}
	h, ok := m.hash(key, 0)
	if !ok {
		return 0, false
	}
	place, found := k.probe(h, key, m)
	if !found {
		return 0, false
	}
	return int(k.index[place] - 1), true
}

// probe finds the place of key in the index, or the free one where it belongs. The index is never full.
func (k *dictKeys) probe(h uint32, key any, m *meter) (place int, found bool) {
	mask := len(k.index) - 1
	for i := int(h) & mask; ; i = (i + 1) & mask {
		n := k.index[i]
		if n == 0 {
			return i, false
		}
		if k.hashes[n-1] == h && m.equal(k.list[n-1], key) {
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
	if k.index == nil {
		k.hashes = make([]uint32, 0, max(n/2, len(k.list)+1))
		var m *meter
		for i := range k.list {
			h, _ := m.hash(k.list[i], 0)
			k.hashes = append(k.hashes, h)
		}
	}
	k.index = make([]uint32, size)
	for i, h := range k.hashes {
		j := int(h) & (size - 1)
		for k.index[j] != 0 {
			j = (j + 1) & (size - 1)
		}
		k.index[j] = uint32(i + 1)
	}
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
