package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

func newDaemon(t testing.TB, opt Options) *Daemon {
	t.Helper()
	d, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := d.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

func connect(t testing.TB, d *Daemon, target string, opt ...ConnectOptions) *Child {
	t.Helper()
	c, err := d.Connect(context.Background(), target, opt...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// target is a local target with that interpreter.
func target(py pythons.Python) string { return "local:?python=" + py.Path }

// writeFiles makes a directory of modules.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const callModule = `# -*- coding: utf-8 -*-
import sys
from pkg import helper

class C(object):
    @classmethod
    def name(cls):
        return cls.__name__

def add(a, b=1):
    return a + b

def echo(v):
    return v

def fail():
    raise ValueError(u'no: \xe9')

def unpicklable():
    return lambda: 1

def own():
    return C()

def say():
    sys.stdout.write('out ')
    sys.stdout.flush()
    import os
    os.system('echo from a process')
    return helper.VALUE
`

func TestCall(t *testing.T) {
	dir := writeFiles(t, map[string]string{"mod.py": callModule, "pkg/__init__.py": "", "pkg/helper.py": "VALUE = 7\n"})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		var printed bytes.Buffer
		d := newDaemon(t, Options{Path: []string{dir}})
		c := connect(t, d, target(py), ConnectOptions{OnOutput: func(b []byte) { printed.Write(b) }})
		ctx := context.Background()
		if got := c.Version().String(); got != py.Version {
			t.Errorf("Version is %s", got)
		}
		var n int
		if err := c.Call(ctx, "mod:add", 2, pyproto.Kwargs{{Name: "b", Value: 40}}).Decode(&n); err != nil || n != 42 {
			t.Errorf("got %d, %v", n, err)
		}
		var name string
		if err := c.Call(ctx, "mod:C.name").Decode(&name); err != nil || name != "C" {
			t.Errorf("got %q, %v", name, err)
		}
		for _, v := range []any{nil, true, int64(1) << 40, -1.5, "\u00e9\U0001f600", []byte("\x00\xff"), bytes.Repeat([]byte{200}, 300000),
			[]any{int64(1), pyproto.Tuple{"a", []byte{}}}} {
			got, err := c.Call(ctx, "mod:echo", v).Value()
			if err != nil || !reflect.DeepEqual(got, v) {
				t.Errorf("%.50v came back as %.50v, %v", v, got, err)
			}
		}
		if err := c.Call(ctx, "mod:say").Decode(&n); err != nil || n != 7 {
			t.Errorf("got %d, %v", n, err)
		}
		if got := printed.String(); got != "out from a process\n" {
			t.Errorf("printed %q", got)
		}
		for fn, want := range map[string]string{
			"mod:fail":        "ValueError: no: \u00e9",
			"mod:nothing":     "has no attribute 'nothing'",
			"mod:unpicklable": "ickl",
			"nowhere:fn":      "No module named",
			"mod:add":         "argument",
		} {
			var ce *pyproto.CallError
			if err := c.Call(ctx, fn).Err(); !errors.As(err, &ce) || !strings.Contains(ce.Text, want) {
				t.Errorf("%s: got %v, want %q", fn, err, want)
			}
		}
		if err := c.Call(ctx, "mod:own").Err(); err == nil || !strings.Contains(err.Error(), "mod.C") && !strings.Contains(err.Error(), "_reconstructor") {
			t.Errorf("an object of the user's came as %v", err)
		}
		var dead *DeadError
		if err := c.Call(ctx, "os:_exit", 3).Err(); !errors.As(err, &dead) || !dead.Lost || !strings.Contains(dead.Reason, "exit status 3") {
			t.Errorf("got %v", err)
		}
		if err := c.Call(ctx, "mod:add", 1).Err(); !errors.As(err, &dead) {
			t.Errorf("got %v", err)
		}
	})
}

const runScript = `import os, sys
from pkg import helper
print(sys.argv)
sys.stdout.write(sys.stdin.read().upper())
sys.stdout.flush()
os.write(1, b'\xff' * 1000000)
sys.stderr.write('to stderr\n')
def f():
    raise ValueError(helper.VALUE)
if __name__ == '__main__':
    f()
`

func TestRun(t *testing.T) {
	dir := writeFiles(t, map[string]string{"pkg/__init__.py": "", "pkg/helper.py": "VALUE = 7\n"})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		d := newDaemon(t, Options{Path: []string{dir}})
		c := connect(t, d, target(py))
		ctx := context.Background()
		run := func(ctx context.Context, source, stdin string) (string, string, ExitStatus, error) {
			var out, errs bytes.Buffer
			status, err := c.Run(ctx, RunOptions{Path: "dir/script.py", Source: []byte(source), Args: []string{"a", "b c"},
				Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
			return out.String(), errs.String(), status, err
		}
		stdin := strings.Repeat("line of input\n", 20000)
		out, errs, status, err := run(ctx, runScript, stdin)
		if want := "['dir/script.py', 'a', 'b c']\n" + strings.ToUpper(stdin) + strings.Repeat("\xff", 1000000); out != want {
			t.Errorf("stdout has %d bytes, want %d; begins %.60q", len(out), len(want), out)
		}
		for _, want := range []string{"to stderr\n", "File \"dir/script.py\", line 11, in <module>\n    f()", "ValueError: 7"} {
			if !strings.Contains(errs, want) {
				t.Errorf("stderr is %q, without %q", errs, want)
			}
		}
		if strings.Contains(errs, "mitogen") {
			t.Errorf("the runtime shows in %q", errs)
		}
		if status != (ExitStatus{Code: 1}) || err != nil {
			t.Errorf("ended with %+v, %v", status, err)
		}
		for source, want := range map[string]ExitStatus{
			"":                                   {},
			"import sys; sys.exit(7)":            {Code: 7},
			"import sys; sys.exit('text')":       {Code: 1},
			"import os; os._exit(9)":             {Code: 9},
			"import os; os.kill(os.getpid(), 9)": {Signal: 9},
			"import os; os.execv('/bin/sh', ['sh', '-c', 'exit 5'])":              {Code: 5},
			"import os\nif os.fork() == 0:\n    import time\n    time.sleep(100)": {},
			"raise KeyboardInterrupt":                                             interrupted(py),
			"import nowhere":                                                      {Code: 1},
			"x = (":                                                               {Code: 1},
		} {
			if _, errs, status, err := run(ctx, source, ""); status != want || err != nil {
				t.Errorf("%q ended with %+v, %v: %s", source, status, err, errs)
			}
		}
		// The context ends the program and what it has started.
		ctx, cancel := context.WithCancel(ctx)
		started := make(chan struct{}, 100)
		go func() { <-started; cancel() }()
		_, err = c.Run(ctx, RunOptions{Path: "x.py", Stdout: signalWriter(started),
			Source: []byte("import os, time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1)\nwhile 1: time.sleep(1)\n")})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		// The child is as it was.
		if err := c.Call(context.Background(), "os:getpid").Err(); err != nil {
			t.Error(err)
		}
	})
}

// interrupted is how an interrupted Python ends.
func interrupted(py pythons.Python) ExitStatus {
	switch py.Version {
	case "2.7", "3.6", "3.7":
		return ExitStatus{Code: 1}
	}
	return ExitStatus{Signal: 2}
}

// signalWriter sends a token for each write.
type signalWriter chan struct{}

func (w signalWriter) Write(p []byte) (int, error) {
	w <- struct{}{}
	return len(p), nil
}

// benchPython is the interpreter that BENCH_PYTHON names, else the newest.
func benchPython(b *testing.B) string {
	if py := os.Getenv("BENCH_PYTHON"); py != "" {
		return py
	}
	return pythons.Any(b).Path
}

// cpu gives the CPU time of a process in seconds.
func cpu(pid int) float64 {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	u, _ := strconv.Atoi(f[11])
	k, _ := strconv.Atoi(f[12])
	return float64(u+k) / 100
}

func BenchmarkCall(b *testing.B) {
	py := benchPython(b)
	d := newDaemon(b, Options{})
	c := connect(b, d, "local:?python="+py)
	ctx := context.Background()
	b.ReportAllocs()
	us, child := cpu(os.Getpid()), cpu(c.stream.proc.PID)
	for b.Loop() {
		if err := c.Call(ctx, "os:getpid").Err(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(os.Getpid())-us)/float64(b.N)*1e6, "us-cpu/op")
	b.ReportMetric((cpu(c.stream.proc.PID)-child)/float64(b.N)*1e6, "us-child/op")
}

func BenchmarkPipelined(b *testing.B) {
	py := benchPython(b)
	d := newDaemon(b, Options{})
	c := connect(b, d, "local:?python="+py)
	ctx := context.Background()
	us, child := cpu(os.Getpid()), cpu(c.stream.proc.PID)
	done := make(chan *Pending, 1000)
	go func() {
		for range b.N {
			done <- c.Start(ctx, "os:getpid")
		}
		close(done)
	}()
	for p := range done {
		if err := p.Result(ctx).Err(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(os.Getpid())-us)/float64(b.N)*1e6, "us-cpu/op")
	b.ReportMetric((cpu(c.stream.proc.PID)-child)/float64(b.N)*1e6, "us-child/op")
}

func BenchmarkConnect(b *testing.B) {
	py := benchPython(b)
	d := newDaemon(b, Options{})
	for b.Loop() {
		c := connect(b, d, "local:?python="+py)
		c.Close(context.Background())
	}
}

const bulkModule = `
def take(b):
    return len(b)

def give(n):
    return b'x' * n
`

func BenchmarkBulk(b *testing.B) {
	d := newDaemon(b, Options{Path: []string{writeFiles(b, map[string]string{"bulk.py": bulkModule})}})
	c := connect(b, d, "local:?python="+benchPython(b))
	ctx := context.Background()
	const size = 64 << 20
	data := make([]byte, size)
	measure := func(b *testing.B) func() {
		us, child := cpu(os.Getpid()), cpu(c.stream.proc.PID)
		return func() {
			b.ReportMetric((cpu(os.Getpid())-us)/float64(b.N)*1e3, "ms-cpu/op")
			b.ReportMetric((cpu(c.stream.proc.PID)-child)/float64(b.N)*1e3, "ms-child/op")
		}
	}
	b.Run("argument", func(b *testing.B) {
		b.SetBytes(size)
		defer measure(b)()
		for b.Loop() {
			if err := c.Call(ctx, "bulk:take", data).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("result", func(b *testing.B) {
		b.SetBytes(size)
		defer measure(b)()
		for b.Loop() {
			if err := c.Call(ctx, "bulk:give", size).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

const routeModule = `
import mitogen.core

state = {}

@mitogen.core.takes_router
def listen(router):
    state['r'] = mitogen.core.Receiver(router)
    return state['r'].to_sender()

def drain(n):
    for _ in range(n):
        state['r'].get()

def pump(sender, n, size):
    data = b'x' * size
    for _ in range(n):
        sender.send(data)
`

// One child sends to another as fast as that takes the messages.
func BenchmarkRoute(b *testing.B) {
	dir := writeFiles(b, map[string]string{"rt.py": routeModule})
	d := newDaemon(b, Options{Path: []string{dir}})
	from, to := connect(b, d, "local:?python="+benchPython(b)), connect(b, d, "local:?python="+benchPython(b))
	ctx := context.Background()
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var sender pyproto.Sender
			if err := to.Call(ctx, "rt:listen").Decode(&sender); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			us, child, child2 := cpu(os.Getpid()), cpu(from.stream.proc.PID), cpu(to.stream.proc.PID)
			drain := to.Start(ctx, "rt:drain", b.N)
			if err := from.Call(ctx, "rt:pump", sender, b.N, size).Err(); err != nil {
				b.Fatal(err)
			}
			if err := drain.Result(ctx).Err(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric((cpu(os.Getpid())-us)/float64(b.N)*1e6, "us-cpu/op")
			b.ReportMetric((cpu(from.stream.proc.PID)-child)/float64(b.N)*1e6, "us-from/op")
			b.ReportMetric((cpu(to.stream.proc.PID)-child2)/float64(b.N)*1e6, "us-to/op")
		})
	}
}

// A call that waits when the daemon ends gets that as its reason.
func TestShutdownIsTheReason(t *testing.T) {
	d := newDaemon(t, Options{})
	c := connect(t, d, "local:")
	result := make(chan error, 1)
	p := c.Start(context.Background(), "time:sleep", 1000)
	go func() { result <- p.Result(context.Background()).Err() }()
	if err := d.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	var dead *DeadError
	if err := <-result; !errors.Is(err, ErrShutdown) || !errors.As(err, &dead) {
		t.Errorf("got %v", err)
	}
}
