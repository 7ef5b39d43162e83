package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const module = `
import os, sys, time

def echo(v):
    return v

def say(text, times=1):
    for _ in range(times):
        sys.stdout.write(text)
    sys.stdout.flush()
    return times

def fail(text):
    raise ValueError(text)

def chatty():
    for i in range(2):
        print('now %d' % i)
        yield i

def pid():
    return os.getpid()

def cwd():
    return os.getcwd(), os.environ.get('MARK')

_notes = []

def note(v):
    _notes.append(v)
    return _notes

def pump(channel, add):
    n = 0
    for item in channel:
        n += 1
        channel.send(item + add)
    return n

def flood(channel, size):
    n = 0
    while 1:
        channel.send(b'x' * size)
        n += 1

def send(sender, count):
    for i in range(count):
        sender.send(i)
    sender.close()

_receiver = []

def listen(econtext):
    from mitogen.core import Receiver, Sender
    _receiver.append(Receiver(econtext.router))
    return Sender(econtext.router.myself(), _receiver[0].handle)
listen.mitogen_takes_econtext = True

def hear(count):
    return [_receiver[0].get(timeout=10).unpickle() for _ in range(count)]
`

// bed is a server on a socket of its own.
type bed struct {
	*control.Server
	dir, path string // of the socket
	stopped   bool
}

