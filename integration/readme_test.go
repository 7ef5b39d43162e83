package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/poll"

	"github.com/kballard/go-shellquote"
)

// The commands of the README do what the README says.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	p := AnyPython(t)
	runtime := "XDG_RUNTIME_DIR=" + socketDir(t) // for the README's own daemon
	var daemon *exec.Cmd
	commands := 0
	for _, line := range strings.Split(string(text), "\n") {
		command, ok := strings.CutPrefix(line, "    bin/mitogend ")
		if !ok {
			continue
		}
		commands++
		args, err := shellquote.Split(strings.TrimSuffix(command, " &"))
		if err != nil {
			t.Fatal(command, err)
		}
		if strings.HasSuffix(command, " &") {
			daemon = Command(t, "..", args...)
			daemon.Env = append(daemon.Env, runtime, "MITOGEND_DAEMON=")
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			poll.Until(t, "the daemon serves", func() bool {
				ps := Command(t, "..", "ps")
				ps.Env = append(ps.Env, runtime, "MITOGEND_DAEMON=")
				return ps.Run() == nil
			})
			continue
		}
		alone := args[0] == "modules" || args[0] == "ps" || args[0] == "stop"
		if !strings.Contains(command, "-H ") && !alone {
			args = append([]string{args[0], "-H", p.Target()}, args[1:]...)
		}
		cmd := Command(t, "..", args...)
		cmd.Env = append(cmd.Env, runtime, "MITOGEND_DAEMON=")
		r := runCommand(t, cmd)
		if r.Status != 0 || r.Stdout == "" && args[0] != "stop" {
			t.Errorf("%s: %v", command, r)
		}
		if strings.HasSuffix(command, "report.py") {
			// All lines but the first, which names the version.
			for _, want := range strings.Split(r.Stdout, "\n")[1:] {
				if !strings.Contains(string(text), want) {
					t.Errorf("the README does not show %q", want)
				}
			}
		}
	}
	if daemon != nil {
		if err := daemon.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	if commands < 5 {
		t.Errorf("found %d commands", commands)
	}
}

func TestExamples(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		r := Mitogend(t, "..", "run", "-H", p.Target(), "-I", "examples/report", "-I", "examples/report/vendor", "examples/report/report.py", "--currency", "USD")
		if r.Status != 0 || r.Stderr != "" || !strings.HasPrefix(r.Stdout, "Orders, as Python "+p.Version) || !strings.Contains(r.Stdout, "  Ada    31.20 USD\n") {
			t.Error(r)
		}
		r = Mitogend(t, "..", "call", "-H", p.Target(), "-I", "examples/facts", "facts:disk", "/")
		if r.Status != 0 || !strings.Contains(r.Stdout, `"free":`) {
			t.Error(r)
		}
		r = Mitogend(t, "..", "call", "-H", p.Target(), "-I", "examples/facts", "facts:disk", "/", "--kw", "unit=0")
		if r.Status != 1 || !strings.Contains(r.Stderr, "ValueError: unit must be at least 1, not 0\n") {
			t.Error(r)
		}
	})
	// How long it takes to compile says nothing about the example.
	program := filepath.Join(t.TempDir(), "example")
	build := exec.Command("go", "build", "-o", program, "./examples/go")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program, AnyPython(t).Target())
	cmd.Dir = ".."
	if r := runCommand(t, cmd); r.Status != 0 || strings.Count(r.Stdout, "\n") != 2 || !strings.Contains(r.Stdout, "No such file") {
		t.Error(r)
	}
}
