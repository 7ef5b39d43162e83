package integration

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// face prints what a program can see of its surroundings, as far as that is the same for a script on disk and a served one.
const face = `from __future__ import print_function
import os, signal, sys
print(type(__builtins__).__name__, __name__, __package__, __file__, os.path.basename(sys.argv[0]), sys.path[0])
print(sorted(set(globals()) - set(['__loader__', '__cached__', '__spec__', '__annotations__'])))
print(sys.stdin.name, sys.stdout.name, sys.stderr.name, sys.stdout.encoding, sys.stdout.mode)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD))
print(sys.exc_info())
try:
    with open('/proc/self/task/%d/status' % os.getpid()) as f:
        print([line.split()[1] for line in f if line.startswith(('SigBlk', 'SigIgn'))])
except IOError:
    pass
print(len(os.listdir('/proc/self/task')))
`

// A program sees what it would see under Python alone, with every variable that changes Python.
func TestProgramFace(t *testing.T) {
	dir := t.TempDir()
	script := Write(t, dir, "face.py", face)
	Write(t, dir, "tee/sitecustomize.py", "import sys\nclass Tee(object):\n    def __init__(self, f):\n        self.f = f\n"+
		"    def __getattr__(self, name):\n        return getattr(self.f, name)\nsys.stdout = Tee(sys.stdout)\n")
	Write(t, dir, "ignore/sitecustomize.py", "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n")
	EachPython(t, func(t *testing.T, p Python) {
		for _, env := range []string{"PYTHONUNBUFFERED=1", "PYTHONIOENCODING=latin-1", "PYTHONDEVMODE=1", "PYTHONWARNINGS=error", "PYTHONOPTIMIZE=2", "PYTHONHASHSEED=1",
			"PYTHONINSPECT=1", "PYTHONMALLOC=debug", "PYTHONNODEBUGRANGES=1", "PYTHONUTF8=1", "PYTHONFAULTHANDLER=1", "PYTHONPATH=tee", "PYTHONPATH=ignore"} {
			if strings.HasPrefix(env, "PYTHONPATH=") && p.Version == "2.7" {
				continue // -S has it import no sitecustomize
			}
			env = strings.Replace(env, "PYTHONPATH=", "PYTHONPATH="+dir+"/", 1)
			there := Command(t, dir, "run", "-H", p.Target(), script)
			there.Env = append(there.Env, env)
			r := runCommand(t, there)
			here := p.command(dir, script)
			here.Env = append(here.Env, env)
			want := runCommand(t, here)
			if r.Stdout == want.Stdout && r != want {
				// With a debug allocator, every forked process crashes at its end on 3.8 and some later versions (bpo-42540).
				fork := p.command(dir, "-c", "import os\npid = os.fork()\nif pid:\n    os._exit(os.waitpid(pid, 0)[1] != 0)")
				fork.Env = append(fork.Env, env)
				if crashes := runCommand(t, fork).Status != 0; crashes && r.Status >= 128 {
					t.Logf("%s: bpo-42540", env)
					continue
				}
			}
			if r != want {
				t.Errorf("%s: here %v\nthere %v", env, want, r)
			}
		}
	})
}

