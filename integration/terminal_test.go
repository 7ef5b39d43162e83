package integration

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/internal/pty"

	"golang.org/x/sys/unix"
)

// terminal runs the binary as a user on a terminal does.
type terminal struct {
	t   *testing.T
	cmd *exec.Cmd
	pty *os.File

	mu   sync.Mutex
	seen bytes.Buffer
	done chan struct{}
}

// startOnPTY starts a command in a session of its own, on a terminal.
func startOnPTY(cmd *exec.Cmd, rows, columns int) (*os.File, error) {
	master, slave, err := pty.Files()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	if err := pty.SetSize(int(slave.Fd()), rows, columns); err != nil {
		_ = master.Close()
		return nil, err
	}
	if cmd.Stdin == nil {
		cmd.Stdin = slave
	}
	if cmd.Stdout == nil {
		cmd.Stdout = slave
	}
	if cmd.Stderr == nil {
		cmd.Stderr = slave
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		_ = master.Close()
		return nil, err
	}
	return master, nil
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := startOnPTY(cmd, 24, 60)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, pty: f, done: make(chan struct{})}
	go func() {
		defer close(term.done)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			term.mu.Lock()
			term.seen.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

// screen is all that was written to the terminal.
func (term *terminal) screen() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.seen.String()
}

func (term *terminal) expect(text string) {
	term.t.Helper()
	poll.Until(term.t, "the terminal shows "+text, func() bool {
		select {
		case <-term.done: // nothing comes any more
			if !strings.Contains(term.screen(), text) {
				term.t.Fatalf("the program has ended; the terminal does not show %q: %q", text, term.screen())
			}
		default:
		}
		return strings.Contains(term.screen(), text)
	})
}

// expectAfter waits for text behind something that is shown once. What is typed before a prompt, Ctrl-D above all, may be
// lost when the terminal's mode changes.
func (term *terminal) expectAfter(mark, text string) {
	term.t.Helper()
	term.expect(mark)
	poll.Until(term.t, "the terminal shows "+text+" behind "+mark, func() bool {
		_, rest, _ := strings.Cut(term.screen(), mark)
		return strings.Contains(rest, text)
	})
}

func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := io.WriteString(term.pty, text); err != nil {
		term.t.Fatal(err)
	}
}

// wait gives the exit status.
func (term *terminal) wait() int {
	term.t.Helper()
	defer time.AfterFunc(time.Minute, func() { _ = term.cmd.Process.Kill() }).Stop()
	_ = term.cmd.Wait()
	<-term.done
	_ = term.pty.Close()
	return term.cmd.ProcessState.ExitCode()
}

func TestProgressOnATerminal(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "m.py", "import os, time\ndef f():\n    while not os.path.exists('go'):\n        time.sleep(0.01)\n    return 'result'\n")
	p := AnyPython(t)
	targets := p.Target() + "," + p.Target() + ",local:?python=/nowhere/python"
	term := onTerminal(t, Command(t, dir, "call", "-H", targets, "m:f"))
	term.expect("\r\x1b[K1 of 3 targets done, 1 failed, 2 running")
	Write(t, dir, "go", "")
	if status := term.wait(); status != 3 {
		t.Fatal(status, term.screen())
	}
	// The line is removed from the screen before anything else is written, and at the end.
	for _, part := range strings.Split(term.screen(), " running")[1:] {
		if _, rest, _ := strings.Cut(part, "\r"); !strings.HasPrefix(rest, "\x1b[K") || strings.HasPrefix(part, "\r\n") {
			t.Fatalf("%q", term.screen())
		}
	}
	if strings.Count(term.screen(), `| "result"`+"\r\n") != 2 {
		t.Fatalf("%q", term.screen())
	}
	for _, args := range [][]string{{"-q", "call", "-H", targets}, {"call", "-H", p.Target()}} {
		if err := os.Remove(filepath.Join(dir, "go")); err != nil && args[0] == "-q" {
			t.Fatal(err)
		}
		cmd := Command(t, dir, append(args, "time:sleep", "1.5")...)
		term := onTerminal(t, cmd)
		if term.wait(); strings.Contains(term.screen(), "running") {
			t.Fatalf("%v: %q", args, term.screen())
		}
	}
}

