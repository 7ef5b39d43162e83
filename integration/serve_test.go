package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mitogend/daemon/client"
	"mitogend/integration/poll"
)

const outcomeModule = `
import os, sys

def values():
    return [1, 'x', b'y' if sys.version_info[0] > 2 else 'y', (1, 2), {'a': None}]

def say():
    sys.stdout.write('out\n')
    sys.stderr.write('err\n')
    return 'done'

def fail():
    def inner():
        raise ValueError('no such thing')
    inner()

def leave():
    sys.exit(7)

def die():
    os._exit(9)

def warn():
    import logging
    logging.getLogger('mine').warning('beware')
`

var (
	seconds = regexp.MustCompile(`"seconds":[0-9.e-]+`)
	objects = regexp.MustCompile(`0x[0-9a-f]+`)
)

// A command prints and does the same with a daemon, cold and warm, and without one.
func TestSameOutcomeWithADaemon(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "mod.py", outcomeModule)
	Write(t, dir, "prog.py", "import sys, os, mod\nsys.stderr.write('e\\n')\nprint(sys.argv[1:], sys.stdin.read(), os.getcwd())\nprint(mod.values())\nsys.exit(int(sys.argv[1]))\n")
	Write(t, dir, "raise.py", "import mod\nmod.fail()\n")
	Write(t, dir, "signal.py", "import os\nos.kill(os.getpid(), 9)\n")
	Write(t, dir, "much.py", "import sys\nsys.stdout.write('x' * 3000000)\n")
	d := Serve(t)
	EachPython(t, func(t *testing.T, p Python) {
		for _, args := range [][]string{
			{"call", "-H", p.Target(), "mod:values"},
			{"call", "-H", p.Target(), "mod:say"},
			{"call", "-H", p.Target(), "mod:fail"},
			{"call", "-H", p.Target(), "mod:leave"},
			{"call", "-H", p.Target(), "mod:warn"},
			{"call", "-H", p.Target(), "mod:nothing"},
			{"call", "-H", p.Target(), "nowhere:f"},
			{"call", "-H", p.Target(), "os:getcwd"},
			{"call", "-H", p.Target(), "--json", "mod:values"},
			{"call", "-H", p.Target(), "--json", "mod:fail"},
			{"call", "-H", p.Target(), "--deny", "mod", "mod:values"},
			{"call", "-H", p.Target(), "--timeout", "300ms", "time:sleep", "1000"},
			{"call", "-H", p.Target(), "mod:die"},
			{"call", "-H", p.Target(), "builtins:max", "caf\xe9", "a"},
			{"call", "-H", p.Target() + "," + p.Target(), "--json", "builtins:max", `["caf\udce9"]`},
			{"run", "-H", p.Target(), "prog.py", "3"},
			{"run", "-H", p.Target(), "--json", "prog.py", "0", "ü"},
			{"run", "-H", p.Target(), "raise.py"},
			{"run", "-H", p.Target(), "signal.py"},
			{"run", "-H", p.Target(), "much.py"},
			{"call", "-H", p.Target() + ",local:?python=/nowhere/" + p.Version, "mod:say"},
		} {
			want := Mitogend(t, dir, args...)
			for _, how := range []string{"first", "second"} {
				got := d.Run(t, dir, args...)
				if !same(want.Stdout, got.Stdout) || !same(want.Stderr, got.Stderr) || want.Status != got.Status {
					t.Errorf("%v, %s time\n=== without: %v\n=== with: %v", args, how, want, got)
				}
			}
		}
	})
}

// same compares outputs, except for what differs between any two runs: times, addresses, and the order of several targets' lines.
func same(a, b string) bool {
	plain := func(s string) []string {
		lines := strings.SplitAfter(objects.ReplaceAllString(seconds.ReplaceAllString(s, ""), ""), "\n")
		slices.Sort(lines)
		return lines
	}
	return slices.Equal(plain(a), plain(b))
}

func TestWarmCallUsesOneInterpreter(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	target := AnyPython(t).Target()
	first := d.Run(t, dir, "call", "-H", target, "os:getpid")
	second := d.Run(t, dir, "call", "-H", target, "os:getpid")
	fresh := d.Run(t, dir, "call", "--fresh", "-H", target, "os:getpid")
	none := d.Run(t, dir, "call", "--daemon", "none", "-H", target, "os:getpid")
	if first.Status != 0 || first.Stdout != second.Stdout || first.Stdout == fresh.Stdout || none.Stdout == first.Stdout {
		t.Errorf("first %v, second %v, fresh %v, none %v", first, second, fresh, none)
	}
}

