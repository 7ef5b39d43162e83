package control

import (
	"bytes"
	"testing"

	"mitogend/daemon/wire"
)

// A function's output is kept in pieces of a good size however it was printed, and not beyond its bound.
func TestOutputIsBounded(t *testing.T) {
	newStream := func(max int) *stream {
		return &stream{c: &conn{s: &Server{hub: newHub()}}, max: max, changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	}
	s := newStream(1 << 20)
	var want []byte
	for i := range 500_000 {
		s.offer(wire.Item{Kind: wire.ItemOutput})
		s.offer(wire.Item{Kind: wire.ItemOutput, Data: []byte{byte(i)}})
		want = append(want, byte(i))
	}
	if n := len(s.items); n > 500_000/outputChunk+1 || s.dropped != 0 {
		t.Errorf("%d pieces wait, %d bytes were dropped", n, s.dropped)
	}
	var got []byte
	sum := 0
	for _, item := range s.items {
		got = append(got, item.Data...)
		sum += item.Size()
	}
	if !bytes.Equal(got, want) || sum != s.bytes {
		t.Errorf("%d bytes came of %d, or others; they count as %d, not %d", len(got), len(want), s.bytes, sum)
	}

	// Beyond the bound it is dropped and counted.
	s = newStream(1 << 20)
	for range 4 << 20 / 1000 {
		s.offer(wire.Item{Kind: wire.ItemOutput, Data: make([]byte, 1000)})
	}
	kept := 0
	for _, item := range s.items {
		kept += len(item.Data)
	}
	if kept > 1<<20 || kept < 1<<19 || kept+int(s.dropped) != 4<<20/1000*1000 {
		t.Errorf("%d bytes are kept, %d were dropped", kept, s.dropped)
	}
}
