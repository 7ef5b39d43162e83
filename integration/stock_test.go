package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mitogend/daemon/client"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// stockPython is an interpreter that imports Mitogen.
func stockPython(t *testing.T) string {
	t.Helper()
	path := "/usr/bin/python3"
	if p := os.Getenv("MITOGEND_STOCK_PYTHON"); p != "" {
		path = p
	}
	if out, err := exec.Command(path, "-c", "import mitogen.master").CombinedOutput(); err != nil {
		pythons.Missing(t, fmt.Sprintf("%s has no Mitogen: %v\n%s", path, err, out))
	}
	return path
}

// These differ from run to run: process ids in names, and the command line of a program that could not be started.
var varies = regexp.MustCompile(`(local|fork)\.\d+|Command was: .*`)

// The programs in testdata/stock run unchanged under Mitogen's own master and under ours, and print the same.
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
			if strings.Contains(string(source), "router.sudo(") && exec.Command("sudo", "-n", "-u", "nobody", "true").Run() != nil {
				pythons.Missing(t, "needs the right to use sudo without a password")
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

// Releases differ inside: if the shim does not find something, it says so in one line. It needs nothing else.
func TestMasterWithAnotherMitogen(t *testing.T) {
	python := stockPython(t)
	out, err := exec.Command(python, "-c", "import mitogen,os;print(os.path.dirname(mitogen.__file__))").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, old, new, stdout, stderr string }{
		{"parent.py", "get_log_level", "get_log_levels", "2\n", ""}, // as in 0.3.42 and later
		{"parent.py", "get_connection_class", "connection_class", "",
			"mitogend master: Mitogen 0.3.3 (DIR) has no mitogen.parent.get_connection_class, which is needed to be its master; " +
				"take another release, or a later mitogend\n"},
	} {
		dir := t.TempDir()
		mitogen := filepath.Join(dir, "mitogen")
		if err := os.CopyFS(mitogen, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(filepath.Join(mitogen, c.file))
		if err != nil || !strings.Contains(string(source), c.old) {
			t.Fatalf("%s has no %s: %v", c.file, c.old, err)
		}
		Write(t, mitogen, c.file, regexp.MustCompile(`\b`+c.old+`\b`).ReplaceAllString(string(source), c.new))
		program := Write(t, dir, "program.py", "import mitogen.utils\n\ndef f(x):\n    return x + 1\n\n"+
			"if __name__ == '__main__':\n    print(mitogen.utils.run_with_router(lambda router: router.local().call(f, 1)))\n")
		r := Mitogend(t, dir, "master", "--", python, program)
		want := strings.ReplaceAll(c.stderr, "DIR", mitogen)
		if r.Stdout != c.stdout || (r.Status == 0) != (want == "") || !strings.Contains(regexp.MustCompile(`Mitogen [0-9.]+`).
			ReplaceAllString(r.Stderr, "Mitogen 0.3.3"), want) {
			t.Errorf("without %s: %v; want %q, %q", c.old, r, c.stdout, want)
		}
	}
}

// Children run the Mitogen that the program has imported, from a place that only the program knows, and report its version.
func TestMasterOnAPathOfTheProgram(t *testing.T) {
	python := stockPython(t)
	out, err := exec.Command(python, "-c", "import mitogen,os;print(os.path.dirname(mitogen.__file__))").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mitogen := filepath.Join(dir, "vendor", "mitogen")
	if err := os.CopyFS(mitogen, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(mitogen, "__init__.py"))
	if err != nil {
		t.Fatal(err)
	}
	Write(t, mitogen, "__init__.py", regexp.MustCompile(`(?m)^__version__ = .*`).ReplaceAllString(string(source), "__version__ = (0, 3, 3, 'own')"))
	program := Write(t, dir, "program.py", `
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'vendor'))
import mitogen.utils

def version():
    import mitogen
    return '.'.join(str(n) for n in mitogen.__version__)

def main(router):
    import mitogen
    child = router.local()
    print(version(), child.call(version), router.local(via=child).call(version))

if __name__ == '__main__':
    mitogen.utils.run_with_router(main)
`)
	Mitogend(t, dir, "master", "--", python, program).Want(t, 0, "0.3.3.own 0.3.3.own 0.3.3.own\n", "")
}

func TestMasterUsage(t *testing.T) {
	stockPython(t)
	dir := t.TempDir()
	Mitogend(t, dir, "master").Want(t, 2, "", "no program was given")
	Mitogend(t, dir, "master", "--", "/nonexistent/program").Want(t, 2, "", "/nonexistent/program")
	Mitogend(t, dir, "master", "--", "sh", "-c", "exit 7").Want(t, 7, "", "")
}

// Stock children by flag and by key, and what they cannot do.
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

const runtimeProgram = `
import sys
import os

def where():
    import mitogen.core
    return mitogen.core.__file__

if __name__ == '__main__':
    sys.path.append(sys.argv[2])
    import mitogen.unix
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        print(router.local(via=parent).call(where))
    finally:
        router.broker.shutdown()
        router.broker.join()
`

// Clients that name no runtime and no inventory get those of the daemon's configuration.
func TestRuntimeAndInventoryOfADaemon(t *testing.T) {
	out, err := exec.Command(stockPython(t), "-c", "import mitogen,os;print(os.path.dirname(os.path.dirname(mitogen.__file__)))").Output()
	if err != nil {
		t.Fatal(err)
	}
	stock := strings.TrimSpace(string(out))
	// The versions that Mitogen 0.3.3 supports.
	old := slices.DeleteFunc(pythons.All(t), func(p pythons.Python) bool {
		return !slices.Contains([]string{"3.6", "3.7", "3.8", "3.9", "3.10", "3.11"}, p.Version)
	})
	if len(old) == 0 {
		t.Skip("no Python that this Mitogen runs on")
	}
	p := clean(t, old[0])
	dir := t.TempDir()
	Write(t, dir, "own.py", "import mitogen.core\n\ndef stock():\n    return hasattr(mitogen.core, 'IoLoggerProtocol')\n")
	hosts := Write(t, dir, "hosts.yaml", fmt.Sprintf("all:\n  vars: {ansible_connection: local, ansible_python_interpreter: %s}\n  hosts: {w1: , w2: }\n", p.Command))
	d := Serve(t, "--runtime", "mitogen:"+stock, "-i", hosts, "-I", dir)
	ask := func(opt client.Options, target string) any {
		t.Helper()
		var v any
		// Connect of package client parses the target itself; other clients leave that to the daemon.
		err := d.Dial(t, opt).Do(context.Background(), "call", map[string]any{"target": target, "function": "own:stock"}, &v)
		if err != nil {
			return err.Error()
		}
		return v
	}
	if got := ask(client.Options{}, "w1"); got != true {
		t.Errorf("a name of the inventory has the configured runtime: %v", got)
	}
	if got := ask(client.Options{}, "w2?runtime=embedded"); got != false {
		t.Errorf("a target's own runtime wins: %v", got)
	}
	if got := ask(client.Options{}, "all"); got != "all means 2 hosts of the inventory, and a request is for one" {
		t.Errorf("a pattern: %v", got)
	}
	// The commands do what they do without a daemon.
	d.Run(t, dir, "call", "-H", p.Target(), "own:stock").Want(t, 0, "false\n", "")
	// A program whose interpreter, asked alone, finds no Mitogen.
	program := Write(t, dir, "program.py", runtimeProgram)
	r := p.Local(t, dir, "", program, filepath.Join(d.Dir, "mitogen.sock"), stock)
	if r.Status != 0 || !strings.Contains(r.Stdout, "core.py") {
		t.Errorf("%v\n%s", r, d.Log)
	}
	// SIGHUP reads the inventory again.
	Write(t, dir, "hosts.yaml", fmt.Sprintf("all:\n  vars: {ansible_connection: local, ansible_python_interpreter: %s}\n  hosts: {w3: }\n", p.Command))
	d.Signal(syscall.SIGHUP)
	poll.Until(t, "the inventory was read", func() bool { return ask(client.Options{}, "w3") == true })
	Mitogend(t, dir, "serve", "--listen", d.Dir+"2", "--runtime", "mitogen:"+dir).Want(t, 2, "", "no such file or directory")
	Mitogend(t, dir, "serve", "--runtime", "other").Want(t, 2, "", "embedded, mitogen or mitogen:DIR")
	Mitogend(t, dir, "config", "check", "-i", "nothing.yaml").Want(t, 2, "", "nothing.yaml: no such file")
}
