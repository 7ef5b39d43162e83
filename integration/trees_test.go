package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/integration/pythons"
)

// treeTime is how long a tree of children may take for all its imports. It finds hangs.
const treeTime = 5 * time.Minute

const treeImports = `
import sys, threading
import treepackage
try:
    # The first replaces itself in sys.modules, and a second thread may be given what was there before (3.13.0). dataclasses
    # takes the second from sys.modules while another thread still imports it. Both are so from a disk as well.
    import collections.abc
    import typing
except ImportError:
    pass

def load(names):
    """Import these from a few threads at once; how many modules came from the master."""
    errors = []
    def body(order):
        try:
            for name in order:
                __import__(name)
        except BaseException as e:
            errors.append('%s: %s' % (name, e))
    # On 2.x one lock for all imports has everybody wait for everybody anyway.
    threads = [threading.Thread(target=body, args=(names[i:] + names[:i],)) for i in range(len(names))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise ImportError('; '.join(errors))
    assert treepackage.value() == 42
    return len([m for m in sys.modules.values() if (getattr(m, '__file__', None) or '').startswith('/master:')])
`

// writeTreePackage makes a package for 2.7 and 3.x with a cycle, an import that fails, and many modules.
func writeTreePackage(t *testing.T, dir string) {
	Write(t, dir, "treeimports.py", treeImports)
	Write(t, dir, "treepackage/__init__.py", "from __future__ import absolute_import\nfrom treepackage.a import value\n"+
		"try:\n    import treepackage.speedups\nexcept ImportError:\n    pass\n")
	Write(t, dir, "treepackage/a.py", "from __future__ import absolute_import\nimport treepackage.b\ndef value():\n    return treepackage.b.VALUE\n")
	Write(t, dir, "treepackage/b.py", "from __future__ import absolute_import\nimport treepackage.a\nVALUE = 42\n")
	var all strings.Builder
	for i := range 30 {
		Write(t, dir, fmt.Sprintf("treepackage/sub/m%d.py", i), "import sys\n")
		fmt.Fprintf(&all, "import treepackage.sub.m%d\n", i)
	}
	Write(t, dir, "treepackage/sub/__init__.py", "")
	Write(t, dir, "treepackage/everything.py", all.String())
}

// treePath is a path with large packages, and what each interpreter can import from it.
func treePath(t *testing.T) (path string, can func(Python) []any) {
	path = debian(t, "jinja2", "markupsafe", "sqlalchemy", "django", "asgiref", "sqlparse", "pytz")
	writeTreePackage(t, path)
	dir := t.TempDir()
	big := []string{"jinja2", "sqlalchemy.orm", "django.db.models"}
	scripts := map[string]string{}
	for _, name := range big {
		scripts[name] = Write(t, dir, "check_"+name+".py", "import "+name+"\n")
	}
	var mu sync.Mutex
	known := map[string][]any{}
	return path, func(p Python) []any {
		mu.Lock()
		defer mu.Unlock()
		names, ok := known[p.Version]
		if !ok {
			names = []any{"treepackage.everything"}
			for _, name := range big {
				if p.Local(t, dir, path, scripts[name]).Status == 0 {
					names = append(names, name)
				}
			}
			known[p.Version] = names
		}
		return names
	}
}

// requests counts questions to the daemon, by connection and module.
type requests struct {
	mu    sync.Mutex
	asked map[string]int
}

func (r *requests) observe(e importer.Event) {
	if e.What != importer.Answered && e.What != importer.Refused && e.What != importer.Duplicate {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked == nil {
		r.asked = map[string]int{}
	}
	r.asked[e.Name]++
}

// check fails unless each module was asked for once.
func (r *requests) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.asked)) {
		if n := r.asked[name]; n > 1 {
			t.Errorf("%s was asked for %d times on the first link", name, n)
		}
	}
	t.Logf("%d modules were asked for on the first link", len(r.asked))
}