func TestStopWithManyChildren(t *testing.T) {
	const count = 100
	d := Serve(t, "--grace", "2s")
	target := AnyPython(t).Target()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range count {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx := context.Background()
			c, err := d.Dial(t, client.Options{Fresh: true}).Connect(ctx, target)
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				wg.Go(func() { _ = c.Call(ctx, "time:sleep", 1000) })
			}
		})
	}
	poll.Until(t, "all children are there, and half of them run", func() bool {
		st := d.Stats(t)
		return st.Connections == count && st.Active == count/2
	})
	started := time.Now()
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d\n%s", status, shorten(d.Log.String()))
	}
	t.Logf("%d children were gone %v after SIGTERM, with 2 s of grace", count, time.Since(started).Round(time.Millisecond))
	wg.Wait()
	NothingLeft(t, d.mark)
}

func TestStopLetsWorkEnd(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	target := AnyPython(t).Target()
	Write(t, dir, "slow.py", "import sys, time\nprint('up')\nsys.stdout.flush()\ntime.sleep(1)\nprint('done')\n")
	out := make(chan Result, 1)
	go func() { out <- d.Run(t, dir, "run", "-H", target, "slow.py") }()
	poll.Until(t, "the program runs", func() bool { return d.Stats(t).Programs == 1 })
	d.Signal(syscall.SIGTERM)
	poll.Until(t, "the daemon takes nothing more", func() bool { return strings.Contains(d.Log.String(), "stopping") })
	(<-out).Want(t, 0, "up\ndone\n", "")
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestStopWithoutGrace(t *testing.T) {
	d := Serve(t, "--grace", "2m")
	dir := t.TempDir()
	target := AnyPython(t).Target()
	out := make(chan Result, 1)
	go func() { out <- d.Run(t, dir, "exec", "-H", target, "--", "sleep", "1000") }()
	poll.Until(t, "the program runs", func() bool { return d.Stats(t).Programs == 1 })
	begun := time.Now()
	if r := d.Run(t, dir, "stop", "--grace", "0"); r.Status != 0 || time.Since(begun) > time.Minute {
		t.Error(time.Since(begun), r)
	}
	<-out
}

// Commands do not read where serve listens, and say so where they miss it.
func TestConfiguredSocket(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	cmd := Command(t, dir, "ps")
	config := Write(t, dir, "mitogend.yaml", "listen: "+d.Dir+"\n")
	cmd.Env = append(cmd.Env, "MITOGEND_DAEMON=", "MITOGEND_CONFIG="+config, "XDG_RUNTIME_DIR="+dir)
	runCommand(t, cmd).Want(t, 2, "", "serve listens where "+config+" says, and other commands do so with --daemon "+d.Socket)
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	d := Serve(t, "--grace", "10m")
	dir := t.TempDir()
	target := AnyPython(t).Target()
	out := make(chan Result, 1)
	go func() { out <- d.Run(t, dir, "call", "-H", target, "time:sleep", "1000") }()
	poll.Until(t, "the call runs", func() bool { return d.Stats(t).Connected == 1 })
	d.Signal(syscall.SIGINT)
	poll.Until(t, "it stops", func() bool { return strings.Contains(d.Log.String(), "stopping") })
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if r := <-out; r.Status != 4 {
		t.Errorf("the client: %v", r)
	}
}

func TestCrashIsGotOver(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	target := AnyPython(t).Target()
	d.Run(t, dir, "call", "-H", target, "os:getcwd").Want(t, 0, quoted(t, dir), "")
	d.Signal(syscall.SIGKILL)
	d.Wait()
	if _, err := os.Stat(d.Socket); err != nil {
		t.Fatal("the socket is to be left, for the next to replace: ", err)
	}
	NothingLeft(t, d.mark)
	// Without a daemon, a command works alone; a command that was told to use one says that there is none.
	again := d.Run(t, dir, "call", "os:getcwd")
	again.Want(t, 2, "", "no daemon serves this socket")
	next := &Daemon{t: t, Dir: d.Dir, Socket: d.Socket, Log: &Buffer{}, done: make(chan struct{})}
	next.cmd = Command(t, dir, "serve", "--listen", d.Dir)
	next.cmd.Stderr, next.mark = next.Log, next.cmd.Env[len(next.cmd.Env)-1]
	next.Start()
	next.Run(t, dir, "call", "-H", target, "os:getcwd").Want(t, 0, quoted(t, dir), "")
	// A third one finds the lock taken.
	Mitogend(t, dir, "serve", "--listen", d.Dir).Want(t, 2, "", fmt.Sprintf("is served by process %d", next.PID()))
}

// A daemon that is killed under load leaves nothing that hinders the next: no process, no file, no socket. $MITOGEND_KILLS is the number
// of rounds.
func TestKilledUnderLoad(t *testing.T) {
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("MITOGEND_KILLS")); err == nil {
		rounds = n
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	p := AnyPython(t)
	lib := t.TempDir()
	Write(t, lib, "load.py", "import os\n\n\ndef data(n):\n    return os.urandom(n)\n")
	dir := filepath.Join(socketDir(t), "s")
	for range rounds {
		d := &Daemon{t: t, Dir: dir, Socket: filepath.Join(dir, "control.sock"), Log: &Buffer{}, done: make(chan struct{})}
		d.cmd = Command(t, lib, "serve", "--listen", dir)
		d.cmd.Stderr, d.mark = d.Log, d.cmd.Env[len(d.cmd.Env)-1]
		d.Start()
		ctx, cancel := context.WithCancel(context.Background())
		var load sync.WaitGroup
		var calls atomic.Int64
		for range 3 {
			opt := sourceOf(lib)
			opt.Fresh = true
			c := d.Dial(t, opt)
			load.Go(func() {
				for ctx.Err() == nil {
					child, err := c.Connect(ctx, p.Target())
					if err != nil {
						return
					}
					for range 10 {
						_ = child.Call(ctx, "load:data", 100_000)
						calls.Add(1)
					}
					_ = child.Close(ctx)
				}
			})
		}
		want := 10 + random.Int63n(60)
		poll.Until(t, "there is load", func() bool { return calls.Load() > want })
		d.Signal(syscall.SIGKILL)
		d.Wait()
		cancel()
		load.Wait()
		NothingLeft(t, d.mark)
	}
}

func quoted(t testing.TB, dir string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(real)
	return string(b) + "\n"
}

func TestSocketProblems(t *testing.T) {
	dir := t.TempDir()
	long := Mitogend(t, dir, "serve", "--listen", filepath.Join(dir, strings.Repeat("x", 120)))
	long.Want(t, 2, "", "the system takes 107")
	if strings.Contains(long.Stderr, "stopping") {
		t.Errorf("a daemon that never served is said to stop: %v", long)
	}
	file := Write(t, dir, "file/control.sock", "")
	if err := os.Chmod(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	Mitogend(t, dir, "serve", "--listen", filepath.Dir(file)).Want(t, 2, "", "is no socket")
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	Mitogend(t, dir, "serve", "--listen", open).Want(t, 2, "", "others may write")
	Mitogend(t, dir, "ps", "--daemon", filepath.Join(dir, "nothing")).Want(t, 2, "", "no daemon serves this socket")
	Mitogend(t, dir, "ps").Want(t, 2, "", "no daemon runs")
}

func TestFullDiskForLogs(t *testing.T) {
	d := Serve(t, "--log-file", "/dev/full", "--trace", "/dev/full", "--log-level", "debug")
	dir := t.TempDir()
	d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "os:getcwd").Want(t, 0, quoted(t, dir), "")
	if st := d.Stats(t); st.LogErrors == 0 {
		t.Error("no record was counted as lost")
	}
	for _, line := range []string{"--log-file /dev/full: no space left on device", "--trace /dev/full: no space left on device"} {
		poll.Until(t, line+" is told", func() bool { return strings.Contains(d.Log.String(), line) })
		if n := strings.Count(d.Log.String(), line); n != 1 {
			t.Errorf("%q is told %d times: %s", line, n, d.Log)
		}
	}
	// mitogend logs still shows them.
	if r := d.Run(t, dir, "logs"); r.Status != 0 || !strings.Contains(r.Stdout, "listening") {
		t.Error(r)
	}
}

func TestFewDescriptors(t *testing.T) {
	d := PrepareDaemon(t)
	d.cmd.Args = append([]string{"sh", "-c", `ulimit -n 40; exec "$0" "$@"`}, append([]string{d.cmd.Path}, d.cmd.Args[1:]...)...)
	d.cmd.Path = "/bin/sh"
	d.Start()
	poll.Until(t, "the log warns", func() bool { return strings.Contains(d.Log.String(), "the limit of open files is lower") })
	var conns []net.Conn
	for i := range 60 {
		// Clients of both sockets wait; neither ends the daemon.
		socket := d.Socket
		if i >= 45 {
			socket = filepath.Join(d.Dir, "mitogen.sock")
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	poll.Until(t, "it says what is missing", func() bool { return strings.Contains(d.Log.String(), "raise the limit of open files") })
	for _, c := range conns {
		_ = c.Close()
	}
	dir := t.TempDir()
	d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "os:getcwd").Want(t, 0, quoted(t, dir), "")
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	one, two := t.TempDir(), t.TempDir()
	Write(t, one, "own.py", "def f(): return 'one'\n")
	Write(t, two, "own.py", "def f(): return 'two'\n")
	config := Write(t, dir, "mitogend.yaml", "path: ["+one+"]\nidle_time: 5m\nlog_levels: {pool: debug}\n")
	d := Serve(t, "--config", config)
	ask := func() string {
		c, err := d.Dial(t, client.Options{}).Connect(context.Background(), AnyPython(t).Target())
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Call(context.Background(), "own:f").Value()
		if err != nil {
			t.Fatal(err)
		}
		return v.(string)
	}
	if got := ask(); got != "one" {
		t.Fatal(got)
	}
	levels := d.Run(t, dir, "logs", "--set", "control=warn")
	levels.Want(t, 0, "children=info\nclients=info\ncontrol=warn\ndaemon=info\nhttp=info\npool=debug\n", "")
	// A mistake changes nothing.
	Write(t, dir, "mitogend.yaml", "paht: x\n")
	d.Signal(syscall.SIGHUP)
	poll.Until(t, "the mistake is told", func() bool { return strings.Contains(d.Log.String(), `there is no key \"paht\"`) })
	if got := ask(); got != "one" {
		t.Error(got)
	}
	Write(t, dir, "mitogend.yaml", "path: ["+two+"]\nmax_clients: 7\n")
	d.Signal(syscall.SIGHUP)
	poll.Until(t, "it is read", func() bool { return strings.Contains(d.Log.String(), "the configuration was read again") })
	if got := ask(); got != "two" {
		t.Error(got)
	}
	if !strings.Contains(d.Log.String(), "needs a restart") {
		t.Error("max_clients is not told to need a restart")
	}
}

// A configuration that is being read does not keep the daemon from stopping, and what it has started ends.
func TestStopWhileReloading(t *testing.T) {
	dir := t.TempDir()
	hang := filepath.Join(dir, "hang")
	program := Write(t, dir, "hosts.sh", "#!/bin/sh\nif [ -e "+hang+" ]; then echo >>"+hang+"; exec sleep 1000; fi\necho '{}'\n")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	d := Serve(t, "--inventory", program)
	Write(t, dir, "hang", "")
	for range 5 {
		d.Signal(syscall.SIGHUP)
	}
	poll.Until(t, "it is reading", func() bool { info, err := os.Stat(hang); return err == nil && info.Size() > 0 })
	for range 5 {
		d.Signal(syscall.SIGHUP)
	}
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d\n%s", status, shorten(d.Log.String()))
	}
	NothingLeft(t, d.mark)
}

// While work may still end, both sockets are gone, and another daemon learns that this one is there.
func TestNoOtherWhileStopping(t *testing.T) {
	d := Serve(t, "--grace", "10m")
	dir := t.TempDir()
	out := make(chan Result, 1)
	go func() { out <- d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "time:sleep", "1000") }()
	poll.Until(t, "the call runs", func() bool { return d.Running(t) == 1 })
	d.Signal(syscall.SIGTERM)
	sockets := filepath.Dir(d.Socket)
	poll.Until(t, "the sockets are gone", func() bool {
		left, err := filepath.Glob(filepath.Join(sockets, "*.sock"))
		return err == nil && len(left) == 0
	})
	r := d.Run(t, dir, "serve", "--listen", sockets)
	if want := fmt.Sprint("control.sock is served by process ", d.PID()); r.Status != 2 || !strings.Contains(r.Stderr, want) {
		t.Error(r)
	}
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	<-out
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	ok := Write(t, dir, "ok.yaml", "# nothing yet\nidle_time: 90s\npath:\n  - lib\n  - /usr/share\nlog_levels: {pool: debug}\n")
	Mitogend(t, dir, "config", "check", ok).Want(t, 0, "warning: "+filepath.Join(dir, "lib")+" does not exist; nothing is served from it until it does\nok: "+
		ok+"; the socket is "+socketPath(t)+"\n", "")
	r := Mitogend(t, dir, "config", "show", "--config", ok, "--grace", "3s")
	for _, want := range []string{
		"# " + ok + "\nidle_time: 1m30s\n", "# " + ok + "\npath:\n    - " + filepath.Join(dir, "lib") + "\n    - /usr/share\n", "# --grace\ngrace: 3s\n",
		"# default\nmax_clients: 4096\n",
	} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%q is not in\n%s", want, r.Stdout)
		}
	}
	libs := Write(t, dir, "libs.yaml", "libs: [./lib, system]\nvault_password_file: [prod@pw, me/you@corp/pw]\n")
	r2 := Mitogend(t, dir, "config", "show", "--config", libs)
	for _, want := range []string{
		"\nlibs:\n    - " + filepath.Join(dir, "lib") + "\n    - system\n",
		"\nvault_password_file:\n    - prod@" + filepath.Join(dir, "pw") + "\n    - " + filepath.Join(dir, "me/you@corp/pw") + "\n",
	} {
		if !strings.Contains(r2.Stdout, want) {
			t.Errorf("%q is not in\n%s", want, r2.Stdout)
		}
	}
	if r := Mitogend(t, dir, "config", "show", "--libs", "a,system"); !strings.Contains(r.Stdout, "\nlibs:\n    - "+filepath.Join(dir, "a")+"\n    - system\n") {
		t.Error(r)
	}
	// The output of config show is a valid configuration.
	shown := Write(t, dir, "shown.yaml", r.Stdout)
	if again := Mitogend(t, dir, "config", "show", "--config", shown); again.Status != 0 || strip(again.Stdout) != strip(r.Stdout) {
		t.Errorf("read again it is\n%v", again)
	}
	if r := Mitogend(t, dir, "config", "show", "--otlp-endpoint", "http://me:pass-word@127.0.0.1:4318"); !strings.Contains(r.Stdout, "otlp_endpoint: http://me:xxxxx@127.0.0.1:4318\n") {
		t.Error(r)
	}
	if r := Mitogend(t, dir, "config", "show", "--otlp-endpoint", "me:pass-word@127.0.0.1:4318"); r.Status != 2 || strings.Contains(r.Stderr, "pass-word") {
		t.Error(r)
	}
	for text, want := range map[string]string{
		"idle_time: soon\n":            "line 1: idle_time: \"soon\" is no duration",
		"\nnope: 1\n":                  "line 2: there is no key \"nope\"",
		"max_clients: many\n":          "is no number",
		"max_clients: 0\n":             "max_clients: must be greater than 0",
		"log_level: loud\n":            "\"loud\" is no level",
		"log_levels: {nobody: info}\n": "there is no component \"nobody\"",
		"grace: 1s\ngrace: 2s\n":       "is there twice",
		"grace: [1s, 2s]\n":            "one value is wanted",
		"- a\n":                        "KEY: VALUE is wanted",
		"path: {a: {b: c}}\n":          "is wanted",
		"a: b: c\n":                    "mapping values",
		"allow: [a..b]\n":              "policy prefix",
		"grace:\n":                     "empty",
	} {
		Mitogend(t, dir, "config", "check", Write(t, dir, "bad.yaml", text)).Want(t, 2, "", want)
	}
	Mitogend(t, dir, "config", "check", filepath.Join(dir, "none.yaml")).Want(t, 2, "", "no such file")
	Mitogend(t, dir, "config", "check", "/dev/zero").Want(t, 2, "", "no configuration file")
	Mitogend(t, dir, "serve", "--idle-time", "x").Want(t, 2, "", "is no duration")
	cmd := Command(t, dir, "config", "show")
	cmd.Env = append(cmd.Env, "MITOGEND_MAX_CLIENTS=12", "MITOGEND_PATH=/a:/b", "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if r := runCommand(t, cmd); !strings.Contains(r.Stdout, "# $MITOGEND_MAX_CLIENTS\nmax_clients: 12\n") || !strings.Contains(r.Stdout, "- /b\n") {
		t.Error(r)
	}
}

