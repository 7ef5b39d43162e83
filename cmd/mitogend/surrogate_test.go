package main

import "testing"

// A name that is no UTF-8 is the same name on the way out, in JSON, and back.
func TestNamesThatAreNoUTF8(t *testing.T) {
	const raw = "caf\xe9 \xf0\x9f\x98\x80 \xff\xc3"
	text := escapeBytes(raw)
	if text != "caf\xed\xb3\xa9 \xf0\x9f\x98\x80 \xed\xb3\xbf\xed\xb3\x83" || rawText(text) != raw || escapeBytes("caf\u00e9") != "caf\u00e9" {
		t.Errorf("%q, %q", text, rawText(text))
	}
	encoded := string(toJSON([]any{text, "a\\udce9"}, false))
	if encoded != `["caf\udce9 😀 \udcff\udcc3","a\\udce9"]` {
		t.Error(encoded)
	}
	back, err := new(jsonReader).read(encoded)
	if list, ok := back.([]any); err != nil || !ok || list[0] != text || list[1] != "a\\udce9" {
		t.Errorf("%q, %v", back, err)
	}
	if v, err := new(jsonReader).read(`"\ud83d\ude00 \ud83d"`); err != nil || v != "😀 \xed\xa0\xbd" {
		t.Errorf("%q, %v", v, err)
	}
}

// Marks are for what hideLone has marked, and nothing else.
func TestMarksOfSurrogates(t *testing.T) {
	for in, want := range map[string]string{
		lone + "dce9":                     "\xed\xb3\xa9",
		"a" + lone + "dce9b":              "a\xed\xb3\xa9b",
		lone:                              lone,
		lone + "dc":                       lone + "dc",
		lone + "0041":                     lone + "0041",
		lone + lone + "dce9" + lone + "x": lone + "\xed\xb3\xa9" + lone + "x",
	} {
		if got := showLone(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := string(escapeLone([]byte(hideLone(`["\udce9 \\udce9 \ud83d\ude00"]`)))); got != `["\udce9 \\udce9 \ud83d\ude00"]` {
		t.Error(got)
	}
	if s, ok := textOf([]byte(`"\udce9"`)); !ok || s != "\xed\xb3\xa9" {
		t.Errorf("%q %v", s, ok)
	}
	if _, ok := textOf([]byte("null")); ok {
		t.Error("null is a text")
	}
}
