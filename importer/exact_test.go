package importer

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"
)

const loadedModules = `
import json, sys
before = set(sys.modules)
__import__(sys.argv[1])
print(json.dumps(dict((name, m.__file__) for name, m in list(sys.modules.items())
      if name not in before and (getattr(m, '__file__', None) or '').startswith(sys.argv[2]))))
`

// loadedBy tells which modules of a directory an interpreter loads for a name, and from where.
func loadedBy(t *testing.T, python, dir, name string) map[string]string {
	t.Helper()
	cmd := exec.Command(python, "-S", "-B", "-W", "ignore", "-c", loadedModules, name, dir)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v %s", python, err, stderrOf(err))
	}
	var loaded map[string]string
	if err := json.Unmarshal(out, &loaded); err != nil {
		t.Fatal(err)
	}
	return loaded
}

// exactFiles has every kind of import and condition. What must not be loaded does not load.
var exactFiles = map[string]string{
	"app/__init__.py": `
from __future__ import absolute_import
import sys
from . import compat, relative
from .star import *
from app.deep.er import thing as other, CONSTANT
`,
	"app/compat.py": `
import sys, os
PY2 = sys.version_info[0] == 2
TYPE_CHECKING = False
if PY2:
    import app.only2
else:
    import app.only3
if sys.version_info >= (3, 9):
    from app import new
elif sys.version_info < (3, 7):
    from app import old
else:
    from app import middle
if os.name == 'nt' or sys.platform.startswith('win'): from app import never
if TYPE_CHECKING:
    import app.never
`,
	"app/only2.py": "", "app/only3.py": "", "app/new.py": "", "app/old.py": "", "app/middle.py": "", "app/never.py": "raise ImportError\n",
	"app/relative.py": `
from .deep import er
from .deep.er import (
    thing, # comment
    CONSTANT)
def later():
    import app.never
class Body:
    from app import body
    def method(self):
        import app.never
`,
	"app/body.py": "", "app/star/__init__.py": "__all__ = ['one', 'value']\nvalue = 1\n", "app/star/one.py": "import app.setup\n",
	"app/star/two.py": "raise ImportError\n",
	"app/setup.py": `
def _go():
    from app import by_call
    try:
        import app.absent
    except ImportError:
        import app.fallback
    else:
        import app.never
_go()
`,
	"app/fallback.py": "",
	"app/by_call.py": `
__import__('app.dynamic')
import importlib
importlib.import_module('.named', 'app')
`,
	"app/dynamic.py": `
try:
    import json
except ImportError:
    import app.never
try:
    import nowhere_at_all
except ImportError:
    nowhere_at_all = None
`,
	"app/named.py": `
'import app.never'
# import app.never
x = '''
import app.never
'''
import legacy
if __name__ == '__main__':
    import app.never
`,
	"app/deep/__init__.py": "", "app/deep/er/__init__.py": "from .. import shared; CONSTANT = 1\n",
	"app/deep/er/thing.py": "from ... import body\n", "app/deep/shared.py": "import app.deep.er.thing, \\\n  app.deep.er\n",
	"app/deep/er/unused.py": "",
	// No absolute_import: on 2.x these are the package's own modules, on 3.x those beside it.
	"legacy/__init__.py": "import helper, string\nimport mixed.part\n", "legacy/helper.py": "", "legacy/string.py": "",
	"legacy/mixed/__init__.py": "", "legacy/mixed/part.py": "", "helper.py": "", "mixed/__init__.py": "", "mixed/part.py": "",
}

// The closure is what each interpreter loads, no more and no less.
func TestClosureIsExact(t *testing.T) {
	dir := tree(t, exactFiles)
	im := newImporter(t, Options{Path: []string{dir}})
	for v, python := range interpreters(t) {
		var want []string
		for name := range loadedBy(t, python, dir, "app") {
			want = append(want, name)
		}
		got := im.Closure(v, "app")
		checkOrder(t, got)
		slices.Sort(want)
		slices.Sort(got)
		equal(t, v.String(), got, want)
	}
}