// strip removes comments.
func strip(yaml string) string { return regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(yaml, "") }

func socketPath(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "mitogend/control.sock")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, ".cache/mitogend/control.sock")
}

func TestLookingAtADaemon(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	Write(t, dir, "mod.py", outcomeModule)
	target := AnyPython(t).Target()
	if r := d.Run(t, dir, "call", "-H", target, "mod:fail"); r.Status != 1 {
		t.Fatal(r)
	}
	if r := d.Run(t, dir, "ps"); r.Status != 0 || !strings.Contains(r.Stdout, "local:") || !strings.Contains(r.Stdout, "idle") {
		t.Error(r)
	}
	r := d.Run(t, dir, "ps", "--json")
	var row struct {
		ID    int
		State string
		Calls int
	}
	if err := json.Unmarshal([]byte(r.Stdout), &row); err != nil || row.State != "idle" || row.Calls != 1 {
		t.Error(err, r)
	}
	if r := d.Run(t, dir, "stats"); !regexp.MustCompile(`(?m)^calls_failed +1$`).MatchString(r.Stdout) {
		t.Error(r)
	}
	if r := d.Run(t, dir, "logs", "--kind", "connected", "-n", "3"); !strings.Contains(r.Stdout, "connected") {
		t.Error(r)
	}
	if r := d.Run(t, dir, "logs"); !regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO `).MatchString(r.Stdout) {
		t.Error(r)
	}
	d.Run(t, dir, "logs", "--kind", "call,import").Want(t, 2, "", "--kind call,import: the daemon keeps none of them; add -f")
	d.Run(t, dir, "logs", "--set", "pool=debug", "-f").Want(t, 2, "", "--set changes levels and shows no records: without --follow")
	if r := d.Run(t, dir, "top", "--count", "2", "--every", "100ms"); r.Status != 0 || strings.Count(r.Stdout, "requests/s") != 2 {
		t.Error(r)
	}
	if r := d.Run(t, dir, "close", fmt.Sprint(row.ID)); r.Status != 0 || !strings.Contains(r.Stderr, "closed 1 connection") {
		t.Error(r)
	}
	if r := d.Run(t, dir, "close", "ssh:nowhere"); r.Status != 1 || !strings.Contains(r.Stderr, "no such connection") {
		t.Error(r)
	}
	d.Run(t, dir, "close").Want(t, 2, "", "close what?")
	d.Run(t, dir, "stop", "--grace", "-1s").Want(t, 2, "", "must not be negative")
	follow := exec.Command(d.cmd.Path, "logs", "-f", "--kind", "call,closed", "--json")
	follow.Env, follow.Dir = d.Env(), dir
	var out Buffer
	follow.Stdout = &out
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "somebody has subscribed", func() bool { return d.Stats(t).Streams == 1 })
	d.Run(t, dir, "call", "-H", target, "os:getcwd").Want(t, 0, quoted(t, dir), "")
	poll.Until(t, "the call is shown", func() bool { return strings.Contains(out.String(), `"function":"os:getcwd"`) })
	d.Run(t, dir, "stop").Want(t, 0, "", "has ended")
	if err := follow.Wait(); err == nil || follow.ProcessState.ExitCode() != 4 {
		t.Errorf("logs -f: %v", err)
	}
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// httpAddress is where --http listens, by the log.
func httpAddress(t *testing.T, d *Daemon) string {
	t.Helper()
	m := regexp.MustCompile(`"address":"([0-9.:]+)"`).FindStringSubmatch(d.Log.String())
	if m == nil {
		t.Fatalf("no address in\n%s", d.Log)
	}
	return m[1]
}

func TestMetrics(t *testing.T) {
	d := Serve(t, "--http", "127.0.0.1:0", "--pprof")
	dir := t.TempDir()
	d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "os:getcwd").Want(t, 0, quoted(t, dir), "")
	address := httpAddress(t, d)
	get := func(path string) string {
		t.Helper()
		return request(t, "tcp", address, "GET "+path+" HTTP/1.0\r\n\r\n")
	}
	metrics := get("/metrics")
	for _, want := range []string{"\nmitogend_calls_total 1\n", "\nmitogend_connections 1\n", "\ngo_goroutines ", "\nprocess_open_fds "} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%q is not in\n%s", want, metrics)
		}
	}
	if got := get("/healthz"); !strings.Contains(got, "200 OK") {
		t.Error(got)
	}
	if got := get("/debug/pprof/goroutine?debug=1"); !strings.Contains(got, "404") {
		t.Error(shorten(got))
	}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"127.0.0.1": "200 OK", "127.0.0.1:9101": "200 OK", "[::1]:9101": "200 OK", "localhost": "200 OK", "LOCALHOST:80": "200 OK", "localhost.": "200 OK",
		hostname: "200 OK", "evil.example": "403", "evil.example:9101": "403", "127.0.0.1.evil.example": "403", "localhost.evil.example": "403",
		"198.51.100.7": "403", "2130706433": "403", "evil.example@127.0.0.1": "40", "[::ffff:198.51.100.7]": "403",
	} {
		for _, path := range []string{"/metrics", "/healthz", "/none"} {
			if path == "/none" && want == "200 OK" {
				continue
			}
			if got := request(t, "tcp", address, "GET "+path+" HTTP/1.1\r\nConnection: close\r\nHost: "+host+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
				t.Errorf("%s of %s: %.200q, not %s", path, host, got, want)
			}
		}
		// The host of an absolute URL counts, not the header.
		if got := request(t, "tcp", address, "GET http://"+host+"/healthz HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n"); want == "403" && !strings.HasPrefix(got, "HTTP/1.1 403") {
			t.Errorf("the address of %s: %.200q", host, got)
		}
	}
	socket := filepath.Join(d.Dir, "pprof.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if got := request(t, "unix", socket, "GET /debug/pprof/goroutine?debug=1 HTTP/1.0\r\n\r\n"); !strings.Contains(got, "goroutine profile") {
		t.Error(shorten(got))
	}
	d.Signal(syscall.SIGTERM)
	d.Wait()
	if _, err := os.Stat(socket); err == nil {
		t.Error("pprof.sock is left")
	}
}

// request gives a server's answer.
func request(t *testing.T, network, address, text string) string {
	t.Helper()
	nc, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, _ = nc.Write([]byte(text))
	var b bytes.Buffer
	_, _ = b.ReadFrom(nc)
	return b.String()
}

func TestSystemd(t *testing.T) {
	d := PrepareDaemon(t)
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	d.cmd.Args = append([]string{"sh", "-c", `export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$0" "$@"`}, append([]string{d.cmd.Path}, d.cmd.Args[1:]...)...)
	d.cmd.Path = "/bin/sh"
	d.cmd.ExtraFiles = []*os.File{file}
	d.cmd.Env = append(d.cmd.Env, "LISTEN_FDS=1", "NOTIFY_SOCKET="+filepath.Join(d.Dir, "notify"), "WATCHDOG_USEC=2000000")
	d.Start()
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		_ = notify.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("systemd was not told %s: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	told("READY=1")
	told("WATCHDOG=1")
	d.Signal(syscall.SIGHUP)
	told("RELOADING=1")
	told("READY=1")
	dir := t.TempDir()
	d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "os:getcwd").Want(t, 0, quoted(t, dir), "")
	d.Signal(syscall.SIGTERM)
	told("STOPPING=1")
	if status := d.Wait(); status != 0 {
		t.Errorf("status %d\n%s", status, d.Log)
	}
	if _, err := os.Stat(d.Socket); err != nil {
		t.Error("systemd's socket was removed: ", err)
	}
}

