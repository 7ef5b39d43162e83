// Package integration tests the built binary as a user would, against real interpreters; package pythons says which.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"mitogend/integration/pythons"
)

// commandTime is the most that one run of the binary may take. It finds hangs, not slowness.
const commandTime = 3 * time.Minute

// Python is an interpreter for tests.
type Python struct {
	Version string // "3.11"
	// Command is a command line with empty site-packages, for the target key python_path.
	Command string
	argv    []string
}

// Target is a local target with this interpreter.
func (p Python) Target() string {
	return "local:?python_path=" + strings.NewReplacer("%", "%25", " ", "%20", "+", "%2B", "&", "%26", "?", "%3F").Replace(p.Command)
}

// Local runs a script with this interpreter alone, from disk, with path as PYTHONPATH.
func (p Python) Local(t testing.TB, dir, path string, args ...string) Result {
	t.Helper()
	cmd := p.command(dir, args...)
	cmd.Env = append(cmd.Env, "PYTHONPATH="+path)
	return runCommand(t, cmd)
}

// command prepares a run of the interpreter alone.
func (p Python) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(p.argv[0], append(slices.Clone(p.argv[1:]), args...)...)
	cmd.Dir = dir
	cmd.Env = append(environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1")
	return cmd
}

// dir is where the binary and the interpreters are; Cleanup removes it.
var dir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "mitogend-test-") })

// Cleanup removes what was built; TestMain calls it.
func Cleanup() {
	if dir, err := dir(); err == nil {
		_ = os.RemoveAll(dir)
	}
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := dir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "mitogend")
	args := []string{"build", "-tags", "codec.notfastpath", "-o", binary} // as in the Makefile
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "mitogend/cmd/mitogend")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

var (
	cleanMu sync.Mutex
	cleaned = map[string]Python{} // by version
)

// clean makes an interpreter with only the standard library, once.
func clean(t testing.TB, p pythons.Python) Python {
	t.Helper()
	cleanMu.Lock()
	defer cleanMu.Unlock()
	if c, ok := cleaned[p.Version]; ok {
		return c
	}
	dir, err := dir()
	if err != nil {
		t.Fatal(err)
	}
	c := Python{p.Version, p.Path + " -S", []string{p.Path, "-S"}} // 2.7 has no venv module; -S leaves site-packages out
	if p.Version != "2.7" {
		venv := filepath.Join(dir, "python"+p.Version)
		if out, err := exec.Command(p.Path, "-m", "venv", "--without-pip", venv).CombinedOutput(); err != nil {
			t.Fatalf("%s -m venv: %v\n%s", p.Path, err, out)
		}
		command := filepath.Join(venv, "bin", "python")
		c = Python{p.Version, command, []string{command}}
	}
	cleaned[p.Version] = c
	return c
}

// between are versions that the versions beside them stand for. The packages' own tests run under them.
var between = []string{"3.7", "3.10", "3.12"}

// EachPython runs a test under each interpreter, in parallel, after its caller has returned. With MITOGEND_LONG it also runs it
// under those between.
func EachPython(t *testing.T, test func(*testing.T, Python)) {
	t.Helper()
	pythons.Each(t, func(t *testing.T, p pythons.Python) {
		if os.Getenv("MITOGEND_LONG") == "" && slices.Contains(between, p.Version) {
			t.Skip("MITOGEND_LONG runs it under this version as well")
		}
		t.Parallel()
		test(t, clean(t, p))
	})
}

// AnyPython gives the newest interpreter.
func AnyPython(t testing.TB) Python {
	t.Helper()
	return clean(t, pythons.Any(t))
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Status         int // -1 when a signal ended it
}

func (r Result) String() string {
	return fmt.Sprintf("status %d\n--- stdout\n%s\n--- stderr\n%s", r.Status, shorten(r.Stdout), shorten(r.Stderr))
}

// shorten makes output short enough for a message.
func shorten(s string) string {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		s = fmt.Sprintf("%d bytes: %.1000q", len(s), s)
	}
	if len(s) > 3000 {
		return s[:1500] + "\n[...]\n" + s[len(s)-1500:]
	}
	return s
}

// Want fails the test unless the command ended so. stderr only has to contain the text; for "" it has to be empty.
func (r Result) Want(t testing.TB, status int, stdout, stderr string) {
	t.Helper()
	if r.Status != status || r.Stdout != stdout || !strings.Contains(r.Stderr, stderr) || stderr == "" && r.Stderr != "" {
		t.Fatalf("want status %d, stdout %.200q (%d bytes of %d), stderr with %q; got %v", status, stdout, len(r.Stdout), len(stdout), stderr, r)
	}
}

// runs numbers the commands, so that each marks the processes that it starts.
var runs atomic.Int64

const marker = "MITOGEND_TEST_RUN"

// Command prepares a run of the binary in dir. Every process that it starts inherits a mark; when the test ends none may be
// left. See [Marked].
func Command(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	mark := fmt.Sprintf("%s=%d-%d", marker, os.Getpid(), runs.Add(1))
	cmd.Env = append(environ(), mark)
	t.Cleanup(func() { NothingLeft(t, mark) })
	return cmd
}

// environ is the environment without variables that change how Python or mitogend behaves.
func environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "MITOGEND_") || strings.HasPrefix(kv, "PYTHON")
	})
	env = append(env, "MITOGEND_DAEMON=none") // the developer's own daemon may run
	if dir, err := dir(); err == nil {
		env = append(env, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	}
	return env
}

// Mitogend runs the binary in dir to its end.
func Mitogend(t testing.TB, dir string, args ...string) Result {
	t.Helper()
	return runCommand(t, Command(t, dir, args...))
}

// runCommand runs a prepared command to its end, and kills it when it hangs.
func runCommand(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	if !stop() { // no Fatal: this may be another goroutine
		t.Errorf("%v did not end within %v\n%s\n%s", cmd.Args, commandTime, shorten(stdout.String()), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// leftTime is how long a killed process may take to disappear.
const leftTime = 30 * time.Second

// NothingLeft fails the test if a process that inherited the mark does not go away.
func NothingLeft(t testing.TB, mark string) {
	t.Helper()
	deadline := time.Now().Add(leftTime)
	left := Marked(mark)
	for len(left) > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		left = Marked(mark)
	}
	for _, pid := range left {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		t.Errorf("process %d is left: %.300q", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Marked lists the processes whose environment has a NAME=VALUE.
func Marked(mark string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err == nil && slices.Contains(strings.Split(string(env), "\x00"), mark) {
			var pid int
			_, _ = fmt.Sscanf(file, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// Write writes a file below dir and gives its path.
func Write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
