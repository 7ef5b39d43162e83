package importer

import (
	"encoding/json"
	"os/exec"
	"testing"
)

func TestVersionColumn(t *testing.T) {
	for v, want := range map[Version]Version{
		{2, 7}: {2, 7}, {2, 6}: {2, 7}, {3, 0}: {3, 6}, {3, 5}: {3, 6}, {3, 6}: {3, 6}, {3, 9}: {3, 9}, {3, 10}: {3, 10}, {3, 13}: {3, 13}, {3, 15}: {3, 15}, {3, 99}: {3, 15}, {4, 0}: {3, 15},
	} {
		if got := stdlibVersions[v.column()]; got != want {
			t.Errorf("%v is looked up as %v, want %v", v, got, want)
		}
	}
}

func TestStdlib(t *testing.T) {
	for _, c := range []struct {
		name string
		v    Version
		want bool
	}{
		{"os", py2, true}, {"os.path", py3, true}, {"xml.etree.ElementTree", none, true}, {"ConfigParser", py2, true}, {"ConfigParser", py3, false},
		{"configparser", py2, false}, {"configparser", py3, true}, {"enum", py2, false}, {"enum", none, true}, {"dataclasses", Version{3, 6}, false},
		{"dataclasses", Version{3, 7}, true}, {"distutils", Version{3, 11}, true}, {"distutils", Version{3, 12}, false}, {"winreg", py3, true},
		{"_winreg", py2, true}, {"six", none, false}, {"setuptools", none, false}, {"test", py3, false}, {"", none, false}, {"osx", none, false},
	} {
		if got := Stdlib(c.name, c.v); got != c.want {
			t.Errorf("%s in %v: %v", c.name, c.v, got)
		}
	}
}

// What an interpreter says of itself, of what it has built in, and of what lies in its library, is in the table.
func TestTableAgreesWithInterpreters(t *testing.T) {
	const program = `
import json, os, sys
names = set(getattr(sys, 'stdlib_module_names', ())) | set(sys.builtin_module_names)
lib = os.path.dirname(os.__file__)
names.update(n[:-3] for n in os.listdir(lib) if n.endswith('.py') and not n.startswith('_sysconfigdata'))
names.update(n for n in os.listdir(lib) if os.path.exists(os.path.join(lib, n, '__init__.py')) and n != 'test')
print(json.dumps(sorted(n for n in names if not n.startswith(('xx', '_xx', '__phello', '__hello')) and n not in ('sitecustomize', 'usercustomize', '__main__', '_distutils_system_mod'))))
`
	for v, python := range interpreters(t) {
		out, err := exec.Command(python, "-S", "-c", program).Output()
		if err != nil {
			t.Fatalf("%v: %v %s", v, err, stderrOf(err))
		}
		var names []string
		if err := json.Unmarshal(out, &names); err != nil {
			t.Fatal(err)
		}
		if len(names) < 200 {
			t.Errorf("%v: only %d names", v, len(names))
		}
		for _, name := range names {
			if !Stdlib(name, v) {
				t.Errorf("%v: %s is not in the table", v, name)
			}
		}
	}
}

// A module that a later release has dropped is served to it, and refused to those that have it.
func TestLaterReleaseLacksModule(t *testing.T) {
	dir := tree(t, map[string]string{"colorsys.py": "x = 1\n"})
	im := newImporter(t, Options{Path: []string{dir}})
	if sp := im.search(Version{3, 15}).find("colorsys"); sp.why == "" {
		t.Error("served to 3.15, which has it")
	}
	if sp := im.search(Version{3, 99}).find("colorsys"); sp.why != "" {
		t.Errorf("not served to 3.99: %s", sp.why)
	}
}