func TestInterruptedClient(t *testing.T) {
	d := Serve(t)
	dir := t.TempDir()
	target := AnyPython(t).Target()
	Write(t, dir, "slow.py", "import os, sys, time\nprint(os.getpid())\nsys.stdout.flush()\ntime.sleep(1000)\n")
	for _, args := range [][]string{{"run", "-H", target, "slow.py"}, {"call", "-H", target, "time:sleep", "1000"}} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			cmd := exec.Command(d.cmd.Path, args...)
			cmd.Dir, cmd.Env = dir, d.Env()
			before := d.Stats(t).Active
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			poll.Until(t, "it runs", func() bool { return d.Stats(t).Active > before })
			_ = cmd.Process.Signal(sig)
			_ = cmd.Wait()
			if sig == syscall.SIGINT && cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("%v: %v", args, cmd.ProcessState)
			}
			poll.Until(t, "its work has ended", func() bool { return d.Stats(t).Active == 0 })
		}
	}
	// A call that was given up does not delay the next.
	d.Run(t, dir, "call", "-H", target, "os:getcwd").Want(t, 0, quoted(t, dir), "")
}

// Whatever arrives on either socket, the daemon goes on and says what was wrong.
func TestGarbageOnTheSockets(t *testing.T) {
	d := Serve(t, "--log-level", "debug")
	dir := t.TempDir()
	stock := filepath.Join(d.Dir, "mitogen.sock")
	for _, c := range []struct{ socket, sent, said string }{
		{stock, "", "a client has not said who it is"},
		{stock, "\x00\x00", "a client has not said who it is"},
		{stock, "\x00\x00\x00\x01" + strings.Repeat("?", 1000), "is no frame of Mitogen's"},
		{stock, "\x00\x00\x00\x01MI", "a client has gone"},
		// A frame of 4 GB without its payload.
		{stock, "\x00\x00\x00\x01MITO" + strings.Repeat("\x00", 20) + "\xff\xff\xff\xff", "a client has gone"},
		{d.Socket, "GET / HTTP/1.0\r\n\r\n", "disconnecting a client"},
		{d.Socket, "\x94\x00\x01\xa4", "a client has gone"},
		{d.Socket, "\x94\x00\x01\xdb\xff\xff\xff\xff", "disconnecting a client"},
	} {
		before := len(d.Log.String())
		var nc net.Conn
		poll.Until(t, "it takes clients on "+c.socket, func() bool {
			var err error
			nc, err = net.Dial("unix", c.socket)
			return err == nil
		})
		_, _ = nc.Write([]byte(c.sent))
		_ = nc.(*net.UnixConn).CloseWrite()
		poll.Until(t, fmt.Sprintf("%s is logged for %.20q", c.said, c.sent), func() bool {
			return strings.Contains(d.Log.String()[before:], c.said)
		})
		_ = nc.Close()
	}
	d.Run(t, dir, "call", "-H", AnyPython(t).Target(), "os:getcwd").Want(t, 0, quoted(t, dir), "")
	if peak := peakRSS(t, d.PID()); peak > 200<<20 && !raceEnabled {
		t.Errorf("the daemon had %d MB", peak>>20)
	}
}

