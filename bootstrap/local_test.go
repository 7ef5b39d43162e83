package bootstrap

import (
	"context"
	"errors"
	"mitogend/integration/pythons"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var layouts = []Stdio{Socketpair, Pipes, PTY, Hybrid, HybridPipes}

func TestLocalOverEveryLayout(t *testing.T) {
	for _, py := range interpreters(t) {
		for _, s := range layouts {
			t.Run(filepath.Base(filepath.Dir(filepath.Dir(py)))+"/"+string(s), func(t *testing.T) {
				p := started(t, build(t, "local", map[string]any{"python": py, "stdio": string(s)}), echo)
				if !Supported(p.HexVersion) || p.HexVersion == 0 {
					t.Errorf("hexversion %x", p.HexVersion)
				}
				checkEcho(t, p)
			})
		}
	}
}

func TestRealRuntimeComesUp(t *testing.T) {
	opt := real
	for _, s := range layouts {
		t.Run(string(s), func(t *testing.T) {
			p := started(t, build(t, "local", map[string]any{"python": anyPython(t), "stdio": string(s)}), opt)
			if len(p.output.shown()) > 0 {
				t.Errorf("it printed %q", p.output.shown())
			}
		})
	}
}

// script writes an executable file.
func script(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	pythons.Program(t, path, text)
	return path
}

func TestLocalTakesTheFirstUsableInterpreter(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		pythons.Program(t, path, text)
		return path
	}
	shim := write("shim", "#!/bin/sh\necho shim: command not found >&2\nexit 127\n")
	old := write("old", "#!/bin/sh\necho 'MITOERR old is Python 2.6; 2.7 or 3.6 and later is needed'\nexit 1\n")
	noBang := write("nobang", "print hello\n")
	good := write("wrapper", "#!/bin/sh\nexec "+anyPython(t)+" \"$@\"\n")
	all := []string{filepath.Join(dir, "absent"), shim, old, noBang, good}
	p := started(t, build(t, "local", map[string]any{"python": all}), echo)
	checkEcho(t, p)

	e := mustFail(t, build(t, "local", map[string]any{"python": all[:4]}), echo, StepPython)
	has(t, e, "absent (not found)", "shim: command not found", "old is Python 2.6", "exec format error", "try: install Python")

	// A path that leads nowhere is none that $PATH was asked for, and a script may be there without what runs it.
	lone := write("lone", "#!/no/python\n")
	for name, want := range map[string]string{
		filepath.Join(dir, "absent"): "there is no such file",
		lone:                         "its #! line names is not there",
		"no-such-python":             "executable file not found in $PATH",
	} {
		e := mustFail(t, build(t, "local", map[string]any{"python_path": name}), echo, StepProgram)
		has(t, e, name+": ", want)
	}
}

func TestChooserOnTheTarget(t *testing.T) {
	good := anyPython(t)
	b := boot
	b.Elsewhere = true
	p, err := Build("local", map[string]any{"python": []string{"no-such-python", "/etc/passwd", good}}, b)
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, started(t, p, echo))

	old := script(t, "old", "#!/bin/sh\nexit 9\n")
	broken := script(t, "broken", "#!/bin/sh\nexit 3\n")
	p, err = Build("local", map[string]any{"python": []string{"no-such-python", "/etc/passwd", old, broken}}, b)
	if err != nil {
		t.Fatal(err)
	}
	e := mustFail(t, p, echo, StepPython)
	has(t, e, "no-such-python (not found)", "/etc/passwd (cannot be executed)", old+" (older than 2.7, or 3.0 to 3.5)", broken+" (does not start, exit status 3)")
}

// TestProbeJudgesEveryVersion runs the probe's own condition over the versions that matter.
func TestProbeJudgesEveryVersion(t *testing.T) {
	test := strings.Replace(probe, "v=sys.hexversion>>16", "v=int(sys.argv[1],16)>>16", 1)
	for hex, ok := range map[string]bool{
		"020600f0": false, "020712f0": true, "030000f0": false, "030501f0": false, "03060ff0": true, "030d00f0": true, "040000f0": true,
	} {
		err := exec.Command(anyPython(t), "-c", test, hex).Run()
		if (err == nil) != ok {
			t.Errorf("%s: %v", hex, err)
		}
	}
}

