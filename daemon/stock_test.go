package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/bootstrap"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// stockRuntime is the Mitogen that is installed for tests: in $MITOGEND_STOCK, or where the system's python3 finds
// it.
func stockRuntime(t testing.TB) *Runtime {
	t.Helper()
	spec, python := "mitogen", []string{"/usr/bin/python3"}
	if dir := os.Getenv("MITOGEND_STOCK"); dir != "" {
		spec = "mitogen:" + dir
	}
	r, err := FindRuntime(context.Background(), spec, nil, python)
	if err != nil {
		pythons.Missing(t, err)
	}
	return r
}

const stockModule = `
import os
import sys
import third.helper

import mitogen.core

def add(a, b=1):
    return a + b

def echo(v):
    return v

def fail():
    raise ValueError('no')

def say():
    print('printed')
    return third.helper.VALUE

def missing():
    import no_such_module_anywhere

@mitogen.core.takes_econtext
def identity(econtext):
    return econtext.router.myself()

@mitogen.core.takes_router
def send_to(sender, values, router):
    for v in values:
        sender.send(v)
    sender.close()

_receivers = []

@mitogen.core.takes_router
def make_receiver(router):
    _receivers.append(mitogen.core.Receiver(router))
    return _receivers[-1].to_sender()

def collect():
    return [m.unpickle() for m in _receivers.pop()]
`

const stockService = `
import mitogen.service

class Adder(mitogen.service.Service):
    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def add(self, a, b):
        return a + b
`

// stockPath is a directory of the modules that the tests import.
func stockPath(t testing.TB) string {
	return writeFiles(t, map[string]string{
		"stockmod.py": stockModule, "stocksvc.py": stockService, "third/__init__.py": "", "third/helper.py": "VALUE = 7\n", "third/data.txt": "data",
	})
}

// eachStock runs a test with a child of each Python on which the runtime can start.
func eachStock(t *testing.T, test func(*testing.T, *Daemon, *Child, pythons.Python)) {
	r := stockRuntime(t)
	dir := stockPath(t)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		d := newDaemon(t, Options{Path: []string{dir}})
		c, err := d.Connect(context.Background(), target(py), ConnectOptions{Runtime: r})
		if py.Version == "3.12" || py.Version == "3.13" {
			if r.imp {
				wantRefused(t, d, err)
				return
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		test(t, d, c, py)
	})
}

// wantRefused checks the error of an interpreter that is too new for the runtime.
func wantRefused(t *testing.T, d *Daemon, err error) {
	t.Helper()
	var e *bootstrap.Error
	if !errors.As(err, &e) || e.TimedOut || !strings.Contains(err.Error(), "imp") {
		t.Fatalf("want an error that names the module imp, got %v", err)
	}
	if len(d.Children()) != 0 {
		t.Error("a child is left")
	}
}

func TestStockChild(t *testing.T) {
	eachStock(t, func(t *testing.T, d *Daemon, c *Child, py pythons.Python) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var n int
		if err := c.Call(ctx, "stockmod:add", 2, pyproto.Kwargs{{Name: "b", Value: 40}}).Decode(&n); err != nil || n != 42 {
			t.Fatalf("got %d, %v", n, err)
		}
		big := bytes.Repeat([]byte{0, 200}, 200000)
		var back []byte
		if err := c.Call(ctx, "stockmod:echo", big).Decode(&back); err != nil || !bytes.Equal(back, big) {
			t.Errorf("bytes came back otherwise: %d, %v", len(back), err)
		}
		var raised *pyproto.CallError
		err := c.Call(ctx, "stockmod:fail").Err()
		if !errors.As(err, &raised) || !strings.HasSuffix(raised.Type(), "ValueError") || raised.Message() != "no" {
			t.Errorf("got %v", err)
		}
		if err := c.Call(ctx, "stockmod:missing").Err(); err == nil || !strings.Contains(err.Error(), "no_such_module_anywhere") {
			t.Errorf("got %v", err)
		}
		var me pyproto.Context
		if err := c.Call(ctx, "stockmod:identity").Decode(&me); err != nil || me.ID != c.ID() {
			t.Errorf("got %v, %v", me, err)
		}
		if err := c.CallService(ctx, "stocksvc.Adder", "add", pyproto.Kwargs{{Name: "a", Value: 1}, {Name: "b", Value: 2}}).Decode(&n); err != nil || n != 3 {
			t.Errorf("the service gave %d, %v", n, err)
		}
		if got := c.Version().String(); got != py.Version {
			t.Errorf("Version is %s", got)
		}
	})
}

