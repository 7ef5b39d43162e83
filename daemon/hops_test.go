package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"mitogend/bootstrap"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// within is how long anything here may take. It finds what hangs, not what is slow.
const within = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	t.Cleanup(cancel)
	return ctx
}

var marks atomic.Int32

// mark gives an environment that marks the processes of a test, and checks at its end that none is left.
func mark(t testing.TB) []string {
	env := fmt.Sprintf("MITOGEND_HOPS_TEST=%d.%d", os.Getpid(), marks.Add(1))
	t.Cleanup(func() {
		poll.Until(t, "no process is left", func() bool { return len(marked(env)) == 0 })
	})
	return []string{env}
}

// marked lists the processes with env in their environment, without those that have ended and are not reaped.
func marked(env string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !slices.Contains(strings.Split(string(data), "\x00"), env) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		pids = append(pids, pid)
	}
	return pids
}

// chain is a target of so many local hops, with the interpreters in turn.
func chain(n int, list []pythons.Python) string {
	hops := make([]string, n)
	for i := range hops {
		hops[i] = target(list[i%len(list)])
	}
	return strings.Join(hops, "+")
}

// ends are the oldest and the newest interpreters, in turn by generation.
func ends(t testing.TB) []pythons.Python {
	list := pythons.All(t)
	return []pythons.Python{list[0], list[len(list)-1]}
}

const treeModule = `
import os, signal, sys, threading, time
import mitogen.core

def pid():
    return os.getpid()

def parents():
    return mitogen.core.router.parent_ids

def length(data):
    return len(data)

def block(path):
    os.mkdir(path)
    while True:
        time.sleep(1)

def ignore(path):
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    os.mkdir(path)
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass

def in_c(path):
    os.mkdir(path)
    # Holds the interpreter's lock, so that no thread of it can do anything.
    return max(range(10 ** 12)) if sys.version_info[0] > 2 else max(xrange(10 ** 15))

def say(text):
    print(text)

@mitogen.core.takes_router
def make(how, router, **kwargs):
    child = getattr(router, how)(**kwargs)
    made.append(child)
    return child, child.call(pid), child.call(parents)

made = []

def last(fn, *args):
    return made[-1].call(globals()[fn], *args)

def end():
    made[-1].shutdown()
    made[-1].call(pid)

def may_announce():
    import mitogen.parent
    return [sorted(link.allowed) for link in mitogen.parent.relay.children.values()]

@mitogen.core.takes_router
def in_vain(python_path, router):
    import mitogen.connect, mitogen.process, mitogen.running, socket
    def fails():
        raise socket.error(24, 'too many')
    failed = 0
    for module, name in (mitogen.running, 'fork'), (mitogen.process, 'pair'), (None, None):
        real = module and getattr(module, name)
        for _ in range(20):
            if module:
                setattr(module, name, fails)
            try:
                router.fork() if module else router.local(python_path=python_path)
            except (EnvironmentError, mitogen.core.StreamError):
                failed += 1
            finally:
                if module:
                    setattr(module, name, real)
    return failed

@mitogen.core.takes_router
def deep(python_path, levels, router):
    if levels == 0:
        return mitogen.core.router.parent_ids
    return router.local(python_path=python_path).call(deep, python_path, levels - 1)

@mitogen.core.takes_router
def unknown(router):
    try:
        router.local(nonsense=1)
    except mitogen.core.StreamError as e:
        return e.args[0]
`

func treeDaemon(t testing.TB, opt Options) *Daemon {
	opt.Path = []string{writeFiles(t, map[string]string{"tree.py": treeModule})}
	return newDaemon(t, opt)
}

