package daemon

import (
	"embed"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mitogend/importer"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

//go:embed all:testdata/lib
var embedded embed.FS

// TestEmbedded: modules of this program's own are to a child what those of a directory are, under names of their own.
func TestEmbedded(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		results := map[string]string{}
		for name, opt := range map[string]Options{
			"embed:lib":    {Modules: []importer.Tree{{FS: embedded, Root: "testdata/lib", Name: "lib"}}},
			"testdata/lib": {Path: []string{"testdata/lib"}},
		} {
			c := connect(t, newDaemon(t, opt), target(py))
			ctx := t.Context()
			if text, err := Call[string](ctx, c, "report:greet", "you"); text != "Hello, you!" || err != nil {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			var raised *pyproto.CallError
			line := name + "/report/__init__.py\", line 12, in fail\n    raise ValueError"
			if err := c.Call(ctx, "report:fail").Err(); !errors.As(err, &raised) || !strings.Contains(raised.Text, line) {
				t.Errorf("%s: %v", name, err)
			}
			if c.Version().Major == 2 {
				continue // it has no namespace packages
			}
			here, err := Call[[]any](ctx, c, "space.inner:here")
			if err != nil {
				t.Fatal(err)
			}
			if file := here[0].(string); !strings.HasSuffix(file, name+"/space/inner.py") {
				t.Errorf("%s: %s", name, file)
			}
			results[name] = fmt.Sprint(here[1:])
			if c.Version().Minor >= 9 {
				if text, err := Call[string](ctx, c, "space.inner:resources"); !strings.HasPrefix(text, "Hello") || err != nil {
					t.Errorf("%s: %q, %v", name, text, err)
				}
			}
		}
		want := "[23 [lines] false [__init__.py data lines.py]]"
		if py.Version != "2.7" && results["embed:lib"] != want || results["embed:lib"] != results["testdata/lib"] {
			t.Errorf("%q", results)
		}
	})
}