// With TRACEPARENT, a command's spans are part of that trace.
func TestTraceparentOfACommand(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	var got Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		_, _ = got.Write(body.Bytes())
	}))
	defer collector.Close()
	d := Serve(t, "--otlp-endpoint", collector.URL)
	dir := t.TempDir()
	Write(t, dir, "p.py", "pass\n")
	for _, args := range [][]string{{"call", "os:getcwd"}, {"call", "-v", "os:getpid"}, {"run", "p.py"}} {
		cmd := exec.Command(d.cmd.Path, args...)
		cmd.Dir, cmd.Env = dir, append(d.Env(), "TRACEPARENT=00-"+trace+"-"+parent+"-01")
		if r := runCommand(t, cmd); r.Status != 0 {
			t.Fatal(r)
		}
	}
	d.Run(t, dir, "stop").Want(t, 0, "", "has ended")
	if n := strings.Count(got.String(), `"traceId":"`+trace+`"`); n != 3 || strings.Count(got.String(), `"parentSpanId":"`+parent+`"`) != 3 {
		t.Errorf("%d spans are in the trace:\n%s", n, got.String())
	}
}

// Waiting for a stopped daemon counts against --connect-timeout.
func TestDaemonThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	d := PrepareDaemon(t).Start()
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := Mitogend(t, dir, "call", "--daemon", d.Socket, "--connect-timeout", "1", "-H", AnyPython(t).Target(), "os:getpid")
	many := Mitogend(t, dir, "exec", "--daemon", d.Socket, "--connect-timeout", "1", "-H", AnyPython(t).Target()+","+AnyPython(t).Target(), "true")
	_ = d.cmd.Process.Signal(syscall.SIGCONT)
	for _, r := range []Result{r, many} {
		if r.Status != 3 || !strings.Contains(r.Stderr, "the daemon does not answer") || !strings.Contains(r.Stderr, "--daemon none") {
			t.Error(r)
		}
	}
}
