package integration

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"

	"mitogend/integration/poll"
	"mitogend/internal/pty"
)

// display is a program on a terminal, and the screen as a user would see it.
type display struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	vt  *vt.Emulator
	pty io.Writer
	set func(rows, columns int) error
}

func onDisplay(t *testing.T, cmd *exec.Cmd, columns, rows int) *display {
	t.Helper()
	cmd.Env = append(cmd.Env, "TERM=xterm-256color", "LANG=C.UTF-8")
	f, err := startOnPTY(cmd, rows, columns)
	if err != nil {
		t.Fatal(err)
	}
	d := &display{t: t, cmd: cmd, done: make(chan struct{}), vt: vt.NewEmulator(columns, rows), pty: f}
	d.set = func(rows, columns int) error { return pty.SetSize(int(f.Fd()), rows, columns) }
	go func() { // the terminal's answers to questions
		buf := make([]byte, 256)
		for {
			n, err := d.vt.Read(buf)
			if err != nil {
				return
			}
			_, _ = f.Write(buf[:n])
		}
	}()
	go func() {
		defer close(d.done)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			d.mu.Lock()
			_, _ = d.vt.Write(buf[:n])
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-d.done
		_ = d.vt.InputPipe().(io.Closer).Close() // ends the goroutine above; Close would race with it
		_ = f.Close()
	})
	return d
}

func (d *display) screen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.vt.String()
}

func (d *display) other() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.vt.IsAltScreen()
}

// expect waits until a pattern is on the screen.
func (d *display) expect(pattern string) {
	d.t.Helper()
	p := regexp.MustCompile(pattern)
	there := false
	defer func() {
		if !there {
			d.t.Logf("the screen is\n%s", d.screen())
		}
	}()
	poll.Until(d.t, pattern+" is on the screen", func() bool { return p.MatchString(d.screen()) })
	there = true
}

func (d *display) send(keys string) {
	d.t.Helper()
	if _, err := d.pty.Write([]byte(keys)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *display) resize(columns, rows int) {
	d.t.Helper()
	d.mu.Lock()
	d.vt.Resize(columns, rows)
	d.mu.Unlock()
	if err := d.set(rows, columns); err != nil {
		d.t.Fatal(err)
	}
}

// wait gives the exit status.
func (d *display) wait() int {
	d.t.Helper()
	defer time.AfterFunc(time.Minute, func() { _ = d.cmd.Process.Kill() }).Stop()
	_ = d.cmd.Wait()
	<-d.done
	return d.cmd.ProcessState.ExitCode()
}

// top shows what runs where, since when and for whom, and can end it.
func TestTop(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	Write(t, dir, "m.py", "import time\n\ndef waits():\n    time.sleep(3600)\n")
	Write(t, dir, "endless.py", "import time\ntime.sleep(3600)\n")
	target := AnyPython(t).Target()
	start := func(args ...string) (*exec.Cmd, *Buffer) {
		cmd, out := exec.Command(d.cmd.Path, args...), &Buffer{}
		cmd.Env, cmd.Dir, cmd.Stderr = d.Env(), dir, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd, out
	}
	program, programErr := start("run", "-H", target, "endless.py")
	start("exec", "-H", target, "--", "sleep", "3600")
	call, callErr := start("call", "-H", target, "m:waits")
	cmd := exec.Command(d.cmd.Path, "top", "--every", "100ms")
	cmd.Env, cmd.Dir = d.Env(), dir
	top := onDisplay(t, cmd, 160, 24)
	top.expect(`RUNS`)
	top.expect(`busy .*(endless\.py|m:waits) \d+s`)
	if !top.other() {
		t.Error("it is not on the other screen")
	}
	top.send("\t")
	top.expect(fmt.Sprintf(`endless\.py +\d+s +run +%d mitogend`, program.Process.Pid))
	top.expect(fmt.Sprintf(`m:waits +\d+s +call +%d mitogend`, call.Process.Pid))
	top.expect(`sleep 3600 +\d+s +run +`)
	top.send("/endless\r")
	top.expect(`1 what runs, by since, with "endless"`)
	top.send("x")
	top.expect(`end the program \S*endless\.py on .*\? y or n`)
	top.send("n")
	top.expect(`left as it is`)
	top.send("xy")
	top.expect(`0 what runs`)
	if _ = program.Wait(); program.ProcessState.ExitCode() != 4 || !strings.Contains(programErr.String(), "another request has ended the program") {
		t.Errorf("%v: %s", program.ProcessState, programErr)
	}
	top.send("\x1b") // leaves the filter
	top.expect(`m:waits`)
	top.send("/waits\r")
	top.expect(`1 what runs, by since, with "waits"`)
	// The program's client may still count at the last look.
	poll.Until(t, "the call alone uses the connection", func() bool {
		top.send("x")
		top.expect(`end m:waits on .*, and with it the connection, which has \d users?\? y or n`)
		if strings.Contains(top.screen(), "which has 1 user?") {
			return true
		}
		top.send("n")
		top.expect(`left as it is`)
		return false
	})
	top.send("y")
	if _ = call.Wait(); call.ProcessState.ExitCode() != 4 {
		t.Errorf("%v: %s", call.ProcessState, callErr)
	}
	top.resize(60, 10)
	top.expect(`(?m)^ID +TARGET +WHAT`)
	if n := strings.Count(strings.TrimRight(top.screen(), "\n "), "\n"); n > 9 {
		t.Errorf("%d lines are shown", n+1)
	}
	top.send("?")
	top.expect(`the other way round`)
	top.send("q")
	if status := top.wait(); status != 0 || top.other() {
		t.Errorf("status %d, on the other screen: %v", status, top.other())
	}
	// It says why it ends, and restores the terminal.
	for _, how := range []string{"stop", "SIGTERM", "^C"} {
		cmd := exec.Command(d.cmd.Path, "top")
		cmd.Env, cmd.Dir = d.Env(), dir
		top := onDisplay(t, cmd, 80, 24)
		top.expect(`requests/s`)
		want, text := 0, ""
		switch how {
		case "SIGTERM":
			want, text = 143, "terminated"
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		case "^C":
			top.send("\x03")
		case "stop":
			defer func() {
				d.Run(t, dir, "stop").Want(t, 0, "", "has ended")
				if status := top.wait(); status != 4 || top.other() {
					t.Errorf("status %d\n%s", status, top.screen())
				}
				top.expect(`the connection with the daemon is gone`)
			}()
			continue
		}
		if status := top.wait(); status != want || top.other() || !strings.Contains(top.screen(), text) {
			t.Errorf("%s: status %d\n%s", how, status, top.screen())
		}
	}
}