func TestInterruptAtATerminal(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import sys, time\nprint('up')\nsys.stdout.flush()\nwhile 1:\n    time.sleep(100)\n")
	p := AnyPython(t)
	for _, target := range []string{p.Target(), p.Target() + "," + p.Target()} {
		term := onTerminal(t, Command(t, dir, "run", "-H", target, "p.py"))
		term.expect("up\r\n")
		term.send("\x03")
		if status := term.wait(); status != 130 || !strings.Contains(term.screen(), "mitogend: interrupted\r\n") {
			t.Fatalf("%d %q", status, term.screen())
		}
	}
}

// A program reads typed input, and its end.
func TestTypingToAProgram(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import sys\nfor line in iter(sys.stdin.readline, ''):\n    sys.stdout.write('got ' + line.upper())\n    sys.stdout.flush()\nprint('end')\n")
	EachPython(t, func(t *testing.T, p Python) {
		term := onTerminal(t, Command(t, dir, "run", "-H", p.Target(), "p.py"))
		term.send("abc\n")
		term.expect("got ABC\r\n")
		term.send("\x04")
		if status := term.wait(); status != 0 || !strings.HasSuffix(term.screen(), "end\r\n") {
			t.Fatalf("%d %q", status, term.screen())
		}
	})
}

// stubSudo asks for a password on the terminal that it has, and runs what it is given.
const stubSudo = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	-u) shift ;;
	--) shift; break ;;
	-*) ;;
	*) break ;;
	esac
	shift
done
printf '%s' "$SUDO_PROMPT" > /dev/tty
stty -echo < /dev/tty
read -r word < /dev/tty
stty echo < /dev/tty
printf '\n' > /dev/tty
[ "$word" = 'open sesame' ] || { echo 'sudo: 1 incorrect password attempt' > /dev/tty; exit 1; }
exec "$@"
`

func TestPasswordIsAskedOnce(t *testing.T) {
	dir := t.TempDir()
	sudo := filepath.Join(dir, "sudo")
	pythons.Program(t, sudo, stubSudo)
	p := AnyPython(t)
	target := "sudo:root?sudo_path=" + sudo + "&" + strings.TrimPrefix(p.Target(), "local:?")
	call := func(word string, status int, want string) {
		t.Helper()
		term := onTerminal(t, Command(t, dir, "call", "-vv", "--ask-become-pass", "-H", target+","+target+","+p.Target(), "os:getpid"))
		term.expect("Become password: ")
		term.send(word + "\n")
		if got := term.wait(); got != status || !strings.Contains(term.screen(), want) || strings.Count(term.screen(), "Become password") != 1 {
			t.Fatalf("%d %q", got, term.screen())
		}
		if strings.Contains(term.screen(), word) {
			t.Fatalf("the password shows: %q", term.screen())
		}
	}
	call("open sesame", 0, "")
	call("guessed it", 3, "password")

	// ^C at the question restores the terminal.
	cmd := Command(t, dir, "call", "--ask-become-pass", "-H", target, "os:getpid")
	term := onTerminal(t, cmd)
	// On Linux, the other end has the same settings as the terminal itself.
	echoes := func() bool {
		settings, err := unix.IoctlGetTermios(int(term.pty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return settings.Lflag&unix.ECHO != 0 && settings.Lflag&unix.ICANON != 0 && settings.Lflag&unix.ISIG != 0
	}
	term.expect("Become password: ")
	poll.Until(t, "nothing that is typed shows", func() bool { return !echoes() })
	term.send("half of it\x03")
	_ = cmd.Wait()
	if !echoes() {
		t.Error("the terminal is left as it was for the password")
	}
	if status := term.wait(); status != 130 || strings.Contains(term.screen(), "half") {
		t.Fatal(status, term.screen())
	}
	// So does ^\, and ^D is not a password.
	for key, want := range map[string]int{"\x1c": 131, "\x04": 2} {
		cmd := Command(t, dir, "call", "--ask-become-pass", "-H", target, "os:getpid")
		term = onTerminal(t, cmd)
		term.expect("Become password: ")
		poll.Until(t, "nothing that is typed shows", func() bool { return !echoes() })
		term.send(key)
		_ = cmd.Wait()
		if !echoes() {
			t.Errorf("%q leaves the terminal as it was for the password", key)
		}
		if status := term.wait(); status != want || strings.Contains(term.screen(), "goroutine") || want == 2 && !strings.Contains(term.screen(), "no password was typed") {
			t.Error(status, term.screen())
		}
	}
	// No flag, no question: a failure that says what to do.
	cmd = Command(t, dir, "call", "-H", target, "os:getpid")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	oneLine(t, runCommand(t, cmd), 3, "password", "try: ")
}