// ends are programs by the way in which they end; each ends as it does without us.
var ends = map[string]string{
	"KeyboardInterrupt":       "raise KeyboardInterrupt",
	"SIGCHLD ignored":         "import signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nsys.exit(3)",
	"atexit":                  "import atexit, sys\natexit.register(sys.stdout.write, 'at the end')\nsys.exit(4)",
	"hook":                    "import sys\nsys.excepthook = lambda kind, value, tb: sys.stderr.write('%s %d\\n' % (kind.__name__, tb.tb_lineno))\n1 / 0",
	"thread":                  "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('later'))).start()",
	"syntax":                  "x = = 1",
	"wait":                    "import os\ntry:\n    os.wait()\nexcept OSError as e:\n    raise SystemExit(e.errno)",
	"no stderr":               "import sys\nsys.stderr = None\nraise ValueError('x')",
	"hook raises":             "import sys\ndef hook(*args):\n    raise RuntimeError('in the hook')\nsys.excepthook = hook\nraise ValueError('x')",
	"hook exits":              "import sys\nsys.excepthook = lambda *args: sys.exit(9)\nraise ValueError('x')",
	"class of its own":        "class Bad(Exception):\n    pass\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    raise Bad('x')",
	"SystemExit of its own":   "class Exit(SystemExit):\n    code = 9\nraise Exit()",
	"exit text":               "import sys\nsys.exit(u'caf\\xe9')",
	"exit None":               "import sys\nsys.exit(None)",
	"exit True":               "import sys\nsys.exit(True)",
	"exit 300":                "import sys\nsys.exit(300)",
	"exit -1":                 "import sys\nsys.exit(-1)",
	"exit 2**40":              "import sys\nsys.exit(2**40)",
	"exit tuple":              "import sys\nsys.exit((1, 2))",
	"SIGTERM":                 "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
	"stdout closed":           "import os, sys\nsys.stdout.write('x')\nsys.stdout.close()\nsys.stderr.write('y')",
	"0 to 2 closed":           "import os, sys\nfor fd in range(3):\n    os.close(fd)\nimport late\nsys.exit(late.VALUE)",
	"import raises":           "import boom",
	"import in import raises": "import outer",
	"import does not compile": "import broken",
	"import of no module":     "import late.nothing",
	"run_module":              "import runpy\nrunpy.run_module('pkg.sub', run_name='__main__', alter_sys=True)",
	"all closed": "import os, sys\nif os.fork() == 0:\n    os._exit(0)\nos.wait()\nos.closerange(3, 300)\nfiles = [open(__file__ + str(n), 'w') for n in range(30)]\n" +
		"for name in 'nothing1', 'nothing2':\n    try:\n        __import__(name)\n    except ImportError:\n        pass\n    pid = os.fork()\n    if pid:\n" +
		"        os.waitpid(pid, 0)\nif pid:\n    print([os.fstat(f.fileno()).st_size for f in files])\nraise ValueError(pid == 0)",
	"fork at exit": "import atexit, os, sys\ndef fork():\n    pid = os.fork()\n    if not pid:\n        name = 'late'\n        os._exit(__import__(name).VALUE)\n" +
		"    print(os.waitpid(pid, 0)[1] >> 8)\natexit.register(fork)",
	"preexec_fn": "import subprocess, sys\ndef begin():\n    name = 'late'\n    sys.stdout.write('%d\\n' % __import__(name).VALUE)\n    sys.stdout.flush()\n" +
		"sys.exit(subprocess.call(['false'], preexec_fn=begin))",
	// Remaining objects are torn down as in Python: finally of generators, __del__.
	"teardown": "class Say(object):\n    def __del__(self):\n        print('gone')\ndef steps():\n    try:\n        yield\n    finally:\n        print('finally')\n" +
		"step = steps()\nnext(step)\nsay = Say()\nring = Say()\nring.ring = ring\ndel ring",
}

// around are modules that the programs of ends import.
var around = map[string]string{
	"boom.py": "def f():\n    raise ValueError('boom')\nf()\n", "outer.py": "import boom\n", "broken.py": "def f(:\n", "late.py": "VALUE = 5\n",
	"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/__main__.py": "print('sub')\n",
}

func TestProgramEnds(t *testing.T) {
	dir := t.TempDir()
	EachPython(t, func(t *testing.T, p Python) {
		for name, source := range around {
			Write(t, dir, p.Version+"/"+name, source)
		}
		for name, source := range ends {
			script := Write(t, dir, p.Version+"/end_"+strings.ReplaceAll(name, " ", "")+".py", "from __future__ import print_function\n"+source+"\n")
			here := p.Local(t, dir, "", script)
			if here.Status < 0 {
				signal := syscall.SIGINT
				if name == "SIGTERM" {
					signal = syscall.SIGTERM
				}
				here.Status = 128 + int(signal) // as a shell says it
			}
			there := Mitogend(t, dir, "run", "-H", p.Target(), script)
			there.Stderr, _, _ = strings.Cut(there.Stderr, "mitogend: ")
			there.Stderr = strings.ReplaceAll(there.Stderr, "\"/master:", "\"")
			if here != there {
				t.Errorf("%s: here %v\nthere %v", name, here, there)
			}
		}
	})
}