func newBed(t testing.TB, change func(*control.Options)) *bed {
	t.Helper()
	lib := t.TempDir()
	if err := os.WriteFile(filepath.Join(lib, "mod.py"), []byte(module), 0o644); err != nil {
		t.Fatal(err)
	}
	opt := control.Options{Core: zaptest.NewLogger(t, zaptest.Level(zapcore.WarnLevel)).Core(), Version: "test", Grace: 5 * time.Second}
	opt.Pool.Source = importer.Options{Path: []string{lib}}
	if change != nil {
		change(&opt)
	}
	s, err := control.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	b := &bed{Server: s, dir: dir, path: ln.Path()}
	t.Cleanup(func() {
		if !b.stopped {
			b.stop(5 * time.Second)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(b.path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return b
}

func (b *bed) stop(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	b.stopped = true
	b.Shutdown(ctx)
}

func (b *bed) dial(t testing.TB, opt client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), b.path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Shutdown(context.Background()) })
	return c
}

func (b *bed) connect(t testing.TB, target string, opt ...daemon.ConnectOptions) *client.Child {
	t.Helper()
	c, err := b.dial(t, client.Options{}).Connect(t.Context(), target, opt...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func local(py pythons.Python) string { return "local:?python=" + py.Path }

func TestCalls(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.connect(t, local(py))
		ctx := t.Context()
		if got := c.Version().String(); got != py.Version {
			t.Errorf("Version is %s, want %s", got, py.Version)
		}
		for _, v := range []any{nil, true, int64(42), "text ü", []byte{0, 255}, 1.5, []any{int64(1), "x"}, pyproto.Tuple{int64(1)}} {
			got, err := c.Call(ctx, "mod:echo", v).Value()
			if err != nil || !equal(got, v) {
				t.Errorf("sent %#v, got %#v, %v", v, got, err)
			}
		}
		var n int
		if err := c.Call(ctx, "mod:say", "x", pyproto.Kwargs{{Name: "times", Value: 3}}).Decode(&n); err != nil || n != 3 {
			t.Error(n, err)
		}
		var raised *pyproto.CallError
		err := c.Call(ctx, "mod:fail", "why").Err()
		if !errors.As(err, &raised) || raised.Message() != "why" || !strings.Contains(raised.Traceback(), "mod.py") {
			t.Errorf("got %v", err)
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		if got, err := c.Call(ctx, "mod:echo", big).Value(); err != nil || !bytes.Equal(got.([]byte), big) {
			t.Errorf("16 MB came back as %d bytes, %v", len(got.([]byte)), err)
		}
		var dead *daemon.DeadError
		if err := c.Call(ctx, "os:_exit", 3).Err(); !errors.As(err, &dead) || !dead.Lost {
			t.Errorf("a call that ends Python: %v", err)
		}
	})
}

func equal(a, b any) bool {
	x, err1 := pyproto.Marshal(a)
	y, err2 := pyproto.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func TestCallsInOrder(t *testing.T) {
	b := newBed(t, nil)
	out := ""
	c := b.connect(t, "local:", daemon.ConnectOptions{OnOutput: func(data []byte) { out += string(data) }})
	for i := range 20 {
		if err := c.Notify(t.Context(), "mod:say", string(rune('a'+i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Call(t.Context(), "mod:say", "!").Err(); err != nil {
		t.Fatal(err)
	}
	if out != "!" {
		t.Errorf("the call's own output is %q", out)
	}
}

func TestOutputOfCalls(t *testing.T) {
	b := newBed(t, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			out := ""
			c := b.connect(t, "local:", daemon.ConnectOptions{OnOutput: func(data []byte) { out += string(data) }})
			want := strings.Repeat(string(rune('a'+i)), 100)
			for range 20 {
				out = ""
				if err := c.Call(t.Context(), "mod:say", want, 10).Err(); err != nil {
					t.Error(err)
				}
				if out != strings.Repeat(want, 10) {
					t.Errorf("client %d got %d bytes: %.60q", i, len(out), out)
				}
			}
		})
	}
	wg.Wait()
	if n := len(b.List().Contexts); n > pool.DefaultPerTarget {
		t.Errorf("%d contexts", n)
	}
}

func TestMuchOutputIsWhole(t *testing.T) {
	b := newBed(t, nil)
	n := 0
	c := b.connect(t, "local:", daemon.ConnectOptions{OnOutput: func(data []byte) { n += len(data) }})
	if err := c.Call(t.Context(), "mod:say", strings.Repeat("x", 1<<20), 16).Err(); err != nil || n != 16<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestRun(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.connect(t, local(py))
		var out, errs bytes.Buffer
		o := daemon.RunOptions{
			Path: "x.py", Args: []string{"a", "ü"}, Stdin: strings.NewReader(strings.Repeat("in\n", 100000)), Stdout: &out, Stderr: &errs,
			Source: []byte("import sys, mod\nsys.stdout.write(sys.stdin.read())\nsys.stderr.write(sys.argv[1])\nsys.exit(7)\n"),
		}
		st, err := c.Run(t.Context(), o)
		if err != nil || st.Code != 7 || out.String() != strings.Repeat("in\n", 100000) || errs.String() != "a" {
			t.Errorf("%v, %v, %d bytes, %q", st, err, out.Len(), errs.String())
		}
		out.Reset()
		st, err = c.Run(t.Context(), daemon.RunOptions{
			Path: "x.py", WorkDir: "/", Env: []string{"A=b"}, Source: []byte("import os, sys; sys.stdout.write(os.getcwd() + os.environ['A'])"), Stdout: &out,
		})
		if err != nil || st.Code != 0 || out.String() != "/b" {
			t.Errorf("%v, %v, %q", st, err, out.String())
		}
		st, err = c.Run(t.Context(), daemon.RunOptions{Path: "x.py", Source: []byte("import os; os.kill(os.getpid(), 9)")})
		if err != nil || st.Signal != 9 {
			t.Errorf("%v, %v", st, err)
		}
	})
}

func TestRunGivenUp(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	ctx, cancel := context.WithCancel(t.Context())
	pid := make(chan string, 1)
	go func() {
		<-pid
		cancel()
	}()
	_, err := c.Run(ctx, daemon.RunOptions{
		Path: "x.py", Source: []byte("import os, time\nprint(os.getpid())\ntime.sleep(1000)\n"),
		Stdout: writerFunc(func(p []byte) { pid <- strings.TrimSpace(string(p)) }),
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	poll.Until(t, "no program runs", func() bool { return b.List().Contexts[0].Programs == 0 })
	if err := c.Call(t.Context(), "mod:pid").Err(); err != nil {
		t.Error("the child itself is not to be ended: ", err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestChannel(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	ctx := t.Context()
	ch, err := c.OpenChannel(ctx, "mod:pump", 100)
	if err != nil {
		t.Fatal(err)
	}
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range 500 {
			if err := ch.Send(ctx, i); err != nil {
				t.Error(err)
			}
		}
		if err := ch.CloseSend(ctx); err != nil {
			t.Error(err)
		}
	})
	defer sender.Wait() // the answer to CloseSend may come after all that the function sends
	for i := range int64(500) {
		if v, err := ch.Recv(ctx); err != nil || v != i+100 {
			t.Fatal(i, v, err)
		}
	}
	if _, err := ch.Recv(ctx); err != io.EOF {
		t.Fatal(err)
	}
	if v, err := ch.Result(); err != nil || v != int64(500) {
		t.Error(v, err)
	}
}

func TestReceivers(t *testing.T) {
	b := newBed(t, nil)
	cl := b.dial(t, client.Options{})
	ctx := t.Context()
	c, err := cl.Connect(ctx, "local:")
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.NewReceiver(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, "mod:send", r.Sender(), 10).Err(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(10) {
		if v, err := r.Recv(ctx); err != nil || v != i {
			t.Fatal(i, v, err)
		}
	}
	if _, err := r.Recv(ctx); err != io.EOF {
		t.Error(err)
	}
	v, err := c.Call(ctx, "mod:listen").Value()
	to, ok := v.(pyproto.Sender)
	if err != nil || !ok {
		t.Fatal(v, err)
	}
	for i := range 5 {
		if err := cl.Send(ctx, to, i); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := c.Call(ctx, "mod:hear", 5).Value(); err != nil || !equal(v, []any{int64(0), int64(1), int64(2), int64(3), int64(4)}) {
		t.Error(v, err)
	}
	var e *wire.Error
	if err := cl.Send(ctx, pyproto.Sender{Context: 99999, Handle: 1000}, 1); !errors.As(err, &e) || e.Kind != wire.KindUnknown {
		t.Error(err)
	}
}

func TestChains(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	ctx := t.Context()
	if err := c.ChainCall(ctx, "c", "mod:fail", "first").Err(); err == nil {
		t.Fatal("no error")
	}
	if err := c.ChainCall(ctx, "c", "mod:pid").Err(); err == nil || !strings.Contains(err.Error(), "first") {
		t.Error(err)
	}
	if err := c.ResetChain(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := c.ChainCall(ctx, "c", "mod:pid").Err(); err != nil {
		t.Error(err)
	}
}

func TestSharing(t *testing.T) {
	b := newBed(t, nil)
	pid := func(c *client.Child) (n int) {
		t.Helper()
		if err := c.Call(t.Context(), "mod:pid").Decode(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := b.connect(t, "local:")
	second := b.connect(t, "local:")
	if !second.Shared() || first.ID() != second.ID() || pid(first) != pid(second) {
		t.Error("two clients with the same options have two children")
	}
	other := b.connect(t, "local:", daemon.ConnectOptions{PreferHere: true})
	if other.ID() == first.ID() {
		t.Error("other options, and the same child")
	}
	fresh, err := b.dial(t, client.Options{Fresh: true}).Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	if fresh.ID() == first.ID() {
		t.Error("a fresh connection is shared")
	}
	if err := fresh.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "a fresh child ends with its lease", func() bool { return len(b.List().Contexts) == 2 })
}

func TestEachClientHasItsOwnModules(t *testing.T) {
	b := newBed(t, nil)
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two", "three"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "own.py"), []byte("NAME = '"+name+"'\ndef name(): return NAME\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wg.Go(func() {
				cl := b.dial(t, client.Options{Source: &importer.Options{Path: []string{dir}}})
				c, err := cl.Connect(t.Context(), "local:")
				if err != nil {
					t.Error(err)
					return
				}
				for range 10 {
					var got string
					if err := c.Call(t.Context(), "own:name").Decode(&got); err != nil || got != name {
						t.Errorf("the client of %s got %q, %v", name, got, err)
					}
				}
				if err := c.Call(t.Context(), "mod:pid").Err(); err == nil {
					t.Error("it is served the daemon's own modules")
				}
			})
		}
	}
	wg.Wait()
	if n := len(b.List().Contexts); n < 3 {
		t.Errorf("%d contexts", n)
	}
}

func TestDirectoryAndEnvironment(t *testing.T) {
	b := newBed(t, nil)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cl := b.dial(t, client.Options{Dir: dir, Env: append(os.Environ(), "MARK=here")})
	c, err := cl.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Call(t.Context(), "mod:cwd").Value()
	if err != nil || !equal(v, pyproto.Tuple{dir, "here"}) {
		t.Error(v, err)
	}
	if plain := b.connect(t, "local:"); plain.ID() == c.ID() {
		t.Error("clients in two directories share a child")
	}
}

func TestErrorsAreThoseOfThisProcess(t *testing.T) {
	b := newBed(t, nil)
	cl := b.dial(t, client.Options{})
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Shutdown(t.Context()) }()
	for _, target := range []string{"local:?python=/nowhere/python", "nope:x", "local:?python=/bin/false", "local:+local:?python=/nowhere/python"} {
		_, want := d.Connect(t.Context(), target)
		_, got := cl.Connect(t.Context(), target)
		var a, b *daemon.HopError
		if got == nil || want == nil || got.Error() != want.Error() || errors.As(want, &a) != errors.As(got, &b) {
			t.Errorf("%s:\n here  %v\n there %v", target, want, got)
		}
	}
}

func TestEvents(t *testing.T) {
	b := newBed(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ev, err := b.dial(t, client.Options{}).Subscribe(ctx, wire.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	c := b.connect(t, "local:")
	_ = c.Call(ctx, "mod:fail", "x")
	_ = c.Call(ctx, "os:_exit", 1)
	seen := map[string]int{}
	for seen[wire.EventLost] == 0 {
		e, _, err := ev.Next(ctx)
		if err != nil {
			t.Fatal(err, seen)
		}
		if e.Target != "local:" && e.Kind != wire.EventLog {
			t.Errorf("an event of %q", e.Target)
		}
		seen[e.Kind]++
	}
	for _, kind := range []string{wire.EventConnected, wire.EventImport, wire.EventCall} {
		if seen[kind] == 0 {
			t.Errorf("no event of kind %s in %v", kind, seen)
		}
	}
	ev, err = b.dial(t, client.Options{}).Subscribe(ctx, wire.Subscribe{Kinds: []string{wire.EventConnected}, Backlog: 10, Until: true})
	if err != nil {
		t.Fatal(err)
	}
	if e, _, err := ev.Next(ctx); err != nil || e.Kind != wire.EventConnected {
		t.Error(e, err)
	}
	if _, _, err := ev.Next(ctx); err != io.EOF {
		t.Error(err)
	}
}

func TestAdmin(t *testing.T) {
	b := newBed(t, nil)
	cl := b.dial(t, client.Options{})
	ctx := t.Context()
	c, err := cl.Connect(ctx, "local:")
	if err != nil {
		t.Fatal(err)
	}
	list, err := cl.List(ctx)
	if err != nil || len(list) != 1 || list[0].ID != uint32(c.ID()) || list[0].State != "used" || list[0].PID == 0 {
		t.Errorf("%+v, %v", list, err)
	}
	st, err := cl.Stats(ctx)
	if err != nil || st.Clients != 1 || st.Connections != 1 || st.Connected != 1 || st.Version != "test" || st.Descriptors == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	mods, err := cl.Modules(ctx, importer.Version{Major: 3, Minor: 11}, "mod", "nowhere", "os")
	if err != nil || len(mods) != 3 || !mods[0].Served || mods[1].Served || mods[2].Reason == "" {
		t.Errorf("%+v, %v", mods, err)
	}
	levels, err := cl.Levels(ctx, "pool", "debug")
	if err != nil || levels["pool"] != "debug" || levels["daemon"] != "info" {
		t.Error(levels, err)
	}
	if _, err := cl.Levels(ctx, "nope", "debug"); err == nil {
		t.Error("an unknown component is taken")
	}
	if n, err := cl.End(ctx, wire.Close{Target: "local:"}); err != nil || n != 1 {
		t.Error(n, err)
	}
	var dead *daemon.DeadError
	if err := c.Call(ctx, "mod:pid").Err(); !errors.As(err, &dead) {
		t.Error(err)
	}
	if _, err := cl.Stop(ctx, 0); err == nil {
		t.Error("a daemon that is part of another program lets itself be stopped")
	}
}

// TestStopsWithoutWhatHangs: a request that hangs where nothing can interrupt it, like a file of a server that does
// not answer, does not keep the daemon from stopping.
func TestStopsWithoutWhatHangs(t *testing.T) {
	t.Parallel()
	hangs, free := make(chan struct{}), make(chan struct{})
	defer close(free)
	b := newBed(t, func(o *control.Options) {
		o.LogErrors = func() int64 {
			close(hangs)
			<-free
			return 0
		}
	})
	c := b.dial(t, client.Options{})
	stats := make(chan error, 1)
	go func() {
		_, err := c.Stats(t.Context())
		stats <- err
	}()
	<-hangs
	b.stop(0)
	if _, err := c.List(t.Context()); err == nil {
		t.Error("the daemon answers after it has stopped")
	}
	if err := <-stats; err == nil {
		t.Error("what hung was answered")
	}
}

func TestChangedModulesAreServedAnew(t *testing.T) {
	b := newBed(t, nil)
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "own.py"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cl := b.dial(t, client.Options{Source: &importer.Options{Path: []string{dir}}})
	call := func() (string, pyproto.ContextID) {
		t.Helper()
		c, err := cl.Connect(t.Context(), "local:")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		v, err := c.Call(t.Context(), "own:f").Value()
		if err != nil {
			return "error", c.ID()
		}
		return v.(string), c.ID()
	}
	got, first := call()
	if got != "error" {
		t.Fatalf("got %q of a module that is not there", got)
	}
	write("def f(): return 'one'\n")
	got, second := call()
	if got != "one" || second == first {
		t.Errorf("a module that is there now gives %q in context %d after %d", got, second, first)
	}
	if got, third := call(); got != "one" || third != second {
		t.Errorf("the same module gives %q in context %d after %d", got, third, second)
	}
	write("def f(): return 'another'\n")
	if got, last := call(); got != "another" || last == second {
		t.Errorf("a changed module gives %q in context %d after %d", got, last, second)
	}
}

// A child that has a package knows what is in it: a module that is added to it goes to a new one.
func TestAddedModulesAreServed(t *testing.T) {
	b := newBed(t, nil)
	dir := t.TempDir()
	add := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "jobs", name+".py"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "jobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	add("__init__", "")
	add("late", "def f():\n    import importlib\n    return importlib.import_module('jobs.' + 'c').f()\n")
	cl := b.dial(t, client.Options{Source: &importer.Options{Path: []string{dir}}})
	for i, name := range []string{"a", "b", "c", "late"} {
		if name != "late" {
			add(name, fmt.Sprintf("def f(): return %d\n", i))
		}
		c, err := cl.Connect(t.Context(), "local:")
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Call(t.Context(), "jobs."+name+":f").Value()
		if want := int64(min(i, 2)); err != nil || v != want {
			t.Errorf("%s: %v, %v", name, v, err)
		}
		c.Close(t.Context())
	}
}
