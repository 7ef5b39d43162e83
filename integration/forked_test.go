package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/machine"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// Functions that calls have registered with atexit are not interrupted for three seconds, and then ended.
func TestAtexitOfCalls(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "late.py", `import atexit, os, time
def start(path, seconds):
    atexit.register(end, path, seconds)
    return os.getpid()
def end(path, seconds):
    until = time.time() + seconds
    try:
        while time.time() < until:
            time.sleep(0.05)
        open(path, 'w').write('done')
    except BaseException as e:
        open(path, 'w').write(repr(e))
`)
	for _, version := range []string{"2.7", "3.6", "3.13", "3.15"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := clean(t, pythons.Of(t, version))
			kept := filepath.Join(t.TempDir(), "kept")
			if r := Mitogend(t, dir, "call", "-H", p.Target(), "late:start", kept, "0.5"); r.Status != 0 {
				t.Error(r)
			}
			if text, err := os.ReadFile(kept); string(text) != "done" {
				t.Errorf("what takes 0.5 s gave %q, %v", text, err)
			}
			ended := filepath.Join(t.TempDir(), "ended")
			start := time.Now()
			if r := Mitogend(t, dir, "call", "-H", p.Target(), "late:start", ended, "1000"); r.Status != 0 {
				t.Error(r)
			}
			if text, err := os.ReadFile(ended); err == nil {
				t.Errorf("what takes 1000 s gave %q", text)
			}
			if took := time.Since(start); took < 2*time.Second {
				t.Errorf("it was ended after %v", took)
			}
		})
	}
}

// unittest runs tests that fork, import in the forked processes, and use pools.
func TestUnittestsThatFork(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "lazy.py", "def f(x):\n    import lazier\n    return lazier.g(x)\n")
	Write(t, dir, "lazier.py", "def g(x):\n    return x * x\n")
	Write(t, dir, "other.py", "VALUE = 7\n")
	Write(t, dir, "test_forks.py", `import multiprocessing, os, signal, sys, unittest
import lazy

class ForkTest(unittest.TestCase):
    def test_pool(self):
        pool = multiprocessing.Pool(3)
        try:
            self.assertEqual(pool.map(lazy.f, range(20)), [x * x for x in range(20)])
        finally:
            pool.close()
            pool.join()

    def test_fork_imports(self):
        pid = os.fork()
        if not pid:
            import other
            os._exit(other.VALUE)
        self.assertEqual(os.waitpid(pid, 0)[1] >> 8, 7)

    def test_process(self):
        process = multiprocessing.Process(target=lazy.f, args=(2,))
        process.start()
        process.join()
        self.assertEqual(process.exitcode, 0)

    def test_killed(self):
        pid = os.fork()
        if not pid:
            signal.pause()
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(os.waitpid(pid, 0)[1], signal.SIGKILL)

    def test_fails(self):
        if 'fail' in os.environ.get('WANT', ''):
            self.fail('as wanted')

if __name__ == '__main__':
    unittest.main()
`)
	EachPython(t, func(t *testing.T, p Python) {
		for _, args := range [][]string{{"test_forks.py"}, {"-m", "unittest", "test_forks"}} {
			r := Mitogend(t, dir, append([]string{"run", "-I", dir, "-H", p.Target()}, args...)...)
			if r.Status != 0 || r.Stdout != "" || !strings.Contains(r.Stderr, "Ran 5 tests") || !strings.HasSuffix(strings.TrimSpace(r.Stderr), "OK") {
				t.Errorf("%v: %v", args, r)
			}
		}
		cmd := Command(t, dir, "run", "-I", dir, "-H", p.Target(), "test_forks.py")
		cmd.Env = append(cmd.Env, "WANT=fail")
		if r := runCommand(t, cmd); r.Status != 1 || !strings.Contains(r.Stderr, "FAILED (failures=1)") {
			t.Error(r)
		}
	})
}

// pytest runs such tests from the target's disk; pytest itself, and what it needs, is served.
func TestPytestThatForks(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "helped.py", "def f(x):\n    import lazier\n    return lazier.g(x)\n")
	Write(t, dir, "lazier.py", "def g(x):\n    return x * x\n")
	Write(t, dir, "test_forks.py", `import multiprocessing, os
import helped

def test_pool():
    pool = multiprocessing.Pool(3)
    assert pool.map(helped.f, range(20)) == [x * x for x in range(20)]
    pool.close()
    pool.join()

def test_fork_imports_what_is_served():
    pid = os.fork()
    if not pid:
        import pytest_served
        os._exit(pytest_served.VALUE)
    assert os.waitpid(pid, 0)[1] >> 8 == 7
`)
	path := debian(t, "pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "attr", "attrs")
	Write(t, path, "pytest_served.py", "VALUE = 7\n")
	for _, version := range []string{"3.11", "3.13"} {
		p := clean(t, pythons.Of(t, version))
		r := Mitogend(t, dir, "run", "-I", path, "-H", p.Target(), "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_forks.py")
		if r.Status != 0 || !strings.Contains(r.Stdout, "2 passed") {
			t.Errorf("%s: %v", version, r)
		}
	}
}

// TestInsideEndsThatHang: an interpreter that hangs at its own end is gone from the target all the same, where nobody
// ends it from outside.
func TestInsideEndsThatHang(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	s := machine.SSHD(t, "")
	dir := t.TempDir()
	Write(t, dir, "hang.py", `import os, time
class Hang(object):
    def __del__(self, write=os.write, sleep=time.sleep):
        write(self.fd, b'hangs')
        sleep(1000)
def start(path):
    global kept
    kept = Hang()
    kept.fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    return os.getpid()
`)
	for _, p := range machine.Pythons(t) {
		t.Run(p.Version, func(t *testing.T) {
			t.Parallel()
			told := filepath.Join(t.TempDir(), "told")
			r := Mitogend(t, dir, "call", "--daemon", "none", "-H", byKey(s, "root", p), "hang:start", told)
			pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
			if err != nil || r.Status != 0 {
				t.Fatal(r, err)
			}
			poll.Until(t, "it hangs", func() bool {
				text, _ := os.ReadFile(told)
				return string(text) == "hangs"
			})
			poll.Until(t, "it is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
		})
	}
}
