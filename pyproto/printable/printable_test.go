package printable

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestShown(t *testing.T) {
	for _, c := range []struct{ in, line, text string }{
		{"", "", ""},
		{"plain text, é ü 漢字 \u00a0 ~", "plain text, é ü 漢字 \u00a0 ~", "plain text, é ü 漢字 \u00a0 ~"},
		{`C:\new`, `C:\new`, `C:\new`},
		{"a\nb", `a\nb`, "a\n    b"},
		{"a\r\nb\n\n", `a\r\nb\n\n`, "a\n    b"},
		{"a\rb", `a\rb`, `a\rb`},
		{"a\tb", `a\tb`, "a\tb"},
		{"\nmitogend: forged", `\nmitogend: forged`, "\n    mitogend: forged"},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`, `\x1b[31mred\x1b[0m`},
		{"\x1b]0;title\x07", `\x1b]0;title\x07`, `\x1b]0;title\x07`},
		{"\x00\x01\x08\x0b\x0c\x1f\x7f", `\x00\x01\x08\x0b\x0c\x1f\x7f`, `\x00\x01\x08\x0b\x0c\x1f\x7f`},
		{"\u0080\u009b31m\u009f", `\u0080\u009b31m\u009f`, `\u0080\u009b31m\u009f`},
		{"\x9b31m \xff \xc3 \xe2\x80", `\x9b31m \xff \xc3 \xe2\x80`, `\x9b31m \xff \xc3 \xe2\x80`},
		{"\xed\xa0\x80", `\xed\xa0\x80`, `\xed\xa0\x80`}, // a surrogate
		{"\ufffd", "\ufffd", "\ufffd"},
		{"\u202a\u202b\u202c\u202d\u202e", `\u202a\u202b\u202c\u202d\u202e`, `\u202a\u202b\u202c\u202d\u202e`},
		{"\u2066\u2067\u2068\u2069", `\u2066\u2067\u2068\u2069`, `\u2066\u2067\u2068\u2069`},
		{"\u200e\u200f\u061c", `\u200e\u200f\u061c`, `\u200e\u200f\u061c`},
		{"\u2028\u2029\u0085", `\u2028\u2029\u0085`, `\u2028\u2029\u0085`},
		{"\u200b\ufeff\u2060\u00ad", `\u200b\ufeff\u2060\u00ad`, `\u200b\ufeff\u2060\u00ad`},
		{"\U000e0041\U0010ffff", `\U000e0041\U0010ffff`, `\U000e0041\U0010ffff`},
		{"پاس\u200cورڈ 👨\u200d👩", "پاس\u200cورڈ 👨\u200d👩", "پاس\u200cورڈ 👨\u200d👩"},
	} {
		if got := Line(c.in); got != c.line {
			t.Errorf("Line(%q) is %q, not %q", c.in, got, c.line)
		}
		if got, want := Lines(c.in), strings.ReplaceAll(c.text, "\n"+Indent, "\n"); got != want {
			t.Errorf("Lines(%q) is %q, not %q", c.in, got, want)
		}
		if got := Text(c.in); got != c.text {
			t.Errorf("Text(%q) is %q, not %q", c.in, got, c.text)
		}
	}
}

func TestShort(t *testing.T) {
	sixty := strings.Repeat("x", 60)
	for in, want := range map[string]string{
		"": "", sixty: sixty, sixty + "x": sixty[:57] + "...",
		// It cuts no character.
		sixty[:56] + "\u20ac\u20ac": sixty[:56] + "...", strings.Repeat("\xff", 70): strings.Repeat("\xff", 57) + "...",
	} {
		if got := Short(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestColored(t *testing.T) {
	for in, want := range map[string]string{
		"plain\tline":                   "plain\tline",
		"\x1b[1;31mred\x1b[m":           "\x1b[1;31mred\x1b[m\x1b[0m",
		"\x1b[38:2:1:2:3mx":             "\x1b[38:2:1:2:3mx\x1b[0m",
		"\x1b[1Aweb2| forged":           `\x1b[1Aweb2| forged`,
		"50%\rweb2| forged":             `50%\rweb2| forged`,
		"\x1b[2J\x1b[H\x1b]0;t\x07":     `\x1b[2J\x1b[H\x1b]0;t\x07`,
		"\x1b[31":                       `\x1b[31`,
		"\x1b[?25m\x1b[>4m":             `\x1b[?25m\x1b[>4m`,
		"\u009b31m \u202eabc \xff \x08": `\u009b31m \u202eabc \xff \x08`,
	} {
		if got := Colored(in); got != want {
			t.Errorf("Colored(%q) is %q, not %q", in, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	for in, want := range map[string]string{
		"{\"a\": [1, \"é\"]}\n":         "{\"a\": [1, \"é\"]}\n",
		"\"\u009b31m\x7f\"":             `"\u009b31m\u007f"`,
		"{\"\u202e\":\"\u2028\ufeff\"}": `{"\u202e":"\u2028\ufeff"}`,
		"\"\U000e0041\U0010ffff\"":      `"\udb40\udc41\udbff\udfff"`,
		"\"\u200d\"":                    "\"\u200d\"",
		`"\u001b\\"`:                    `"\u001b\\"`,
	} {
		got := JSON([]byte(in))
		if string(got) != want {
			t.Errorf("JSON(%q) is %q, not %q", in, got, want)
		}
		sameJSON(t, []byte(in), got)
	}
}

func sameJSON(t *testing.T, a, b []byte) {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if !reflect.DeepEqual(x, y) {
		t.Errorf("%q means %v, and %q means %v", a, x, b, y)
	}
}

// harmless tells what in s a terminal could obey.
func harmless(t *testing.T, s, allowed string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Fatalf("%q is not UTF-8", s)
	}
	for _, r := range s {
		bidi := r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x61c
		if (r < 0x20 || r >= 0x7f && r < 0xa0 || bidi || r == 0x2028 || r == 0x2029) && !strings.ContainsRune(allowed, r) {
			t.Fatalf("%q holds %U", s, r)
		}
	}
}

func FuzzShown(f *testing.F) {
	f.Add("a\x1b[31m\u009b\u202e\n\r\t\xff\x7f\u2069")
	f.Add("\r\n\r\nmitogend: x\n")
	f.Add("\x1b[0;1;m\x1b[0;1;K\x1b[")
	f.Fuzz(func(t *testing.T, s string) {
		line := Line(s)
		harmless(t, line, "")
		if Line(line) != line {
			t.Errorf("Line changes %q again", line)
		}
		text := Text(s)
		harmless(t, text, "\n\t")
		for i, l := range strings.Split(text, "\n") {
			if i > 0 && !strings.HasPrefix(l, Indent) {
				t.Errorf("%q has a line that is not indented", text)
			}
		}
		colored := Colored(s)
		harmless(t, colored, "\t\x1b")
		for rest := colored; ; {
			_, after, found := strings.Cut(rest, "\x1b")
			if !found {
				break
			}
			if colorLength("\x1b"+after) == 0 {
				t.Errorf("%q has a sequence that is no colour", colored)
			}
			rest = after
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(map[string]any{s: []string{s}}); err != nil {
			t.Skip(err)
		}
		shown := JSON(b.Bytes())
		harmless(t, string(shown), "\n")
		sameJSON(t, b.Bytes(), shown)
	})
}

// Texts are cut between characters.
func TestCut(t *testing.T) {
	for _, x := range []struct {
		text string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc... (1 bytes more)"}, {"aé", 2, "a... (2 bytes more)"}, {"\x80\x80\x80\x80\x80\x80", 5, "\x80... (5 bytes more)"}, {"é", 1, "... (2 bytes more)"}} {
		if got := Cut(x.text, x.n); got != x.want {
			t.Errorf("%q, %d: got %q", x.text, x.n, got)
		}
	}
}
