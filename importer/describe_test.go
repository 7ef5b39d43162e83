package importer

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	im := onPath(t, map[string]string{
		"p/__init__.py": "", "p/m.py": "import os, p.n\nif sys.version_info < (3,):\n    import old\ndef f():\n    from . import n\ntry:\n    __import__('third')\nexcept ImportError:\n    from p import (n,\n      gone)\n",
		"p/n.py": "", "old.py": "", "fast.abi3.so": "",
	})
	ctx := context.Background()
	d, err := im.Describe(ctx, "p.m", py3)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Served || d.Kind != KindModule || !strings.HasSuffix(d.Path, "/p/m.py") || d.Size == 0 || d.Compressed == 0 || d.ClosureBytes < d.Compressed {
		t.Errorf("%+v", d)
	}
	equal(t, "closure", d.Closure, []string{"p", "p.m", "p.n"})
	equal(t, "related", d.Related, []string{"p.n"})
	text, err := json.Marshal(d.Imports)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"line":1,"text":"import os"},{"line":1,"text":"import p.n","loads":["p.n"]},` +
		`{"line":3,"text":"import old","when":"if sys.version_info \u003c (3,)"},{"line":5,"text":"from . import n","when":"in a function"},` +
		`{"line":7,"text":"import_module('third')","when":"in a try"},{"line":9,"text":"from p import n, gone","when":"when an import fails","loads":["p.n"]}]`
	if string(text) != want {
		t.Errorf("imports\n got %s\nwant %s", text, want)
	}
	if d, err = im.Describe(ctx, "p", py3); err != nil || !d.Served || strings.Join(d.Modules, " ") != "m n" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err = im.Describe(ctx, "fast", py3); err != nil || d.Served || !strings.Contains(d.Reason, "extension module") {
		t.Errorf("%+v, %v", d, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := im.Describe(cancelled, "p", py3); err == nil {
		t.Error("a context that has ended")
	}
}
