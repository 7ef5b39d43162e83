package pyproto

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzUnmarshal checks that no input makes the decoder panic, and that what it takes survives the way out and back.
func FuzzUnmarshal(f *testing.F) {
	for _, c := range readGolden(f, "testdata/golden.txt") {
		if len(c.data) < 4096 {
			f.Add(c.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		Disassemble(data)
		before := bytes.Clone(data)
		v, err := Unmarshal(data)
		alias, err2 := DecodeOptions{Alias: true}.Unmarshal(data)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("Alias changes the result: %v and %v", err, err2)
		}
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if v != nil {
				t.Fatal("a value comes with the error")
			}
			return
		}
		if !small(v, new(int)) {
			return // shared references make the encoding much larger than the input
		}
		b, err := Marshal(v)
		if err != nil {
			t.Fatalf("%#v was read, and cannot be written: %v", v, err)
		}
		w, err := Unmarshal(b)
		if err != nil {
			t.Fatalf("cannot read back: %v\n%s", err, Disassemble(b))
		}
		if !hasNaNKey(v) && (!sameValue(v, w) || !sameValue(v, alias)) {
			t.Fatalf("%#v became %#v, and %#v with Alias", v, w, alias)
		}
		var dst struct {
			A map[string][]int
			B []string
			C *float64
		}
		_ = Assign(&dst, v) // must not panic
	})
}

// small walks at most 10,000 values.
func small(v any, n *int) bool {
	if *n++; *n > 10000 {
		return false
	}
	for _, c := range children(v) {
		if !small(c, n) {
			return false
		}
	}
	return true
}

func children(v any) (c []any) {
	switch v := v.(type) {
	case []any:
		return v
	case Tuple:
		return v
	case *Dict:
		for k, val := range v.All() {
			c = append(c, k, val)
		}
	case Kwargs:
		for _, a := range v {
			c = append(c, a.Value)
		}
	}
	return c
}

// hasNaNKey: such a key is never found again, in Python neither.
func hasNaNKey(v any) bool {
	if d, ok := v.(*Dict); ok {
		for k := range d.All() {
			if _, found := d.Get(k); !found {
				return true
			}
		}
	}
	for _, c := range children(v) {
		if hasNaNKey(c) {
			return true
		}
	}
	return false
}

// FuzzReadMessage checks that frames are taken and written alike, however they come in.
func FuzzReadMessage(f *testing.F) {
	m := &Message{Header: Header{Enc: EncMGC, Dst: 1, Src: 2, Auth: 2, Handle: GetModule, ReplyTo: 1000}, Payload: []byte("os")}
	f.Add(m.Append(nil))
	f.Add(m.Append(m.Append(nil)))
	f.Add(m.Append(nil)[:30])
	f.Add([]byte("MITO002\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1000
		r := bytes.NewReader(data)
		for at := 0; ; {
			m, err := ReadMessage(r, limit)
			var large *TooLargeError
			switch {
			case errors.As(err, &large):
				at += HeaderLen + int(large.Header.Length)
				if large.Header.Length <= limit || at > len(data) {
					t.Fatalf("%v at %d of %d", large, at, len(data))
				}
				continue
			case err == io.EOF && at != len(data), err == nil && at == len(data):
				t.Fatalf("%v at %d of %d", err, at, len(data))
			case err != nil:
				return
			}
			b := m.Append(nil)
			if !bytes.HasPrefix(data[at:], b) {
				t.Fatalf("%q was read as %q", data[at:], b)
			}
			at += len(b)
			_ = m.Header.String()
			_, _ = m.Value()
			_, _ = ParseCall(m.Payload)
			_, _ = ParseLoadModule(m.Payload)
		}
	})
}
