package pyproto

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// utf8Of is the detour that Python 3 takes with bytes.
func utf8Of(b []byte) []byte {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return []byte(string(r))
}

func randomBytes(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func TestLatin1(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 600 {
		b := make([]byte, n%150)
		for i := range b {
			b[i] = byte(rnd.Uint32())
			if n%3 == 0 {
				b[i] &= 0x7f
			} else if n%3 == 1 && rnd.IntN(4) > 0 {
				b[i] |= 0x80
			}
		}
		s := utf8Of(b)
		if got := tryLatin1(s); !bytes.Equal(got, b) || got == nil {
			t.Fatalf("latin1(%q) = %q, want %q", s, got, b)
		}
		// Damaged text is refused, not read as something else.
		for i := range s {
			for _, c := range []byte{0x41, 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xe0, 0xff} {
				bad := bytes.Clone(s)
				bad[i] = c
				want := slowLatin1(bad)
				if got := tryLatin1(bad); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
					t.Fatalf("latin1(%q) = %q, want %q", bad, got, want)
				}
			}
		}
		if len(s) > 0 && s[len(s)-1] >= 0x80 && tryLatin1(s[:len(s)-1]) != nil {
			t.Fatalf("latin1 took the cut text %q", s[:len(s)-1])
		}
	}
}

func slowLatin1(s []byte) []byte {
	if !ValidText(s) {
		return nil
	}
	out := []byte{}
	for _, r := range string(s) {
		if r > 255 {
			return nil
		}
		out = append(out, byte(r))
	}
	return out
}

func tryLatin1(s []byte) []byte {
	out := make([]byte, len(s))
	n, ok := latin1(out, s)
	if !ok {
		return nil
	}
	return out[:n]
}