func TestHopStdio(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789\n\x04\x03\x11\x13\x00\xff\r"), 60000)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for _, stdio := range []string{"socketpair", "pipes", "pty", "hybrid", "hybrid-pipes"} {
			t.Run(stdio, func(t *testing.T) {
				env := mark(t)
				d := treeDaemon(t, Options{})
				c := connect(t, d, target(py)+"+"+target(py)+"&stdio="+stdio, ConnectOptions{Env: env})
				ctx := testContext(t)
				if got := c.Version().String(); got != py.Version {
					t.Errorf("Version is %s", got)
				}
				var back []byte
				if err := c.Call(ctx, "builtins:bytes", data).Err(); err != nil && py.Version != "2.7" {
					t.Error(err)
				}
				if err := c.Call(ctx, "copy:copy", data).Decode(&back); err != nil || !bytes.Equal(back, data) {
					t.Errorf("%d bytes came back as %d, %v", len(data), len(back), err)
				}
				var ids []uint32
				if err := c.Call(ctx, "tree:parents").Decode(&ids); err != nil || !slices.Equal(ids, []uint32{uint32(c.Via().ID()), 0}) {
					t.Errorf("parents are %v, %v", ids, err)
				}
				if err := c.Close(ctx); err != nil {
					t.Error(err)
				}
				if pids := marked(env[0]); len(pids) > 0 {
					t.Errorf("after Close %v are left", pids)
				}
			})
		}
	})
}

func TestHopOutput(t *testing.T) {
	list := ends(t)
	var mu sync.Mutex
	var printed bytes.Buffer
	env := mark(t)
	d := treeDaemon(t, Options{})
	c := connect(t, d, chain(3, list), ConnectOptions{Env: env, OnOutput: func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		printed.Write(b)
	}})
	if err := c.Call(testContext(t), "tree:say", "from the third").Err(); err != nil {
		t.Fatal(err)
	}
	if got := printed.String(); got != "from the third\n" {
		t.Errorf("printed %q", got)
	}
}

func TestDeep(t *testing.T) {
	list := ends(t)
	env := mark(t)
	d := treeDaemon(t, Options{})
	start := time.Now()
	c := connect(t, d, chain(10, list), ConnectOptions{Env: env})
	t.Logf("ten hops connected in %v", time.Since(start))
	ctx := testContext(t)
	depth := 0
	for x := c; x != nil; x = x.Via() {
		if want := list[(9-depth)%2].Version; x.Version().String() != want {
			t.Errorf("hop %d is a %v, not %s", 10-depth, x.Version(), want)
		}
		depth++
	}
	var ids []uint32
	if err := c.Call(ctx, "tree:parents").Decode(&ids); err != nil || len(ids) != 10 {
		t.Errorf("parents are %v, %v", ids, err)
	}
	start = time.Now()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("and closed in %v", time.Since(start))
	if pids := marked(env[0]); len(pids) > 0 {
		t.Errorf("after Close %v are left", pids)
	}
}

