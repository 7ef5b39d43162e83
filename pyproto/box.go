package pyproto

import "unsafe"

// Putting a string, number or slice into an interface allocates its header, which for a pickle of small values is
// most of the work of reading it. The boxes below lay such headers out in chunks and make the interfaces point into
// them. A chunk is written to only before anybody sees the value, and lives as long as one of its values does.

// boxer makes interface values of T. It counts what is used, since writing a pointer costs more while the collector
// runs.
type boxer[T any] struct {
	chunk []T
	used  int
}

// eface is how the Go runtime lays out an interface without methods.
type eface struct {
	typ, ptr unsafe.Pointer
}

func typeWord(v any) unsafe.Pointer { return (*eface)(unsafe.Pointer(&v)).typ }

var (
	stringWord = typeWord("")
	int64Word  = typeWord(int64(0))
	floatWord  = typeWord(float64(0))
	bytesWord  = typeWord([]byte(nil))
	listWord   = typeWord([]any(nil))
	tupleWord  = typeWord(Tuple(nil))
)

const (
	firstChunk = 4
	lastChunk  = 128
)

// place gives memory for one T.
func (b *boxer[T]) place() *T {
	if b.used == len(b.chunk) {
		b.chunk = make([]T, min(max(2*len(b.chunk), firstChunk), lastChunk))
		b.used = 0
	}
	b.used++
	return &b.chunk[b.used-1]
}

// box gives v as an interface of the type that word stands for, which must have the layout of T.
func (b *boxer[T]) box(word unsafe.Pointer, v T) (i any) {
	p := b.place()
	*p = v
	*(*eface)(unsafe.Pointer(&i)) = eface{word, unsafe.Pointer(p)}
	return i
}

// boxes are a decoder's chunks.
type boxes struct {
	strings boxer[string]
	ints    boxer[int64]
	floats  boxer[float64]
	bytes   boxer[[]byte]
	lists   boxer[[]any]
	tuples  boxer[Tuple]
	dicts   boxer[Dict]

	items carver[any]
}

func (b *boxes) string(s string) any { return b.strings.box(stringWord, s) }

func (b *boxes) int(n int64) any {
	if uint64(n) < 256 {
		return n // does not allocate
	}
	return b.ints.box(int64Word, n)
}

func (b *boxes) float(f float64) any { return b.floats.box(floatWord, f) }
func (b *boxes) slice(s []byte) any  { return b.bytes.box(bytesWord, s) }
func (b *boxes) tuple(t Tuple) any   { return b.tuples.box(tupleWord, t) }

// asList gives the list at l, whose place nobody writes to any more, as an interface.
func asList(l *[]any) (i any) {
	*(*eface)(unsafe.Pointer(&i)) = eface{listWord, unsafe.Pointer(l)}
	return i
}

// carver cuts small slices from chunks.
type carver[T any] struct {
	chunk []T
	used  int
}

// carve gives a slice of n zero values, without room for more.
func (c *carver[T]) carve(n int) []T {
	if n > lastChunk/4 {
		return make([]T, n)
	}
	if n > len(c.chunk)-c.used {
		c.chunk = make([]T, min(max(2*len(c.chunk), firstChunk, n), lastChunk))
		c.used = 0
	}
	at := c.used
	c.used += n
	return c.chunk[at:c.used:c.used]
}
