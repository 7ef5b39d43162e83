package daemon

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// deadline is for what must not hang.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// waitUntil polls until the condition holds.
func waitUntil(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

// imports records what a child was served.
type imports struct {
	mu     sync.Mutex
	events []importer.Event
}

func (r *imports) observe(e importer.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// names lists the modules of which one of these things was done.
func (r *imports) names(what ...importer.What) (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if slices.Contains(what, e.What) {
			names = append(names, e.Name)
		}
	}
	return names
}

// roundTrips are the requests that a child had to wait for.
func (r *imports) roundTrips() []string { return r.names(importer.Answered, importer.Refused) }

// importing connects a child that records its imports.
func importing(t testing.TB, d *Daemon, py pythons.Python, opt ConnectOptions) (*Child, *imports) {
	t.Helper()
	r := &imports{}
	opt.OnImport = r.observe
	return connect(t, d, target(py), opt), r
}

// run executes Python in the child and gives its variable `result`; a module of that name must be on the path.
func run(t testing.TB, c *Child, source string, result any) {
	t.Helper()
	if err := c.Call(deadline(t), "import_probe:run", source).Decode(result); err != nil {
		t.Fatalf("%s: %v", c.Name(), err)
	}
}

const probe = "def run(source):\n    scope = {}\n    exec(source, scope)\n    return scope['result']\n"

// data is a package with everything that a package can have.
var data = map[string]string{
	"import_probe.py":                     probe,
	"full/__init__.py":                    "",
	"full/mod.py":                         "x = 1",
	"full/sub/__init__.py":                "",
	"full/sub/deep.py":                    "",
	"full/sub/logo.bin":                   "\x00\xff\r\n",
	"full/text.txt":                       "h\u00e9llo\n",
	"full/data/a.txt":                     "a",
	"full/data/more/b.txt":                "b",
	"space/part.txt":                      "in a namespace",
	"space/mod.py":                        "",
	"single.py":                           "",
	"full-1.2.dist-info/METADATA":         "Metadata-Version: 2.1\nName: full\nVersion: 1.2.post1\nSummary: all\nRequires-Dist: other (>=2)\n\nLong.\n",
	"full-1.2.dist-info/entry_points.txt": "[some.plugins]\nfirst = full.mod:x\n",
	"full-1.2.dist-info/RECORD":           "full/mod.py,,\nfull/text.txt,,\nsingle.py,,\nfull-1.2.dist-info/METADATA,,\nfull-1.2.dist-info/licenses/LICENSE,,\nabsent.py,,\n",
	"full-1.2.dist-info/licenses/LICENSE": "as is",
	"full-1.2.dist-info/top_level.txt":    "full\n",
	"Old_Style.egg-info/PKG-INFO":         "Metadata-Version: 1.0\nName: Old.Style\nVersion: 3\n",
}

// resourceProbe gives what the child finds: a dict that must be the same for served packages and for packages on its
// own disk.
const resourceProbe = `
import sys, pkgutil
import full, full.sub
r = result = {}
r['iter'] = sorted((name, is_pkg) for _, name, is_pkg in pkgutil.iter_modules(full.__path__, 'p.'))
r['walk'] = sorted(m[1] for m in pkgutil.walk_packages(full.__path__, 'full.'))
r['get_data'] = pkgutil.get_data('full', 'text.txt'), pkgutil.get_data('full.sub', 'logo.bin'), pkgutil.get_data('full', 'data/a.txt')
def error(fn, *args):
    try:
        fn(*args)
    except Exception as e:
        return isinstance(e, (IOError, OSError)) and e.errno or type(e).__name__
    return 'no error'
r['absent'] = error(pkgutil.get_data, 'full', 'absent'), error(pkgutil.get_data, 'full', 'absent/deep')
if sys.version_info >= (3, 7):
    import warnings
    warnings.simplefilter('ignore')
    import importlib.resources as ir
    r['text'] = ir.read_text('full', 'text.txt', encoding='utf-8'), ir.read_binary('full.sub', 'logo.bin')
    with ir.open_text('full', 'text.txt', encoding='utf-8') as f:
        r['open_text'] = f.read()
    with ir.open_binary(full.sub, 'logo.bin') as f:
        r['open_binary'] = f.read()
    r['is_resource'] = [ir.is_resource('full', n) for n in ('text.txt', 'data', 'sub', 'absent', 'mod.py')]
    r['contents'] = sorted(n for n in ir.contents('full') if n != '__pycache__')
    with ir.path('full', 'text.txt') as p:
        r['path'] = p.read_bytes(), p.exists()
    r['absent2'] = error(ir.read_text, 'full', 'absent')
if sys.version_info >= (3, 9):
    root = ir.files('full')
    for again in range(2):
        root = ir.files('full')
        r['files%d' % again] = [
            sorted(p.name for p in root.iterdir() if p.name != '__pycache__'), root.joinpath('text.txt').read_text(encoding='utf-8'),
            (root / 'data' / 'more' / 'b.txt').read_bytes(), (root / 'data').is_dir(), (root / 'text.txt').is_file(),
            (root / 'absent').is_file(), (root / 'absent').is_dir(), (root / 'data').is_file(),
            sorted(p.name for p in (root / 'data').iterdir()), (root / 'data' / 'a.txt').name]
        with (root / 'data' / 'a.txt').open() as f:
            r['files%d' % again].append(f.read())
        with ir.as_file(root / 'data' / 'a.txt') as p:
            r['files%d' % again].append(p.read_text())
    r['joined'] = error((root / 'absent').read_bytes)
if sys.version_info >= (3, 10):
    r['by name'] = [sorted(p.name for p in ir.files(n).iterdir()) for n in ('full.data', 'full.data.more')], error(ir.files, 'full.absent')
    import space
    r['space'] = ir.files('space').joinpath('part.txt').read_text()
`

const metadataProbe = `
import importlib.metadata as m
d = m.distribution('full')
eps = m.entry_points()
eps = eps.select(group='some.plugins') if hasattr(eps, 'select') else eps['some.plugins']
try:
    m.version('absent-thing')
    absent = None
except m.PackageNotFoundError:
    absent = 'PackageNotFoundError'
import pathlib
result = {
    'version': m.version('full'), 'normal': m.version('FULL'), 'old': m.version('old-style'), 'requires': m.requires('full'),
    'summary': m.metadata('full')['Summary'], 'points': [(e.name, e.value) for e in eps], 'load': [e.load() for e in eps],
    'absent': absent, 'all': sorted(x.metadata['Name'] for x in m.distributions() if x.metadata['Name'] in ('full', 'Old.Style')),
    'files': [str(f) for f in d.files], 'top': d.read_text('top_level.txt'), 'none': d.read_text('no-such.txt'),
    'contents': [(str(f), f.locate().exists(), f.locate().exists() and f.read_text(), f.locate().exists() and f.read_binary()) for f in d.files],
    'license': d.read_text('licenses/LICENSE'), 'locate': str(d.locate_file('full/mod.py')).endswith('full/mod.py'),
}
`

// TestResources: pkgutil, importlib.resources and importlib.metadata see served packages as they see the same
// packages on the child's own disk.
func TestResources(t *testing.T) {
	dir := writeFiles(t, data)
	d := newDaemon(t, Options{Path: []string{dir}})
	own := writeFiles(t, map[string]string{"import_probe.py": probe})
	bare := newDaemon(t, Options{Path: []string{own}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		served, r := importing(t, d, py, ConnectOptions{})
		local, _ := importing(t, bare, py, ConnectOptions{Env: []string{"PYTHONPATH=" + dir, "PYTHONDONTWRITEBYTECODE=1"}})
		defer served.Close(deadline(t))
		defer local.Close(deadline(t))
		probes := []string{resourceProbe}
		if !slices.Contains([]string{"2.7", "3.6", "3.7"}, py.Version) {
			probes = append(probes, metadataProbe)
		}
		for _, source := range probes {
			var got, want map[string]any
			run(t, local, source, &want)
			run(t, served, source, &got)
			for key := range want {
				if a, b := fmt.Sprintf("%q", got[key]), fmt.Sprintf("%q", want[key]); a != b {
					t.Errorf("%s: served\n%s, on disk\n%s", key, a, b)
				}
			}
			if len(got) != len(want) || len(want) == 0 {
				t.Errorf("%d results, want %d", len(got), len(want))
			}
		}
		asked := r.roundTrips()
		slices.Sort(asked)
		for i, name := range asked {
			if i > 0 && asked[i-1] == name {
				t.Errorf("%s was asked for twice", name)
			}
		}
		if !slices.Contains(asked, "full") {
			t.Errorf("full was not served: %v", asked)
		}
	})
}

// TestFilesOfPortions: each directory of a namespace package has its own files, by paths; the first one has those of all.
func TestFilesOfPortions(t *testing.T) {
	a := writeFiles(t, map[string]string{"import_probe.py": probe, "co/first.py": "", "co/t.html": "a", "co/only_a.html": "a"})
	b := writeFiles(t, map[string]string{"co/second.py": "", "co/t.html": "b", "co/only_b.html": "b", "co/plug/one.py": ""})
	d := newDaemon(t, Options{Path: []string{a, b}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		if py.Version == "2.7" {
			return
		}
		c, _ := importing(t, d, py, ConnectOptions{})
		defer c.Close(deadline(t))
		var got []string
		run(t, c, `
import mitogen.files, co, co.first, co.second, os, pkgutil
result = []
for here in os.path.dirname(co.first.__file__), os.path.dirname(co.second.__file__), co.__path__[0]:
    for name in 't.html', 'only_a.html', 'only_b.html':
        try:
            with open(here + '/' + name) as f:
                result.append(f.read())
        except FileNotFoundError:
            result.append('-')
    result.append(' '.join(sorted(os.listdir(here))))
    result.append(' '.join(m.name for m in pkgutil.iter_modules([here])))
`, &got)
		all := []string{"a", "a", "b", "first.py only_a.html only_b.html plug second.py t.html", "first second"}
		want := slices.Concat(all, []string{"b", "-", "b", "only_b.html plug second.py t.html", "second"}, all)
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestRuntimeHasNoSuchModule(t *testing.T) {
	stock := "/usr/lib/python3/dist-packages"
	d := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"import_probe.py": probe, "mitogen/__init__.py": "", "mitogen/select.py": ""}), stock}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c, _ := importing(t, d, py, ConnectOptions{})
		defer c.Close(deadline(t))
		for _, name := range []string{"mitogen.select", "mitogen.utils", "mitogen.service"} {
			var text string
			run(t, c, "try:\n    import "+name+"\nexcept ImportError as e:\n    result = str(e)", &text)
			if !strings.Contains(text, name) || !strings.Contains(text, "--runtime mitogen") {
				t.Errorf("import %s: %q", name, text)
			}
		}
	})
}