func TestConnectsShareAHop(t *testing.T) {
	py := pythons.Any(t)
	env := mark(t)
	var connected, ended atomic.Int32
	d := treeDaemon(t, Options{OnEvent: func(e Event) {
		if e.Kind == Connected {
			connected.Add(1)
		} else {
			ended.Add(1)
		}
	}})
	const n = 12
	children := make([]*Child, n)
	var wg sync.WaitGroup
	for i := range children {
		wg.Go(func() {
			var err error
			if children[i], err = d.Connect(context.Background(), chain(3, []pythons.Python{py}), ConnectOptions{Env: env}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if got := connected.Load(); got != n+2 {
		t.Errorf("%d children were connected, not %d and their two hops", got, n)
	}
	other := connect(t, d, chain(2, []pythons.Python{py}), ConnectOptions{Env: env, PreferHere: true})
	if other.Via() == children[0].Via().Via() {
		t.Error("a child with other options shares the hop")
	}
	ctx := testContext(t)
	hop := children[0].Via()
	for i, c := range children {
		if c.Via() != hop {
			t.Fatal("they do not share a hop")
		}
		if err := hop.gone(); err != nil {
			t.Fatalf("the hop is gone with %d users: %v", n-i, err)
		}
		if i%2 == 0 {
			// A child is closed, or ends by itself.
			if err := c.Call(ctx, "os:_exit", 0).Err(); err == nil {
				t.Error("os._exit returned")
			}
			continue
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	poll.Until(t, "the hops end with their last user", func() bool { return ended.Load() == n+2 })
	kept := func() int {
		d.hops.mu.Lock()
		defer d.hops.mu.Unlock()
		return len(d.hops.m)
	}
	if n := kept(); n != 1 {
		t.Errorf("%d hops are in the table", n)
	}
	if err := other.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := kept(); n != 0 {
		t.Errorf("%d hops are in the table", n)
	}
}

func TestHopErrors(t *testing.T) {
	py := target(pythons.Any(t))
	stub := filepath.Join(t.TempDir(), "sudo")
	// This program asks for a password on the terminal, as sudo does.
	script := `#!/bin/sh
exec 3<>/dev/tty
printf '[sudo: %s] ' "$SUDO_PROMPT" >&3
read answer <&3
if [ "$answer" = "s3cret pass" ]; then
  while [ "${1#-}" != "$1" ]; do case $1 in -u|-p|--) [ "$1" = -- ] && { shift; break; }; shift;; esac; shift; done
  exec "$@"
fi
echo "Sorry, $answer, try again." >&3
exit 1
`
	pythons.Program(t, stub, script)
	secrets := func(p string) func(int, string) (string, bool) {
		return func(_ int, method string) (string, bool) { return p, method == "sudo" }
	}
	for name, c := range map[string]struct {
		target string
		opt    ConnectOptions
		hop    int
		step   bootstrap.Step
		want   string
	}{
		"no program":       {py + "+sudo:root?sudo_path=/no/such/sudo", ConnectOptions{}, 1, bootstrap.StepProgram, "/no/such/sudo"},
		"no interpreter":   {py + "+" + py + "+local:?python=nopython,neither", ConnectOptions{}, 2, bootstrap.StepPython, "nopython (not found)"},
		"ends at once":     {py + "+local:?python_path=/bin/false+" + py, ConnectOptions{}, 1, bootstrap.StepConnect, "exit status 1"},
		"first hop":        {"local:?python_path=/bin/false+" + py, ConnectOptions{}, 0, bootstrap.StepConnect, "exit status 1"},
		"password missing": {py + "+sudo:root?sudo_path=" + stub, ConnectOptions{}, 1, bootstrap.StepConnect, "none was given"},
		"password refused": {py + "+sudo:root?sudo_path=" + stub, ConnectOptions{Secrets: secrets("wr0ng")}, 1, bootstrap.StepConnect, "Sorry, ******, try again"},
		"silent":           {py + "+local:?python_path=/bin/cat%20/dev/tty", ConnectOptions{}, 1, bootstrap.StepConnect, ""},
		"time":             {py + "+exec:sh%20-c%20'sleep%2099'?connect_timeout=0.5", ConnectOptions{}, 1, bootstrap.StepConnect, "no child after"},
		"unknown argument": {py + "+local:?nonsense=1", ConnectOptions{}, 1, bootstrap.StepOptions, "nonsense"},
		"signal":           {py + "+exec:sh%20-c%20'kill%20-9%20$$'", ConnectOptions{}, 1, bootstrap.StepConnect, "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opt.Env = mark(t)
			d := newDaemon(t, Options{})
			_, err := d.Connect(testContext(t), c.target, c.opt)
			t.Log(err)
			var he *HopError
			var be *bootstrap.Error
			if !errors.As(err, &he) && c.step != bootstrap.StepOptions || !errors.As(err, &be) {
				t.Fatalf("the error is %v", err)
			}
			if he != nil && he.Hop != c.hop || be.Step != c.step || !strings.Contains(err.Error(), c.want) {
				t.Errorf("at hop %d, step %s: %v; want hop %d, step %s, %q", he.Hop, be.Step, err, c.hop, c.step, c.want)
			}
			if strings.Contains(err.Error(), "wr0ng") {
				t.Error("the error shows the password")
			}
		})
	}
	env := mark(t)
	d := newDaemon(t, Options{})
	c := connect(t, d, py+"+sudo:root?sudo_path="+stub+"&python="+pythons.Any(t).Path, ConnectOptions{Secrets: secrets("s3cret pass"), Env: env})
	if err := c.Call(testContext(t), "os:getpid").Err(); err != nil {
		t.Error(err)
	}
}

// A busy server is tried again, also when a child connects to it.
func TestBusyServerBehindAHop(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"twice": "#!/bin/sh\ncd ${0%/*}\necho x >>count\n[ $(wc -l <count) -ge 3 ] || { echo 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255; }\nwhile [ $1 != h ]; do shift; done; shift; exec sh -c \"$*\"\n",
		"busy":  "#!/bin/sh\ncd ${0%/*}\necho x >>tries\necho 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255\n",
		"count": "", "tries": "",
	})
	for _, name := range []string{"twice", "busy"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := mark(t)
	d := newDaemon(t, Options{})
	py := pythons.Any(t)
	ssh := func(name, timeout string) string {
		return target(py) + "+ssh:h?ssh_path=" + filepath.Join(dir, name) + "&connect_timeout=" + timeout + "&python=" + py.Path
	}
	c := connect(t, d, ssh("twice", "60"), ConnectOptions{Env: env})
	if err := c.Call(testContext(t), "os:getpid").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Connect(testContext(t), ssh("busy", "3"), ConnectOptions{Env: env})
	var e *bootstrap.Error
	if !errors.As(err, &e) || !e.Retry || !strings.Contains(err.Error(), "MaxStartups") {
		t.Errorf("%v", err)
	}
	if tries, err := os.ReadFile(filepath.Join(dir, "tries")); err != nil || len(tries) < 4 {
		t.Errorf("tried %d times: %v", len(tries)/2, err)
	}
}

func TestCancelBehindAHop(t *testing.T) {
	py := target(pythons.Any(t))
	env := mark(t)
	d := newDaemon(t, Options{})
	ctx, cancel := context.WithCancel(testContext(t))
	failed := make(chan error)
	go func() {
		_, err := d.Connect(ctx, py+"+exec:sh%20-c%20'sleep%2098'", ConnectOptions{Env: env})
		failed <- err
	}()
	poll.Until(t, "sleep runs", func() bool { return len(marked(env[0])) >= 2 })
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	poll.Until(t, "nothing is left", func() bool { return len(marked(env[0])) == 0 })
}

func TestShutdownDuringConnects(t *testing.T) {
	py := pythons.Any(t)
	env := mark(t)
	d := newDaemon(t, Options{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := d.Connect(context.Background(), chain(3, []pythons.Python{py}), ConnectOptions{Env: env}); err != nil && !errors.Is(err, ErrShutdown) {
				t.Log(err)
			}
		})
	}
	poll.Until(t, "something runs", func() bool { return len(marked(env[0])) >= 3 })
	if err := d.Shutdown(testContext(t)); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := d.Connect(context.Background(), target(py)); !errors.Is(err, ErrShutdown) {
		t.Error(err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	list := ends(t)
	for _, how := range []string{"tree:block", "tree:ignore", "tree:in_c"} {
		// Which child of the tree is killed; -1 shuts the daemon down.
		for _, victim := range []int{-1, 0, 1} {
			t.Run(fmt.Sprintf("%s/%d", how[5:], victim), func(t *testing.T) {
				env := mark(t)
				d := treeDaemon(t, Options{})
				c := connect(t, d, chain(4, list), ConnectOptions{Env: env})
				ctx := testContext(t)
				tree := []*Child{c.Via().Via().Via(), c.Via().Via(), c.Via(), c}
				pids := make([]int, len(tree))
				for i, x := range tree {
					if err := x.Call(ctx, "tree:pid").Decode(&pids[i]); err != nil {
						t.Fatal(err)
					}
				}
				running := filepath.Join(t.TempDir(), "running")
				pending := c.Start(ctx, how, running)
				poll.Until(t, "the call runs", func() bool {
					_, err := os.Stat(running)
					return err == nil
				})
				start := time.Now()
				if victim < 0 {
					if err := d.Shutdown(ctx); err != nil {
						t.Error(err)
					}
				} else if err := syscall.Kill(pids[victim], syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				var dead *DeadError
				if err := pending.Result(ctx).Err(); !errors.As(err, &dead) || !dead.Lost {
					t.Errorf("the call ended with %v", err)
				}
				poll.Until(t, "all behind it are gone", func() bool {
					for _, pid := range pids[max(victim, 0):] {
						if slices.Contains(marked(env[0]), pid) {
							return false
						}
					}
					return true
				})
				t.Logf("gone after %v", time.Since(start))
			})
		}
	}
}

func TestLargeThroughHops(t *testing.T) {
	list := ends(t)
	env := mark(t)
	d := treeDaemon(t, Options{})
	c := connect(t, d, chain(4, list), ConnectOptions{Env: env})
	ctx := testContext(t)
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	start := time.Now()
	var back []byte
	if err := c.Call(ctx, "copy:copy", data).Decode(&back); err != nil || !bytes.Equal(back, data) {
		t.Fatalf("%d bytes came back, %v", len(back), err)
	}
	t.Logf("64 MB there and back through 3 hops in %v", time.Since(start))
	if err := c.Call(ctx, "tree:length", make([]byte, pyproto.DefaultMaxMessage+1)).Err(); err == nil {
		t.Error("a message beyond the limit was sent")
	}
}

// A hop outlives the children behind it, and forgets what it kept for each.
func TestHopForgetsWhoIsGone(t *testing.T) {
	core, log := zapobserver.New(zap.DebugLevel)
	dir := writeFiles(t, map[string]string{"one.py": "import two\ndef f():\n    return 1\n", "two.py": ""})
	d := newDaemon(t, Options{Path: []string{dir}, Logger: slogzap.Slog(zap.New(core))})
	c, other := connect(t, d, chain(2, ends(t))), connect(t, d, chain(2, ends(t)))
	if err := c.Call(testContext(t), "one:f").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "what was kept is dropped", func() bool {
		for _, e := range log.FilterMessage("forgot what was forwarded").All() {
			if m := e.ContextMap(); m["context"] == uint32(c.ID()) && m["modules"].(int64) >= 2 {
				return true
			}
		}
		return false
	})
	if err := other.Call(testContext(t), "one:f").Err(); err != nil {
		t.Fatal(err)
	}
}

func TestChildrenOfAChild(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		env := mark(t)
		var names sync.Map
		d := treeDaemon(t, Options{OnEvent: func(e Event) { names.Store(e.Target, e.Kind) }})
		c := connect(t, d, target(py), ConnectOptions{Env: env})
		ctx := testContext(t)
		other := ends(t)[0]
		if py.Version == "2.7" {
			other = pythons.Any(t)
		}
		for how, kwargs := range map[string]pyproto.Kwargs{
			"local": {{Name: "how", Value: "local"}, {Name: "name", Value: "theirs"}, {Name: "python_path", Value: other.Path}},
			"fork":  {{Name: "how", Value: "fork"}, {Name: "name", Value: "forked"}},
		} {
			var made pyproto.Tuple
			if err := c.Call(ctx, "tree:make", kwargs).Decode(&made); err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			child := made[0].(pyproto.Context)
			if parents := made[2].([]any); !reflect.DeepEqual(parents, []any{int64(c.ID()), int64(0)}) {
				t.Errorf("%s: its parents are %v", how, parents)
			}
			if d.child(child.ID) == nil || d.child(child.ID).Via() != c || d.child(child.ID).Name() != child.Name {
				t.Errorf("%s: %v is not known here", how, child)
			}
			if err := c.Call(ctx, "tree:last", "length", make([]byte, 3<<20)).Err(); err != nil {
				t.Errorf("%s: %v", how, err)
			}
			var dead *DeadError
			var ce *pyproto.CallError
			if err := c.Call(ctx, "tree:end").Err(); !errors.As(err, &ce) || !strings.HasSuffix(ce.Type(), "ChannelError") {
				t.Errorf("%s: a call to a child that has left gave %v %v", how, err, dead)
			}
			poll.Until(t, "it has ended", func() bool {
				kind, _ := names.Load(child.Name)
				return kind == Lost
			})
		}
		var parents []uint32
		if err := c.Call(ctx, "tree:deep", py.Path, 4).Decode(&parents); err != nil || len(parents) != 5 {
			t.Errorf("%v, %v", parents, err)
		}
		var text string
		if err := c.Call(ctx, "tree:unknown").Decode(&text); err != nil || !strings.Contains(text, "local takes no argument \"nonsense\"") {
			t.Errorf("%q, %v", text, err)
		}
	})
}

// In a container whose first process reaps nothing, the dead of a child's process group stay. The child's end does
// not wait for them.
func TestFirstProcessReapsNothing(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root, for a namespace of its own")
	}
	if out, err := exec.Command("unshare", "-pf", "--mount-proc", "true").CombinedOutput(); err != nil {
		pythons.Missing(t, "unshare: ", err, ": ", string(out))
	}
	for _, py := range ends(t) {
		env := mark(t)
		d := treeDaemon(t, Options{})
		var mu sync.Mutex
		var logs []string
		// The interpreter is the first process there.
		hop := connect(t, d, "local:?python_path=unshare%20-pf%20--kill-child%20--mount-proc%20"+py.Path, ConnectOptions{Env: env, OnLog: func(l Log) {
			mu.Lock()
			defer mu.Unlock()
			logs = append(logs, l.Text)
		}})
		var made pyproto.Tuple
		kwargs := pyproto.Kwargs{{Name: "how", Value: "local"}, {Name: "python_path", Value: py.Path}}
		if err := hop.Call(testContext(t), "tree:make", kwargs).Decode(&made); err != nil {
			t.Fatal(err)
		}
		c := d.child(made[0].(pyproto.Context).ID)
		if err := c.Call(testContext(t), "os:system", "(trap '' TERM; sleep 300 & sleep 301) >/dev/null 2>&1 &").Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(testContext(t)); err != nil {
			t.Error(err)
		}
		if err := hop.Call(testContext(t), "os:getpid").Err(); err != nil {
			t.Error(err)
		}
		if err := hop.Close(testContext(t)); err != nil {
			t.Error(err)
		}
		poll.Until(t, "nothing is left", func() bool { return len(marked(env[0])) == 0 })
		mu.Lock()
		if text := strings.Join(logs, "\n"); strings.Contains(text, "does not end") {
			t.Errorf("%s: %s", py.Version, text)
		}
		mu.Unlock()
	}
}

// TestRefusedPasswordIsSentOnce: those that are on their way through one hop, and whoever tries again, do not lock the
// account.
func TestRefusedPasswordIsSentOnce(t *testing.T) {
	dir := t.TempDir()
	stub, asked := filepath.Join(dir, "sudo"), filepath.Join(dir, "asked")
	pythons.RefusingSudo(t, stub, asked)
	d := newDaemon(t, Options{})
	py := target(pythons.Any(t))
	name := "sudo:root?sudo_path=" + stub
	connect := func(password string) error {
		_, err := d.Connect(t.Context(), name+"+"+py, ConnectOptions{Secrets: func(_ int, method string) (string, bool) { return password, method == "sudo" }})
		return err
	}
	for range 3 {
		for i := range 3 {
			err := connect("wrong")
			var e *bootstrap.Error
			if !errors.As(err, &e) || !e.PasswordRefused() {
				t.Fatalf("connect %d: %v", i, err)
			}
		}
	}
	_ = connect("other")
	text, err := os.ReadFile(asked)
	if string(text) != "wrong\nother\n" {
		t.Errorf("it was given %q, %v", text, err)
	}
	poll.Until(t, "it is asked again", func() bool {
		_ = connect("wrong")
		text, _ := os.ReadFile(asked)
		return string(text) == "wrong\nother\nwrong\n"
	})
}

// A hop does not keep the numbers of what could not be started behind it.
func TestNumbersAreTakenBack(t *testing.T) {
	for _, py := range ends(t) {
		env := mark(t)
		d := treeDaemon(t, Options{})
		c := connect(t, d, chain(3, []pythons.Python{py}), ConnectOptions{Env: env})
		var failed int
		if err := c.Call(testContext(t), "tree:in_vain", "/bin/false").Decode(&failed); err != nil || failed != 60 {
			t.Fatalf("%s: %d failed, %v", py.Version, failed, err)
		}
		if n := len(d.Children()); n != 3 {
			t.Errorf("%s: %d children are in the tree", py.Version, n)
		}
		if _, err := d.Connect(testContext(t), chain(2, []pythons.Python{py})+"+local:?python_path=/bin/false", ConnectOptions{Env: env}); err == nil {
			t.Error("it is connected")
		}
		for _, hop := range []*Child{c.Via(), c.Via().Via()} {
			poll.Until(t, "the hop keeps none", func() bool {
				var kept [][]int
				if err := hop.Call(testContext(t), "tree:may_announce").Decode(&kept); err != nil {
					t.Fatal(err)
				}
				return len(kept) == 1 && len(kept[0]) == 0
			})
		}
	}
}
