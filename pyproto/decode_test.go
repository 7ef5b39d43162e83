package pyproto

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"runtime"
	"strings"
	"testing"
)

// TestMalformed has input that no pickler writes. The error must say what is wrong.
func TestMalformed(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"", "truncated"},
		{"\x80", "truncated"},
		{"\x80\x02", "truncated"},
		{"\x80\x06N.", "protocol 6"},
		{".", "0 values"},
		{"NN.", "2 values"},
		{"(N.", "left at the end"},
		{"N.N", "1 bytes after the end"},
		{"\xfe.", "no opcode"},
		{"K", "truncated"},
		{"M\x01", "truncated"},
		{"J\x01\x02\x03", "truncated"},
		{"G1234567", "truncated"},
		{"X\xff\xff\xff\xff", "truncated"},
		{"X\x05\x00\x00\x00abc", "truncated"},
		{"U\x05abc", "truncated"},
		{"T\xff\xff\xff\xffabc", "truncated"},
		{"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "truncated"},
		{"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"},
		{"\x8a\x05abc", "truncated"},
		{"\x8b\xff\xff\xff\xff", "truncated"},
		{"\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", "truncated"},
		{"X\x01\x00\x00\x00\xff.", "no UTF-8"},
		{"X\x03\x00\x00\x00\xed\xa0a.", "no UTF-8"},
		{"X\x02\x00\x00\x00\xc0\x80.", "no UTF-8"},
		{"I12", "truncated"},
		{"Iabc\n.", "no integer"},
		{"L12x\n.", "no integer"},
		{"L" + strings.Repeat("9", maxDecimal+1) + "L\n.", "no integer"},
		{"Fx\n.", "no float"},
		{"S'abc\n.", "bad quoted"},
		{"S'a\\xg0'\n.", "bad quoted"},
		{"S'\\'\n.", "bad quoted"},
		{"V\\u12\n.", "bad escaped"},
		{"V\\u\n.", "bad escaped"},
		{"V\\U00110000\n.", "bad escaped"},
		{"h\x00.", "never stored"},
		{"g0\n.", "never stored"},
		{"gx\n.", "no memo number"},
		{"j\xff\xff\xff\xff.", "never stored"},
		{"Nr\xff\xff\xff\x7f.", "memo number"},
		{"Np99999\n.", "memo number"},
		{"Nq\xffh\xff.", "memo number"},
		{"cmitogen.core\nBlob\nU\x01a\x85q\x000h\x00.", "2 values"},
		{"Nq\x05h\x04.", "never stored"},
		{"q\x00.", "stack is empty"},
		{"\x94.", "stack is empty"},
		{"0.", "stack is empty"},
		{"2.", "stack is empty"},
		{"1.", "no mark"},
		{"t.", "no mark"},
		{"l.", "no mark"},
		{"d.", "no mark"},
		{"e.", "no mark"},
		{"u.", "no mark"},
		{"\x85.", "too short"},
		{"N\x86.", "too short"},
		{"N(N\x86t.", "too short"},
		{"a.", "stack is empty"},
		{"s.", "too short"},
		{"Na.", "without a list"},
		{"NNa.", "without a list"},
		{"}Na.", "wrong kind"},
		{"](NNu.", "wrong kind"},
		{"}(Nu.", "without a value"},
		{"(Nd.", "without a value"},
		{"}]Ns.", "cannot be a dict key"},
		{"}}Ns.", "cannot be a dict key"},
		{"}]\x85Ns.", "cannot be a dict key"},
		{"](0NNe.", "no mark"},
		{"]q\x00h\x00a.", "recursive"},
		{"}q\x00Nh\x00s.", "recursive"},
		{"]q\x00(h\x00te.", "no mark"},
		{"]q\x00(h\x00\x85e.", "recursive"},
		{"]q\x00]h\x00a0h\x00Na.", "recursive"},
		{"R.", "too short"},
		{"N)R.", "no global"},
		{"c__builtin__\nbytes\nNR.", "bad arguments"},
		{"c__builtin__\nbytes\n]R.", "bad arguments"},
		{"c__builtin__\nbytes\nN\x85R.", "bad arguments"},
		{"cmitogen.core\nBlob\n.", "used as a value"},
		{"cmitogen.core\nBlob\n\x85.", "used as a value"},
		{"cmitogen.core\nBlob\n)R.", "bad arguments"},
		{"cmitogen.core\nBlob\nK\x01\x85R.", "bad arguments"},
		{"cmitogen.core\nBlob\nX\x01\x00\x00\x00a\x85R.", "bad arguments"},
		{"cmitogen.core\nBlob\ncmitogen.core\nBlob\n\x85R.", "used as a value"},
		{"cmitogen.core\nSecret\nU\x01a\x85R.", "bad arguments"},
		{"cmitogen.core\nKwargs\nN\x85R.", "bad arguments"},
		{"cmitogen.core\nKwargs\n}K\x01Ns\x85R.", "name of type int64"},
		{"cmitogen.core\nKwargs\n}(U\x01aNX\x01\x00\x00\x00aNu\x85R.", "both as text and as bytes"},
		{"cmitogen.core\nKwargs\n}U\x01\xffNs\x85R.", "no text"},
		{"cmitogen.core\n_unpickle_context\nJ\xff\xff\xff\xffN\x86R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_context\n\x8a\x05\x00\x00\x00\x00\x01N\x86R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_context\nK\x01U\x01a\x86R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_context\nK\x01X\x64\x00\x00\x00" + strings.Repeat("a", 100) + "\x86R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_sender\nK\x01K\x00\x86R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_call_error\nU\x01a\x85R.", "bad arguments"},
		{"cmitogen.core\n_unpickle_call_error\nX\x10\x27\x00\x00" + strings.Repeat("a", 10000) + "\x85R.", "bad arguments"},
		{"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00utf8\x86R.", "anything but latin1"},
		{"c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.", "beyond latin1"},
		{"c_codecs\nencode\nX\x01\x00\x00\x00a\x85R.", "bad arguments"},
		{"c_codecs\nencode\nK\x01K\x01\x86R.", "bad arguments"},
		{"c_codecs\nencode\nX\x01\x00\x00\x00a(X\x06\x00\x00\x00latin1tR.", "no global"},
		{"cos\nsystem\n(U\x02idtR.", "os.system"},
		{"cmitogen.core\nRouter\n.", "mitogen.core.Router"},
		{"ios\nsystem\n.", "os.system"},
		{"(ios\nsystem\n.", "os.system"},
		{"c\n\n.", "type ."},
		{"ca\x00b\n\xff\n.", `"a\x00b"."\xff"`},
		{"\x8c\x02os\x8c\x06system\x93.", "os.system"},
		{"N\x93.", "too short"},
		{"NN\x93.", "no text"},
		{"cos\n", "truncated"},
		{"N)\x81.", "NEWOBJ"},
		{"Nb.", "BUILD"},
		{"(No.", "OBJ"},
		{"P1\n.", "PERSID"},
		{"NQ.", "BINPERSID"},
		{"\x82\x01.", "EXT1"},
		{"\x8f.", "EMPTY_SET"},
		{"\x97.", "NEXT_BUFFER"},
	} {
		v, err := Unmarshal([]byte(c.data))
		if err == nil {
			t.Errorf("%.60q was read as %.60q", c.data, fmt.Sprint(v))
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "pyproto: ") {
			t.Errorf("%.60q: error %q does not say %q", c.data, err, c.want)
		}
		if v != nil {
			t.Errorf("%.60q: a value comes with the error", c.data)
		}
	}
}

