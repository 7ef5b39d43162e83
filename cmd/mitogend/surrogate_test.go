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
