package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// faultModule has the faults, and what runs into them. As the child's sitecustomize it has those at the start as
// well: its own markers say how far the start has come.
const faultModule = `
import os, resource, signal, sys

def fault(kind):
    if kind == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == 'stopped':
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == 'out of memory':
        with open('/proc/self/statm') as fp:
            size = int(fp.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

def meet(kind):
    fault(kind)
    if kind == 'out of memory':
        return len(bytearray(64 << 20))
    if kind == 'out of descriptors':
        return open('/dev/null')

def at_import(kind):
    os.environ['FAULT'] = kind
    import faultyimport
    return faultyimport.VALUE

def channel(channel, kind):
    channel.send(u'first')
    meet(kind)
    for i in range(100):
        channel.send('x' * 10000)

def sender(sender, kind):
    sender.send(u'first')
    meet(kind)
    for i in range(100):
        sender.send('x' * 10000)

def at_exit(kind):
    import atexit
    leave = os._exit
    def end(status):
        fault(kind)
        leave(status)
    os._exit = end
    atexit.register(fault, kind)

def detach(kind, econtext):
    # Another thread takes the answer from the stream, as it may.
    import threading, time
    thread = threading.Thread(target=mitogen.core.Latch().wait)
    thread.daemon = True
    thread.start()
    while mitogen.core.io.reading in (False, None, mitogen.core.main_thread):
        time.sleep(0.001)
    fault(kind)
    try:
        econtext.detach()
    finally:
        os._exit(0)

if 'FAULT_AT' in os.environ:
    mark = os.environ.pop('FAULT_AT').encode()
    real = os.write
    def write(fd, data):
        if data.startswith(mark):
            os.write = real
            fault(os.environ['FAULT'])
        return real(fd, data)
    os.write = write
else:
    import mitogen.core
    detach = mitogen.core.takes_econtext(detach)
`

const faultyProgram = `import faulty, sys
sys.stdout.write('first')
sys.stdout.flush()
faulty.meet(sys.argv[1])
`

// TestFaultyChildren: an interpreter is killed, stopped, or out of memory or descriptors at any step. Whatever waits
// for it ends with a value or an error that says what happened, calls of another child go on, and nothing is left.
func TestFaultyChildren(t *testing.T) {
	list := ends(t)
	long := os.Getenv("MITOGEND_LONG") != ""
	for i, py := range list {
		for j, stdio := range []string{"pty", "socketpair"} {
			if i != j && !long {
				continue // each in one of two
			}
			t.Run(py.Version+"/"+stdio, func(t *testing.T) { faultyChildren(t, py, stdio) })
		}
	}
}