// TestUnusual has input that is right, and that golden.py has nothing of.
func TestUnusual(t *testing.T) {
	for _, c := range []struct {
		data string
		want any
	}{
		{"N.", nil},
		{"(0N.", nil}, // POP takes the mark
		{"K\x01N0.", int64(1)},
		{"(K\x01K\x021N.", nil},
		{"K\x052\x86.", Tuple{int64(5), int64(5)}},
		{"U\x01a2\x86.", Tuple{[]byte("a"), []byte("a")}},
		{"S\"it's\"\n.", []byte("it's")},
		{"S'\\101\\0\\7z\\a\\b\\f\\v\\q\\\\'\n.", []byte("A\x00\x07z\a\b\f\v\\q\\")},
		{"V\\ud83d\\ude00\\ud83dx\\ude00\\q\n.", "\U0001f600\xed\xa0\xbdx\xed\xb8\x80\\q"},
		{"Vcaf\xe9\n.", "caf\u00e9"},
		{"I01\n.", true},
		{"I-5\n.", int64(-5)},
		{"I9223372036854775808\n.", bigInt("9223372036854775808")},
		{"L5\n.", int64(5)},
		{"\x8a\x00.", int64(0)},
		{"\x8a\x01\xff.", int64(-1)},
		{"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", int64(-1 << 63)},
		{"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff.", int64(-1)},
		{"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.", bigInt("9223372036854775808")},
		{"\x8b\x02\x00\x00\x00\x00\x80.", int64(-32768)},
		{"T\x01\x00\x00\x00a.", []byte("a")},
		{"C\x01a.", []byte("a")},
		{"B\x01\x00\x00\x00a.", []byte("a")},
		{"\x8e\x01\x00\x00\x00\x00\x00\x00\x00a.", []byte("a")},
		{"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", []byte("a")},
		{"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a.", "a"},
		{"(K\x01K\x02l.", []any{int64(1), int64(2)}},
		{"(K\x01K\x02d.", DictOf(1, int64(2))},
		{"(l.", []any{}},
		{"(d.", &Dict{}},
		{"(t.", Tuple{}},
		{"](e.", []any{}},
		{"}(u.", &Dict{}},
		{"](K\x01e(K\x02K\x03eK\x04a.", []any{int64(1), int64(2), int64(3), int64(4)}},
		{"}(K\x01K\x02K\x01K\x03u.", DictOf(1, int64(3))},
		{"}K\x01K\x02s\x88K\x03s.", DictOf(1, int64(3))},
		{"}U\x01aK\x02sX\x01\x00\x00\x00aK\x03s.", DictOf([]byte("a"), int64(2), "a", int64(3))},
		{"]q\x000h\x00.", []any{}},
		{"]q\x00K\x01ah\x00\x86.", Tuple{[]any{int64(1)}, []any{int64(1)}}},
		{"]q\x00h\x00K\x01a0.", []any{int64(1)}},
		{"cmitogen.core\nBlob\n(U\x01atR.", Blob("a")},
		{"cmitogen.core\nBlob\nC\x01a\x85q\x00R0h\x00.", Tuple{[]byte("a")}},
		{"cmitogen.core\nCallError\nX\x01\x00\x00\x00a\x85R.", &CallError{Text: "a"}},
		{"cbuiltins\nbytes\n)R.", []byte{}},
		{"c_codecs\nencode\nX\x01\x00\x00\x00aq\x00X\x06\x00\x00\x00latin1q\x01\x86R0c_codecs\nencode\nh\x00h\x01\x86R.", []byte("a")},
	} {
		v, err := Unmarshal([]byte(c.data))
		if err != nil || !equal(v, c.want) {
			t.Errorf("%q: got %#v, %v; want %#v", c.data, v, err, c.want)
		}
	}
}

