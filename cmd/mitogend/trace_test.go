package main

import (
	"strings"
	"testing"

	"mitogend/daemon"
	"mitogend/pyproto"
)

// Nothing that looks like a secret is in a trace.
func TestTraceMasks(t *testing.T) {
	plan := map[string]any{"prompts": []any{map[string]any{"name": "password", "answer": "hush1", "known": true}}, "argv": []any{"sudo"}}
	payload, err := pyproto.Marshal(pyproto.Tuple{nil, "mitogen.parent", nil, "launch", pyproto.Tuple{int64(2), plan},
		pyproto.Kwargs{{Name: "become_password", Value: "hush2"}, {Name: "api_token", Value: []byte("hush3")}, {Name: "s", Value: pyproto.Secret("hush4")}, {Name: "n", Value: "shown"}}})
	if err != nil {
		t.Fatal(err)
	}
	f := daemon.Frame{Peer: "local:", Out: true, Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: 1, Handle: pyproto.CallFunction, ReplyTo: 1000}, Payload: payload}
	text := frameText(f)
	if strings.Contains(text, "hush") || !strings.Contains(text, "shown") || !strings.Contains(text, "-> local: CALL_FUNCTION dst=1 src=0 auth=0 reply=1000") {
		t.Error(text)
	}
	for _, payload := range []string{"", "\x80", "\x80\x02", "plain", "\x80\x02cos\nsystem\n.", strings.Repeat("x", 5000)} {
		f.Payload = []byte(payload)
		if text := frameText(f); len(text) > maxShown+300 || strings.Count(text, "\n") != 1 {
			t.Errorf("%q", text)
		}
	}
}
