package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
	"mitogend/python/bytecode"
)

const bytecodeModule = `
import inspect
import sys
import traceback

VALUE = 'source'

def value():
    return VALUE

def fail():
    raise ValueError('no')

def text():
    return inspect.getsource(value)

def trace():
    try:
        fail()
    except ValueError:
        return traceback.format_exc()

def names():
    """Where the code says that it comes from, also that within it."""
    return [value.__code__.co_filename, (lambda: 0).__code__.co_filename, __file__]
`

// compileAs has an interpreter compile a module from another text of the same size, and leaves the bytecode where the
// interpreter looks for it, as if it had been made last.
func compileAs(t *testing.T, py pythons.Python, path, text string) {
	t.Helper()
	program := `
import os, py_compile, sys
path, text = sys.argv[1:]
with open(path) as fp: source = fp.read()
stat = os.stat(path)
with open(path, 'w') as fp: fp.write(text)
os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
made = py_compile.compile(path, doraise=True)
with open(path, 'w') as fp: fp.write(source)
os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
os.utime(made)
`
	if out, err := exec.Command(py.Path, "-c", program, path, text).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestBytecode(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		if py.Version == "2.7" {
			t.Skip("2.x is sent source")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, test := range []struct {
			name, want string
			opt        ConnectOptions
			spoil      func(t *testing.T, source, pyc string)
		}{
			{name: "is used", want: "cached"},
			{name: "is switched off", want: "source", opt: ConnectOptions{Bytecode: BytecodeNever}},
			{name: "is of an older source", want: "source", spoil: func(t *testing.T, source, _ string) {
				later := time.Now().Add(-time.Hour)
				if err := os.Chtimes(source, later, later); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "is of a source of the same size and time", want: "source", spoil: func(t *testing.T, source, pyc string) {
				poll.Until(t, "it has changed later", func() bool {
					var src, code unix.Stat_t
					if err := errors.Join(unix.Stat(source, &src), unix.Stat(pyc, &code), os.Chmod(source, 0o644)); err != nil {
						t.Fatal(err)
					}
					return src.Ctim.Nano() > code.Ctim.Nano()
				})
			}},
			{name: "can be written by others", want: "source", spoil: func(t *testing.T, _, pyc string) {
				if err := os.Chmod(pyc, 0o666); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "is in a directory of others", want: "source", spoil: func(t *testing.T, _, pyc string) {
				if err := os.Chmod(filepath.Dir(pyc), 0o777); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "is of another release", want: "source", spoil: func(t *testing.T, _, pyc string) { patch(t, pyc, 0, 1) }},
			{name: "is cut", want: "source", spoil: func(t *testing.T, _, pyc string) {
				if err := os.Truncate(pyc, 10); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "is for an optimizing interpreter", want: "source", opt: ConnectOptions{Env: []string{"PYTHONOPTIMIZE=1"}}},
		} {
			t.Run(test.name, func(t *testing.T) {
				dir := writeFiles(t, map[string]string{"cachedmod.py": bytecodeModule})
				source := filepath.Join(dir, "cachedmod.py")
				earlier := time.Now().Add(-10 * time.Minute)
				if err := os.Chtimes(source, earlier, earlier); err != nil {
					t.Fatal(err)
				}
				compileAs(t, py, source, strings.Replace(bytecodeModule, "'source'", "'cached'", 1))
				files, err := filepath.Glob(filepath.Join(dir, "__pycache__", "*.pyc"))
				if err != nil || len(files) != 1 {
					t.Fatal(files, err)
				}
				if test.spoil != nil {
					test.spoil(t, source, files[0])
				}
				d := newDaemon(t, Options{Path: []string{dir}})
				c := connect(t, d, target(py), test.opt)
				checkModule(ctx, t, c, source, test.want)
			})
		}
	})
}

// checkModule checks that bytecodeModule says of itself what its source says, and has that value.
func checkModule(ctx context.Context, t *testing.T, c *Child, source, want string) {
	t.Helper()
	var got string
	if err := c.Call(ctx, "cachedmod:value").Decode(&got); err != nil || got != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	var names []string
	if err := c.Call(ctx, "cachedmod:names").Decode(&names); err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if name != "/master:"+source {
			t.Errorf("the file is %s", name)
		}
	}
	if err := c.Call(ctx, "cachedmod:text").Decode(&got); err != nil || !strings.HasPrefix(got, "def value():\n    return VALUE\n") {
		t.Errorf("got %q, %v", got, err)
	}
	if err := c.Call(ctx, "cachedmod:trace").Decode(&got); err != nil || !strings.Contains(got, "    raise ValueError('no')\n") ||
		!strings.Contains(got, `File "/master:`+source+`", line 12, in fail`) {
		t.Errorf("got %q, %v", got, err)
	}
}

const coreModule = `
import inspect
import traceback
import mitogen.core

def lines():
    try:
        mitogen.core.loads(5)
    except Exception:
        codes = [f.__code__ for f in vars(mitogen.core.Importer).values() if inspect.isfunction(f)]
        return [traceback.format_exc(), repr(sorted((c.co_name, c.co_firstlineno, c.co_filename) for c in codes))]
`

// codes collects the names of modules whose code is sent, by the peer.
type codes struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (c *codes) trace(f Frame) {
	if f.Out && f.Header.Handle == pyproto.LoadCode {
		name, _, _ := bytes.Cut(f.Payload, []byte{0})
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.seen == nil {
			c.seen = map[string]bool{}
		}
		c.seen[f.Peer+" "+string(name)] = true
	}
}

func (c *codes) has(peer, module string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[peer+" "+module]
}

// TestCompiled: a module without bytecode beside it is compiled once, for later children. So are modules of archives
// and of the runtime.
func TestCompiled(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		path := writeFiles(t, map[string]string{"cachedmod.py": bytecodeModule, "coremod.py": coreModule})
		source := filepath.Join(path, "cachedmod.py")
		archive := filepath.Join(t.TempDir(), "mod.zip")
		program := "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w'); z.writestr('zipped.py', 'import sys\\ndef name(): return sys._getframe().f_code.co_filename\\n'); z.close()"
		if out, err := exec.Command(py.Path, "-c", program, archive).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var sent codes
		store := bytecode.New(bytecode.Options{})
		t.Cleanup(store.Close)
		d := newDaemon(t, Options{Path: []string{path, archive}, Bytecode: store, Trace: sent.trace})
		var core []string
		booted := func() (n int) {
			d.boots.m.Range(func(key, _ any) bool {
				if key.(bootKey).magic != 0 {
					n++
				}
				return true
			})
			return n
		}
		to := target(py)
		load := func(name string, opt ConnectOptions) {
			opt.Name = name
			c := connect(t, d, to, opt)
			checkModule(ctx, t, c, source, "source")
			var got string
			if err := c.Call(ctx, "zipped:name").Decode(&got); err != nil || got != "/master:"+archive+"/zipped.py" {
				t.Fatalf("got %q, %v", got, err)
			}
			// The lines of the core's own code are true.
			var lines []string
			if err := c.Call(ctx, "coremod:lines").Decode(&lines); err != nil || len(lines) != 2 {
				t.Fatal(lines, err)
			}
			if core == nil {
				core = lines
			} else if !slices.Equal(core, lines) {
				t.Errorf("%s: the core says of itself %q, not %q", name, lines, core)
			}
			if err := c.Close(ctx); err != nil {
				t.Error(err)
			}
		}
		load("first", ConnectOptions{})
		if sent.has("first", "cachedmod") {
			t.Error("the first child had to wait for code")
		}
		all := []string{"cachedmod", "zipped", "mitogen.running"}
		for i := 0; ; i++ {
			name := fmt.Sprint("later ", i)
			load(name, ConnectOptions{})
			lacking := slices.DeleteFunc(slices.Clone(all), func(module string) bool { return sent.has(name, module) })
			if booted() == 0 {
				lacking = append(lacking, "the core")
			}
			if len(lacking) == 0 {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("no code of %v", lacking)
			}
		}
		load("with the core's code", ConnectOptions{})
		for name, opt := range map[string]ConnectOptions{"optimizing": {Env: []string{"PYTHONOPTIMIZE=1"}}, "unwilling": {Bytecode: BytecodeNever}} {
			load(name, opt)
			for _, module := range all {
				if sent.has(name, module) {
					t.Errorf("the child that is %s was sent code of %s", name, module)
				}
			}
		}
		// As far as the daemon can tell, it is on another machine.
		to = "exec:env?python=" + py.Path
		load("afar", ConnectOptions{Bytecode: BytecodeAlways})
		for _, module := range all {
			if !sent.has("afar", module) {
				t.Errorf("the child afar was not sent code of %s", module)
			}
		}
	})
}

// TestSourcesAreKept: a module's source is kept as it is sent, whether its code is compiled here or lies beside it, and
// is there for the next process.
func TestSourcesAreKept(t *testing.T) {
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprintf("beside=%t", beside), func(t *testing.T) { testSourcesAreKept(t, beside) })
	}
}