func TestGlobalError(t *testing.T) {
	var ge *GlobalError
	_, err := Unmarshal([]byte("\x80\x02c__builtin__\nset\nq\x00]q\x01K\x01a\x85q\x02Rq\x03."))
	if !errors.As(err, &ge) || ge.Module != "__builtin__" || ge.Name != "set" {
		t.Errorf("got %v", err)
	}
}

// TestLimits has small pickles of large or deep structures.
func TestLimits(t *testing.T) {
	// 2**100 values, each list twice in the next.
	bomb := []byte("]q\x00")
	for i := range byte(100) {
		bomb = append(bomb, ']', 'q', i+1, '(', 'h', i, 'h', i, 'e')
	}
	bomb = append(bomb, '(', '1')
	// The same in tuples as a key, and then in many others.
	keys := []byte(")q\x00")
	for i := range byte(22) {
		keys = append(keys, '0', 'h', i, 'h', i, 0x86, 'q', i+1)
	}
	for range 1000 {
		keys = append(keys, "0}(h\x14h\x14tNs0}h\x13\x85Ns"...)
	}
	deep := func(open, shut string, n int) []byte {
		return []byte(strings.Repeat(open, n) + "N" + strings.Repeat(shut, n) + ".")
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"bomb":   {append([]byte("("), append(bomb, "t."...)...), "shared references"},
		"keys":   {append(keys, '.'), "in keys"},
		"lists":  {deep("]", "a", MaxDepth+1), "nested deeper"},
		"tuples": {deep("", "\x85", MaxDepth+1), "nested deeper"},
		"marks":  {deep("(", "t", MaxDepth+1), "nested deeper"},
		"dicts":  {deep("}N", "s", MaxDepth+1), "nested deeper"},
		"blobs":  {[]byte("cmitogen.core\nBlob\nN" + strings.Repeat("\x85", 100000) + "R."), ""},
		"far":    {[]byte("N" + strings.Repeat("\x85", 5000000) + "."), "nested deeper"},
	} {
		_, err := Unmarshal(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for name, data := range map[string][]byte{
		"lists": deep("]", "a", MaxDepth), "tuples": deep("", "\x85", MaxDepth), "dicts": deep("}N", "s", MaxDepth),
	} {
		v, err := Unmarshal(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// What was read can be written.
		if _, err := Marshal(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var loop []any
	loop = append(loop, nil)
	loop[0] = loop
	if _, err := Marshal(loop); err == nil {
		t.Error("a list in itself was sent")
	}
	d := &Dict{}
	_ = d.Set("d", d)
	if _, err := Marshal(d); err == nil {
		t.Error("a dict in itself was sent")
	}
}

// TestMemory has input that claims more than it has: what is allocated must be in proportion to the input.
func TestMemory(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	for name, data := range map[string]string{
		"memo":       "Nr\xff\xff\x0f\x00.",
		"text":       "X\xff\xff\xff\x0fabc",
		"bytes":      "T\xff\xff\xff\x0fabc",
		"long":       "\x8b\xff\xff\xff\x0fabc",
		"marks":      strings.Repeat("(", 10000),
		"lists":      strings.Repeat("]", 10000),
		"dicts":      strings.Repeat("}", 10000),
		"puts":       "]" + strings.Repeat("\x94", 10000),
		"same text":  "(X\x00\x00\x10\x00" + long + "q\x00" + strings.Repeat("h\x00", 10000) + "t.",
		"same bytes": "(T\x00\x00\x10\x00" + long + strings.Repeat("2", 10000) + "t.",
		"same blob":  "(cmitogen.core\nBlob\nT\x00\x00\x10\x00" + long + "\x85q\x000" + strings.Repeat("h\x00", 10000) + "t.",
	} {
		n := allocated(func() { _, _ = Unmarshal([]byte(data)) })
		// A table is copied as it grows, and what the values take of it is some 50 bytes each.
		if limit := int64(250*len(data) + 20000); n > limit {
			t.Errorf("%s: %d bytes were allocated for %d", name, n, len(data))
		}
	}
}

// allocated gives the bytes that f allocates while the pools are empty, the least of several runs: another goroutine
// may allocate at the same time.
func allocated(f func()) int64 {
	least := int64(math.MaxInt64)
	for range 5 {
		// What is pooled is gone after the second collection.
		runtime.GC()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, int64(after.TotalAlloc-before.TotalAlloc))
	}
	return least
}

// TestPooledState checks that one decoding leaves nothing to the next.
func TestPooledState(t *testing.T) {
	for range 100 {
		_, _ = Unmarshal([]byte("((]q\x00}q\x01U\x01a"))
		if v, err := Unmarshal([]byte("h\x00.")); err == nil {
			t.Fatalf("the memo of another pickle gave %v", v)
		}
	}
}

func TestShared(t *testing.T) {
	v, err := Unmarshal([]byte("]q\x00K\x01ah\x00\x86."))
	if err != nil {
		t.Fatal(err)
	}
	pair := v.(Tuple)
	pair[0].([]any)[0] = "changed"
	if pair[1].([]any)[0] != "changed" {
		t.Error("a shared list is not shared")
	}
	// A list, though, never grows into its neighbour in memory.
	v, err = Unmarshal([]byte("(](K\x01K\x02e](K\x03K\x04eU\x02abU\x02cdt."))
	if err != nil {
		t.Fatal(err)
	}
	all := v.(Tuple)
	_ = append(all[0].([]any), "spill")
	_ = append(all[2].([]byte), "spill"...)
	if !equal(all[1], []any{int64(3), int64(4)}) || !equal(all[3], []byte("cd")) {
		t.Errorf("appending to one value changed another: %v", all)
	}
}

func TestAlias(t *testing.T) {
	data, err := Marshal([]any{[]byte("bytes"), "text", Blob("blob")})
	if err != nil {
		t.Fatal(err)
	}
	v, err := DecodeOptions{Alias: true}.Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[bytes.Index(data, []byte("bytes")):], "BYTES")
	if got := string(v.([]any)[0].([]byte)); got != "BYTES" {
		t.Errorf("got %q with Alias", got)
	}
	if got := string(w.([]any)[0].([]byte)); got != "bytes" {
		t.Errorf("got %q without Alias", got)
	}
}

func TestPrefix(t *testing.T) {
	a, _ := Marshal(Tuple{"pkg", "data.txt"})
	b, _ := Marshal([]byte("content"))
	v, rest, err := UnmarshalPrefix(append(a, b...))
	if err != nil || !equal(v, Tuple{"pkg", "data.txt"}) || !bytes.Equal(rest, b) {
		t.Fatalf("got %v, %q, %v", v, rest, err)
	}
	if v, rest, err = UnmarshalPrefix(rest); err != nil || !equal(v, []byte("content")) || len(rest) != 0 {
		t.Fatalf("got %v, %q, %v", v, rest, err)
	}
	if _, rest, err = UnmarshalPrefix([]byte("Nx")); err == nil || string(rest) != "Nx" {
		t.Errorf("got %q, %v", rest, err)
	}
}

// TestRows has dicts that share their keys, which must not show.
func TestRows(t *testing.T) {
	var rows []any
	for i := range 5 {
		rows = append(rows, DictOf("a", int64(i), "b", int64(10*i)))
	}
	// As a pickler writes them: the keys of the later ones by reference.
	data := "](}(X\x01\x00\x00\x00aq\x00K\x00X\x01\x00\x00\x00bq\x01K\x00u"
	for i := 1; i < 5; i++ {
		data += fmt.Sprintf("}(h\x00K%ch\x01K%cu", i, 10*i)
	}
	v, err := Unmarshal([]byte(data + "e."))
	if err != nil || !equal(v, rows) {
		t.Fatalf("got %s, %v", show(v), err)
	}
	l := v.([]any)
	if err := l[2].(*Dict).Set("c", int64(1)); err != nil {
		t.Fatal(err)
	}
	if err := l[3].(*Dict).Set("a", int64(99)); err != nil {
		t.Fatal(err)
	}
	rows[2], rows[3] = DictOf("a", int64(2), "b", int64(20), "c", int64(1)), DictOf("a", int64(99), "b", int64(30))
	if !equal(v, rows) {
		t.Errorf("a change of one row shows in others: %s", show(v))
	}
	// The second batch of one dict must not change the keys of another.
	v, err = Unmarshal([]byte("](}q\x02(h\x00K\x01u}(h\x00K\x02uh\x02e."))
	if err == nil {
		t.Errorf("got %v", v)
	}
	v, err = Unmarshal([]byte("](K\x05q\x000}(h\x00K\x01u}(h\x00K\x02u(K\x06K\x03u}(h\x00K\x04ue."))
	want := []any{DictOf(5, int64(1)), DictOf(5, int64(2), 6, int64(3)), DictOf(5, int64(4))}
	if err != nil || !equal(v, want) {
		t.Errorf("got %s, %v", show(v), err)
	}
	n, _ := new(big.Int).SetString("1", 10)
	if err := want[0].(*Dict).Set(n, "one"); err != nil {
		t.Fatal(err)
	}
	if got, _ := want[0].(*Dict).Get(1); got != "one" {
		t.Errorf("got %v", got)
	}
}
