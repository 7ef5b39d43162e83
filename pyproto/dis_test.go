package pyproto

import (
	"strings"
	"testing"
)

func TestDisassemble(t *testing.T) {
	pickle, err := Marshal(Tuple{
		nil, true, int64(-2), int64(300), int64(70000), int64(1) << 40, bigInt("9223372036854775808"), 1.5, "caf\u00e9", []byte("\xff"),
		strings.Repeat("\u00e9", 100), Secret("hunter2"), "shown", Kwargs{{"password", Secret("hunter3")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := Disassemble(pickle)
	for _, want := range []string{
		"    0: PROTO 2\n", "    2: MARK\n", "NONE\n", "NEWTRUE\n", "BININT -2\n", "BININT2 300\n", "BININT 70000\n", "LONG1 1099511627776\n",
		"LONG1 9 bytes\n", "BINFLOAT 1.5\n", `BINUNICODE "café"` + "\n", `SHORT_BINSTRING b"\xff"` + "\n",
		`BINUNICODE "` + strings.Repeat("é", 30) + `"... 200 bytes` + "\n", "GLOBAL mitogen.core Secret\n", "BINUNICODE [secret]\n",
		`BINUNICODE "shown"` + "\n", `BINUNICODE "password"` + "\n", "TUPLE\n", "STOP\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, secret := range []string{
		string(pickle),
		"cmitogen.core\nSecret\nVhunter2\n\x85R.",
		"\x80\x04\x8c\x0cmitogen.core\x94\x8c\x06Secret\x94\x93\x94\x8c\x07hunter2\x94\x85\x94R\x94.",
	} {
		if out := Disassemble([]byte(secret)); strings.Contains(out, "hunter") || !strings.Contains(out, secretMask) {
			t.Errorf("a secret shows:\n%s", out)
		}
	}
	for data, want := range map[string]string{
		"\x80\x02N.\x80\x02N.": "    3: STOP\n    4: PROTO 2\n",
		"N\xfe":                "    1: 0xfe is no opcode\n",
		"X\x05\x00\x00\x00abc": "    0: BINUNICODE, cut off\n",
		"X\x05":                "    0: BINUNICODE, cut off\n",
		"K":                    "    0: BININT1, cut off\n",
		"cos":                  "    0: GLOBAL, cut off\n",
		"cos\nsystem":          "    0: GLOBAL, cut off\n",
		"h\x01j\x02\x00\x00\x00\x95\x03\x00\x00\x00\x00\x00\x00\x00I5\nS'a'\n": "    0: BINGET 1\n    2: LONG_BINGET 2\n    7: FRAME 3\n   16: INT 5\n   19: STRING b\"'a'\"\n",
	} {
		if out := Disassemble([]byte(data)); !strings.Contains(out, want) {
			t.Errorf("%q: got\n%s, want\n%s", data, out, want)
		}
	}
}

func TestHeaderString(t *testing.T) {
	for want, h := range map[string]Header{
		"MGC 5->0 auth 5 GET_MODULE, 2 bytes":         {Enc: EncMGC, Dst: 0, Src: 5, Auth: 5, Handle: GetModule, Length: 2},
		"MGC 0->5 auth 0 1001 dead, 8 bytes":          {Enc: EncMGC, Dst: 5, Handle: 1001, ReplyTo: IsDead, Length: 8},
		"PKL 0->5 auth 0 1001 reply_to 1002, 2 bytes": {Enc: EncPKL, Dst: 5, Handle: 1001, ReplyTo: 1002, Length: 2},
		"BIN 0->5 auth 0 1001, 3 bytes":               {Enc: EncBIN, Dst: 5, Handle: 1001, Length: 3},
		"MGC 0->0 auth 0 SHUTDOWN, 0 bytes":           {Enc: EncMGC, Handle: Shutdown},
	} {
		if got := h.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if s := Enc(7).String(); s != "Enc(0x0007)" {
		t.Errorf("got %s", s)
	}
}
