package pyproto

import (
	"hash/maphash"
	"math"
	"math/big"
	"math/rand/v2"
	"unsafe"
)

var hashSeed = maphash.MakeSeed()

// maxKeyDepth bounds the nesting of tuples in a key.
const maxKeyDepth = 50

// What is short enough to be looked at again and again.
const (
	lightText  = 64
	lightTuple = 8
	// heavyWork is the cost from which on a hash is worth remembering.
	heavyWork = 128
	// valueWork is what a value costs beside its bytes.
	valueWork = 32
)

// meter limits what the keys of a pickle cost: a few bytes of it can refer to a long key again and again, or to many
// that share what is in them. It counts the bytes that are hashed and compared, and remembers the hashes of heavy
// keys. A nil meter does neither.
type meter struct {
	left  int64
	known map[memory]uint32
}

// memory is where a heavy key lies; having it in the map keeps that place from being used for something else.
type memory struct {
	at unsafe.Pointer
	n  int
}

func (m *meter) spend(n int) {
	if m != nil {
		m.left -= int64(n)
	}
}

func (m *meter) over() bool { return m != nil && m.left < 0 }

// light tells of a key that is compared with a few others as quickly as it is hashed.
func light(k any) bool {
	if t, ok := k.(Tuple); ok {
		if len(t) > lightTuple {
			return false
		}
		for i := range t {
			if _, nested := t[i].(Tuple); nested || !light(t[i]) {
				return false
			}
		}
		return true
	}
	switch k := k.(type) {
	case int64, nil, bool, float64, Context, Sender:
		return true
	case string:
		return len(k) <= lightText
	case []byte:
		return len(k) <= lightText
	case Blob:
		return len(k) <= lightText
	case Secret:
		return len(k) <= lightText
	}
	return false
}

// hash hashes so that equal keys have equal hashes; not ok for what is no key. The seed is random: a peer cannot
// choose keys that collide.
func (m *meter) hash(k any, depth int) (h uint32, ok bool) {
	m.spend(valueWork)
	switch k := k.(type) {
	case string:
		return m.text(k), true
	case int64:
		return fold(maphash.Comparable(hashSeed, k)), true
	case nil:
		return 1, true
	case bool:
		if k {
			return fold(maphash.Comparable(hashSeed, int64(1))), true
		}
		return fold(maphash.Comparable(hashSeed, int64(0))), true
	case float64:
		return hashFloat(k), true
	case *big.Int:
		return m.big(k), true
	case []byte:
		return ^m.text(unsafe.String(unsafe.SliceData(k), len(k))), true
	case Blob:
		return ^m.text(unsafe.String(unsafe.SliceData(k), len(k))), true
	case Secret:
		return m.text(string(k)), true
	case Context:
		return fold(maphash.Comparable(hashSeed, k.ID)), true
	case Sender:
		return fold(maphash.Comparable(hashSeed, k)), true
	case Tuple:
		return m.tuple(k, depth)
	}
	return 0, false
}

func fold(h uint64) uint32 { return uint32(h ^ h>>32) }

func (m *meter) text(s string) uint32 {
	if m == nil || len(s) < heavyWork {
		m.spend(len(s))
		return fold(maphash.String(hashSeed, s))
	}
	return m.once(memory{unsafe.Pointer(unsafe.StringData(s)), len(s)}, func() uint32 {
		m.spend(len(s))
		return fold(maphash.String(hashSeed, s))
	})
}

func (m *meter) big(n *big.Int) uint32 {
	words := n.Bits()
	b := unsafe.String((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*int(unsafe.Sizeof(big.Word(0))))
	return m.text(b)
}

// once gives the hash of what lies there. Looking it up is not free either.
func (m *meter) once(at memory, hash func() uint32) uint32 {
	m.spend(2 * valueWork)
	h, ok := m.known[at]
	if !ok {
		h = hash()
		if m.known == nil {
			m.known = map[memory]uint32{}
		}
		m.known[at] = h
	}
	return h
}

func hashFloat(f float64) uint32 {
	switch n := integral(f).(type) {
	case int64:
		return fold(maphash.Comparable(hashSeed, n))
	case *big.Int:
		return (*meter)(nil).big(n)
	}
	if f != f {
		return rand.Uint32() // NaN is never found again: many of them must not be in one place
	}
	return fold(maphash.Comparable(hashSeed, math.Float64bits(f)))
}

// tuple hashes a tuple. Decoding has looked at the depth already, and what was hashed before is not looked into again.
func (m *meter) tuple(t Tuple, depth int) (uint32, bool) {
	if m == nil && depth >= maxKeyDepth || m.over() {
		return 0, false
	}
	at := memory{unsafe.Pointer(unsafe.SliceData(t)), len(t)}
	var before int64
	if m != nil {
		if h, ok := m.known[at]; ok {
			return h, true
		}
		before = m.left
	}
	h := uint64(len(t)) + 0x9e3779b97f4a7c15
	for i := range t {
		e, ok := m.hash(t[i], depth+1)
		if !ok || m.over() {
			return 0, false
		}
		h = (h ^ uint64(e)) * 0x9fb21c651e98df25
		h ^= h >> 32
	}
	// Of many small tuples in each other only the outermost.
	if m != nil && before-m.left >= heavyWork && (depth == 0 || len(t) > lightTuple) {
		if m.known == nil {
			m.known = map[memory]uint32{}
		}
		m.known[at] = fold(h)
	}
	return fold(h), true
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

// equal compares keys. What is one object is equal to itself, NaN in it or not, as in Python.
func (m *meter) equal(a, b any) bool {
	switch a := a.(type) {
	case string:
		switch b := b.(type) {
		case string:
			return m.equalText(a, b)
		case Secret:
			return m.equalText(a, string(b))
		}
		return false
	case int64:
		if b, ok := b.(int64); ok {
			return a == b
		}
	case []byte:
		return m.equalBytes(a, b)
	case Blob:
		return m.equalBytes(a, b)
	case Secret:
		return m.equal(string(a), b)
	case Tuple:
		t, ok := b.(Tuple)
		return ok && m.equalTuples(a, t)
	case Context:
		b, ok := b.(Context)
		return ok && a.ID == b.ID
	case Sender, nil:
		return a == b
	}
	return m.equalNumbers(a, b)
}

func (m *meter) equalText(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	if unsafe.StringData(a) != unsafe.StringData(b) {
		m.spend(len(a))
	}
	return a == b
}

func (m *meter) equalBytes(a []byte, b any) bool {
	switch b := b.(type) {
	case []byte:
		return m.equalText(unsafe.String(unsafe.SliceData(a), len(a)), unsafe.String(unsafe.SliceData(b), len(b)))
	case Blob:
		return m.equalBytes(a, []byte(b))
	}
	return false
}

func (m *meter) equalTuples(a, b Tuple) bool {
	if len(a) != len(b) {
		return false
	}
	if unsafe.SliceData(a) == unsafe.SliceData(b) {
		return true
	}
	for i := range a {
		m.spend(valueWork)
		if m.over() || !m.equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (m *meter) equalNumbers(a, b any) bool {
	if x, ok := a.(float64); ok {
		if y, ok := b.(float64); ok {
			return x == y
		}
	}
	switch a := wholeNumber(a).(type) {
	case int64:
		n, ok := wholeNumber(b).(int64)
		return ok && a == n
	case *big.Int:
		n, ok := wholeNumber(b).(*big.Int)
		if !ok {
			return false
		}
		if a != n {
			m.spend(a.BitLen() / 8)
		}
		return a.Cmp(n) == 0
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
