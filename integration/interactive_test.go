package integration

import (
	"bytes"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"mitogend/integration/poll"
	"mitogend/internal/pty"
)

// A command on a terminal has its size and is told of changes; keys arrive unchanged; the status is the command's.
func TestExecAtATerminal(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		run := func(args ...string) *terminal {
			return onTerminal(t, Command(t, dir, append([]string{"exec", "-t", "-H", p.Target()}, args...)...))
		}
		term := run("--env", "A=b", "--", "sh", "-c", `stty size; test -t 0 && test -t 1 && test -t 2 && echo "terminal $A $(ps -o tty= $$ | grep -c pts)"; exit 7`)
		if status := term.wait(); status != 7 || !strings.Contains(term.screen(), "24 60\r\nterminal b 1\r\n") {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		// Ctrl-C goes to the command; its shell goes on.
		term = run("--shell", `trap 'echo interrupted' INT; echo ready; while ! read x; do :; done; echo "got $x"; stty size`)
		term.expect("ready\r\n")
		term.send("\x03")
		term.expect("interrupted\r\n")
		if err := pty.SetSize(int(term.pty.Fd()), 33, 99); err != nil {
			t.Fatal(err)
		}
		term.send("wörd\r")
		if term.wait(); !strings.Contains(term.screen(), "got wörd\r\n") {
			t.Errorf("%s", term.screen())
		}
		term = run("--", "sh", "-c", `trap 'stty size' WINCH; echo ready; while ! read x; do :; done`)
		term.expect("ready\r\n")
		if err := pty.SetSize(int(term.pty.Fd()), 33, 99); err != nil {
			t.Fatal(err)
		}
		term.expect("33 99\r\n")
		term.send("\r")
		term.wait()
		// A process left in the background does not keep the terminal.
		term = run("--shell", "sleep 60 & echo done")
		if status := term.wait(); status != 0 || !strings.Contains(term.screen(), "done\r\n") {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		// A command that lets go of the terminal can be left.
		term = run("--", "sh", "-c", "echo off; exec </dev/null >/dev/null 2>&1; exec sleep 1000")
		term.expect("off\r\n")
		term.send("\r~.")
		term.wait()
		term = run("--", "sh", "-c", "echo off; exec </dev/null >/dev/null 2>&1; sleep 0.3; exit 5")
		if status := term.wait(); status != 5 {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		term = run("--shell", "kill -9 $$")
		if status := term.wait(); status != 137 {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		term = run("--", "no such command")
		if status := term.wait(); status != 127 || !strings.Contains(term.screen(), "mitogend exec: no such command: No such file or directory") {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		// It can be ended from this side, even if it ignores a hangup.
		term = run("--shell", "trap '' HUP; echo ready; while :; do read x || sleep 1; done")
		term.expect("ready\r\n")
		term.send("\r~.")
		if status := term.wait(); status != 255 {
			t.Errorf("status %d\n%s", status, term.screen())
		}
		// Much data goes through, in both directions.
		term = run("--shell", "seq 200000; stty raw -echo; echo now; head -c 500000 | tr -cd x | wc -c")
		term.expect("200000\r\nnow\n") // a line of a terminal has 4096 bytes at most, unless it is raw
		term.send(strings.Repeat("x", 500000))
		if term.wait(); !strings.Contains(term.screen(), "500000") {
			t.Errorf("%.300s", term.screen())
		}
	})
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")

// A program runs on a terminal, and then the prompt has its names, however it has ended.
func TestRunInteractive(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "beside.py", "def away():\n    return 'from ' + __name__\n")
		Write(t, dir, "p.py", "import sys, beside\nstart = sys.stdin.readline()\nprint('%s %s %s' % (sys.argv, beside.away(), sys.stdin.isatty()))\n"+
			"def fails():\n    raise ValueError('no')  # here\nif start == 'fail\\n':\n    fails()\nif start == 'exit\\n':\n    sys.exit(3)\n")
		for _, how := range []string{"end", "fail", "exit"} {
			term := onTerminal(t, Command(t, dir, "run", "--interactive", "-H", p.Target(), "p.py", "an arg", "-x"))
			term.send(how + "\r")
			term.expect("['p.py', 'an arg', '-x'] from beside True\r\n")
			term.expect(">>> ")
			switch {
			case how == "fail" && (!strings.Contains(term.screen(), "raise ValueError('no')  # here") || !strings.Contains(term.screen(), "ValueError: no")):
				t.Errorf("no traceback: %s", term.screen())
			case how == "exit" && !strings.Contains(term.screen(), "SystemExit: 3"):
				t.Errorf("no exit: %s", term.screen())
			}
			term.send("print(repr(start) + __name__ + '!')\r")
			term.expectAfter("'"+how+"\\n'__main__!\r\n", ">>> ")
			term.send("\x04")
			if status := term.wait(); status != 0 {
				t.Errorf("status %d\n%s", status, term.screen())
			}
		}
		term := onTerminal(t, Command(t, dir, "run", "--interactive", "-H", p.Target(), "-m", "beside"))
		term.expect(">>> ")
		term.send("away()\r")
		term.expectAfter("'from __main__'\r\n", ">>> ")
		term.send("\x04")
		term.wait()
	})
	for _, args := range [][]string{{"run", "--interactive", "-"}, {"run", "--interactive", "/dev/null"}} {
		Mitogend(t, t.TempDir(), args...).Want(t, 2, "", "run --interactive")
	}
}

// Python's prompt has imports from here, and Ctrl-C interrupts its lines.
func TestRepl(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		Write(t, dir, "far.py", "def away():\n    return 'from ' + __name__\n")
		term := onTerminal(t, Command(t, dir, "repl", "-H", p.Target()))
		term.expect(">>> ")
		term.send("import far, gc\r")
		term.send("gc.collect() and ''\r")
		term.send("far.away() + '!'\r")
		term.expect("'from far!'")
		term.send("for i in range(2):\r    print(i + 40)\r\r")
		term.expect("41\r\n")
		term.send("import time; print('asleep'); _ = [time.sleep(0.01) for _ in range(60000)]\r")
		term.expect("asleep\r\n")
		term.send("\x03")
		term.expect("KeyboardInterrupt")
		term.send("1 / 0\r")
		term.expect("ZeroDivisionError")
		term.send("sorted(n for n in globals() if n[:1] != '_')\r")
		term.expect("['far', 'gc', 'i', 'time']")
		term.send("raise SystemExit(5)\r")
		if status := term.wait(); status != 5 {
			t.Errorf("status %d\n%s", status, escapes.ReplaceAllString(term.screen(), ""))
		}
	})
}