func TestStockOutput(t *testing.T) {
	r := stockRuntime(t)
	d := newDaemon(t, Options{Path: []string{stockPath(t)}})
	var mu sync.Mutex
	var out bytes.Buffer
	c := connect(t, d, "local:?python=/usr/bin/python3", ConnectOptions{Runtime: r, OnOutput: func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		out.Write(b)
	}})
	var n int
	if err := c.Call(context.Background(), "stockmod:say").Decode(&n); err != nil || n != 7 {
		t.Fatalf("got %d, %v", n, err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		mu.Lock()
		got := out.String()
		mu.Unlock()
		if got == "printed\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child's output is %q", got)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestStockTree(t *testing.T) {
	eachStock(t, func(t *testing.T, d *Daemon, c *Child, py pythons.Python) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		hop := strings.ReplaceAll(target(py), "+", "%2B")
		below, err := d.Connect(ctx, hop+"+"+hop, ConnectOptions{Runtime: c.runtime})
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := below.Call(ctx, "stockmod:add", 2, 40).Decode(&n); err != nil || n != 42 {
			t.Fatalf("the grandchild gave %d, %v", n, err)
		}
		if got := below.Version().String(); got != py.Version {
			t.Errorf("Version is %s", got)
		}
		// From the child to a grandchild behind another child, through the daemon.
		var to pyproto.Sender
		if err := below.Call(ctx, "stockmod:make_receiver").Decode(&to); err != nil || to.Context != below.ID() {
			t.Fatalf("got %v, %v", to, err)
		}
		if err := c.Call(ctx, "stockmod:send_to", to, []any{1, "two", []byte{200}}).Err(); err != nil {
			t.Fatal(err)
		}
		v, err := below.Call(ctx, "stockmod:collect").Value()
		if list, ok := v.([]any); err != nil || !ok || len(list) != 3 || list[1] != "two" {
			t.Errorf("got %v, %v", v, err)
		}
		// A fork of the child, by the child's own router.
		var up proxied
		if err := c.Call(ctx, "mitogen.parent:_proxy_connect", nil, "fork", map[string]any{}).Decode(&up); err != nil || up.ID == nil {
			t.Fatalf("fork: %v, %v", up, err)
		}
		if d.streamOf(pyproto.ContextID(*up.ID)) != c.stream {
			t.Error("the forked child has no route")
		}
		if err := below.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Children of our runtime and of stock ones, on 2.7 and 3.x, talk to each other.
func TestStockMixed(t *testing.T) {
	r := stockRuntime(t)
	dir := stockPath(t)
	d := newDaemon(t, Options{Path: []string{dir}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var children []*Child
	for _, py := range pythons.All(t) {
		if py.Version == "2.7" || py.Version == "3.11" {
			children = append(children, connect(t, d, target(py), ConnectOptions{Runtime: r}), connect(t, d, target(py)))
		}
	}
	allToAll(ctx, t, children)
}

// allToAll has each child send to every other.
func allToAll(ctx context.Context, t *testing.T, children []*Child) {
	t.Helper()
	for _, to := range children {
		for _, from := range children {
			if from == to {
				continue
			}
			var sender pyproto.Sender
			if err := to.Call(ctx, "stockmod:make_receiver").Decode(&sender); err != nil {
				t.Fatalf("%s: %v", to.Name(), err)
			}
			if err := from.Call(ctx, "stockmod:send_to", sender, []any{"a", []byte("b"), 1 << 40}).Err(); err != nil {
				t.Fatalf("%s: %v", from.Name(), err)
			}
			v, err := to.Call(ctx, "stockmod:collect").Value()
			if list, ok := v.([]any); err != nil || !ok || len(list) != 3 || list[0] != "a" || list[2] != int64(1<<40) {
				t.Errorf("%s to %s: got %v, %v", from.Name(), to.Name(), v, err)
			}
		}
	}
}

// A child that a stock child could not start is an error in the words of that Mitogen.
func TestStockHopFails(t *testing.T) {
	r := stockRuntime(t)
	d := newDaemon(t, Options{})
	const hop = "local:?python=/usr/bin/python3+local:?python_path=/nonexistent/python"
	for _, target := range []string{hop, hop + "&runtime=embedded"} {
		_, err := d.Connect(context.Background(), target, ConnectOptions{Runtime: r})
		if err == nil || !strings.Contains(err.Error(), "error occurred on host") || !strings.Contains(err.Error(), "/nonexistent/python") {
			t.Errorf("%s: got %v", target, err)
		}
		poll.Until(t, "the hop is gone", func() bool { return len(d.Children()) == 0 })
	}
}

// Bytes go as a frame of their own kind to children of ours, and as a pickle to an old release.
func TestSendBytes(t *testing.T) {
	runtime := "&runtime=mitogen:" + stockRuntime(t).Dir
	d := newDaemon(t, Options{Path: []string{stockPath(t)}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const name = "local:?python=/usr/bin/python3"
	for _, target := range []string{name, name + runtime, name + "+" + name + runtime, name + runtime + "+" + name + "&runtime=embedded"} {
		c := connect(t, d, target)
		var to pyproto.Sender
		if err := c.Call(ctx, "stockmod:make_receiver").Decode(&to); err != nil {
			t.Fatal(err)
		}
		want := []byte{0, 200, 'x'}
		if err := d.SendBytes(ctx, to.Context, to.Handle, want); err != nil {
			t.Fatal(err)
		}
		if err := d.Send(ctx, to.Context, to.Handle, pyproto.IsDead, nil); err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		if err := c.Call(ctx, "stockmod:collect").Decode(&got); err != nil || len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("%s: got %q, %v", target, got, err)
		}
	}
}

// The runtimes take turns down one chain, with 2.7 and 3.x on either side of each change.
func TestStockUnderEmbeddedUnderStock(t *testing.T) {
	r := stockRuntime(t)
	for _, test := range []struct{ runtimes, pythons []string }{
		{[]string{"embedded", "mitogen", "embedded", "mitogen", "embedded"}, []string{"3.11", "2.7", "3.6", "3.11", "2.7"}},
		{[]string{"mitogen", "embedded", "embedded", "mitogen", "mitogen", "embedded"}, []string{"2.7", "3.13", "2.7", "2.7", "3.6", "3.11"}},
	} {
		t.Run(strings.Join(test.runtimes, "+"), func(t *testing.T) {
			var hops []string
			for i, v := range test.pythons {
				hops = append(hops, strings.ReplaceAll(target(pythons.Of(t, v)), "+", "%2B")+"&runtime="+test.runtimes[i])
			}
			d := newDaemon(t, Options{Path: []string{stockPath(t)}})
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			leaf, err := d.Connect(ctx, strings.Join(hops, "+"), ConnectOptions{Runtime: r})
			if err != nil {
				t.Fatal(err)
			}
			var children []*Child
			for c := leaf; c != nil; c = c.Via() {
				children = append(children, c)
			}
			for i, c := range children {
				i = len(children) - 1 - i
				if got := c.Version().String(); got != test.pythons[i] || (c.runtime == nil) != (test.runtimes[i] == "embedded") {
					t.Errorf("level %d is %s %v", i, got, c.runtime)
				}
				var n int
				if err := c.Call(ctx, "stockmod:say").Decode(&n); err != nil || n != 7 {
					t.Errorf("%s: got %d, %v", c.Name(), n, err)
				}
				var raised *pyproto.CallError
				if err := c.Call(ctx, "stockmod:fail").Err(); !errors.As(err, &raised) || raised.Message() != "no" {
					t.Errorf("%s: got %v", c.Name(), err)
				}
				if err := c.Call(ctx, "stockmod:missing").Err(); err == nil || !strings.Contains(err.Error(), "no_such_module_anywhere") {
					t.Errorf("%s: got %v", c.Name(), err)
				}
				var data []byte
				if err := c.Call(ctx, "pkgutil:get_data", "third", "data.txt").Decode(&data); c.runtime == nil && (err != nil || string(data) != "data") {
					t.Errorf("%s: got %q, %v", c.Name(), data, err)
				}
			}
			allToAll(ctx, t, children)
			if err := leaf.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadRuntime(t *testing.T) {
	for _, test := range []struct {
		name, want string
		files      map[string]string
	}{
		{"nothing", "no such file", nil},
		{"empty", "is no Mitogen", map[string]string{"mitogen/__init__.py": ""}},
		{"not mitogen", "is no Mitogen", map[string]string{"mitogen/__init__.py": "", "mitogen/core.py": "x = 1\n"}},
		{"no version", "does not tell its version", map[string]string{"mitogen/__init__.py": "", "mitogen/core.py": "class ExternalContext(object):\n"}},
		{"too old", "is Mitogen 0.1.9; 0.2.10", map[string]string{"mitogen/__init__.py": "__version__ = (0, 1, 9)\n", "mitogen/core.py": "class ExternalContext(object):\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := LoadRuntime(writeFiles(t, test.files))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A Mitogen whose core needs the module imp is refused on a Python without it, before it is sent, wherever the child
// is.
func TestStockTooOldForPython(t *testing.T) {
	r, err := LoadRuntime(writeFiles(t, map[string]string{
		"mitogen/__init__.py": "__version__ = (0, 3, 3)\n", "mitogen/core.py": "import imp\nclass ExternalContext(object):\n    pass\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		if py.Version != "3.12" && py.Version != "3.13" {
			t.Skip("it has the module imp")
		}
		d := newDaemon(t, Options{})
		_, err := d.Connect(context.Background(), target(py), ConnectOptions{Runtime: r})
		wantRefused(t, d, err)
		hop := strings.ReplaceAll(target(py), "+", "%2B")
		c := connect(t, d, hop)
		_, err = d.Connect(context.Background(), hop+"&runtime=embedded+"+hop, ConnectOptions{Runtime: r})
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		poll.Until(t, "the hop is gone", func() bool { return len(d.Children()) == 0 })
		wantRefused(t, d, err)
	})
}

// A Mitogen whose core fails on the target is one clear error.
func TestStockBroken(t *testing.T) {
	for _, test := range []struct{ name, core, want string }{
		{"raises", "raise RuntimeError('half installed')\nclass ExternalContext(object):\n    pass\n", "half installed"},
		{"syntax", "def broken(:\nclass ExternalContext(object):\n    pass\n", "SyntaxError"},
		{"ends", "class ExternalContext(object):\n    def __init__(self, c):\n        pass\n    def main(self):\n        pass\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			core := strings.Replace(test.core, "class", "\nclass", 1)
			r, err := LoadRuntime(writeFiles(t, map[string]string{
				"mitogen/__init__.py": "__version__ = (0, 3, 3)\n", "mitogen/core.py": core,
			}))
			if err != nil {
				t.Fatal(err)
			}
			d := newDaemon(t, Options{})
			_, err = d.Connect(context.Background(), "local:?python=/usr/bin/python3", ConnectOptions{Runtime: r})
			var e *bootstrap.Error
			if !errors.As(err, &e) || e.TimedOut || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "NoneType") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Releases differ in what they take as LOAD_RESOURCE, and in whether they know one form of payload only.
func TestStockDialect(t *testing.T) {
	for _, test := range []struct {
		version []int
		old     bool
		pickles int
	}{
		{[]int{0, 2, 10}, true, 1}, {[]int{0, 3, 3}, true, 1}, {[]int{0, 3, 38}, true, 1}, {[]int{0, 3, 39}, false, 1},
		{[]int{0, 3, 40}, false, 1}, {[]int{0, 3, 41}, false, 2}, {[]int{1, 0}, false, 2},
	} {
		r := &Runtime{Version: test.version}
		if r.Old() != test.old {
			t.Errorf("%s: Old is %v", r, r.Old())
		}
		payload, err := r.resourceReply("pkg", []byte("name"), []byte("data"))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for len(payload) > 0 {
			if _, payload, err = pyproto.UnmarshalPrefix(payload); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != test.pickles {
			t.Errorf("%s: LOAD_RESOURCE is %d pickles", r, n)
		}
	}
}

func TestOldForm(t *testing.T) {
	enc, payload, _ := oldForm(pyproto.EncBIN, []byte("data"), nil)
	v, err := pyproto.Unmarshal(payload)
	if b, ok := v.(pyproto.Blob); err != nil || enc != pyproto.EncMGC || !ok || string(b) != "data" {
		t.Errorf("got %v %v %v", enc, v, err)
	}
	if enc, payload, _ = oldForm(pyproto.EncPKL, []byte("N."), nil); enc != pyproto.EncMGC || string(payload) != "N." {
		t.Errorf("got %v %q", enc, payload)
	}
}

// A process that a start-up file has left running is the interpreter's child; nobody waits for its end.
func TestStockInheritsAChild(t *testing.T) {
	r := stockRuntime(t)
	env := mark(t)
	script := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, script, "#!/bin/sh\nsleep 1000 </dev/null >/dev/null 2>&1 &\nexec /usr/bin/python3 \"$@\"\n")
	d := newDaemon(t, Options{Path: []string{stockPath(t)}})
	for _, before := range []string{"", "local:?python=/usr/bin/python3&runtime=embedded+", "local:?python=/usr/bin/python3+"} {
		ctx := testContext(t)
		c, err := d.Connect(ctx, before+"local:?python_path="+script+"&runtime=mitogen", ConnectOptions{Runtime: r, Env: env})
		var n int
		if err == nil {
			err = c.Call(ctx, "stockmod:add", 2, 40).Decode(&n)
		}
		if err != nil || n != 42 {
			t.Errorf("behind %q: %d, %v", before, n, err)
		}
	}
}

// A child behind a stock one needs modules before the connect is done, where a start-up file has imported what the
// runtime watches.
func TestBehindStockImportsAtStart(t *testing.T) {
	r := stockRuntime(t)
	site := writeFiles(t, map[string]string{"sitecustomize.py": "import logging, pkgutil\n"})
	const hop = "local:?python=/usr/bin/python3"
	for _, py := range ends(t) {
		env := append(mark(t), "PYTHONPATH="+site)
		d := newDaemon(t, Options{Path: []string{stockPath(t)}})
		ctx := testContext(t)
		c, err := d.Connect(ctx, hop+"+"+strings.ReplaceAll(target(py), "+", "%2B")+"&runtime=embedded", ConnectOptions{Runtime: r, Env: env})
		if err != nil {
			t.Errorf("%s: %v", py.Version, err)
			continue
		}
		var n int
		if err := c.Call(ctx, "stockmod:say").Decode(&n); err != nil || n != 7 {
			t.Errorf("%s: %d, %v", py.Version, n, err)
		}
		if n := d.Refused(); n != 0 {
			t.Errorf("%s: %d messages were refused", py.Version, n)
		}
	}
}

// otherMitogen is a copy of the runtime whose module mitogen.select has another LABEL than the first one's, and of
// another version.
func otherMitogen(t *testing.T, r *Runtime, label string) *Runtime {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "other")
	mitogen := filepath.Join(dir, "mitogen")
	if err := os.CopyFS(mitogen, os.DirFS(filepath.Join(r.Dir, "mitogen"))); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"select.py": "\nLABEL = '" + label + "'\n", "__init__.py": "\n__version__ = __version__[:3] + ('" + label + "',)\n"} {
		f, err := os.OpenFile(filepath.Join(mitogen, file), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	other, err := LoadRuntime(dir)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// A child of one Mitogen behind that of another gets its own one's modules, as do its own children and forks.
func TestStockBehindAnotherStock(t *testing.T) {
	r := stockRuntime(t)
	one, two := otherMitogen(t, r, "one"), otherMitogen(t, r, "two")
	dir := writeFiles(t, map[string]string{"labels.py": `
import mitogen.core
import mitogen.select

def label():
    import third.helper
    return mitogen.select.LABEL, third.helper.VALUE

@mitogen.core.takes_econtext
def below(how, econtext):
    import mitogen.parent
    mitogen.parent.upgrade_router(econtext)
    return getattr(econtext.router, how)().call(label)
`, "third/__init__.py": "", "third/helper.py": "VALUE = 7\n"})
	d := newDaemon(t, Options{Path: []string{dir}})
	ctx := testContext(t)
	const hop = "local:?python=/usr/bin/python3"
	for _, chain := range [][]string{{"one", "two"}, {"two", "one", "two"}, {"one", "embedded", "two", "one"}} {
		var hops []string
		for _, name := range chain {
			spec := name
			switch name {
			case "one":
				spec = "mitogen:" + one.Dir
			case "two":
				spec = "mitogen:" + two.Dir
			}
			hops = append(hops, hop+"&runtime="+spec)
		}
		c, err := d.Connect(ctx, strings.Join(hops, "+"))
		if err != nil {
			t.Fatalf("%v: %v", chain, err)
		}
		for i := len(chain) - 1; i >= 0; i, c = i-1, c.Via() {
			if chain[i] == "embedded" {
				continue
			}
			want := pyproto.Tuple{chain[i], int64(7)}
			var got pyproto.Tuple
			if err := c.Call(ctx, "labels:label").Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v, level %d: %v, %v", chain, i, got, err)
			}
			for _, how := range []string{"local", "fork"} {
				if err := c.Call(ctx, "labels:below", how).Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%v, level %d, its child by %s: %v, %v", chain, i, how, got, err)
				}
			}
		}
	}
}

// What contexts ask for while a stock child connects them is bounded, and kept no longer than that.
func TestEarlyModulesBehindStock(t *testing.T) {
	r := stockRuntime(t)
	d := newDaemon(t, Options{})
	c := connect(t, d, "local:?python=/usr/bin/python3", ConnectOptions{Runtime: r})
	s, first := c.stream, pyproto.ContextID(5000)
	s.ids.addBlock(first, c.id)
	if got := s.earlyModule(first, "a"); got != notAdmitted {
		t.Errorf("without a connect: %q", got)
	}
	c.arrivals.begin()
	defer c.arrivals.end()
	c.arrivals.begin()
	if got := s.earlyModule(first+idBlock, "a"); got != notAdmitted {
		t.Errorf("a number of nobody's: %q", got)
	}
	kept := 0
	for id := first; id < first+idBlock/2; id++ {
		for n := 0; s.earlyModule(id, strings.Repeat("m", n%7+1)) == ""; n++ {
			if kept++; n >= maxArrival || kept > maxEarly {
				t.Fatalf("%d names, %d of one context", kept, n+1)
			}
		}
	}
	if kept != maxEarly || len(c.arrivals.take(first)) != maxArrival || s.earlyModule(first+1, "a") == "" || s.earlyModule(first+idBlock-1, "a") != "" {
		t.Errorf("%d names were kept, and then others", kept)
	}
	if got := s.earlyModule(first+2, strings.Repeat("m", maxEarlyBytes)); got == "" {
		t.Error("a name of a megabyte was kept")
	}
	c.arrivals.end()
	if c.arrivals.n == 0 {
		t.Error("forgotten before the last connect has ended")
	}
	c.arrivals.end()
	if a := &c.arrivals; a.n != 0 || a.bytes != 0 || a.asked != nil {
		t.Errorf("%d names are left", a.n)
	}
	c.arrivals.begin()
}

// A Mitogen whose frames one before it on the way does not know is refused in words, also past a child of ours.
func TestNewerStockBehindOlder(t *testing.T) {
	newer, err := LoadRuntime(writeFiles(t, map[string]string{
		"mitogen/__init__.py": "__version__ = (0, 3, 39)\n", "mitogen/core.py": "\nclass ExternalContext(object):\n    pass\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	old := stockRuntime(t)
	if !old.Old() {
		t.Skip("the installed Mitogen is no old one")
	}
	d := newDaemon(t, Options{})
	const hop = "local:?python=/usr/bin/python3"
	for _, between := range []string{"", hop + "&runtime=embedded+"} {
		_, err := d.Connect(testContext(t), hop+"+"+between+hop+"&runtime=mitogen:"+newer.Dir, ConnectOptions{Runtime: old})
		var e *bootstrap.Error
		if !errors.As(err, &e) || !strings.Contains(e.Reason, "cannot be behind") {
			t.Errorf("behind %q: %v", between, err)
		}
	}
}
