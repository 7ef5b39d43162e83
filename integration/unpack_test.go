package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mitogend/integration/machine"
	"mitogend/integration/poll"
)

// unpackable writes packages that need their files on a disk: for other programs, and for code in C.
func unpackable(t *testing.T) string {
	dir := t.TempDir()
	Write(t, dir, "pk/__init__.py", `from __future__ import print_function
import os, sqlite3, subprocess
from . import inner
from .sub import deep
import beside
HERE = os.path.dirname(__file__)

def tell():
    import pk.late
    out = [subprocess.check_output([os.path.join(HERE, 'bin', 'tool'), os.path.join(HERE, 'data', 'a.txt')]).decode().strip()]
    base = sqlite3.connect(os.path.join(HERE, 'data', 'base.db'))
    out.append(base.execute('select * from t').fetchall())
    out += [inner.X, deep.X, pk.late.X, beside.X, inner.__file__.startswith(HERE), sorted(os.listdir(HERE + '/data'))]
    return out

def hang(to):
    import time
    if not os.fork():
        # It outlives the others, and ends by itself.
        os.setsid()
        for _ in range(300):
            time.sleep(0.1)
            if not os.path.exists(HERE):
                os._exit(0)
        os._exit(1)
    with open(to + '.new', 'w') as f:
        f.write('%d %d %s' % (os.getpid(), os.getppid(), HERE))
    os.rename(to + '.new', to)
    time.sleep(1000)
`)
	for _, name := range []string{"pk/inner.py", "pk/late.py", "pk/sub/deep.py", "beside.py", "single.py"} {
		Write(t, dir, name, "X = 1\nFILE = __file__\n")
	}
	Write(t, dir, "pk/sub/__init__.py", "")
	Write(t, dir, "pk/data/a.txt", "hello\n")
	Write(t, dir, "pk/data/secret.txt", "hush\n")
	Write(t, dir, "pk/bin/tool", "#!/bin/sh\ncat \"$@\"\n")
	Write(t, dir, "asks/__init__.py", "# mitogend: unpack\nimport os\nHERE = os.path.dirname(__file__)\n")
	Write(t, dir, "spread/part.py", "FILE = __file__\n")
	if err := os.Chmod(filepath.Join(dir, "pk/bin/tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "pk/data/base.db")
	if out, err := exec.Command("python3", "-c", "import sqlite3, sys\nb = sqlite3.connect(sys.argv[1])\nb.execute('create table t (x)')\nb.execute('insert into t values (7)')\nb.commit()", base).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

const unpackProgram = `
from __future__ import print_function
import os, sys
import pk, asks, single
print(pk.tell())
print(os.path.exists(asks.HERE), os.path.isfile(single.FILE), os.stat(os.path.dirname(pk.HERE)).st_mode & 511 == 448)
if sys.version_info[0] > 2:
    import spread.part
    assert os.path.isfile(spread.part.FILE)
    import importlib
    assert importlib.reload(pk) is pk and pk.tell()
r, w = os.pipe()
if not os.fork():
    try:
        os.write(w, pk.tell()[0].encode())
    finally:
        os._exit(0)
os.close(w)
print(os.read(r, 9).decode(), os.path.exists(pk.HERE))
os.wait()
with open(sys.argv[1], 'w') as f:
    f.write(os.path.dirname(pk.HERE))
`

// Unpacked files can be opened by anything, on Python 2 and 3, behind hops, and from archives. Afterwards they are gone.
func TestUnpack(t *testing.T) {
	dir := unpackable(t)
	wheel := filepath.Join(t.TempDir(), "pk.whl")
	if out, err := exec.Command("python3", "-c", "import shutil, sys, os; shutil.make_archive(*sys.argv[1:]); os.rename(sys.argv[1] + '.zip', sys.argv[1])",
		wheel, "zip", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := Write(t, t.TempDir(), "program.py", unpackProgram)
	EachPython(t, func(t *testing.T, p Python) {
		names := "['a.txt', 'base.db', 'secret.txt']"
		want := "['hello', [(7,)], 1, 1, 1, 1, True, %s]\nTrue True True\nhello True\n"
		if p.Version == "2.7" {
			want = strings.Replace(want, "'hello'", "u'hello'", 1)
		}
		for _, c := range [][]string{
			{fmt.Sprintf(want, names), p.Target(), "-I", dir},
			{fmt.Sprintf(want, names), p.Target() + "+" + p.Target(), "-I", dir},
			{fmt.Sprintf(want, names), p.Target(), "-I", wheel},
			{fmt.Sprintf(want, "['a.txt', 'base.db']"), p.Target(), "-I", dir, "--deny", "pk.data.secret"},
		} {
			cwd := t.TempDir()
			to := filepath.Join(cwd, "to")
			args := append([]string{"run", "--unpack", "pk,single", "--unpack", "spread", "-H"}, c[1:]...)
			got := Mitogend(t, cwd, append(args, script, to)...)
			if got.Status != 0 || got.Stdout != c[0] {
				t.Errorf("%v: want %s, got %v", args, c[0], got)
				continue
			}
			home, err := os.ReadFile(to)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(string(home)); err == nil || !strings.HasPrefix(filepath.Base(string(home)), "mitogend-unpacked-") {
				t.Errorf("%s is left", home)
			}
		}
	})
}

// If there is no room, or no shell, the import says so, and nothing is left.
func TestUnpackRoom(t *testing.T) {
	dir := unpackable(t)
	Write(t, dir, "pk/data/large.bin", strings.Repeat("x", 200_000))
	script := Write(t, t.TempDir(), "program.py", `
from __future__ import print_function
import os, resource, sys, mitogen.unpack as unpack
if sys.argv[1] == 'none':
    unpack.room = lambda place, size: 'no room in ' + place
elif sys.argv[1] == 'full':
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
else:
    real = os.access
    os.access = lambda path, *args: path != '/bin/sh' and real(path, *args)
try:
    import pk
    print(pk.tell()[0])
except ImportError as e:
    print(e)
print(unpack.directory and os.listdir(unpack.directory))
`)
	EachPython(t, func(t *testing.T, p Python) {
		for how, want := range map[string]string{
			"none":     "pk cannot be unpacked (mitogend: there is no room for it: no room in /dev/shm",
			"full":     "pk cannot be unpacked (mitogend: [Errno 27] File too large",
			"no shell": "hello\n['pk']\n",
		} {
			got := Mitogend(t, dir, "run", "-I", dir, "--unpack", "pk", "-H", p.Target(), script, how)
			if got.Status != 0 || !strings.HasPrefix(got.Stdout, want) || how == "full" && !strings.HasSuffix(got.Stdout, "[]\n") {
				t.Errorf("%s: want %s, got %v", how, want, got)
			}
		}
	})
}

// kills is how often something is killed at random while packages are unpacked.
func kills() int {
	if os.Getenv("MITOGEND_LONG") != "" {
		return 100
	}
	return 9
}

// nothingUnpackedLeft kills the child, the daemon or a process between them at random, and fails if an unpacked file is left. The child
// writes their place to a file in `where`.
func nothingUnpackedLeft(t *testing.T, where string, targets ...string) {
	dir := unpackable(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range kills() {
		target := targets[i%len(targets)]
		to := filepath.Join(where, fmt.Sprint("to", i))
		cmd := passwords(Command(t, dir, "call", "--daemon", "none", "-I", dir, "--unpack", "pk", "-H", target, "pk:hang", to))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var child, parent int
		var home string
		poll.Until(t, "it is unpacked: "+target, func() bool {
			text, err := os.ReadFile(to)
			if err == nil {
				_, err = fmt.Sscan(string(text), &child, &parent, &home)
			}
			return err == nil
		})
		if _, err := os.Stat(home); err != nil {
			t.Fatal(err)
		}
		victim := []int{child, cmd.Process.Pid, parent}[rnd.IntN(3)]
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		poll.Until(t, fmt.Sprintf("%s is gone after %d of child %d, daemon %d and transport %d was killed: %s", home, victim, child, cmd.Process.Pid, parent, target), func() bool {
			_, err := os.Lstat(filepath.Dir(home))
			return os.IsNotExist(err)
		})
	}
}

func TestUnpackedIsGone(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		nothingUnpackedLeft(t, t.TempDir(), p.Target(), p.Target()+"+"+p.Target())
	})
}

// TestInsideUnpackedIsGone: sshd is the process between.
func TestInsideUnpackedIsGone(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	s := machine.SSHD(t, "")
	for i, p := range machine.Pythons(t) {
		where := fmt.Sprint("/mnt/unpacked", i)
		if err := errors.Join(os.Mkdir(where, 0o777), os.Chmod(where, 0o777)); err != nil {
			t.Fatal(err)
		}
		nothingUnpackedLeft(t, where, byKey(s, "mg-bob", p), byKey(s, "mg-bob", p)+"+sudo:root?python="+p.Path)
	}
}

// If code needs a file on a disk and there is none, the error names its package, and how to unpack it.
func TestNoFileHere(t *testing.T) {
	dir := unpackable(t)
	Write(t, dir, "files/__init__.py", "import os\nHERE = os.path.dirname(__file__)\n")
	Write(t, dir, "files/tool", "#!/bin/sh\n")
	script := Write(t, t.TempDir(), "program.py", `
from __future__ import print_function
import os, subprocess, sys
import files
for fn in (lambda: open(files.HERE + '/new', 'w'), lambda: os.open(files.HERE + '/tool', os.O_RDONLY), lambda: subprocess.call([files.HERE + '/tool']),
           lambda: os.mkdir(files.HERE + '/new'), lambda: subprocess.call(['true'], cwd=files.HERE), lambda: os.remove(files.HERE + '/tool')):
    try:
        fn()
        print('no error')
    except EnvironmentError as e:
        print(str(e).startswith('[Errno 2] No such file or directory (mitogend: '), '--unpack files ' in str(e), '/master:' in str(e))
`)
	EachPython(t, func(t *testing.T, p Python) {
		want := strings.Repeat("True True True\n", 6)
		got := Mitogend(t, dir, "run", "-I", dir, "-H", p.Target(), script)
		if got.Status != 0 || got.Stdout != want {
			t.Errorf("want %s, got %v", want, got)
		}
	})
}
