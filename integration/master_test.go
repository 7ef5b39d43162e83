package integration

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"syscall"
	"testing"
)

// tells says which signals it gets, and ends after a while with status 5.
const tells = `
import os, signal, sys, time

def tell(text):
    os.write(1, text.encode() + b'\n') # a handler may not use sys.stdout while that is flushed

deadline = time.time() + 1000

def told(sig, frame):
    global deadline
    tell('got %d' % sig)
    if len(sys.argv) == 1:
        deadline = time.time() + 0.5

for sig in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(sig, told)
if 'stubborn' in sys.argv:
    signal.signal(signal.SIGINT, told)
try:
    tell('ready')
    while time.time() < deadline:
        time.sleep(0.05)
except KeyboardInterrupt:
    tell('interrupted')
    deadline = time.time() + 0.5 # a second SIGINT would cut it short
    while time.time() < deadline:
        time.sleep(0.05)
finally:
    tell('cleaned up')
sys.exit(5)
`

// What a signal does to a program is its own matter, and so is the status. It does not get ^C twice.
func TestMasterSignals(t *testing.T) {
	dir := t.TempDir()
	program := Write(t, dir, "tells.py", tells)
	python := AnyPython(t)
	command := func(args ...string) []string {
		return append([]string{"master", "--", python.argv[0]}, append(python.argv[1:len(python.argv):len(python.argv)], args...)...)
	}
	for _, c := range []struct {
		name    string
		args    []string
		signals []syscall.Signal
		lines   []string // after each signal
		status  int
	}{
		{"SIGINT", command(program, "slow"), []syscall.Signal{syscall.SIGINT}, []string{"interrupted"}, 5},
		{"SIGTERM", command(program), []syscall.Signal{syscall.SIGTERM}, []string{"got 15"}, 5},
		{"SIGHUP", command(program), []syscall.Signal{syscall.SIGHUP}, []string{"got 1"}, 5},
		{"the second", command(program, "stubborn"), []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, []string{"got 2", "got 15"}, 137},
		{"deadly", command("-c", "import time; print('ready', flush=True); time.sleep(1000)"), []syscall.Signal{syscall.SIGTERM}, nil, 143},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := Command(t, dir, c.args...)
			cmd.SysProcAttr = noTerminal
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			expect := func(want string) {
				if line, err := lines.ReadString('\n'); line != want+"\n" {
					t.Errorf("want %q, got %q, %v\n%s", want, line, err, &stderr)
				}
			}
			expect("ready")
			for i, sig := range c.signals {
				_ = cmd.Process.Signal(sig)
				if c.lines != nil {
					expect(c.lines[i])
				}
			}
			if c.status == 5 {
				expect("cleaned up")
			}
			rest, _ := io.ReadAll(lines)
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != c.status || len(rest) > 0 || stderr.Len() > 0 {
				t.Errorf("%v, then %q\n%s", cmd.ProcessState, rest, &stderr)
			}
		})
	}
	t.Run("^C", func(t *testing.T) {
		t.Parallel()
		term := onTerminal(t, Command(t, dir, command(program, "slow")...))
		term.expect("ready\r\n")
		term.send("\x03")
		if status := term.wait(); status != 5 || !strings.HasSuffix(term.screen(), "interrupted\r\ncleaned up\r\n") || strings.Contains(term.screen(), "Traceback") {
			t.Errorf("status %d\n%s", status, term.screen())
		}
	})
}
