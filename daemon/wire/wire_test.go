package wire

import (
	"bytes"
	"errors"
	"io"
	"math/big"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"mitogend/pyproto"
)

// values are of the types of package pyproto, which have to survive the way there and back.
func values() []any {
	big1, _ := new(big.Int).SetString("-123456789012345678901234567890", 10)
	d := pyproto.NewDict(0)
	for _, k := range []any{"z", "a", int64(1), []byte("b"), pyproto.Tuple{int64(1), "x"}, nil, true} {
		if err := d.Set(k, []any{k}); err != nil {
			panic(err)
		}
	}
	return []any{
		nil, true, false, int64(0), int64(-1), int64(1 << 40), int64(-1 << 63), int64(1<<63 - 1), 1.5, -0.25,
		"", "text", strings.Repeat("ü", 40000), "caf\xed\xb3\xa9", pyproto.Secret("\xed\xa0\x80"), []byte{}, []byte("bytes"), bytes.Repeat([]byte{255}, 70000), big1,
		[]any{}, []any{nil, []any{int64(1)}}, pyproto.Tuple{}, pyproto.Tuple{int64(1), pyproto.Tuple{"x", []byte("y")}},
		pyproto.NewDict(0), d, pyproto.Blob("blob"), pyproto.Secret("hush"), pyproto.Context{ID: 7, Name: "web"},
		pyproto.Sender{Context: 7, Handle: 1001},
	}
}

func TestValuesSurvive(t *testing.T) {
	for _, v := range values() {
		data, err := Marshal(&Value{V: v})
		if err != nil {
			t.Errorf("%T: %v", v, err)
			continue
		}
		var got Value
		if err := Unmarshal(data, &got); err != nil {
			t.Errorf("%T: % x: %v", v, data[:min(len(data), 40)], err)
			continue
		}
		if !reflect.DeepEqual(got.V, v) {
			t.Errorf("%T: sent %#v, got %#v", v, v, got.V)
		}
	}
}