func TestPreferHere(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"import_probe.py": probe, "both.py": "x = 'here'", "pair/__init__.py": "x = 'here'", "colorsys.py": "x = 'here'", "json.py": "x = 'here'",
	})
	there := writeFiles(t, map[string]string{"both.py": "x = 'target'", "pair/__init__.py": "x = 'target'", "pair/own.py": "", "only.py": "x = 'target'"})
	d := newDaemon(t, Options{Path: []string{dir}})
	source := "import both, pair, only, colorsys, json\nresult = [u'' + both.x, u'' + pair.x, u'' + only.x, hasattr(colorsys, 'x') or hasattr(json, 'x')]\n" +
		"try:\n    import pair.own\nexcept ImportError:\n    result.append(u'none')"
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for prefer, want := range map[bool]string{true: "[here here target false none]", false: "[target target target false]"} {
			c, _ := importing(t, d, py, ConnectOptions{PreferHere: prefer, Env: []string{"PYTHONPATH=" + there, "PYTHONDONTWRITEBYTECODE=1"}})
			var got []any
			run(t, c, source, &got)
			if fmt.Sprint(got) != want {
				t.Errorf("prefer here is %v: %v, want %s", prefer, got, want)
			}
			c.Close(deadline(t))
		}
	})
}

func TestLogging(t *testing.T) {
	dir := writeFiles(t, map[string]string{"import_probe.py": probe})
	d := newDaemon(t, Options{Path: []string{dir}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		var mu sync.Mutex
		var logs []string
		c, _ := importing(t, d, py, ConnectOptions{LogLevel: 20, OnLog: func(l Log) {
			mu.Lock()
			defer mu.Unlock()
			logs = append(logs, fmt.Sprintf("%s %d %s", l.Logger, l.Level, strings.Split(l.Text, "\n")[0]))
		}})
		defer c.Close(deadline(t))
		var before bool
		run(t, c, "import sys\nresult = 'logging' in sys.modules", &before)
		if before {
			t.Error("the runtime itself imports logging")
		}
		var n int
		run(t, c, "import logging, os\nlogging.getLogger('some.name').warning('w %d', 5)\nlogging.error(u'h\\xe9')\n"+
			"logging.info('i')\nlogging.debug('not')\ntry:\n    1/0\nexcept ZeroDivisionError:\n    logging.exception('boom')\nresult = len(logging.root.handlers)", &n)
		want := []string{"some.name 30 w 5", "root 40 h\u00e9", "root 20 i", "root 40 boom"}
		waitUntil(t, "logs arrive", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(logs) >= len(want)
		})
		if !slices.Equal(logs, want) || n != 1 {
			t.Errorf("%d handlers, logs %q, want %q", n, logs, want)
		}
	})
}

