package pyproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// binString writes n bytes of c, as the opcode op with a length of four bytes.
func binString(op byte, c string, n int) string {
	return string(binary.LittleEndian.AppendUint32([]byte{op}, uint32(n))) + strings.Repeat(c, n)
}

const (
	nan     = "G\x7f\xf8\x00\x00\x00\x00\x00\x00"
	hugeOne = "G\x7f\xe0\x00\x00\x00\x00\x00"
	latin   = "c_codecs\nencode\nq\x00"
	fill    = "K\x00NsK\x01NsK\x02NsK\x03NsK\x04NsK\x05NsK\x06NsK\x07NsK\x08NsK\x09NsK\x0aNsK\x0bNsK\x0cNsK\x0dNsK\x0eNsK\x0fNsK\x10Ns"
)

// costs are pickles of about 7n bytes that were, or could be, made to cost more than their length. Those that are ok
// are read; the others may be refused as well, since no pickler writes them.
var costs = []struct {
	name string
	ok   bool
	make func(n int) string
}{
	{"NaN keys", true, func(n int) string { return "}(" + strings.Repeat(nan+"N", n/2) + "u." }},
	{"NaN keys one by one", true, func(n int) string { return "}" + strings.Repeat(nan+"Ns", n/2) + "." }},
	{"NaN in tuples", true, func(n int) string { return "}(" + strings.Repeat(nan+"\x85N", n/2) + "u." }},
	{"large floats", true, func(n int) string {
		return "}(" + strings.Repeat(hugeOne+"\x01N"+hugeOne+"\x02N", n/2) + "u."
	}},
	{"one bytes key", true, func(n int) string {
		return "}" + binString('T', "a", 4*n) + "q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"one bytes key of many", true, func(n int) string {
		return "}" + fill + binString('T', "a", 4*n) + "q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"one text key", true, func(n int) string {
		return "}" + fill + binString('X', "a", 4*n) + "q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"one int key", true, func(n int) string {
		return "}" + fill + binString(0x8b, "\x11", 4*n) + "q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"one int key alone", true, func(n int) string {
		return "}" + binString(0x8b, "\x11", 4*n) + "q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"one text key of many dicts", true, func(n int) string {
		return "(" + binString('X', "a", 4*n) + "q\x00" + strings.Repeat("}h\x00Ns", n) + "t."
	}},
	{"a tuple of text as a key", true, func(n int) string {
		return "}" + binString('X', "a", 4*n) + "\x85q\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"tuples of one text as keys", true, func(n int) string {
		return "}" + binString('X', "a", 4*n) + "q\x00Ns" + strings.Repeat("h\x00K\x01\x86Ns", n) + "."
	}},
	{"a long tuple as a key", false, func(n int) string {
		return "}(" + strings.Repeat("K\x01", n) + "tq\x00Ns" + strings.Repeat("h\x00Ns", n) + "."
	}},
	{"a long tuple in tuples as keys", false, func(n int) string {
		return "}(" + strings.Repeat("K\x01", n) + "tq\x00Ns" + strings.Repeat("h\x00\x85Ns", n) + "."
	}},
	{"deep tuples as keys", false, func(n int) string {
		return "}" + strings.Repeat(")"+strings.Repeat("\x85", 48)+"Ns", n/48) + "."
	}},
	{"two texts that are equal", false, func(n int) string {
		return "}" + binString('X', "a", 2*n) + "q\x00Ns" + binString('X', "a", 2*n) + "q\x01Ns" + strings.Repeat("h\x01Ns", n) + "."
	}},
	{"two ints that are equal", false, func(n int) string {
		return "}" + binString(0x8b, "\x11", 2*n) + "q\x00Ns" + binString(0x8b, "\x11", 2*n) + "q\x01Ns" + strings.Repeat("h\x01Ns", n) + "."
	}},
	{"texts that differ at the end", true, func(n int) string {
		s := "}"
		for i := range 16 {
			s += string(binary.LittleEndian.AppendUint32([]byte{'X'}, uint32(n/4))) + strings.Repeat("a", n/4-1) + string(rune('a'+i)) + "q" + string(rune(i)) + "Ns"
		}
		return s + strings.Repeat("h\x0fNs", n) + "."
	}},
	{"many uses of fewer texts", false, func(n int) string {
		s := strings.Repeat("a", 500)
		s = "}(" + string(binary.LittleEndian.AppendUint32([]byte{'X'}, 500)) + s + "q\x00" + strings.Repeat("h\x00", 400) + "tq\x010"
		return s + strings.Repeat("(h\x01h\x01h\x01tNs", n/2) + "."
	}},
	{"latin1 again and again", false, func(n int) string {
		return "(" + latin + binString('X', "a", 4*n) + "X\x06\x00\x00\x00latin1\x86q\x01R" + strings.Repeat("h\x00h\x01R", n) + "t."
	}},
	{"latin1 of one text", false, func(n int) string {
		return "(" + latin + binString('X', "a", 4*n) + "q\x02X\x06\x00\x00\x00latin1q\x03\x86R" + strings.Repeat("h\x00h\x02h\x03\x86R", n) + "t."
	}},
	{"keywords again and again", false, func(n int) string {
		s := []byte("(cmitogen.core\nKwargs\nq\x00}(")
		for i := range n / 4 {
			s = fmt.Appendf(s, "X\x06\x00\x00\x00%06dN", i)
		}
		return string(s) + "u\x85q\x01R" + strings.Repeat("h\x00h\x01R", n) + "t."
	}},
	{"arguments as values", false, func(n int) string {
		return "(cmitogen.core\nBlob\n" + binString('T', "a", 4*n) + "\x85q\x00R" + strings.Repeat("h\x00", n) + "t."
	}},
	{"one text under many numbers", false, func(n int) string {
		s := []byte("(" + binString('X', "a", 4*n))
		for i := range n {
			s = binary.LittleEndian.AppendUint32(append(s, 'r'), uint32(i))
		}
		for i := range n {
			s = binary.LittleEndian.AppendUint32(append(s, 'j'), uint32(i))
		}
		return string(s) + "t."
	}},
	{"one text stored again and again", false, func(n int) string {
		return "(" + binString('T', "a", 4*n) + strings.Repeat("q\x00h\x000", n) + "t."
	}},
	{"rows with one key", true, func(n int) string {
		return "(" + binString('X', "k", 2*n) + "q\x000" + strings.Repeat("}(h\x00Nu", n) + "t."
	}},
	{"rows of a table, each changed", true, func(n int) string {
		row := "}("
		for i := range 30 {
			row += "h" + string(rune(i)) + "N"
		}
		s := "("
		for i := range 30 {
			s += "X\x01\x00\x00\x00" + string(rune('A'+i)) + "q" + string(rune(i)) + "0"
		}
		return s + strings.Repeat(row+"uK\x01Ns", n/30) + "t."
	}},
	{"surrogates", true, func(n int) string {
		return binString('X', "\xed\xa0\x80a", n)[:5] + strings.Repeat("\xed\xa0\x80", n/3) + strings.Repeat("a", n-3*(n/3)) + "."
	}},
	{"digits", true, func(n int) string { return "(" + strings.Repeat("L"+strings.Repeat("7", 3000)+"L\n", n/500) + "t." }},
	{"lists appended to", true, func(n int) string { return "]" + strings.Repeat("(NNe", n) + "." }},
	{"values thrown away", false, func(n int) string { return strings.Repeat("(NNl0", n) + "N." }},
	{"marks taken", false, func(n int) string { return strings.Repeat("((11", n) + "N." }},
	{"LIST over a deep stack", false, func(n int) string { return "(" + strings.Repeat("N", n) + strings.Repeat("(l", n) + "t." }},
}