// checkLinks checks the same for the links that lead down from a child.
func checkLinks(ctx context.Context, t *testing.T, hop *daemon.Child) {
	t.Helper()
	var links map[uint32]struct {
		Requests int `py:"requests"`
		Repeats  int `py:"repeats"`
		Modules  int `py:"modules"`
	}
	if err := hop.Call(ctx, "mitogen.parent:stats").Decode(&links); err != nil {
		t.Error(err)
	}
	for id, link := range links {
		if link.Repeats > 0 {
			t.Errorf("context %d has asked %d times for what it had asked for", id, link.Repeats)
		}
		if link.Modules == 0 {
			t.Errorf("context %d was sent nothing", id)
		}
	}
}

func treeDaemon(t *testing.T, path string) *daemon.Daemon {
	d, err := daemon.New(daemon.Options{Path: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := d.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

// loadAll has all children import at the same time.
func loadAll(ctx context.Context, t *testing.T, children map[*daemon.Child]Python, can func(Python) []any) {
	var wg sync.WaitGroup
	for c, p := range children {
		names := can(p)
		wg.Go(func() {
			var served int
			err := c.Call(ctx, "treeimports:load", names).Decode(&served)
			if want := 35 + 20*(len(names)-1); err != nil || served < want {
				t.Errorf("%s: %d modules came from the daemon, %d are the least: %v", p.Version, served, want, err)
			}
		})
	}
	wg.Wait()
}

func everyPython(t *testing.T) (list []Python) {
	for _, p := range pythons.All(t) {
		list = append(list, clean(t, p))
	}
	return list
}

// mixed gives n interpreters, Python 2 and 3 in turn, with every version among them.
func mixed(t *testing.T, n int) (list []Python) {
	all := everyPython(t)
	old := slices.DeleteFunc(slices.Clone(all), func(p Python) bool { return !strings.HasPrefix(p.Version, "2.") })
	young := slices.DeleteFunc(slices.Clone(all), func(p Python) bool { return strings.HasPrefix(p.Version, "2.") })
	for i := range n {
		if i%2 == 0 && len(old) > 0 {
			list = append(list, old[i/2%len(old)])
		} else {
			list = append(list, young[(i/2*3)%len(young)])
		}
	}
	return list
}

func TestDeepTreeImports(t *testing.T) {
	path, can := treePath(t)
	list := mixed(t, 10)
	ctx, cancel := context.WithTimeout(context.Background(), treeTime)
	defer cancel()
	d := treeDaemon(t, path)
	var asked requests
	targets := make([]string, len(list))
	for i, p := range list {
		targets[i] = p.Target()
	}
	leaf, err := d.Connect(ctx, strings.Join(targets, "+"), daemon.ConnectOptions{OnImport: asked.observe})
	if err != nil {
		t.Fatal(err)
	}
	tree := map[*daemon.Child]Python{}
	for c, i := leaf, len(list)-1; c != nil; c, i = c.Via(), i-1 {
		tree[c] = list[i]
	}
	start := time.Now()
	loadAll(ctx, t, tree, can)
	t.Logf("ten levels imported in %v", time.Since(start))
	asked.check(t)
	for c := leaf.Via(); c != nil; c = c.Via() {
		checkLinks(ctx, t, c)
	}
	if err := leaf.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestWideTreeImports(t *testing.T) {
	width := 50
	if testing.Short() {
		width = 10
	}
	path, can := treePath(t)
	list := mixed(t, width)
	all := everyPython(t)
	for _, hop := range []Python{all[0], all[len(all)-1]} {
		t.Run("under "+hop.Version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), treeTime)
			defer cancel()
			d := treeDaemon(t, path)
			var asked requests
			start := time.Now()
			var mu sync.Mutex
			tree := map[*daemon.Child]Python{}
			var wg sync.WaitGroup
			for i, p := range list {
				var opt daemon.ConnectOptions
				if i == 0 {
					opt.OnImport = asked.observe
				}
				wg.Go(func() {
					c, err := d.Connect(ctx, hop.Target()+"+"+p.Target(), opt)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					tree[c] = p
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			t.Logf("%d children connected in %v", width, time.Since(start))
			start = time.Now()
			loadAll(ctx, t, tree, can)
			t.Logf("and imported in %v", time.Since(start))
			asked.check(t)
			var leaf *daemon.Child
			for leaf = range tree {
			}
			checkLinks(ctx, t, leaf.Via())
			start = time.Now()
			if err := d.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			t.Logf("and ended in %v", time.Since(start))
		})
	}
}
