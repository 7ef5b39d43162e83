package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// stockPython is an interpreter that imports Mitogen.
func stockPython(t *testing.T) string {
	t.Helper()
	path := "/usr/bin/python3"
	if p := os.Getenv("MITOGEND_STOCK_PYTHON"); p != "" {
		path = p
	}
	if out, err := exec.Command(path, "-c", "import mitogen.master").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s: %v\n%s", path, err, out)
		}
		t.Skipf("%s has no Mitogen", path)
	}
	return path
}

// What differs from run to run: process ids in names, and the command line of what could not be started.
var varies = regexp.MustCompile(`(local|fork)\.\d+|Command was: .*`)

// Programs in testdata/stock run under Mitogen's own master and under ours, unchanged, and print the same.
func TestMaster(t *testing.T) {
	python := stockPython(t)
	programs, err := filepath.Glob("testdata/stock/*.py")
	if err != nil || len(programs) == 0 {
		t.Fatal("there are no programs", err)
	}
	for _, program := range programs {
		t.Run(strings.TrimSuffix(filepath.Base(program), ".py"), func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(program)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			path := Write(t, dir, "program.py", string(source))
			Write(t, dir, "stockhelper.py", "VALUE = 'of a module'\n")
			cmd := exec.Command(python, path, "arg")
			cmd.Env = environ()
			own := runCommand(t, cmd)
			ours := Mitogend(t, dir, "master", "--", python, path, "arg")
			clean := func(s string) string { return varies.ReplaceAllString(s, "$1") }
			// The log on stderr has the time in it.
			if own.Stdout == "" || own.Status != 0 || ours.Status != 0 || clean(own.Stdout) != clean(ours.Stdout) {
				t.Errorf("under Mitogen's own master: %v\nunder ours: %v", own, ours)
			}
		})
	}
}

func TestMasterUsage(t *testing.T) {
	stockPython(t)
	dir := t.TempDir()
	Mitogend(t, dir, "master").Want(t, 2, "", "no program was given")
	Mitogend(t, dir, "master", "--", "/nonexistent/program").Want(t, 2, "", "/nonexistent/program")
	Mitogend(t, dir, "master", "--", "sh", "-c", "exit 7").Want(t, 7, "", "")
}

// Stock children by flag and by key, with what they refuse.
func TestRuntime(t *testing.T) {
	python := stockPython(t)
	dir := t.TempDir()
	Write(t, dir, "stockmod.py", "import stockhelper\n\ndef f(x):\n    return stockhelper.VALUE + x\n")
	Write(t, dir, "stockhelper.py", "VALUE = 'v'\n")
	out, err := exec.Command(python, "-c", "import mitogen,os;print(os.path.dirname(os.path.dirname(mitogen.__file__)))").Output()
	if err != nil {
		t.Fatal(err)
	}
	runtime := "mitogen:" + strings.TrimSpace(string(out))
	Mitogend(t, dir, "call", "--daemon", "none", "--runtime", runtime, "-H", "local:?python="+python, "stockmod:f", "x").Want(t, 0, "\"vx\"\n", "")
	Mitogend(t, dir, "call", "--daemon", "none", "-H", "local:?python="+python+"&runtime="+runtime, "stockmod:f", "x").Want(t, 0, "\"vx\"\n", "")
	Mitogend(t, dir, "call", "--daemon", "none", "--runtime", "mitogen:"+dir, "stockmod:f", "x").Want(t, 3, "", "runtime mitogen")
	Mitogend(t, dir, "call", "--daemon", "none", "--runtime", "other", "stockmod:f", "x").Want(t, 2, "", "embedded, mitogen or mitogen:DIR")
}