func faultyChildren(t *testing.T, py pythons.Python, stdio string) {
	dir := writeFiles(t, map[string]string{
		"faulty.py": faultModule, "faultyimport.py": "import os\nimport faulty\nfaulty.meet(os.environ['FAULT'])\nVALUE = 1\n",
	})
	site := writeFiles(t, map[string]string{"sitecustomize.py": faultModule})
	env := mark(t)
	// After this, what the standard library and the runtime open once is open.
	first := newDaemon(t, Options{})
	connect(t, first, target(py)+"&stdio="+stdio)
	if err := first.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	leaks := noLeaks(t)
	d := newDaemon(t, Options{Path: []string{dir}})
	honest := connect(t, d, target(py)+"&stdio="+stdio)
	stop, calls := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := honest.Call(context.Background(), "os:getpid").Err(); err != nil {
				calls <- err
				return
			}
			select {
			case <-stop:
				calls <- nil
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	t.Run("rows", func(t *testing.T) {
		for _, kind := range []string{"killed", "stopped", "out of memory", "out of descriptors"} {
			for _, step := range []string{"MITO000", "MITO001", "MITO002", "import", "call", "channel", "receiver", "program", "shutdown", "detach"} {
				if step == "detach" && kind == "stopped" {
					continue // it is detached, or stopped as in call
				}
				t.Run(kind+"/"+step, func(t *testing.T) {
					t.Parallel()
					faultyChild(t, d, target(py)+"&stdio="+stdio, kind, step, env, site)
				})
			}
		}
	})
	close(stop)
	if err := <-calls; err != nil {
		t.Errorf("the honest child's call: %v", err)
	}
	if err := d.Shutdown(testContext(t)); err != nil {
		t.Error(err)
	}
	poll.Until(t, "no process is left", func() bool { return len(marked(env[0])) == 0 })
	leaks()
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func faultyChild(t *testing.T, d *Daemon, target, kind, step string, env []string, site string) {
	ctx := testContext(t)
	ends := kind == "killed" || kind == "stopped" // nothing can come from the child after it
	told := func(what string, err error) {
		t.Helper()
		t.Logf("%s: %v", what, err)
		var dead *DeadError
		var call *pyproto.CallError
		switch {
		case err == nil && ends:
			t.Errorf("%s: ended well", what)
		case err == nil:
		case kind == "killed" && (!errors.As(err, &dead) || !dead.Lost || !strings.Contains(dead.Reason, "killed")),
			kind == "stopped" && (!errors.As(err, &dead) || !strings.Contains(dead.Reason, "no sign of life")),
			!errors.As(err, &call) && !errors.As(err, &dead):
			t.Errorf("%s: %v", what, err)
		}
	}
	// This ends what nothing else ends; a busy machine is no fault.
	if kind == "stopped" && step != "program" {
		target += "&silence_timeout=4s"
	}
	if strings.HasPrefix(step, "MITO") {
		if kind == "stopped" {
			target += "&connect_timeout=3s"
		}
		env = append(env[:len(env):len(env)], "PYTHONPATH="+site, "FAULT_AT="+step, "FAULT="+kind)
		c, err := d.Connect(ctx, target, ConnectOptions{Env: env})
		t.Logf("the connect: %v", err)
		var hop *HopError
		switch {
		case err == nil && ends && step != "MITO002":
			t.Error("it was connected")
		case err == nil:
			// The child may have come up before its last step, or without what it could not have.
			if err := c.Call(ctx, "os:getpid").Err(); err != nil || ends {
				told("the call after", err)
			}
		case !errors.As(err, &hop) || kind == "killed" && !strings.Contains(err.Error(), "killed"):
			t.Errorf("the connect: %v", err)
		}
		return
	}
	c, err := d.Connect(ctx, target, ConnectOptions{Env: env})
	if err != nil {
		t.Fatal(err)
	}
	switch step {
	case "import":
		told(step, c.Call(ctx, "faulty:at_import", kind).Err())
	case "call":
		told(step, c.Call(ctx, "faulty:meet", kind).Err())
	case "detach":
		told(step, c.Call(ctx, "faulty:detach", kind).Err())
	case "channel":
		ch, err := c.Open(ctx, CallOptions{}, "faulty:channel", kind)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := ch.Recv(ctx); v != "first" && !ends { // of a child that is killed it may be lost
			t.Errorf("%v, %v", v, err)
		}
		for err = nil; err == nil; {
			_, err = ch.Recv(ctx)
		}
		if !errors.Is(err, io.EOF) {
			told("the messages", err)
		}
		told("the result", ch.Result(ctx).Err())
	case "receiver":
		r, err := d.NewReceiver(c, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		told("the call", c.Call(ctx, "faulty:sender", r.Sender(), kind).Err())
		if v, err := r.Next(ctx); err == nil && v != "first" {
			t.Errorf("%v", v)
		} else if err != nil && !errors.Is(err, io.EOF) {
			told("the messages", err)
		}
	case "program":
		limit, cancel := context.WithTimeout(ctx, 3*time.Second)
		if kind != "stopped" {
			limit = ctx
		}
		var out, errs bytes.Buffer
		status, err := c.Run(limit, RunOptions{Path: "p.py", Source: []byte(faultyProgram), Args: []string{kind}, Stdout: &out, Stderr: &errs})
		cancel()
		switch kind {
		case "stopped":
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, %v", status, err)
			}
		case "killed":
			if err != nil || status.Signal != 9 || out.String() != "first" {
				t.Errorf("%v, %v, %q", status, err, &out)
			}
		case "out of descriptors", "out of memory":
			if err != nil || status.Code == 0 && status.Signal == 0 || out.String() != "first" {
				t.Errorf("%v, %v, %q, %q", status, err, &out, &errs)
			}
		}
		// The program is a process of its own.
		if err := c.Call(ctx, "os:getpid").Err(); err != nil {
			t.Errorf("the call after: %v", err)
		}
	case "shutdown":
		if err := c.Call(ctx, "faulty:at_exit", kind).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Call(ctx, "os:getpid").Err(); err != nil {
		if step == "shutdown" || step == "program" {
			t.Errorf("the call after: %v", err)
		}
		told("the call after", err)
	}
	if err := c.Close(ctx); err != nil {
		var dead *DeadError
		if !errors.As(err, &dead) {
			t.Errorf("close: %v", err)
		}
	}
}