func TestPlainValuesNeedNoExtensionTypes(t *testing.T) {
	data, err := Marshal(&Value{V: pyproto.Tuple{pyproto.Blob("b"), pyproto.Tuple{}}, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{0x92, 0xc4, 1, 'b', 0x90}; !bytes.Equal(data, want) {
		t.Errorf("got % x, want % x", data, want)
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	deep := bytes.Repeat([]byte{0x91}, 300)
	for name, data := range map[string][]byte{
		"an extension of another type": {0xd4, 77, 0},
		"a timestamp":                  {0xd6, 0xff, 0, 0, 0, 0},
		"a tuple that is no array":     {0xd4, ExtTuple, 0x01},
		"a tuple of 4 billion":         {0xc7, 5, ExtTuple, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"a number that is none":        {0xd4, ExtInt, 'x'},
		"a sender without a handle":    {0xd5, ExtSender, 0x91, 0x01},
		"a sender with handle 0":       {0xc7, 3, ExtSender, 0x92, 0x01, 0x00},
		"a dict key that is a dict":    {0x81, 0x80, 0x01},
		"a text that is no UTF-8":      {0xa1, 0xe9},
		"half a surrogate":             {0xa2, 0xed, 0xb3},
		"300 arrays in each other":     append(deep, 0xc0),
	} {
		var v Value
		if err := Unmarshal(data, &v); err == nil {
			t.Errorf("%s: read as %#v", name, v.V)
		}
	}
}

func TestMessagesSurvive(t *testing.T) {
	req, err := NewRequest(nil, 1<<32-1, "call", &Call{Function: "os:getpid", Args: Value{V: []any{int64(1)}}, Common: Common{Timeout: 1.5}})
	if err != nil {
		t.Fatal(err)
	}
	note, _ := NewNotification("shutdown", nil)
	resp, _ := NewResponse(7, nil, map[string]any{"a": 1})
	fail, _ := NewResponse(8, Errorf(KindUsage, "no"), nil)
	r := NewReader(iotest.OneByteReader(bytes.NewReader(bytes.Join([][]byte{req, note, resp, fail}, nil))), 0)
	var got []*Message
	for {
		data, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	if len(got) != 4 || got[0].ID != 1<<32-1 || got[0].Method != "call" || got[1].Type != Notification || got[1].Params != nil ||
		got[2].Error != nil || got[2].ID != 7 || got[3].Error == nil {
		t.Fatalf("got %+v", got)
	}
	var c Call
	if err := Unmarshal(got[0].Params, &c); err != nil {
		t.Fatal(err)
	}
	if c.Function != "os:getpid" || !reflect.DeepEqual(c.Args.V, []any{int64(1)}) || c.Timeout != 1.5 || c.Kwargs.V != nil {
		t.Errorf("got %+v", c)
	}
	var e Error
	if err := Unmarshal(got[3].Error, &e); err != nil || e.Kind != KindUsage || e.Message != "no" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestBadMessagesCostNothing(t *testing.T) {
	var before, after runtime.MemStats
	for name, data := range map[string][]byte{
		"text":                        []byte("GET / HTTP/1.1\r\n\r\n"),
		"a byte in no format":         {0x94, 0xc1},
		"an array of 4 billion":       {0xdd, 0xff, 0xff, 0xff, 0xff},
		"a text of 4 billion":         {0x94, 0x00, 0x01, 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
		"bytes of 4 billion":          {0x94, 0x00, 0x01, 0xc6, 0xff, 0xff, 0xff, 0xff, 'x'},
		"an extension of 4 billion":   {0x94, 0x00, 0x01, 0xc9, 0xff, 0xff, 0xff, 0xff, 1, 'x'},
		"a map of 4 billion":          {0x94, 0x00, 0x01, 0xa1, 'x', 0x91, 0xdf, 0xff, 0xff, 0xff, 0xff},
		"a text of 128 MB, one there": {0x94, 0x00, 0x01, 0xdb, 0x08, 0x00, 0x00, 0x00, 'x'},
		"half a message":              {0x94, 0x00, 0x01},
		"deep nesting":                append([]byte{0x94, 0x00, 0x01, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 1000)...),
		"five elements":               {0x95, 0, 0, 0, 0, 0},
		"two elements":                {0x92, 0, 0},
	} {
		runtime.ReadMemStats(&before)
		_, err := NewReader(bytes.NewReader(data), 0).Next()
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrBadMessage) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
			t.Errorf("%s: %d bytes were allocated", name, grown)
		}
	}
	for name, data := range map[string][]byte{
		"type 3":                 {0x94, 0x03, 0x01, 0xa1, 'x', 0x90},
		"a type that is a text":  {0x94, 0xa1, 'x', 0x01, 0xa1, 'x'},
		"a negative msgid":       {0x94, 0x00, 0xff, 0xa1, 'x', 0x90},
		"a method that is nil":   {0x94, 0x00, 0x01, 0xc0, 0x90},
		"params that are no map": {0x94, 0x00, 0x01, 0xa1, 'x', 0x91, 0x01},
		"two params":             {0x94, 0x00, 0x01, 0xa1, 'x', 0x92, 0x80, 0x80},
		"a response of three":    {0x93, 0x01, 0x01, 0xc0},
	} {
		if m, err := Parse(data); !errors.Is(err, ErrBadMessage) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, v := range values() {
		if data, err := NewRequest(nil, 1, "call", map[string]any{"args": &Value{V: v}}); err == nil && len(data) < 1000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := NewReader(bytes.NewReader(data), 1<<20).Next()
		if err != nil {
			return
		}
		if !bytes.HasPrefix(data, b) {
			t.Fatal("the message is not what was sent")
		}
		m, err := Parse(b)
		if err != nil {
			return
		}
		var v Value
		if m.Params != nil && Unmarshal(m.Params, &v) == nil {
			if _, err := Marshal(&v); err != nil {
				t.Fatalf("%#v was read and cannot be written: %v", v.V, err)
			}
		}
	})
}

// A message that claims many values costs no more than the values that come.
func TestClaimsOfManyValues(t *testing.T) {
	const claimed = 4 << 20
	// An array of as many values, which are in no format.
	body := append([]byte{0xdd, 0, 0x40, 0, 0}, bytes.Repeat([]byte{0xc1}, claimed)...)
	ext := append([]byte{0xc9, 0, 0x40, 0, 5, ExtTuple}, body...)
	for name, data := range map[string][]byte{"array": body, "tuple": ext} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := decode(data); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
	}
	if v, err := decode([]byte{0x92, 1, 2}); err != nil || len(v.([]any)) != 2 {
		t.Errorf("got %v, %v", v, err)
	}
}

// Values that a few bytes of a pickle share are not written out without a bound, and neither are numbers that would
// take minutes.
func TestValuesTooLarge(t *testing.T) {
	share := func(v any, levels int) any {
		for range levels {
			v = []any{v, v, v, v, v, v, v, v, v, v}
		}
		return v
	}
	number := func(digits int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(digits-1), nil) }
	deep := any(strings.Repeat("x", 1<<20))
	for range MaxDepth - 1 {
		deep = pyproto.Tuple{deep}
	}
	if _, err := (&encoder{copied: maxCopied - 20<<20}).value(deep, 0); err == nil || !strings.Contains(err.Error(), "copied") {
		t.Errorf("copies: %v", err)
	}
	for name, v := range map[string]any{
		"values":                share(nil, 9),
		"bytes":                 share(make([]byte, 1<<20), 7),
		"bytes in keys":         share(pyproto.DictOf(strings.Repeat("k", 1<<20), nil), 7),
		"a number":              number(maxDigits + 1),
		"a negative number":     new(big.Int).Neg(number(maxDigits)),
		"a number of megabytes": new(big.Int).Lsh(big.NewInt(1), 64<<20),
		"depth":                 pyproto.Tuple{deep, pyproto.Tuple{deep}},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := NewValue(v, false, 0)
			if _, own := NewResponse(1, nil, &Items{Items: []Item{{Kind: ItemResult, Value: &Value{V: v}}}}); own == nil {
				t.Error("it was written")
			}
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("it was taken")
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
	for _, v := range []any{number(maxDigits), new(big.Int).Neg(number(maxDigits - 1)), share("x", 5)} {
		if data, err := Marshal(&Value{V: v}); err != nil {
			t.Error(err)
		} else if err := Unmarshal(data, new(Value)); err != nil {
			t.Error(err)
		}
	}
}

// TestItemSize: each text of an error or event counts.
func TestItemSize(t *testing.T) {
	const length = 1000
	check := func(v reflect.Value, item *Item) {
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			switch f := v.Field(i); {
			case name == "Kind":
				continue
			case f.Kind() == reflect.String:
				f.SetString(strings.Repeat("x", length))
			case f.Type() == reflect.TypeFor[[]string]():
				f.Set(reflect.ValueOf([]string{strings.Repeat("x", length)}))
			default:
				continue
			}
			if n := item.Size(); n < length {
				t.Errorf("%v.%s does not count", v.Type(), name)
			}
			v.Field(i).SetZero()
		}
	}
	e, ev := &Error{}, &Event{}
	check(reflect.ValueOf(e).Elem(), &Item{Error: e})
	check(reflect.ValueOf(ev).Elem(), &Item{Event: ev})
}

// TestMessagesMemory: a message keeps less than twice its size, whatever was read before, and what is read later leaves it
// as it was.
func TestMessagesMemory(t *testing.T) {
	var in, last []byte
	var sent [][]byte
	for i := range 200 {
		size := []int{1 << 20, 33 << 10, 100 << 10, 10, 700 << 10}[i%5]
		msg, err := NewResponse(uint32(i), nil, &Items{Items: []Item{
			{Kind: ItemStdout, Data: bytes.Repeat([]byte{byte(i)}, size/2)}, {Kind: ItemStdout, Data: bytes.Repeat([]byte{byte(i)}, size/2)}}})
		if err != nil {
			t.Fatal(err)
		}
		in, sent = append(in, msg...), append(sent, bytes.Clone(msg))
		Reuse(msg)
	}
	r := NewReader(bytes.NewReader(in), 0)
	for i, want := range sent {
		got, err := r.Next()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d: %v, or it is not what was sent", i, err)
		}
		if i > 0 && !bytes.Equal(last, sent[i-1]) {
			t.Fatalf("%d has changed", i-1)
		}
		if cap(got) > max(2*len(got), minReused) {
			t.Errorf("%d bytes for a message of %d", cap(got), len(got))
		}
		if i%3 == 0 {
			Reuse(last)
		}
		last = got
	}
}
