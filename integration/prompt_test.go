package integration

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/poll"
)

// Typed lines run on several targets, and equal output is shown once.
func TestReplOnSeveralTargets(t *testing.T) {
	EachPython(t, replOnSeveral)
}

func replOnSeveral(t *testing.T, p Python) {
	dir := t.TempDir()
	Write(t, dir, "served.py", "WHERE = 'here'\n")
	hosts := []string{"-H", p.Target(), "-H", p.Target() + "&connect_timeout=31s"}
	// Lines from a pipe; the last one has no newline.
	repl := func(text string, more ...string) Result {
		cmd := Command(t, dir, append(append([]string{"repl"}, hosts...), more...)...)
		cmd.Stdin = strings.NewReader(text)
		return runCommand(t, cmd)
	}
	r := repl(strings.Join([]string{
		"x = 5", "for i in range(2):", "    print(i)", "", "x + 1", "import served; served.WHERE", "1/0", "u'w\u00f6rd'.upper() == u'W\u00d6RD'",
		"import sys; _ = sys.stderr.write('to stderr\\n')", "import os; x = os.system('echo by another; cat')", "__name__, sys.argv == ['']", "print('no end')",
	}, "\n"))
	for _, want := range []string{" (2)\n0\n1\n", " (2)\n6\n", " (2)\n'here'\n", " (2)\nTrue\n", " (2)\nby another\n", " (2)\n('__main__', True)\n", " (2)\nno end\n"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%q is not in %s", want, r)
		}
	}
	if r.Status != 0 || strings.Count(r.Stderr, "ZeroDivisionError") != strings.Count(r.Stderr, "Traceback") || !strings.Contains(r.Stderr, " (2)\nto stderr\n") ||
		!strings.Contains(r.Stderr, `File "<console>", line 1`) {
		t.Error(r)
	}
	// A target that has ended is left out; the others go on.
	r = repl("import os\nif os.environ['MITOGEND_TARGET'][-3:] == '31s': raise SystemExit(3)\n\n'one'\n")
	if !strings.Contains(r.Stdout, " (1)\n'one'\n") || r.Status != 1 || !strings.Contains(r.Stderr, "the program ended with status 3") {
		t.Error(r)
	}
	// What a thread prints later is shown as well: with the next text, or at the end.
	r = repl(strings.Join([]string{
		"import sys, threading", "next, last = threading.Event(), threading.Event()", "def late(event, text):", "    event.wait(); print(text); sys.stdout.flush()", "",
		"one = threading.Thread(target=late, args=(next, 'of one')); one.start()", "threading.Thread(target=late, args=(last, 'of the last')).start()",
		"threading.Timer(0.2, next.set).start(); threading.Timer(0.4, last.set).start()",
	}, "\n"))
	if r.Status != 0 || !strings.Contains(r.Stdout, "of one\n") || !strings.Contains(r.Stdout, "of the last\n") {
		t.Error(r)
	}
	// A target may be named twice, and text need not be UTF-8.
	if r := repl("# \xe9\n2\n", hosts[:2]...); r.Status != 0 || !strings.Contains(r.Stdout, " (3)\n2\n") {
		t.Error(r)
	}
	Mitogend(t, dir, append([]string{"repl", "--json"}, hosts...)...).Want(t, 2, "", "without --json")
	Mitogend(t, dir, append([]string{"repl", "--timeout", "3s"}, hosts...)...).Want(t, 2, "", "without --batch")
	if r := repl("1\n", "-H", "local:?python=/nowhere"); r.Status != 3 || !strings.Contains(r.Stdout, " (2)\n1\n") {
		t.Error(r)
	}
}

// Ctrl-C ends what does not end by itself.
func TestReplInterruptedAtTheEnd(t *testing.T) {
	in, interrupt := replOnPipes(t, "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); print('begun')\n")
	_ = in.Close()
	interrupt()
}

// Ctrl-C ends a prompt that waits for a line which is not typed.
func TestReplInterruptedWithoutATerminal(t *testing.T) {
	in, interrupt := replOnPipes(t, "print('begun')\n")
	defer in.Close()
	interrupt()
}

// replOnPipes starts repl on two targets, gives it a text that prints begun, and waits for that. interrupt sends SIGINT until
// repl has ended by it.
func replOnPipes(t *testing.T, text string) (in io.Closer, interrupt func()) {
	target := AnyPython(t).Target()
	cmd := Command(t, t.TempDir(), "repl", "-H", target, "-H", target+"&connect_timeout=31s")
	out := &Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	pipe, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	_, _ = io.WriteString(pipe, text)
	poll.Until(t, "it has begun", func() bool { return strings.Contains(out.String(), " (2)\nbegun\n") })
	return pipe, func() {
		t.Helper()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		poll.Until(t, "it has ended", func() bool {
			_ = cmd.Process.Signal(os.Interrupt)
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
		if cmd.ProcessState.ExitCode() != 130 {
			t.Error(cmd.ProcessState, out)
		}
	}
}

// On a terminal there are a prompt, completion, interruption and a history.
func TestReplAtATerminal(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	target := AnyPython(t).Target()
	cmd := Command(t, dir, "repl", "-H", target, "-H", target+"&connect_timeout=31s", "-H", target+"&connect_timeout=32s")
	cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+state)
	d := onDisplay(t, cmd, 100, 40)
	d.expect(`3 targets>>>`)
	d.send("abcdef = 42\r")
	d.expect(`abcdef = 42\n3 targets>>>`)
	d.send("abcd\t + 1\r")
	d.expect(`\(3\)\n43\n`)
	d.send("if abcdef:\r")
	d.expect(`(?m)^\.\.\.`)
	d.send("\t'in' + 'dented'\r\r")
	d.expect(`\(3\)\n'indented'\n`)
	// In short pieces: see TestInterruptIsKeyboardInterrupt.
	d.send("import time; print('slow'); [time.sleep(.05) for _ in range(9999)]\r")
	d.expect(`waiting for 3 targets: `)
	d.send("\x03")
	d.expect(`KeyboardInterrupt\s+3 targets>>>`)
	d.send("half a line\x03")
	d.send("import os; os.getpid() % 2 and None\r")
	d.send("import signal; os.kill(os.getpid(), signal.SIGKILL) if os.environ['MITOGEND_TARGET'].endswith('=32s') else None\r")
	d.expect(`2 of 3 targets>>>`)
	d.send("\x04")
	if status := d.wait(); status != 1 {
		t.Errorf("status %d\n%s", status, d.screen())
	}
	file := filepath.Join(state, "mitogend/repl_history")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(err, info)
	}
	if text, _ := os.ReadFile(file); !strings.Contains(string(text), "abcdef + 1\n") {
		t.Errorf("%s", text)
	}
}
