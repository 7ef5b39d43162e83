package pyproto

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// randomValue makes values that Python 2 keeps as they are. It has no types of integer and text besides, so a dict's
// keys are text, integers and tuples of those, and never bytes as well.
func randomValue(r *rand.Rand, depth int) any {
	n := 18
	if depth > 3 {
		n = 12
	}
	count := func() int { return int(math.Exp(r.Float64()*2.7)) - 1 }
	switch r.IntN(n) {
	case 0:
		return nil
	case 1:
		return r.IntN(2) == 0
	case 2, 3:
		return int64(r.Uint64()) >> r.IntN(64)
	case 4:
		b := make([]byte, r.IntN(40)+9)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		b[0] |= 0x80 // so that it is none of the small ones
		big := new(big.Int).SetBytes(b)
		if r.IntN(2) == 0 {
			big.Neg(big)
		}
		return big
	case 5:
		return math.Float64frombits(r.Uint64())
	case 6, 7, 8:
		return randomText(r)
	case 9:
		return randomBytes(count() * 20)
	case 10:
		return Blob(randomBytes(count()))
	case 11:
		return []any{Context{ID: ContextID(r.Uint32()), Name: "c"}, Sender{ContextID(r.Uint32()), Handle(r.Uint32() | 1)}, Secret(randomText(r)),
			&CallError{Text: randomText(r)}}[r.IntN(4)]
	case 12, 13:
		l := make([]any, count())
		for i := range l {
			l[i] = randomValue(r, depth+1)
		}
		return l
	case 14, 15:
		l := make(Tuple, count())
		for i := range l {
			l[i] = randomValue(r, depth+1)
		}
		return l
	case 16:
		d := &Dict{}
		for range count() {
			key := []any{randomText(r), int64(r.IntN(1000)), Tuple{randomText(r), int64(r.IntN(1000))}}[r.IntN(3)]
			_ = d.Set(key, randomValue(r, depth+1))
		}
		return d
	}
	var k Kwargs
	for i := range count() {
		k.Set(fmt.Sprint("k", i), randomValue(r, depth+1))
	}
	return k
}

func randomText(r *rand.Rand) string {
	alphabet := []string{"a", "b", "\\", "'", "\n", "\u00e9", "\u20ac", "\U0001f600", "\x00", "u0041"}
	var b strings.Builder
	for range r.IntN(12) {
		b.WriteString(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

// TestEcho sends random values through each interpreter and back, by every protocol.
func TestEcho(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	values := make([]any, 300)
	var in bytes.Buffer
	for i := range values {
		values[i] = randomValue(rnd, 0)
		b, err := Marshal(values[i])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&in, "%x\n", b)
	}
	eachPython(t, func(t *testing.T, python string) {
		cmd := exec.Command(python, "testdata/echo.py")
		cmd.Env = append(os.Environ(), "PYTHONPATH=", "GOLDEN_REAL=", "PYTHONDONTWRITEBYTECODE=1")
		cmd.Stdin = bytes.NewReader(in.Bytes())
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != len(values) {
			t.Fatalf("%d answers to %d values", len(lines), len(values))
		}
		for i, line := range lines {
			for p, field := range strings.Fields(line) {
				data, err := hex.DecodeString(field)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := Unmarshal(data); err != nil || !sameValue(got, values[i]) {
					t.Fatalf("value %d, pickle %d: %v\nsent\n%.2000s\ngot\n%.2000s", i, p, err, show(values[i]), show(got))
				}
			}
		}
	})
}
