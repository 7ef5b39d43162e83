package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestModuleAddedToAPackage: the daemon keeps a child that has the package.
func TestModuleAddedToAPackage(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		d, dir := Serve(t), t.TempDir()
		Write(t, dir, "jobs/__init__.py", "")
		Write(t, dir, "jobs/first.py", "def f():\n    return 1\n")
		d.Run(t, dir, "call", "-H", p.Target(), "jobs.first:f").Want(t, 0, "1\n", "")
		Write(t, dir, "jobs/second.py", "def f():\n    return 2\n")
		d.Run(t, dir, "call", "-H", p.Target(), "jobs.second:f").Want(t, 0, "2\n", "")
	})
}

// TestPreferHereRefused: what may not be served is taken from the target, if that has it.
func TestPreferHereRefused(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		here, there := t.TempDir(), t.TempDir()
		for _, name := range []string{"both", "secret", "only"} {
			Write(t, here, name+".py", "x = 'here'\n")
		}
		for _, name := range []string{"both", "secret"} {
			Write(t, there, name+".py", "x = 'target'\n")
		}
		script := Write(t, t.TempDir(), "program.py", "from __future__ import print_function\nimport both, secret\nprint(both.x, secret.x)\n"+
			"try:\n    import only\nexcept ImportError as e:\n    print(e)\n")
		cmd := Command(t, t.TempDir(), "run", "-H", p.Target(), "-I", here, "--prefer", "here", "--deny", "secret,only", script)
		cmd.Env = append(cmd.Env, "PYTHONPATH="+there, "PYTHONDONTWRITEBYTECODE=1")
		got := runCommand(t, cmd)
		if got.Status != 0 || !strings.HasPrefix(got.Stdout, "here target\n") || !strings.Contains(got.Stdout, "deny") {
			t.Errorf("%v", got)
		}
	})
}

// TestNamespaceFiles: a file is read beside its module, whichever directory of the package that is in.
func TestNamespaceFiles(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		first, second := t.TempDir(), t.TempDir()
		for _, dir := range []string{first, second} {
			Write(t, dir, "spread/__init__.py", "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n")
		}
		Write(t, first, "company/x.py", "")
		Write(t, second, "company/t.html", "text")
		tool := "import os\nwith open(os.path.join(os.path.dirname(__file__), 't.html')) as f:\n    text = f.read()\n"
		Write(t, second, "company/tool.py", tool)
		Write(t, second, "spread/tool.py", tool)
		Write(t, second, "spread/t.html", "text")
		names := []string{"spread.tool", "company.tool"}
		if p.Version == "2.7" {
			names = names[:1]
		}
		for _, name := range names {
			script := Write(t, t.TempDir(), "program.py", "import "+name+"\nprint("+name+".text)\n")
			Mitogend(t, filepath.Dir(script), "run", "-H", p.Target(), "-I", first, "-I", second, script).Want(t, 0, "text\n", "")
		}
	})
}
