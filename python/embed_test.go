package python

import (
	"bytes"
	"compress/zlib"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"mitogend/internal/nothere"
)

func TestStubIsSafeInAnyShell(t *testing.T) {
	if i := strings.IndexAny(Stub(), "'\n$`!\\"); i >= 0 {
		t.Errorf("Stub() has %q", Stub()[i])
	}
	if n := len(Stub()); n > 1200 {
		t.Errorf("Stub() is %d bytes", n)
	}
}

func TestPayloadSize(t *testing.T) {
	for _, version := range []uint32{0x02071200, 0x030b0700} {
		p, err := Boot(version, nil).Preamble(map[string]any{"context_id": 1, "parent_ids": []int{0}})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%x: stub %d bytes, preamble %d bytes", version, len(Stub()), len(p))
		if len(p) > 8000 {
			t.Errorf("%x: the preamble is %d bytes; at most 8000 are wanted", version, len(p))
		}
	}
}

// What the first interpreter here gets is the same, but not compressed.
func TestBootHere(t *testing.T) {
	config := map[string]any{"context_id": 1}
	for _, code := range [][]byte{nil, []byte(strings.Repeat("code", 30000))} {
		var texts [2][]byte
		for i, boot := range []func(uint32, []byte) *Booter{Boot, BootHere} {
			here := i == 1
			p, err := boot(0x030b0700, code).Preamble(config)
			if err != nil {
				t.Fatal(err)
			}
			size, stream, _ := bytes.Cut(p, []byte("\n"))
			if want := strconv.Itoa(len(stream)); string(size) != want {
				t.Errorf("the size is %s, want %s", size, want)
			}
			r, err := zlib.NewReader(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			if texts[i], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			if compressed := len(stream) < len(texts[i])/2; compressed == here {
				t.Errorf("here %v: %d bytes for %d", here, len(stream), len(texts[i]))
			}
		}
		if !bytes.Equal(texts[0], texts[1]) {
			t.Errorf("with %d bytes of code, the texts differ", len(code))
		}
	}
}

func TestShrinkKeepsLines(t *testing.T) {
	for name, source := range map[string]string{"core.py": core, "first_stage.py": firstStage} {
		if a, b := strings.Count(source, "\n"), strings.Count(Shrink(source), "\n"); a != b {
			t.Errorf("%s: %d lines became %d", name, a, b)
		}
	}
	got := Shrink("def f(self,\n      b):  # why\n    \"\"\"Doc.\n\n    \"\"\"\n    return '# , self' + \"a'#\\\" = \"  # end\nclass E(X):\n    \"\"\"Doc.\"\"\"\n")
	want := "def f(S,\nb):\n\n\n\n return '# , self'+\"a'#\\\" = \"\nclass E(X):\n 0\n"
	if got != want {
		t.Errorf("Shrink = %q, want %q", got, want)
	}
}

func TestGeneration(t *testing.T) {
	got := generation("a\n    # Only 2.x.\nb\n# Only 3.x.\nc\n# For both.\nd", 3)
	if want := "a\n\n\n# Only 3.x.\nc\n# For both.\nd"; got != want {
		t.Errorf("generation = %q, want %q", got, want)
	}
}

func TestLiteral(t *testing.T) {
	got, err := Literal(map[string]any{"b": []any{nil, true, 1, "é\"\n"}, "a": []int{2}, "c": map[string]any{}})
	if want := `{"a":[2,],"b":[None,True,1,u"\u00e9\"\n",],"c":{},}`; err != nil || got != want {
		t.Errorf("Literal = %s, %v, want %s", got, err, want)
	}
	if _, err := Literal(1.5); err == nil {
		t.Error("a float has no literal, but Literal gave no error")
	}
}

// TestNothingIsImportedFromHere: what runs python -c by itself begins as the stub does.
func TestNothingIsImportedFromHere(t *testing.T) {
	line := strings.TrimSuffix(nothere.Line, ";")
	for _, name := range []string{"unpack.py", "../bootstrap/supply.sh"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// In Python's own files, as it is written there.
		if !strings.Contains(strings.NewReplacer(" = ", "=", ", ", ",").Replace(string(text)), line) {
			t.Errorf("%s lacks %s", name, line)
		}
	}
}
