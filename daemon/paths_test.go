package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mitogend/importer"
	"mitogend/integration/pythons"
)

// spread is a package that looks at its own paths.
var spread = map[string]string{
	"import_probe.py":            "# It uses __file__.\n" + probe,
	"app/__init__.py":            "",
	"app/plugins/__init__.py":    "from . import near\nwho = __name__",
	"app/plugins/near.py":        "x = 'near'",
	"app/plugins/one.py":         "x = 'one'\nimport sys\nwho = __name__, sys.version_info[0] == 2 or __package__",
	"app/plugins/in/b.py":        "x = 'b'",
	"app/plugins/data.txt":       "data",
	"app/extra/hidden.py":        "x = 'hidden'",
	"app/extra/loose.py":         "x = 'loose'\ndef fail():\n    raise ValueError('no')\n",
	"app/extra/pack/__init__.py": "from . import inner\nfrom .inner import x",
	"app/extra/pack/inner.py":    "x = 'inner'",
	"app/extra/pack/note.txt":    "note",
	"app/extra/empty/note.txt":   "",
	"app/main/__main__.py":       "result = __name__, x\n",
	"app/main/x.py":              "",
	"app/program.py":             "result = __name__\n",
	"beside.py":                  "x = 'beside'",
	"other/__init__.py":          "",
	"other/deep.py":              "x = 'deep'",
}

