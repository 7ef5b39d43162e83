package main

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"mitogend/pyproto"
)

func TestToJSON(t *testing.T) {
	big80 := new(big.Int).Lsh(big.NewInt(1), 80)
	for _, c := range []struct {
		v       any
		python2 bool
		want    string
	}{
		{nil, false, "null"},
		{true, false, "true"},
		{int64(-5), false, "-5"},
		{big80, false, "1208925819614629174706176"},
		{1.0, false, "1.0"},
		{0.0, false, "0.0"},
		{1e15, false, "1000000000000000.0"},
		{1e16, false, "1e+16"},
		{0.0001, false, "0.0001"},
		{0.00001, false, "1e-05"},
		{math.Inf(-1), false, `{"$float":"-inf"}`},
		{math.NaN(), false, `{"$float":"nan"}`},
		{"a<b>&\u2028\"", false, `"a<b>&\u2028\""`},
		{[]byte("ab"), false, `{"$bytes":"YWI="}`},
		{[]byte("ab"), true, `"ab"`},
		{[]byte("\xff"), true, `{"$bytes":"/w=="}`},
		{pyproto.Blob("ab"), true, `{"$bytes":"YWI="}`},
		{pyproto.Tuple{int64(1), []any{}}, false, "[1,[]]"},
		{pyproto.DictOf("b", int64(1), "a", int64(2)), false, `{"b":1,"a":2}`},
		{pyproto.DictOf(int64(1), "x"), false, `{"$dict":[[1,"x"]]}`},
		{pyproto.DictOf("$bytes", "x"), false, `{"$dict":[["$bytes","x"]]}`},
		{pyproto.DictOf([]byte("k"), nil), false, `{"$dict":[[{"$bytes":"aw=="},null]]}`},
		{pyproto.DictOf([]byte("k"), nil), true, `{"k":null}`},
		{pyproto.DictOf("\xc3\xa9", int64(1), []byte("\xc3\xa9"), int64(2)), true, `{"$dict":[["é",1],["é",2]]}`},
		{pyproto.NewDict(0), false, "{}"},
		{pyproto.Kwargs{{Name: "z", Value: int64(1)}, {Name: "a", Value: nil}}, false, `{"z":1,"a":null}`},
		{pyproto.Context{ID: 3}, false, `{"$context":3}`},
		{pyproto.Sender{Context: 3, Handle: 1000}, false, `{"$sender":[3,1000]}`},
		{pyproto.Secret("hush"), false, `"[secret]"`},
	} {
		got := string(toJSON(c.v, c.python2))
		if got != c.want || !json.Valid([]byte(got)) {
			t.Errorf("%#v: %s, want %s", c.v, got, c.want)
		}
	}
}

// What is printed can be given as an argument again.
func TestJSONRoundTrip(t *testing.T) {
	for _, v := range []any{
		nil, true, int64(7), 1.5, math.Inf(1), "x", []byte("\x00\xff"), []any{int64(1), []any{}},
		pyproto.DictOf("a", pyproto.DictOf("b", []any{[]byte("c")})),
		pyproto.DictOf(int64(1), "x", []byte("k"), 2.5), pyproto.DictOf("$dict", "x"), pyproto.NewDict(0),
	} {
		text := string(toJSON(v, false))
		got, err := new(jsonReader).read(text)
		if err != nil || string(toJSON(got, false)) != text {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
}

func TestFromJSON(t *testing.T) {
	big20, _ := new(big.Int).SetString("12345678901234567890", 10)
	for text, want := range map[string]any{
		"1": int64(1), "-9223372036854775808": int64(math.MinInt64), "12345678901234567890": big20, "1.0": 1.0, "1e3": 1000.0,
		"1e999": math.Inf(1), "-1e999": math.Inf(-1), "1e-999": 0.0, // as for Python's json
		`"x"`: "x", "[1,[2]]": []any{int64(1), []any{int64(2)}}, " null ": nil, `{"$other":1}`: pyproto.DictOf("$other", int64(1)),
		`{"$bytes":"YQ==","b":1}`: pyproto.DictOf("$bytes", "YQ==", "b", int64(1)), `{"$bytes":1}`: pyproto.DictOf("$bytes", int64(1)),
	} {
		if got, err := new(jsonReader).read(text); err != nil || !reflect.DeepEqual(toJSON(got, false), toJSON(want, false)) || reflect.TypeOf(got) != reflect.TypeOf(want) {
			t.Errorf("%s: %#v %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "x", "1 2", "[1", `{"$bytes":"*"}`, `{"$float":"x"}`, `{"$dict":[1]}`, `{"$dict":[[1]]}`, `{"$dict":[[{},1]]}`, "\"\xff\"",
		strings.Repeat("[", 20000),
	} {
		if v, err := new(jsonReader).read(text); err == nil {
			t.Errorf("%.40s: %v", text, v)
		}
	}
}

// A small pickle does not become gigabytes of JSON, nor a number that takes minutes.
func TestResultsTooLarge(t *testing.T) {
	var shared any = strings.Repeat("x", 1<<20)
	for range 5 {
		shared = []any{shared, shared, shared, shared, shared, shared}
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 64<<20)
	for want, v := range map[string]any{"268435456 bytes": shared, "100000 digits": []any{pyproto.DictOf("n", huge)}} {
		if text, err := resultJSON(v, false); err == nil || !strings.Contains(err.Error(), want) || text != nil {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	if p, err := pyproto.Marshal(huge); err != nil || len(payloadText(pyproto.Header{}, p)) > 200 {
		t.Errorf("a trace shows it: %v", err)
	}
	n := new(big.Int).Exp(big.NewInt(10), big.NewInt(99_999), nil)
	if text, err := resultJSON(n, false); err != nil || len(text) != 100_000 {
		t.Errorf("%d digits: %v", len(text), err)
	}
}

func FuzzFromJSON(f *testing.F) {
	for _, seed := range []string{"1", `{"$dict":[[[1],{"$bytes":"YQ=="}]]}`, `{"a":{"$float":"nan"}}`, "[1e5,-0]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := new(jsonReader).read(text)
		if err != nil {
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("took %q", text)
		}
		printed := toJSON(v, false)
		again, err := new(jsonReader).read(string(printed))
		if err != nil || string(toJSON(again, false)) != string(printed) {
			t.Fatalf("%q: printed as %s, read again as %v, %v", text, printed, again, err)
		}
	})
}
