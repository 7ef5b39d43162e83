package wire

import (
	"math/bits"
	"sync"
)

// minReused and maxReused bound the memory of messages that is used again: a small one costs the collector little, and
// there are few large ones.
const (
	minReused = 1 << minShift
	maxReused = 1 << maxShift
	minShift  = 15
	maxShift  = 21
)

// reused is unused memory of messages, by its size, a power of two.
var reused [maxShift + 1]sync.Pool

// room gives memory for n bytes, less than twice as much.
func room(n int) []byte {
	if n < minReused || n > maxReused {
		return make([]byte, 0, n)
	}
	shift := bits.Len(uint(n - 1))
	if b, ok := reused[shift].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<shift)
}

// Reuse gives back the memory of a message that was made here or read. Nobody may use it any more, nor what
// UnmarshalShared has made of it.
func Reuse(msg []byte) {
	if n := cap(msg); n >= minReused && n <= maxReused && n&(n-1) == 0 {
		reused[bits.Len(uint(n-1))].Put(&msg)
	}
}