func TestResourcesBehindAHop(t *testing.T) {
	d := newDaemon(t, Options{Path: []string{writeFiles(t, data)}})
	list := pythons.All(t)
	old, recent := list[0], list[len(list)-1]
	for _, path := range [][2]pythons.Python{{old, recent}, {recent, old}} {
		c := connect(t, d, target(path[0])+"+"+target(path[1]))
		var got, again string
		run(t, c, "import pkgutil, full\nresult = pkgutil.get_data('full', 'data/a.txt').decode()", &got)
		run(t, c, "import pkgutil, full\nresult = ' '.join(sorted(m[1] for m in pkgutil.iter_modules(full.__path__) if m[2]))", &again)
		if got != "a" || again != "sub" {
			t.Errorf("%s behind %s: %q, %q", path[1].Version, path[0].Version, got, again)
		}
		c.Close(deadline(t))
	}
}

func TestResourcesWithinThePolicy(t *testing.T) {
	d := newDaemon(t, Options{Path: []string{writeFiles(t, data)}})
	py := pythons.Any(t)
	c, _ := importing(t, d, py, ConnectOptions{Policy: importer.Policy{Deny: []string{"full"}}})
	defer c.Close(deadline(t))
	for _, question := range []string{"u'read', u'full', u'text.txt'", "u'list', u'full', u''", "u'read', u'import_probe', u'../../etc/passwd'", "u'nonsense'", ""} {
		var got string
		run(t, c, "import mitogen.resources as r\ntry:\n    result = repr(r.ask("+question+"))\nexcept r.Refused as e:\n    result = 'refused: ' + str(e)", &got)
		if !strings.HasPrefix(got, "refused: ") || len(got) < 20 {
			t.Errorf("%s: %q", question, got)
		}
		t.Log(got)
	}
}