// Without a terminal, the error says what is missing, and nothing is started.
func TestTerminalIsWanted(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"repl"}, {"exec", "-t", "--", "bash"}} {
		Mitogend(t, dir, args...).Want(t, 2, "", "stdin and stdout have to be terminals")
		Mitogend(t, dir, append([]string{args[0], "--env", "A"}, args[1:]...)...).Want(t, 2, "", "--env A: not NAME=VALUE")
		Mitogend(t, dir, append([]string{args[0], "--json"}, args[1:]...)...).Want(t, 2, "", "without --json, -b and -o")
	}
	Mitogend(t, dir, "exec", "-t", "-H", "local:,local:", "--", "bash").Want(t, 2, "", "is for one target, not for 2")
}

// TestTypedForNobody offers far more than anybody reads, and has the command end.
func TestTypedForNobody(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	term := onTerminal(t, Command(t, dir, "exec", "-t", "-H", p.Target(), "--shell", "stty -echo -icanon; echo ready; while ! [ -e go ]; do sleep 0.05; done; exit 7"))
	term.expect("ready\r\n")
	var typed atomic.Int64
	go func() {
		for text := bytes.Repeat([]byte("x"), 4096); ; {
			n, err := term.pty.Write(text)
			if typed.Add(int64(n)); err != nil {
				return
			}
		}
	}()
	before, calm := int64(0), 0
	poll.Until(t, "nothing more can be typed", func() bool {
		if now := typed.Load(); now == 0 || now != before {
			before, calm = now, 0
		}
		calm++
		return calm > 500
	})
	Write(t, dir, "go", "")
	if status := term.wait(); status != 7 {
		t.Errorf("status %d after %d bytes", status, before)
	}
}

// TestPrintedForEver: others print on the terminal when the command has ended.
func TestPrintedForEver(t *testing.T) {
	p := AnyPython(t)
	term := onTerminal(t, Command(t, t.TempDir(), "exec", "-t", "-H", p.Target(), "--shell",
		"stty -a; (trap '' HUP; while echo more; do :; done) 2>/dev/null & seq 20000; exit 7"))
	if status := term.wait(); status != 7 || !strings.Contains(term.screen(), "\n20000\r\n") {
		t.Errorf("status %d: %.300s", status, term.screen())
	}
	if !strings.Contains(term.screen(), " iutf8") || strings.Contains(term.screen(), "-iutf8") {
		t.Errorf("erasing leaves half of a character: %.300s", term.screen())
	}
}
