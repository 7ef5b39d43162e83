package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/integration/poll"
)

// Daemon is a running mitogend serve.
type Daemon struct {
	t      testing.TB
	cmd    *exec.Cmd
	Dir    string // of the socket
	Socket string
	Log    *Buffer
	mark   string
	done   chan struct{} // closed when it has ended
}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// socketDir makes a directory whose path is short enough for a socket, whatever TMPDIR is.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "mitogend-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// PrepareDaemon makes the command for a daemon; no process that it starts may be left when the test ends.
func PrepareDaemon(t testing.TB, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{t: t, Dir: filepath.Join(socketDir(t), "s"), Log: &Buffer{}, done: make(chan struct{})}
	d.Socket = filepath.Join(d.Dir, "control.sock")
	d.cmd = Command(t, t.TempDir(), append([]string{"serve", "--listen", d.Dir}, args...)...)
	d.cmd.Stderr = d.Log
	d.mark = d.cmd.Env[len(d.cmd.Env)-1]
	return d
}

// Start starts it and waits until it accepts clients. When the test ends it is stopped by SIGTERM and has to end with status 0.
func (d *Daemon) Start() *Daemon {
	d.t.Helper()
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	d.t.Cleanup(func() {
		if !d.Ended() {
			d.Signal(syscall.SIGTERM)
			if status := d.Wait(); status != 0 {
				d.t.Errorf("the daemon ended with status %d\n%s", status, shorten(d.Log.String()))
			}
		}
	})
	poll.Until(d.t, "the daemon serves", func() bool {
		if d.Ended() {
			d.t.Fatalf("the daemon has ended: %v\n%s", d.cmd.ProcessState, d.Log)
		}
		c, err := client.Dial(context.Background(), d.Socket, client.Options{})
		if err != nil {
			return false
		}
		_ = c.Shutdown(context.Background())
		return true
	})
	return d
}

// Serve starts a daemon.
func Serve(t testing.TB, args ...string) *Daemon {
	t.Helper()
	return PrepareDaemon(t, args...).Start()
}

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends it a signal.
func (d *Daemon) Signal(sig syscall.Signal) { _ = d.cmd.Process.Signal(sig) }

// Ended tells whether it has ended.
func (d *Daemon) Ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// Wait waits for its end and gives the exit status, -1 for a signal's.
func (d *Daemon) Wait() int {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(commandTime):
		d.Signal(syscall.SIGQUIT)
		<-d.done
		d.t.Fatalf("the daemon did not end\n%s", shorten(d.Log.String()))
	}
	return d.cmd.ProcessState.ExitCode()
}

// Env is the environment of its clients.
func (d *Daemon) Env() []string {
	return append(environ(), d.mark, "MITOGEND_DAEMON="+d.Socket)
}

// Run runs the binary as a client of the daemon.
func (d *Daemon) Run(t testing.TB, dir string, args ...string) Result {
	t.Helper()
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = dir, d.Env()
	return runCommand(t, cmd)
}

// Dial connects a client in this process.
func (d *Daemon) Dial(t testing.TB, opt client.Options) *client.Client {
	t.Helper()
	opt.Env = slices.Concat(opt.Env, d.Env())
	c, err := client.Dial(context.Background(), d.Socket, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Shutdown(context.Background()) })
	return c
}

// Stats gives the daemon's counters.
func (d *Daemon) Stats(t testing.TB) *wire.Stats {
	t.Helper()
	return ask(t, d, (*client.Client).Stats)
}

// Running gives how many calls and programs run on all connections.
func (d *Daemon) Running(t testing.TB) int {
	t.Helper()
	n := 0
	for _, c := range ask(t, d, (*client.Client).List) {
		n += c.Running
	}
	return n
}

// ask has a client of its own ask the daemon something.
func ask[T any](t testing.TB, d *Daemon, question func(*client.Client, context.Context) (T, error)) T {
	t.Helper()
	c := d.Dial(t, client.Options{})
	defer func() { _ = c.Shutdown(context.Background()) }()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	answer, err := question(c, ctx)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// peakRSS is the most memory that a process has used, in bytes.
func peakRSS(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// sourceOf gives the options of a client whose children are served the modules in dir.
func sourceOf(dir string) client.Options {
	return client.Options{Source: &importer.Options{Path: []string{dir}}}
}