// cyclic has packages whose modules import each other in cycles, most by names that no scan sees, so that the child
// asks for them. Imports at the top stay among forty modules, because of the interpreters' recursion limit; imports
// in functions are of any.
func cyclic(packages, modules int) map[string]string {
	files := map[string]string{"import_probe.py": probe}
	total := packages * modules
	name := func(n int) string { return fmt.Sprintf("cyc%d.m%d", n%total/modules, n%total%modules) }
	for p := range packages {
		files[fmt.Sprintf("cyc%d/__init__.py", p)] = fmt.Sprintf("import cyc%d\nNUMBER = %d\n", (p+1)%packages, p)
		for m := range modules {
			n := p*modules + m
			near := func(k int) string { return name(n/40*40 + k%40) }
			files[fmt.Sprintf("cyc%d/m%d.py", p, m)] = fmt.Sprintf(`
import %s
for name in %q, %q:
    __import__(name)
def value():
    import %s, cyc%d
    return %d + cyc%d.NUMBER - %d
`, near(n+1), near(n*7+3), near(n+39), name(n*3+5), p, n, p, p)
		}
	}
	return files
}

// cyclicProbe imports all of them in 32 threads, each in an order of its own, at the top and in functions. Python 3
// sometimes gives up an import when cycles of packages meet in several threads, also from its own disk (one run of
// ten of this); such an import is tried again. Up to 3.8 its search for deadlocks may never end (bpo-38091; one run
// of sixty, from disk).
const cyclicProbe = `
import random, sys, threading, time
errors = []
def again(fn, *args):
    while 1:
        try:
            return fn(*args)
        except RuntimeError as e:
            if type(e).__name__ != '_DeadlockError':
                raise
def body(seed):
    try:
        order = list(range(TOTAL))
        random.Random(seed).shuffle(order)
        for n in order:
            name = 'cyc%d.m%d' % (n // MODULES, n % MODULES)
            again(__import__, name)
        for n in order:
            name = 'cyc%d.m%d' % (n // MODULES, n % MODULES)
            if again(sys.modules[name].value) != n:
                errors.append(name)
    except Exception as e:
        import traceback
        errors.append(traceback.format_exc())
threads = [threading.Thread(target=body, args=(seed,)) for seed in range(32)]
for t in threads:
    t.daemon = True
    t.start()
deadline = time.time() + 60
for t in threads:
    while t.is_alive() and time.time() < deadline:
        t.join(0.5)
        if sys.version_info < (3, 9) and t.is_alive():
            searching = [f for f in sys._current_frames().values() if f.f_code.co_name == 'has_deadlock']
            if searching and time.time() > deadline - 50:
                errors.append('bpo-38091')
                deadline = 0
if deadline and any(t.is_alive() for t in threads):
    errors.append('%d threads hang' % sum(t.is_alive() for t in threads))
result = [u'%s' % e for e in errors]
`

