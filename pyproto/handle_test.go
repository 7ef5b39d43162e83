package pyproto

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// TestHandlesAreOneTable: docs/protocol.md has a row for each fixed handle, and the runtime's names have the same
// numbers.
func TestHandlesAreOneTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]Handle{}
	for h := Handle(0); h < FirstDynamic; h++ {
		name := h.String()
		if name == strconv.Itoa(int(h)) {
			continue
		}
		numbers[name] = h
		row := fmt.Appendf(nil, "\n| %d | %s |", h, name)
		if h != StubCallService && h != IsDead && !bytes.Contains(doc, row) {
			t.Errorf("docs/protocol.md has no row for %d, %s", h, name)
		}
	}
	files, err := filepath.Glob("../python/*.py")
	tests, _ := filepath.Glob("../python/tests/*.py")
	if err != nil || len(files) == 0 || len(tests) == 0 {
		t.Fatalf("%d files and %d tests, %v", len(files), len(tests), err)
	}
	assigned := regexp.MustCompile(`(?m)^([A-Z_]+) = (\d+)$`)
	seen := 0
	for _, file := range append(files, tests...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range assigned.FindAllSubmatch(text, -1) {
			want, ok := numbers[string(m[1])]
			if !ok {
				continue
			}
			seen++
			if string(m[2]) != strconv.Itoa(int(want)) {
				t.Errorf("%s: %s is %s, want %d", file, m[1], m[2], want)
			}
		}
	}
	if seen < 15 {
		t.Errorf("%d names of handles in the runtime", seen)
	}
}
