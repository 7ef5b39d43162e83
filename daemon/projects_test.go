package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"mitogend/importer"
	"mitogend/integration/pythons"
)

// pkgResourcesProbe asks pkg_resources what it knows. The answers are the same for projects on the disk.
const pkgResourcesProbe = `
import sys, pkg_resources as pr
path = list(sys.path)
def attempt(fn, *args):
    try:
        return fn(*args)
    except Exception as e:
        return type(e).__name__
r = result = {}
r['version'] = pr.get_distribution('one-project').version, pr.get_distribution('two').version, attempt(pr.get_distribution, 'three')
r['require'] = [str(d).partition(' (')[0] for d in pr.require('two[more]')], attempt(pr.require, 'two>5')
r['entry points'] = [(e.name, e.load()) for e in pr.iter_entry_points('group')], list(pr.iter_entry_points('none'))
r['metadata'] = pr.get_distribution('two').has_metadata('requires.txt'), pr.get_distribution('two').get_metadata('top_level.txt'), attempt(
    pr.get_distribution('two').get_metadata, 'absent')
r['strings'] = pr.resource_string('pkg', 'a.txt').decode(), pr.resource_stream('pkg', 'sub/b.txt').read().decode(), attempt(
    pr.resource_string, 'pkg', 'absent')
r['exists'] = [pr.resource_exists('pkg', n) for n in ('a.txt', 'sub', 'sub/b.txt', 'absent')]
r['isdir'] = [pr.resource_isdir('pkg', n) for n in ('a.txt', 'sub', 'absent')]
r['listdir'] = sorted(n for n in pr.resource_listdir('pkg', '') if n[-3:] not in ('pyc', 'e__'))
with open(pr.resource_filename('pkg', 'a.txt')) as f:
    r['filename'] = f.read()
r['requirement'] = pr.resource_string(pr.Requirement.parse('two'), 'pkg/a.txt').decode()
r['sys.path'] = path == sys.path
`

// TestPkgResources: the target's own pkg_resources, where it has one, and a served one know the projects here like
// those on a disk.
func TestPkgResources(t *testing.T) {
	tree := map[string]string{
		"import_probe.py":                            probe,
		"pkg/__init__.py":                            "def f():\n    return 1\n",
		"pkg/a.txt":                                  "data",
		"pkg/sub/b.txt":                              "more",
		"one_project-1.2.dist-info/METADATA":         "Metadata-Version: 2.1\nName: one-project\nVersion: 1.2\n",
		"one_project-1.2.dist-info/RECORD":           "",
		"two-2.0.egg-info/PKG-INFO":                  "Metadata-Version: 1.1\nName: two\nVersion: 2.0\n",
		"two-2.0.egg-info/requires.txt":              "\n[more]\none-project>=1\n",
		"two-2.0.egg-info/top_level.txt":             "pkg\n",
		"one_project-1.2.dist-info/entry_points.txt": "[group]\nx = pkg:f.__name__\n",
	}
	dir := writeFiles(t, tree)
	d := newDaemon(t, Options{Path: []string{dir}})
	bare := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"import_probe.py": probe})}})
	const debian = "/usr/lib/python3/dist-packages/pkg_resources"
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		d := d
		local := connect(t, bare, target(py), ConnectOptions{Env: []string{"PYTHONPATH=" + dir, "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore"}})
		defer local.Close(deadline(t))
		var own bool
		run(t, local, "try:\n    import pkg_resources\n    result = True\nexcept ImportError:\n    result = False", &own)
		var want map[string]any
		if !own {
			if _, err := os.Stat(debian); err != nil || py.Version != "3.11" {
				t.Skip("it has no pkg_resources")
			}
			served := writeFiles(t, tree)
			if err := os.Symlink(debian, served+"/pkg_resources"); err != nil {
				t.Fatal(err)
			}
			d = newDaemon(t, Options{Path: []string{served}})
			local = connect(t, bare, target(py), ConnectOptions{Env: []string{"PYTHONPATH=" + served, "PYTHONDONTWRITEBYTECODE=1"}})
			defer local.Close(deadline(t))
		}
		run(t, local, pkgResourcesProbe, &want)
		c := connect(t, d, target(py), ConnectOptions{Env: []string{"PYTHONWARNINGS=ignore"}})
		defer c.Close(deadline(t))
		var got map[string]any
		run(t, c, pkgResourcesProbe, &got)
		for key := range want {
			if a, b := fmt.Sprintf("%q", got[key]), fmt.Sprintf("%q", want[key]); a != b {
				t.Errorf("%s: served\n%s, on disk\n%s", key, a, b)
			}
		}
	})
}

// TestReasonsSurvive: however an import is written, its error says why a module that is here is not served, and has
// the class that it has without a reason. Code that asks whether there is such a module is told that there is none.
func TestReasonsSurvive(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"import_probe.py":      probe,
		"pkg/__init__.py":      "",
		"pkg/_fast.cpython.so": "",
		"pkg/user.py":          "from . import _fast",
		"pkg/optional.py":      "try:\n    from . import _fast\nexcept ImportError:\n    _fast = None",
		"pkg/secret.py":        "",
		"pkg/star.py":          "from pkg import *",
	})
	d := newDaemon(t, Options{Path: []string{dir}, Policy: importer.Policy{Deny: []string{"pkg.secret"}}})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py), ConnectOptions{})
		defer c.Close(deadline(t))
		var got [][]string
		run(t, c, `
import sys
result = []
for statement in ('import pkg._fast', 'from pkg import _fast', 'import pkg.user', 'from pkg._fast import x', 'import pkg.secret', 'from pkg import secret',
                  '__import__("pkg._fast")', '__import__("pkg", fromlist=["_fast"])._fast'):
    try:
        exec(statement, {})
        result.append([statement, '', ''])
    except ImportError as e:
        result.append([statement, type(e).__name__, str(e)])
`, &got)
		for _, g := range got {
			why := "is an extension module built for cpython"
			if strings.Contains(g[0], "secret") {
				why = "denied by the policy"
			}
			class := "ModuleNotFoundError"
			if py.Version == "2.7" || strings.HasPrefix(g[0], "from pkg import") || g[0] == "import pkg.user" || strings.Contains(g[0], "fromlist") {
				class = "ImportError"
			}
			if g[1] != class || !strings.Contains(g[2], why) {
				t.Errorf("%q, not a %s with %q", g, class, why)
			}
		}
		if py.Version == "2.7" {
			return
		}
		var none []bool
		run(t, c, `
import importlib.util, pkg.optional
result = [importlib.util.find_spec('pkg._fast') is None, importlib.util.find_spec('pkg.secret') is None, pkg.optional._fast is None]
`, &none)
		if fmt.Sprint(none) != "[true true true]" {
			t.Error(none)
		}
	})
}