// Programs do not see what calls have left in the daemon's interpreter, and do not end it.
func TestProgramStartsClean(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "leave.py", `import atexit, os, random, signal, socket, sys
def all(path):
    os.chdir('/usr')
    os.umask(0o77)
    os.environ['STAGE'] = 'production'
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket.setdefaulttimeout(0.001)
    sys.setrecursionlimit(77)
    random.seed(1)
    os.getloadavg = lambda: 7
    f = open(path, 'w')
    f.write('once')
    atexit.register(f.close)
    all.f = f
`)
	script := Write(t, dir, "look.py", `import os, signal, socket, sys
mask = os.umask(0)
print((os.getcwd(), mask, os.environ.get('STAGE'), signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
       socket.getdefaulttimeout(), sys.getrecursionlimit(), os.getloadavg() == 7, 'random' in sys.modules))
sys.exit(3)
`)
	EachPython(t, func(t *testing.T, p Python) {
		d := Serve(t)
		run := func() Result { return d.Run(t, dir, "run", "-H", p.Target(), script) }
		before := run()
		out := filepath.Join(dir, p.Version)
		r := d.Run(t, dir, "call", "-H", p.Target(), "leave:all", out)
		r.Want(t, 0, "null\n", "")
		for range 2 {
			if after := run(); after != before || after.Status != 3 {
				t.Errorf("before %v\nafter %v", before, after)
			}
		}
		if text, err := os.ReadFile(out); len(text) > 0 || err != nil {
			t.Errorf("a program has written what a call had buffered: %q, %v", text, err)
		}
	})
}

// An interrupted program cleans up, and its last output is shown. It sleeps in short pieces: a signal that comes between
// Python's last look and the system call waits for the call's end, under Python alone as well.
func TestInterruptIsKeyboardInterrupt(t *testing.T) {
	dir := t.TempDir()
	script := Write(t, dir, "p.py", "import atexit, sys, time\natexit.register(lambda: sys.stdout.write('atexit\\n'))\ntry:\n    print('up')\n    sys.stdout.flush()\n"+
		"    for _ in range(2000):\n        time.sleep(0.05)\nexcept KeyboardInterrupt:\n    print('interrupted')\nfinally:\n    print('finally')\n")
	EachPython(t, func(t *testing.T, p Python) {
		cmd := Command(t, dir, "run", "-H", p.Target(), script)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var got []string
		var at time.Time
		for lines.Scan() {
			if got = append(got, lines.Text()); len(got) == 1 {
				at = time.Now()
				_ = cmd.Process.Signal(syscall.SIGINT)
			}
		}
		_ = cmd.Wait()
		if text := strings.Join(got, " "); text != "up interrupted finally atexit" || cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("%s; %v, %v after the signal; stderr: %s", text, cmd.ProcessState, time.Since(at), &stderr)
		}
	})
}

// The script's neighbours win over the target's modules, as in plain Python. The same for -m, directories, and names that other
// programs try without success.
func TestProgramFindsItsNeighbours(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "site/utils/__init__.py", "")
	Write(t, dir, "app/utils.py", "NAME = 'ours'\n")
	Write(t, dir, "app/org.py", "")
	Write(t, dir, "app/thread2.py", "def f():\n    import java\n    return java.NAME\n")
	Write(t, dir, "app/java/__init__.py", "NAME = 'java'\n")
	Write(t, dir, "app/__main__.py", "import sys, utils, org, thread2\nprint(utils.NAME + thread2.f() + sys.argv[-1])\n")
	EachPython(t, func(t *testing.T, p Python) {
		for _, script := range []string{"app/__main__.py", "app"} {
			cmd := Command(t, dir, "run", "-H", p.Target(), script, "x")
			cmd.Env = append(cmd.Env, "PYTHONPATH="+filepath.Join(dir, "site"))
			runCommand(t, cmd).Want(t, 0, "oursjavax\n", "")
		}
		Mitogend(t, filepath.Join(dir, "app"), "run", "-H", p.Target(), "-m", "thread2").Want(t, 0, "", "")
	})
}

