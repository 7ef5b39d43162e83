package pyproto

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// showPickled writes a value as testdata/allowed.py does.
func showPickled(b *strings.Builder, v any, depth int, left *int) error {
	if *left--; *left < 0 || depth > 60 {
		return errors.New("large")
	}
	list := func(open, shut byte, items []any) error {
		b.WriteByte(open)
		for i := range items {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := showPickled(b, items[i], depth+1, left); err != nil {
				return err
			}
		}
		b.WriteByte(shut)
		return nil
	}
	made := func(name string, args ...any) error {
		b.WriteString(name)
		*left--
		depth++
		return list('(', ')', args)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(strings.ToUpper(fmt.Sprint(v)[:1]) + fmt.Sprint(v)[1:])
	case int64:
		fmt.Fprintf(b, "i%x", v)
	case *big.Int:
		fmt.Fprintf(b, "i%x", v)
	case float64:
		if v != v {
			b.WriteString("nan")
		} else {
			fmt.Fprintf(b, "f%016x", math.Float64bits(v))
		}
	case string:
		fmt.Fprintf(b, "u%x", v)
	case []byte:
		fmt.Fprintf(b, "b%x", v)
	case []any:
		return list('[', ']', v)
	case Tuple:
		return list('(', ')', v)
	case *Dict:
		b.WriteByte('{')
		first := true
		for k, x := range v.All() {
			if !first {
				b.WriteByte(',')
			}
			first = false
			if err := showPickled(b, k, depth+1, left); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := showPickled(b, x, depth+1, left); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case Blob:
		return made("Blob", []byte(v))
	case Secret:
		return made("Secret", string(v))
	case Sender:
		return made("Sender", int64(v.Context), int64(v.Handle))
	default:
		return errors.New("other")
	}
	return nil
}

// mutate spoils a pickle in a few places, or puts opcodes together anyhow.
func mutate(r *rand.Rand, data []byte) []byte {
	out := bytes.Clone(data)
	ops := "NKMJGXTU()]}astue012\x85\x86\x87\x88\x89\x8a\x8c\x94q h R.\x80\x02C"
	for range r.IntN(4) {
		if len(out) == 0 {
			break
		}
		i := r.IntN(len(out))
		switch r.IntN(6) {
		case 0:
			out[i] ^= 1 << r.IntN(8)
		case 1:
			out = append(out[:i], out[i+1:]...)
		case 2:
			out = append(out[:i], append([]byte{ops[r.IntN(len(ops))]}, out[i:]...)...)
		case 3:
			out = out[:i]
		case 4:
			j := i + r.IntN(min(len(out)-i, 20))
			out = append(out[:j:j], out[i:]...)
		case 5:
			out[i] = ops[r.IntN(len(ops))]
		}
	}
	return out
}

// known are the differences that are on purpose, or that no pickler writes; see the package's documentation.
var known = regexp.MustCompile(`(?s)I0[0-9]|[FIL][^\n]*[_xX. \t+]|[FIL]-?0|\\[uUN]|c_codecs`)

// lenient tells of what is read here and not there: a frame's length may be wrong, and what lies below a mark may be
// stored.
func lenient(data []byte) bool {
	for i, op := range data {
		if op == opFrame || i > 0 && data[i-1] == opMark && (op == opBinPut || op == opLongBinPut || op == opMemoize || op == opPut) {
			return true
		}
	}
	return false
}

// TestPicklesAgreeWithCPython: what both read is the same value, and nothing is read here that CPython refuses with
// the same names. MITOGEND_LONG makes it go on for ten minutes with other pickles; MITOGEND_SEED repeats a run.
func TestPicklesAgreeWithCPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		pythons.Missing(t, "needs python3")
	}
	long := os.Getenv("MITOGEND_LONG") != ""
	seed := uint64(1)
	if long {
		seed = uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("MITOGEND_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MITOGEND_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	cmd := exec.Command(python, "testdata/allowed.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	answers := bufio.NewReaderSize(out, 1<<20)
	count := 3000
	deadline := time.Now().Add(time.Hour)
	if long {
		count, deadline = math.MaxInt, time.Now().Add(10*time.Minute)
	}
	golden := readGolden(t, "testdata/golden.txt")
	var same, refused, stricter, compared int
	for range count {
		if time.Now().After(deadline) {
			break
		}
		var data []byte
		if r.IntN(3) == 0 {
			data = golden[r.IntN(len(golden))].data
		} else if data, err = Marshal(randomValue(r, 0)); err != nil {
			t.Fatal(err)
		}
		if data = mutate(r, data); len(data) > 10000 {
			continue
		}
		if _, err := in.Write([]byte(hex.EncodeToString(data) + "\n")); err != nil {
			t.Fatalf("python has ended: %v", err)
		}
		theirs, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("python has ended at %x: %v", data, err)
		}
		theirs = strings.TrimSpace(theirs)
		compared++
		v, err := Unmarshal(data)
		var b strings.Builder
		left := 20000
		switch {
		case err != nil && theirs == "refused":
			refused++
		case err != nil:
			stricter++ // what no pickler writes is refused at will
		case theirs == "large" || showPickled(&b, v, 0, &left) != nil:
		case b.String() == theirs:
			same++
		case theirs == "refused" && lenient(data):
		case !known.Match(data):
			t.Errorf("%.1000q\n here %.300s\nthere %.300s", data, b.String(), theirs)
		}
	}
	t.Logf("%d pickles: the same value of %d, refused by both %d, only here %d", compared, same, refused, stricter)
	if same < compared/10 || refused < compared/10 || stricter > compared/4 {
		t.Errorf("the test compares little: %d, %d, %d of %d", same, refused, stricter, compared)
	}
}