// TestCostOfDecoding: eight times the pickle must not take anything like 64 times the time, nor more memory for each
// byte. The race detector gives its tables of a large piece of memory new pages each time, and some machines take long to
// give pages. So a build with -race looks at the memory only; make test runs this test without -race, too.
func TestCostOfDecoding(t *testing.T) {
	const small = 1 << 13
	for _, c := range costs {
		t.Run(c.name, func(t *testing.T) {
			// The collector runs only when it is told to. So the heap keeps its memory, and what is timed does not wait for the
			// system to give new pages, of which the large pickle needs more than fit into the caches.
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			data, large := []byte(c.make(small)), []byte(c.make(8*small))
			for _, data := range [][]byte{data, large} {
				if _, err := Unmarshal(data); c.ok && err != nil {
					t.Fatalf("%d bytes: %v", len(data), err)
				}
			}
			if !raceEnabled {
				// The least ratio of several: other processes run, too.
				least := math.Inf(1)
				for try := 0; try < 5 && least > 20; try++ {
					least = min(least, float64(timed(t, large))/float64(timed(t, data)+100*time.Microsecond))
				}
				if least > 24 {
					t.Errorf("%d bytes take %.0f times as long as %d", len(large), least, len(data))
				}
			}
			if n := allocated(func() { _, _ = Unmarshal(large) }); n > int64(150*len(large)) {
				t.Errorf("%d bytes were allocated for %d", n, len(large))
			}
		})
	}
}

