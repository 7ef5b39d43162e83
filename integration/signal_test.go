package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/integration/poll"
)

// noTerminal removes the controlling terminal.
var noTerminal = &syscall.SysProcAttr{Setsid: true}

// A signal at any moment ends everything, with its status.
func TestSignalAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "count.py", "import time, os\nos.write(1, b'x\\n')\nwhile 1:\n    os.write(1, b'x\\n')\n    time.sleep(0.01)\n")
	Write(t, dir, "slow.py", "import time\ndef f():\n    time.sleep(1000)\n")
	p := AnyPython(t)
	targets := p.Target() + "," + p.Target() + "&stdio=pty"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for i, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		for j := range 8 {
			args := [][]string{{"run", "-H", targets, "count.py"}, {"call", "-H", targets, "slow:f"}, {"run", "-H", p.Target(), "count.py"}}[(i+j)%3]
			// Before it has a handler, or after it has ended, the signal is not ours to answer.
			delay := time.Duration(30+random.IntN(600)) * time.Millisecond
			t.Run(fmt.Sprintf("%v/%d", sig, j), func(t *testing.T) {
				t.Parallel()
				cmd := Command(t, dir, args...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(delay, func() { _ = cmd.Process.Signal(sig) })
				_ = cmd.Wait()
				ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
				early := ws.Signaled() && ws.Signal() == sig // before main ran
				if !early && (ws.ExitStatus() != 128+int(sig) || !strings.Contains(stderr.String(), "mitogend: ")) {
					t.Fatalf("after %v: %v\n%s", delay, cmd.ProcessState, &stderr)
				}
			})
		}
	}
}

// Output from before an interruption was shown, and the program's own process is gone afterwards.
func TestInterruptedProgram(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\nsys.stdout.flush()\nwhile 1:\n    time.sleep(100)\n")
	EachPython(t, func(t *testing.T, p Python) {
		cmd := Command(t, dir, "run", "-H", p.Target(), "p.py")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
			t.Fatal(line, err)
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != 130 {
			t.Fatal(cmd.ProcessState)
		}
	})
}

// When mitogend itself is killed, its children notice.
func TestKilledOutright(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import sys, time\nprint('up')\nsys.stdout.flush()\nwhile 1:\n    time.sleep(100)\n")
	for _, stdio := range []string{"socketpair", "pty", "hybrid"} {
		cmd := Command(t, dir, "run", "-H", AnyPython(t).Target()+"&stdio="+stdio, "p.py")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
			t.Fatal(line, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func TestStdoutThatCloses(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "yes.py", "import os\nwhile 1:\n    os.write(1, b'y\\n')\n")
	EachPython(t, func(t *testing.T, p Python) {
		for _, targets := range []string{p.Target(), p.Target() + "," + p.Target()} {
			cmd := Command(t, dir, "run", "-H", targets, "yes.py")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			_ = out.Close()
			_ = cmd.Wait()
			if cmd.ProcessState.ExitCode() != 128+int(syscall.SIGPIPE) || stderr.Len() > 0 {
				t.Fatalf("%v\n%s", cmd.ProcessState, &stderr)
			}
		}
	})
}

func TestStdoutThatIsFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"call", "-H", AnyPython(t).Target(), "os:getpid"}, {"version"}, {"help"}, {"modules", "os"}} {
		cmd := Command(t, t.TempDir(), args...)
		cmd.Stdout = full
		runCommand(t, cmd).Want(t, 1, "", "mitogend: stdout: no space left on device\n")
	}
}

// A command whose output is not read is ended by signals, too.
func TestStdoutThatIsNotRead(t *testing.T) {
	for _, targets := range []string{"local:", "local:,local:"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		cmd := Command(t, t.TempDir(), "exec", "-H", targets, "--", "yes")
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, "the pipe is full", func() bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.Fd()), Events: unix.POLLOUT}}, 0)
			return err == nil && n == 0
		})
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		poll.Until(t, "signals end it", func() bool {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
		if cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
			t.Error(targets, cmd.ProcessState)
		}
	}
}