// rounds is how often the tests of imports in many threads run: $MITOGEND_IMPORT_ROUNDS, or once.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("MITOGEND_IMPORT_ROUNDS"), "1"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestImportsInManyThreads: 32 threads of a child, and as many in each of two children of it, one of the other
// generation, import 200 modules in cyclic packages at the same time.
func TestImportsInManyThreads(t *testing.T) {
	const packages, modules = 20, 10
	dir := writeFiles(t, cyclic(packages, modules))
	d := newDaemon(t, Options{Path: []string{dir}})
	source := fmt.Sprintf("TOTAL = %d\nMODULES = %d\n%s", packages*modules, modules, cyclicProbe)
	list := pythons.All(t)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		other := list[0]
		if py == other {
			other = list[len(list)-1]
		}
		for range rounds(t) {
			manyThreads(t, d, py, other, source, packages*(modules+1))
		}
	})
}

func manyThreads(t *testing.T, d *Daemon, py, other pythons.Python, source string, modules int) {
	r := &imports{}
	first := connect(t, d, target(py)+"+"+target(py), ConnectOptions{OnImport: r.observe})
	second := connect(t, d, target(py)+"+"+target(other))
	hop := first.Via()
	if second.Via() != hop {
		t.Fatal("the children are not behind one hop")
	}
	children := []*Child{hop, first, second}
	var stuck atomic.Bool
	var wg sync.WaitGroup
	for _, c := range children {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var errs []string
			if err := c.Call(deadline(t), "import_probe:run", source).Decode(&errs); err != nil {
				t.Errorf("%s: %v", c.Name(), err)
			}
			for _, e := range errs {
				if e == "bpo-38091" {
					stuck.Store(true)
					continue
				}
				t.Errorf("%s: %s", c.Name(), e)
			}
		}()
	}
	wg.Wait()
	defer func() {
		for _, c := range children[1:] {
			c.Close(deadline(t))
		}
	}()
	if stuck.Load() {
		t.Logf("the search for deadlocks of Python %s has not ended", py.Version)
		return
	}
	counts := map[string]int{}
	for _, name := range r.names(importer.Answered, importer.Preloaded) {
		counts[name]++
	}
	cyc := 0
	for name, n := range counts {
		if n > 1 {
			t.Errorf("%s was sent %d times", name, n)
		}
		if strings.HasPrefix(name, "cyc") {
			cyc++
		}
	}
	if cyc != modules {
		t.Errorf("%d modules were sent, want %d", cyc, modules)
	}
	if again := r.names(importer.Duplicate); len(again) > 0 {
		t.Logf("asked for although on the way: %v", again)
	}
	var below map[int]map[string]int
	if err := hop.Call(deadline(t), "mitogen.parent:stats").Decode(&below); err != nil || len(below) != 2 {
		t.Errorf("stats %v, %v", below, err)
	}
	for id, stats := range below {
		if stats["repeats"] != 0 || stats["modules"] < modules {
			t.Errorf("context %d: %v", id, stats)
		}
	}
}

// threads are modules that import in threads, while they are imported and afterwards.
var threads = map[string]string{
	"import_probe.py":    probe,
	"starts/__init__.py": "",
	"starts/a.py":        "",
	"starts/b.py":        "",
	"starts/c.py":        "value = 5",
	"starts/mod.py": `
import sys, threading
during = {}
def start(name):
    done = []
    def body():
        try:
            __import__(name)
            done.append(True)
        except Exception as e:
            done.append(e)
    thread = threading.Thread(target=body)
    thread.start()
    # This waits in vain for this module itself; on 2.x for all, since whoever imports has the lock that the thread wants.
    thread.join(0.3 if name == 'starts.mod' or sys.version_info < (3,) else 20)
    during[name] = bool(done)
    return thread, done
# Another module of the package, one from elsewhere, one that does not exist, this one itself.
threads = [start(name) for name in ('starts.a', 'starts_other', 'starts.absent', 'starts.mod')]
`,
	"starts_other.py": "import starts.b",
	"starts_uses.py": `
import threading
def late():
    from starts import c
    return c.value
def run():
    values = []
    threads = [threading.Thread(target=lambda: values.append(late())) for _ in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return values
`,
}

