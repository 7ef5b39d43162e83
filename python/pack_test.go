package python

import (
	"bytes"
	"compress/zlib"
	"io"
	"strings"
	"testing"
)

func TestPack(t *testing.T) {
	for name, pack := range map[string]func([]byte) packed{"compressed": pack, "here": packHere} {
		for _, text := range []string{"", "x", core, strings.Repeat("long ", 50000)} {
			for _, end := range []string{"", "end", strings.Repeat("e", maxStored), strings.Repeat("e", 3*maxStored+1)} {
				r, err := zlib.NewReader(bytes.NewReader(pack([]byte(text)).with([]byte(end))))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || string(got) != text+end {
					t.Errorf("%s: %d and %d bytes: got %d, %v", name, len(text), len(end), len(got), err)
				}
			}
		}
	}
}

func BenchmarkPreamble(b *testing.B) {
	for b.Loop() {
		if _, err := Boot(0x030b0000, nil).Preamble(map[string]any{"context_id": 1, "parent_ids": []int{0}}); err != nil {
			b.Fatal(err)
		}
	}
}