func testSourcesAreKept(t *testing.T, beside bool) {
	py := pythons.Any(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	path, dir := writeFiles(t, map[string]string{"cachedmod.py": bytecodeModule}), filepath.Join(t.TempDir(), "cache")
	want := "source"
	if beside {
		source, earlier := filepath.Join(path, "cachedmod.py"), time.Now().Add(-10*time.Minute)
		if err := os.Chtimes(source, earlier, earlier); err != nil {
			t.Fatal(err)
		}
		want = "cached"
		compileAs(t, py, source, strings.Replace(bytecodeModule, "'source'", "'cached'", 1))
	}
	u := importer.Uncompiled{Hash: sha256.Sum256([]byte(bytecodeModule)), Size: len(bytecodeModule), Path: filepath.Join(path, "cachedmod.py")}
	kept := func() []byte {
		cache, err := bytecode.OpenDir(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		store := bytecode.New(bytecode.Options{Dir: cache})
		defer store.Close()
		d := newDaemon(t, Options{Path: []string{path}, Bytecode: store})
		c := connect(t, d, target(py), ConnectOptions{})
		var opt importer.ResponderOptions
		c.sendCode(c.stream.proc, &opt)
		was := opt.Kept(u)
		checkModule(ctx, t, c, u.Path, want)
		store.Settle(time.Minute)
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
		return was
	}
	if z := kept(); z != nil {
		t.Errorf("%q is kept before it was sent", z)
	}
	u.Compressed = kept
	if text, err := u.Text(); err != nil || string(text) != bytecodeModule {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestWhoseSourcesAreKept: those of every child but one that is to have nothing to do with bytecode, also of one that
// is sent none.
func TestWhoseSourcesAreKept(t *testing.T) {
	store := bytecode.New(bytecode.Options{})
	defer store.Close()
	for _, row := range []struct {
		method     string
		use        BytecodeUse
		store      *bytecode.Store
		kept, code bool
	}{
		{"local", BytecodeAuto, store, true, true},
		{"ssh", BytecodeAuto, store, true, false},
		{"ssh", BytecodeAlways, store, true, true},
		{"local", BytecodeNever, store, false, false},
		{"local", BytecodeAuto, nil, false, true},
	} {
		c := &Child{d: &Daemon{opt: Options{Bytecode: row.store}}, method: row.method, opt: ConnectOptions{Bytecode: row.use}}
		var opt importer.ResponderOptions
		c.sendCode(&bootstrap.Process{Hello: bootstrap.Hello{Magic: 1}, Took: time.Hour}, &opt)
		if (opt.Kept != nil) != row.kept || (opt.Keep != nil) != row.kept || (opt.Code != nil) != row.code || (opt.Compiled != nil) != (row.code && row.store != nil) ||
			(opt.Ahead != nil) != (row.code && row.store != nil) {
			t.Errorf("%s, %s, with a store %t: kept %t, code %t", row.method, row.use, row.store != nil, opt.Kept != nil, opt.Code != nil)
		}
	}
}

// TestInterpreterOf: a program that is no interpreter is not taken for one.
func TestInterpreterOf(t *testing.T) {
	for _, test := range []struct {
		argv  []string
		taken bool
	}{
		{[]string{pythons.Any(t).Path, "-c", "import sys; sys.stdin.read()"}, true},
		{[]string{"cat"}, false},
	} {
		cmd := exec.Command(test.argv[0], test.argv[1:]...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := interpreterOf(cmd.Process.Pid); (got != "") != test.taken || got != "" && !filepath.IsAbs(got) {
			t.Errorf("%s: got %q", test.argv[0], got)
		}
		_ = in.Close()
		_ = cmd.Wait()
	}
}

// TestWhoTakesCode: whether a child takes code depends on the option, its method, and what is known of it.
func TestWhoTakesCode(t *testing.T) {
	local, ssh, stock, behind := &Child{method: "local"}, &Child{method: "ssh"}, &Child{method: "local", runtime: &Runtime{}}, &Child{method: "local", via: &Child{}}
	for _, row := range []struct {
		c     *Child
		magic uint16
		near  bool
		want  [3]bool // auto, always, never
	}{
		{local, 1, false, [3]bool{true, true, false}},
		{ssh, 1, false, [3]bool{false, true, false}},
		{ssh, 1, true, [3]bool{true, true, false}},
		{local, 0, true, [3]bool{}},
		{stock, 1, true, [3]bool{}},
		{behind, 1, true, [3]bool{}},
	} {
		for i, use := range []BytecodeUse{BytecodeAuto, BytecodeAlways, BytecodeNever} {
			row.c.opt.Bytecode = use
			if got := row.c.takesCode(row.magic, row.near); got != row.want[i] {
				t.Errorf("%+v, %s: %v", row, use, got)
			}
		}
	}
}

// patch adds to one byte of a file.
func patch(t *testing.T, path string, at int, add byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] += add
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