func TestLocalFailures(t *testing.T) {
	py := anyPython(t)
	sh := func(body string) map[string]any {
		return map[string]any{"python_path": []string{"/bin/sh", "-c", body}}
	}
	for _, c := range []struct {
		name string
		opts map[string]any
		step Step
		want []string
	}{
		{"absent", map[string]any{"python": "/no/such/python"}, StepProgram, []string{"/no/such/python", "there is no such file"}},
		{"directory", map[string]any{"python": "/etc"}, StepProgram, []string{"/etc"}},
		{"exits at once", sh("exit 7"), StepConnect, []string{"exit status 7"}},
		{"complains", sh("echo out; echo oh no >&2; exit 1"), StepConnect, []string{`"oh no"`, "exit status 1"}},
		{"signal", sh("kill -9 $$"), StepConnect, []string{"signal: killed"}},
		{"dies before MITO001", sh("echo MITO000 30b07f0; echo last words >&2; exit 3"), StepStage, []string{"last words", "exit status 3"}},
		{"dies before MITO002", sh("echo MITO000 30b07f0; echo MITO001; exit 3"), StepRuntime, []string{"exit status 3"}},
		{"too old", sh("echo MITO000 30501f0; sleep 60"), StepPython, []string{"3.5.1"}},
		{"refuses", sh("echo 'MITOERR tried python=127'; sleep 60"), StepPython, []string{"python (not found)"}},
		{"garbage for ever", sh("exec yes garbage"), StepConnect, []string{"more than a mebibyte"}},
		{"garbage without a newline", sh("exec tr '\\0' x </dev/zero"), StepConnect, []string{"more than a mebibyte"}},
		{"silent", map[string]any{"python_path": []string{"/bin/sh", "-c", "echo hello; sleep 60"}, "connect_timeout": 5}, StepConnect, []string{"no child after 5s", "hello"}},
		{"stuck runtime", map[string]any{"python_path": []string{"/bin/sh", "-c", "echo MITO000 30b07f0; exec sleep 60"}, "connect_timeout": 5}, StepStage, []string{"no child after 5s", "take the runtime"}},
		{"markers in the wrong order", sh("echo MITO001; echo MITO002; exit 1"), StepConnect, []string{`"MITO001" | "MITO002"`}},
		{"leaves a grandchild", sh("sleep 60 & echo gone; exit 4"), StepConnect, []string{"exit status 4", "gone"}},
		{"ignores SIGTERM", map[string]any{"python_path": []string{"/bin/sh", "-c", "trap '' TERM HUP; echo stubborn; while :; do sleep 60; done"}, "connect_timeout": 5}, StepConnect, []string{"stubborn"}},
		{"raises", map[string]any{"python": py}, StepRuntime, []string{"ZeroDivisionError"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := echo
			if c.name == "raises" {
				opt.Preamble = preambleOf("def main(config, source):\n 1/0\n")
			}
			has(t, mustFail(t, build(t, "local", c.opts), opt, c.step), c.want...)
			if kids := children(); len(kids) > 0 {
				t.Errorf("left behind: %v", kids)
			}
		})
	}
}

func TestFailuresOverEveryLayout(t *testing.T) {
	for _, s := range layouts {
		t.Run(string(s), func(t *testing.T) {
			opts := map[string]any{"stdio": string(s), "python_path": []string{"/bin/sh", "-c", "echo to stdout; echo to stderr >&2; exit 5"}}
			has(t, mustFail(t, build(t, "local", opts), echo, StepConnect), "exit status 5", "to stdout", "to stderr")
		})
	}
}