// A program whose working directory was deleted runs there.
func TestProgramInDeletedDirectory(t *testing.T) {
	app := t.TempDir()
	script := Write(t, app, "p.py", "import os, socket, late\ntry:\n    print(os.getcwd())\nexcept OSError as e:\n    print(e.errno)\n")
	Write(t, app, "late.py", "")
	for _, version := range []string{"2.7", "3.6", "3.13"} {
		t.Run(version, func(t *testing.T) {
			p := clean(t, pythons.Of(t, version))
			dir := filepath.Join(t.TempDir(), "gone")
			cmd := Command(t, app, "-c", `mkdir "$1" && cd "$1" && rmdir "$1" && shift && exec "$@"`, "sh", dir)
			cmd.Args = append(cmd.Args, cmd.Path, "run", "-H", p.Target(), script)
			cmd.Path = "/bin/sh"
			if r := runCommand(t, cmd); r.Status != 0 || r.Stderr != "" || r.Stdout != "2\n" && (version != "3.13" || r.Stdout != "/\n") {
				t.Error(r)
			}
		})
	}
}

// Each call ends, whatever it returns or raises.
func TestEveryCallEnds(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "hard.py", `class Row(object):
    def __repr__(self):
        raise RuntimeError('no session')
class Old:
    pass
class Proxy(object):
    def __getattr__(self, name):
        return Proxy()
    def __call__(self, *args, **kwargs):
        return sorted(kwargs)
proxy = Proxy()
def big():
    return b'x' * 135000000
def row():
    raise ValueError(Row())
def old():
    raise Old()
def cause():
    e = ValueError('outer')
    e.__cause__ = KeyError('inner')
    raise e
def fails():
    import boom
`)
	Write(t, dir, "boom.py", "1 / 0\n")
	EachPython(t, func(t *testing.T, p Python) {
		for fn, want := range map[string]string{"big": "the result is 1350000", "row": "ValueError", "old": "", "cause": "inner", "fails": "boom.py\", line 1"} {
			r := Mitogend(t, dir, "call", "-H", p.Target(), "hard:"+fn)
			ours := fn == "fails" && (strings.Contains(r.Stderr, "mitogen/core.py") || strings.Contains(r.Stderr, "importlib"))
			if r.Status != 1 || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr, "lost") || ours {
				t.Errorf("%s: %v", fn, r)
			}
		}
		Mitogend(t, dir, "call", "-H", p.Target(), "hard:proxy").Want(t, 0, "[]\n", "")
	})
}

// If limits are too low for the runtime, or for all of its threads, the program ends with a line and does not hang.
func TestLowLimits(t *testing.T) {
	dir := t.TempDir()
	script := Write(t, dir, "p.py", "print(1)\n")
	for _, version := range []string{"2.7", "3.13"} {
		t.Run(version, func(t *testing.T) {
			p := clean(t, pythons.Of(t, version))
			for _, limit := range []string{"-v 20000", "-v 30000", "-v 40000", "-n 4", "-n 8", "-n 12"} {
				stub := Write(t, dir, strings.ReplaceAll("limited"+version+limit, " ", ""), "#!/bin/sh\nulimit "+limit+"\nexec "+p.Command+` "$@"`+"\n")
				if err := os.Chmod(stub, 0o755); err != nil {
					t.Fatal(err)
				}
				r := Mitogend(t, dir, "run", "-H", "local:?python="+stub, script)
				if r.Status == 0 && r.Stdout != "1\n" || r.Status != 0 && !strings.Contains(r.Stderr, "mitogend: ") {
					t.Errorf("%s: %v", limit, r)
				}
			}
		})
	}
}