// timed gives what decoding takes of the processor, whatever else runs on the machine.
func timed(t *testing.T, data []byte) time.Duration {
	runtime.GC()
	start := cpuTime(t)
	_, _ = Unmarshal(data)
	return cpuTime(t) - start
}

// TestTables: what the values of a pickle take is bounded by its length and MaxTables, also where a value is a byte.
func TestTables(t *testing.T) {
	const n, tables = 1 << 18, 1 << 18
	for name, data := range map[string]string{
		"nothing in a tuple": "(" + strings.Repeat("N", n) + "t.",
		"dicts in a tuple":   "(" + strings.Repeat("}", n) + "t.",
		"lists in a tuple":   "(" + strings.Repeat("]", n) + "t.",
		"memo":               "N" + strings.Repeat("\x94", n),
		"empty tuples":       "(" + strings.Repeat(")", n) + "t.",
		"nothing in lists":   "(" + strings.Repeat("](NNNNNNNNNNNNNNNNe", n/19) + "t.",
		"keys":               "(" + strings.Repeat("}(K\x01Nu", n/7) + "t.",
		"arguments":          strings.Repeat("cmitogen.core\nBlob\nN\x85q\x00R0", 1) + "N" + strings.Repeat("h\x000", n/3) + ".",
	} {
		t.Run(name, func(t *testing.T) {
			in := []byte(data)
			got := allocated(func() {
				if _, err := (DecodeOptions{tables: tables}).Unmarshal(in); err == nil {
					t.Error("it was taken")
				}
			})
			// Tables are copied as they grow, by a quarter when they are large.
			if limit := int64(12 * (tables + TablesFactor*len(in))); got > limit {
				t.Errorf("%d kB for a pickle of %d kB; at most %d", got>>10, len(in)>>10, limit>>10)
			}
			if _, err := Unmarshal(in); err != nil && strings.Contains(err.Error(), "take more") {
				t.Errorf("%v, without a smaller limit", err)
			}
		})
	}
	// A list of small numbers is refused at no length.
	long := []byte("]" + strings.Repeat("("+strings.Repeat("K\x01", 1000)+"e", 3000) + ".")
	if v, err := (DecodeOptions{tables: tables}).Unmarshal(long); err != nil || len(v.([]any)) != 3000000 {
		t.Error(err)
	}
}

// countedContext ends after it was asked a number of times.
type countedContext struct {
	context.Context
	left int
}

var errCounted = errors.New("time is up")

func (c *countedContext) Err() error {
	if c.left--; c.left < 0 {
		return errCounted
	}
	return nil
}

func TestDecodingIsGivenUp(t *testing.T) {
	long := []byte("(" + strings.Repeat("K\x01", 10*window) + "t.")
	ctx := &countedContext{context.Background(), 5}
	if _, err := (DecodeOptions{}).UnmarshalContext(ctx, long); !errors.Is(err, errCounted) || ctx.left > -1 {
		t.Errorf("got %v after %d more questions", err, -ctx.left)
	}
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(errCounted)
	if _, err := (DecodeOptions{}).UnmarshalContext(ended, long); !errors.Is(err, errCounted) {
		t.Errorf("got %v", err)
	}
	// What is done at once is done.
	if v, err := (DecodeOptions{}).UnmarshalContext(ended, []byte("K\x01.")); v != int64(1) || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
	var wait DecodeOptions
	if v, err := wait.UnmarshalContext(context.Background(), long); err != nil || len(v.(Tuple)) != 10*window {
		t.Errorf("got %v", err)
	}
}