const threadsProbe = `
import starts.mod as m
for thread, done in m.threads:
    thread.join(60)
import starts_uses
result = {'during': m.during, 'after': [u'%s' % (done[0] if done else 'hangs') for _, done in m.threads], 'late': starts_uses.run()}
`

// TestImportsInThreadsOfAnImport: a thread that a module starts while it is imported does as well as with the module
// on the child's own disk.
func TestImportsInThreadsOfAnImport(t *testing.T) {
	dir := writeFiles(t, threads)
	d := newDaemon(t, Options{Path: []string{dir}})
	bare := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"import_probe.py": probe})}})
	type outcome struct {
		During map[string]bool `py:"during"`
		After  []string        `py:"after"`
		Late   []int           `py:"late"`
	}
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		var want, got outcome
		local, _ := importing(t, bare, py, ConnectOptions{Env: []string{"PYTHONPATH=" + dir, "PYTHONDONTWRITEBYTECODE=1"}})
		defer local.Close(deadline(t))
		run(t, local, threadsProbe, &want)
		served, r := importing(t, d, py, ConnectOptions{})
		defer served.Close(deadline(t))
		run(t, served, threadsProbe, &got)
		for name, done := range want.During {
			if done && !got.During[name] {
				t.Errorf("%s is imported while the module is, from disk, but not when it is served: %v", name, got.During)
			}
		}
		for i := range got.After {
			// The places that were searched follow Python's own words.
			got.After[i], _, _ = strings.Cut(got.After[i], " (mitogend: not in ")
		}
		if fmt.Sprint(got.After) != fmt.Sprint(want.After) || len(want.After) != 4 || len(want.During) != 4 {
			t.Errorf("in the end %q, from disk %q", got.After, want.After)
		}
		if len(got.Late) != 10 || slices.ContainsFunc(got.Late, func(n int) bool { return n != 5 }) {
			t.Errorf("imports within functions of threads: %v", got.Late)
		}
		names := r.names(importer.Preloaded, importer.Answered)
		slices.Sort(names)
		if n := len(names); n != len(slices.Compact(names)) {
			t.Error("a module was sent twice")
		}
	})
}

// TestCallOvertakesImports: a call does not wait for all that its module imports, and nothing is sent twice.
func TestCallOvertakesImports(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for _, convert := range []Convert{0, ConvertResult} {
			begun := filepath.Join(t.TempDir(), "begun")
			large := strings.Repeat("# 16 bytes long\n", 10<<10)
			dir := writeFiles(t, map[string]string{
				"far.py":   fmt.Sprintf("import far_a\nopen(%q, 'w').close()\nimport far_b, far_c\ndef f():\n    return far_a.x + far_b.x + far_c.x\n", begun),
				"far_a.py": large + "x = 1\n", "far_b.py": large + "x = 2\n", "far_c.py": large + "x = 4\n",
			})
			r, ctx, goOn := &imports{}, deadline(t), make(chan struct{})
			c := connect(t, newDaemon(t, Options{Path: []string{dir}}), target(py), ConnectOptions{OnImport: func(e importer.Event) {
				r.observe(e)
				if e.Name == "far_b" && e.What == importer.Preloaded {
					select {
					case <-goOn:
					case <-ctx.Done():
					}
				}
			}})
			done := make(chan *Result, 1)
			go func() { done <- c.CallWith(ctx, CallOptions{Convert: convert}, "far:f") }()
			poll.Until(t, "the module runs", func() bool { _, err := os.Stat(begun); return err == nil })
			close(goOn)
			if v, err := (<-done).Value(); err != nil || fmt.Sprint(v) != "7" {
				t.Errorf("%v, %v", v, err)
			}
			sent := r.names(importer.Answered, importer.Preloaded)
			for _, name := range []string{"far", "far_a", "far_b", "far_c"} {
				if n := len(slices.DeleteFunc(slices.Clone(sent), func(s string) bool { return s != name })); n != 1 {
					t.Errorf("%s was sent %d times", name, n)
				}
			}
		}
	})
}