func TestBannersBeforeTheChild(t *testing.T) {
	py := anyPython(t)
	body := `printf 'Welcome, MITO000 friends\r\nMITO000\t1\nMITO001\n\nenter your password: '; printf 'no newline '; exec ` + py + ` "$@"`
	for _, s := range layouts {
		t.Run(string(s), func(t *testing.T) {
			var lines []string
			opt := echo
			opt.Output = func(line string, ready bool) { lines = append(lines, line) }
			p := started(t, build(t, "local", map[string]any{"stdio": string(s), "python_path": []string{"/bin/sh", "-c", body, "sh"}}), opt)
			checkEcho(t, p)
			if got := strings.Join(lines, "|"); got != "Welcome, MITO000 friends|MITO000 1|MITO001|" {
				t.Errorf("banner lines %q", got)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	p := build(t, "local", map[string]any{"python_path": []string{"/bin/sh", "-c", "echo here; exec sleep 60"}})
	ctx, cancel := context.WithCancel(context.Background())
	opt := echo
	opt.Output = func(string, bool) { cancel() }
	_, err := Start(ctx, p, opt)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = Start(ctx, p, echo)
	var e *Error
	if !errors.As(err, &e) || !e.TimedOut {
		t.Fatalf("got %v", err)
	}
	if kids := children(); len(kids) > 0 {
		t.Errorf("left behind: %v", kids)
	}
}

func TestStderrAfterTheHandshake(t *testing.T) {
	lines := make(chan string, 10)
	opt := StartOptions{
		Preamble: preambleOf("import os\ndef main(config, source):\n os.write(1, b'MITO002\\n')\n os.read(0, 1)\n os.write(2, b'late \\xff\\x1b[31mred\\x1b[0m\\nunfinished')\n os._exit(3)\n"),
		Output: func(line string, ready bool) {
			if !ready {
				line = "early: " + line
			}
			lines <- line
		},
	}
	p := started(t, build(t, "local", map[string]any{"python": anyPython(t)}), opt)
	if _, err := p.Writer().Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"late \ufffdred", "unfinished"} {
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no line came")
		}
	}
	<-p.Done()
	if p.ExitStatus() != "exit status 3" {
		t.Errorf("status %q", p.ExitStatus())
	}
	if got := strings.Join(p.output.shown(), "|"); got != "late \ufffdred|unfinished" {
		t.Errorf("last lines %q", got)
	}
}

func TestCloseKillsTheGroup(t *testing.T) {
	core := "import os, signal, subprocess, time\ndef main(config, source):\n" +
		" signal.signal(signal.SIGTERM, signal.SIG_IGN)\n signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" +
		" k = subprocess.Popen(['sleep', '600'])\n os.write(1, ('MITO002\\n%d\\n' % k.pid).encode())\n" +
		" while 1: time.sleep(600)\n"
	p, err := Start(context.Background(), build(t, "local", map[string]any{"python": anyPython(t)}), StartOptions{Preamble: preambleOf(core)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// What the child has started is reaped by init, when that comes to it.
	for deadline := time.Now().Add(30 * time.Second); !errors.Is(syscall.Kill(-p.PID, 0), syscall.ESRCH); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the group is still there")
		}
	}
	if err := p.Close(ctx); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestDetach(t *testing.T) {
	core := "import os, time\ndef main(config, source):\n os.write(1, b'MITO002\\n')\n while 1: time.sleep(600)\n"
	p, err := Start(context.Background(), build(t, "local", map[string]any{"python": anyPython(t)}), StartOptions{Preamble: preambleOf(core)})
	if err != nil {
		t.Fatal(err)
	}
	p.Detach()
	if err := p.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, 0); err != nil {
		t.Fatalf("it did not survive: %v", err)
	}
	_ = syscall.Kill(-p.PID, syscall.SIGKILL)
	<-p.Done()
}

func TestManyAtOnce(t *testing.T) {
	plan := build(t, "local", map[string]any{"python": anyPython(t)})
	errs := make(chan error)
	for range 20 {
		go func() {
			p, err := Start(context.Background(), plan, echo)
			if err == nil {
				err = p.Close(context.Background())
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// shown gives the lines with the secrets masked.
func (t *transcript) shown() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maskAll(t.lines, t.secrets)
}