// pathsProbe does by path what is done by name. Its result is the same for packages on the disk.
const pathsProbe = `
import importlib, os, pkgutil, sys, traceback
import app
r = result = {}
here = os.path.dirname(app.__file__)
PY3 = sys.version_info[0] == 3
def names(*path):
    return sorted((m[1], m[2]) for m in pkgutil.iter_modules([os.path.join(here, *path)]))
def attempt(fn, *args):
    try:
        return fn(*args)
    except Exception as e:
        return type(e).__name__
r['names'] = names(), names('plugins'), names('extra'), names('absent'), names('plugins', '..', 'extra', '')
r['walk'] = [m[1] for m in pkgutil.walk_packages(app.__path__, 'app.')]
r['top'] = sorted(m[1] for m in pkgutil.iter_modules() if m[1] in ('app', 'beside', 'other', 'import_probe'))
r['forms'] = [os.path.isabs(here), os.path.abspath(here) == here, os.path.realpath(here) == here, os.path.normpath(here) == here]
if PY3:
    import pathlib
    r['pathlib'] = [str(pathlib.Path(app.__file__).resolve().parent) == here, names(str(pathlib.Path(here).resolve()))]
app.__path__.append(os.path.join(here, 'extra'))
import app.hidden
r['appended'] = app.hidden.x, app.hidden.__name__, PY3 and app.hidden.__package__
sys.path.append(os.path.join(here, 'extra'))
import loose, pack
r['sys.path'] = loose.x, pack.x, pack.inner.__name__, attempt(importlib.import_module, 'pack.absent')
r['data'] = pkgutil.get_data('pack', 'note.txt').decode(), attempt(pkgutil.get_data, 'pack', 'absent.txt')
try:
    loose.fail()
except ValueError:
    r['trace'] = "    raise ValueError('no')" in traceback.format_exc()
sys.modules['alias'] = importlib.import_module('app.plugins')
r['alias'] = importlib.import_module('alias.one').who, importlib.import_module('alias.one') is importlib.import_module('app.plugins.one')
get_data = pkgutil.get_loader('app').get_data if not PY3 else app.__loader__.get_data
r['get_data'] = [get_data(os.path.join(here, *p)).decode() for p in (
    ('plugins', 'data.txt'), ('plugins', 'near.py'), ('..', 'beside.py'), ('plugins', '..', '..', 'other', 'deep.py'))]
r['no data'] = [attempt(get_data, os.path.join(here, *p)) in ('IOError', 'FileNotFoundError') for p in (
    ('absent',), ('..', 'absent.py'), ('..', '..', 'absent'), ('..', 'absent', 'x.txt'))]
if PY3:
    import importlib.util
    from importlib.machinery import PathFinder
    finder = next(iter(pkgutil.iter_modules(app.__path__)))[0]
    r['find_spec'] = [getattr(spec, 'name', None) for spec in (
        finder.find_spec('app.plugins'), finder.find_spec('app.absent'), PathFinder.find_spec('app.plugins', app.__path__),
        PathFinder.find_spec('app.absent', app.__path__), PathFinder.find_spec('near', [os.path.join(here, 'plugins')]))]
    def load(name, *path):
        spec = importlib.util.spec_from_file_location(name, os.path.join(here, *path))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.x, module.__name__
    r['location'] = [attempt(load, *a) for a in (
        ('one', 'plugins', 'one.py'), ('two', '..', 'beside.py'), ('three', 'extra', 'pack', 'inner.py'), ('four', '..', 'other', 'deep.py'),
        ('five', 'absent.py'))]
    spec = importlib.util.spec_from_file_location('again', app.plugins.__file__, submodule_search_locations=app.plugins.__path__)
    again = sys.modules['again'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    r['second'] = again.who, again.near.x, again.near.__name__
    import runpy
    r['runpy'] = [attempt(lambda: runpy.run_path(os.path.join(here, p), init_globals={'x': 1}).get('result')) for p in ('program.py', 'main', 'absent.py')]
def there(*path):
    path = os.path.join(here, *path)
    return os.path.exists(path), os.path.isfile(path), os.path.isdir(path), os.path.exists(path) and os.path.isfile(path) and os.path.getsize(path)
r['there'] = [there(*p) for p in (('plugins',), ('plugins', 'data.txt'), ('absent',), ('..',), ('..', 'app'), ('__init__.py',),
                                  ('plugins', 'near.py'), ('..', 'beside.py'), ('extra', 'pack', 'note.txt'))]
r['listdir'] = sorted(n for n in os.listdir(os.path.join(here, 'extra')) if n != '__pycache__'), attempt(os.listdir, here + '/absent') in ('OSError', 'FileNotFoundError')
r['os.walk'] = sorted((os.path.relpath(a, here), sorted(c)) for a, b, c in os.walk(here) if '__pycache__' not in a)
with open(os.path.join(here, 'plugins', 'data.txt')) as f:
    r['open'] = f.read(), open(os.path.join(here, 'plugins', 'data.txt'), 'rb').read().decode()
import io, codecs, glob, linecache
if PY3:
    import shutil
    r['able'] = shutil.rmtree.avoids_symlink_attacks, os.stat in os.supports_fd, os.scandir in os.supports_fd, os.lstat in os.supports_dir_fd
    r['keywords'] = io.open(file=here + '/plugins/data.txt', mode='rb').read().decode(), os.listdir(path=here + '/extra/pack') != []
r['linecache'] = linecache.getline(here + '/plugins/near.py', 1), linecache.getline(here + '/../beside.py', 1), linecache.getline(here + '/absent.py', 1)
r['io.open'] = io.open(here + '/plugins/data.txt', encoding='utf-8').read(), codecs.open(here + '/plugins/data.txt', encoding='utf-8').read()
r['glob'] = [os.path.relpath(n, here) for n in glob.glob(os.path.join(here, 'plugins', '*.txt'))]
try:
    open(here + '/absent')
except EnvironmentError:
    r['alone'] = 'During handling' in traceback.format_exc()
r['not there'] = [attempt(open, here + '/absent', m) in ('IOError', 'FileNotFoundError') for m in ('r', 'rb')]
def fault(fn, *args):
    try:
        fn(*args)
    except EnvironmentError as e:
        return type(e).__name__, e.errno, os.path.relpath(e.filename, here), e.filename2 if PY3 else None
r['faults'] = [fault(fn, os.path.join(here, *p)) for fn in (open, os.stat, os.listdir, os.readlink) for p in (('absent',), ('plugins', 'data.txt', 'x'), ('absent', 'x'))]
if PY3:
    r['bytes'] = open(os.fsencode(here) + b'/plugins/data.txt').read(), sorted(n.decode() for n in os.listdir(os.fsencode(here + '/extra/pack'))), os.path.isdir(os.fsencode(here))
    r['Path-like'] = open(pathlib.Path(here) / 'plugins/data.txt').read(), os.listdir(pathlib.Path(here) / 'plugins/in') != []
else:
    r['unicode'] = open(unicode(here) + u'/plugins/data.txt').read(), [type(n).__name__ for n in os.listdir(unicode(here))][0]
r['odd'] = []
for bad in (u'/absent/\xe9', b'/absent/\xc3\xa9', u'/absent/master:/x', '', 'a\0b', None, 99999, 1.5, ['/']):
    for fn in open, os.stat, os.listdir, os.readlink, io.open, lambda path: os.access(path, os.R_OK):
        if bad is None and fn is os.listdir:
            continue
        try:
            fn(bad)
        except Exception as e:
            r['odd'].append((type(e).__name__, str(e.args).replace('path:', ''), repr(getattr(e, 'filename', None))))
r['other kind'] = fault(open, here + '/plugins'), fault(os.listdir, here + '/plugins/data.txt'), fault(os.readlink, here + '/plugins/data.txt')
r['access'] = [os.access(os.path.join(here, p), os.R_OK) for p in ('plugins', 'plugins/data.txt', 'absent')]
r['same file'] = [os.path.samefile(here + '/plugins/data.txt', os.path.join(here, p)) for p in ('plugins/../plugins/data.txt', 'plugins/near.py')]
r['stat'] = [oct(os.stat(os.path.join(here, p)).st_mode & 0o700) for p in ('plugins', 'plugins/data.txt')], os.stat(here + '/plugins/data.txt').st_mtime > 1e9
import shutil, tempfile
to = os.path.join(tempfile.mkdtemp(), 'copy')
shutil.copytree(here + '/plugins', to, ignore=shutil.ignore_patterns('__pycache__'))
r['copytree'] = sorted((os.path.relpath(a, to), sorted(c)) for a, b, c in os.walk(to))
with open(to + '/data.txt', 'a') as f:
    f.write('more')
shutil.rmtree(os.path.dirname(to))
with open(here + '/plugins/near.py') as f:
    r['attributes'] = f.name == here + '/plugins/near.py', f.mode, f.readline(), f.closed
if PY3:
    with open(here + '/plugins/near.py', 'rb') as f:
        r['binary'] = f.name == here + '/plugins/near.py', f.mode, f.peek(1)[:1].decode(), f.read(1).decode(), f.seek(0), type(f).__name__
    with open(here + '/plugins/near.py', 'rb', 0) as f:
        r['raw'] = f.mode, f.read(1).decode(), f.readinto(bytearray(2))
class C(object):
    opener = open
r['no method'] = C().opener(here + '/plugins/data.txt').read()
if PY3:
    import pathlib
    p = pathlib.Path(here) / 'plugins'
    r['Path.stat'] = p.stat().st_size > -1, (p / 'data.txt').open().read(), p.joinpath('absent').exists()
    r['Path'] = p.is_dir(), (p / 'data.txt').is_file(), (p / 'data.txt').read_text(), sorted(q.name for q in p.iterdir() if q.name != '__pycache__'), sorted(q.name for q in p.glob('*.txt'))
if sys.version_info >= (3, 10):
    import importlib.resources as ir
    r['files'] = (ir.files('pack') / 'note.txt').read_text(), sorted(f.name for f in ir.files('pack').iterdir() if f.name != '__pycache__')
`

