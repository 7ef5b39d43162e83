package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/pyproto"
)

// TestUnpackedAtOnce: what a child asks for in one question is bounded before it is read.
func TestUnpackedAtOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pkg"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"__init__.py": 1, "small": 10000, "large": 2 * maxUnpackedBytes} {
		if err := os.WriteFile(filepath.Join(dir, "pkg", name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := watched(t, Options{Path: []string{dir}})
	evil := newPeer(t, d)
	ask := func(name string, times int) error {
		q := pyproto.Tuple{"files", "pkg"}
		for range times {
			q = append(q, name)
		}
		payload, err := pyproto.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.resource(evil.c, evil.id, payload)
		return err
	}
	for _, row := range []struct {
		name  string
		times int
		want  string
	}{
		{"small", 1, ""}, {"small", 100, ""}, {"large", 1, ""},
		{"small", 106, "at once"}, {"small", maxUnpacked + 1, "at once"}, {"large", 2, "at once"}, {"__init__.py", maxUnpacked, ""},
	} {
		got := "nil"
		if err := ask(row.name, row.times); err != nil {
			got = err.Error()
		}
		if row.want == "" && got != "nil" || !strings.Contains(got, row.want) {
			t.Errorf("%d times %s: %s", row.times, row.name, got)
		}
	}
	long, _ := pyproto.Marshal(pyproto.Tuple{strings.Repeat("x", 60000)})
	if _, err := d.resource(evil.c, evil.id, long); err == nil || len(fmt.Sprint(err)) > 300 {
		t.Errorf("the reason of a refusal has %d bytes", len(fmt.Sprint(err)))
	}
}