// TestPaths: the paths of served packages are good for the same as those on the child's own disk.
func TestPaths(t *testing.T) {
	dir := writeFiles(t, spread)
	d := newDaemon(t, Options{Path: []string{dir}})
	own := writeFiles(t, map[string]string{"import_probe.py": probe})
	bare := newDaemon(t, Options{Path: []string{own}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		served, r := importing(t, d, py, ConnectOptions{Env: []string{"LC_ALL=C.UTF-8"}})
		local, _ := importing(t, bare, py, ConnectOptions{Env: []string{"LC_ALL=C.UTF-8", "PYTHONPATH=" + dir, "PYTHONDONTWRITEBYTECODE=1"}})
		defer served.Close(deadline(t))
		defer local.Close(deadline(t))
		var got, want map[string]any
		run(t, local, pathsProbe, &want)
		run(t, served, pathsProbe, &got)
		if asked := r.roundTrips(); slices.Contains(asked, "mitogen.files") {
			t.Errorf("asked for %v", asked)
		}
		for key := range want {
			if a, b := fmt.Sprintf("%q", got[key]), fmt.Sprintf("%q", want[key]); a != b {
				t.Errorf("%s: served\n%s, on disk\n%s", key, a, b)
			}
		}
	})
}

// TestPathsBehindOthers: what opens files goes along with modules that make paths, through children of either
// generation. It also comes when the child first imports such a module long after its first call.
func TestPathsBehindOthers(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"late.py":            "def read():\n    import named\n    return ' '.join([named.path, open(named.path).read()] + named.names())",
		"named/__init__.py":  "import os\npath = os.path.join(os.path.dirname(__file__), 'data.txt')\ndef names():\n    return sorted(os.listdir(os.path.dirname(path)))",
		"named/data.txt":     "data",
		"pushed.py":          "import named\ndef read():\n    return ' '.join([named.path, open(named.path).read()] + named.names())",
		"nothing_special.py": "def read():\n    return None",
	})
	d := newDaemon(t, Options{Path: []string{dir}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for _, first := range []string{"", target(pythons.Of(t, "2.7")) + "+", target(pythons.Of(t, "3.11")) + "+"} {
			for _, module := range []string{"late", "pushed"} {
				c := connect(t, d, first+target(py), ConnectOptions{})
				defer c.Close(deadline(t))
				var got string
				if err := c.Call(deadline(t), "nothing_special:read").Err(); err != nil {
					t.Fatal(err)
				}
				if err := c.Call(deadline(t), module+":read").Decode(&got); err != nil {
					t.Errorf("%s%s: %v", first, module, err)
				} else if want := "/master:" + dir + "/named/data.txt data __init__.py data.txt"; got != want {
					t.Errorf("%s%s: %v, not %s", first, module, got, want)
				}
			}
		}
	})
}

// TestPathsWithinPolicy: no path leads to what the child may not have.
func TestPathsWithinPolicy(t *testing.T) {
	dir := writeFiles(t, spread)
	d := newDaemon(t, Options{Path: []string{dir}, Policy: importer.Policy{Deny: []string{"app.extra", "beside", "other"}}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py), ConnectOptions{})
		defer c.Close(deadline(t))
		var got []string
		run(t, c, `
import os, pkgutil, sys
import app
here = os.path.dirname(app.__file__)
result = [m[1] for m in pkgutil.iter_modules([os.path.join(here, 'extra')])]
result += [m[1] for m in pkgutil.iter_modules() if m[1] in ('beside', 'other')]
for path in 'extra/loose.py', '../beside.py', 'plugins/../../other/deep.py', 'plugins/../extra/pack/note.txt', '../../../etc/passwd':
    try:
        app.__loader__.get_data(os.path.join(here, path))
        result.append(path)
    except IOError:
        pass
sys.path.append(os.path.join(here, 'extra'))
try:
    import loose
    result.append('loose')
except ImportError:
    pass
`, &got)
		if len(got) > 0 {
			t.Errorf("served: %s", strings.Join(got, ", "))
		}
	})
}
