package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

const routesModule = `
import os, time
import mitogen.core
import mitogen.parent

receivers = []

@mitogen.core.takes_router
def listen(router):
    receivers.append(mitogen.core.Receiver(router))
    return receivers[-1].to_sender()

def send(sender, count, size):
    for i in range(count):
        sender.send((i, b'x' * size))
    sender.send(None)

def receive():
    """Take everything up to None; the count and the bytes, in order."""
    count = size = 0
    for msg in receivers[-1]:
        value = msg.unpickle()
        if value is None:
            break
        assert value[0] == count, (value[0], count)
        count += 1
        size += len(value[1])
    return count, size

@mitogen.core.takes_router
def pong(to, count, router):
    for i in range(count):
        to.send(receivers[-1].get_data() + 1)

def ping(to, count):
    start = time.time()
    for i in range(count):
        to.send(i)
        assert receivers[-1].get_data() == i + 1
    return time.time() - start

def pid():
    return os.getpid()

def guarded():
    import mitogen.guard
    return mitogen.guard.guard is not None

def length(data):
    return len(data)

def stall(seconds):
    mitogen.parent.STALL = seconds

def wait_for(context):
    """Wait for a reply of a context that will not come."""
    try:
        context.send_await(mitogen.core.Message(handle=1))
    except mitogen.core.ChannelError as e:
        return str(e)

def await_reply(to):
    """Wait for a reply of a receiver that gives none."""
    try:
        to.context.send_await(mitogen.core.Message(handle=to.dst_handle))
    except mitogen.core.ChannelError as e:
        return str(e)

def waiting():
    return len(receivers[-1].latch.queue)

def forever():
    while True:
        time.sleep(1)

@mitogen.core.takes_router
def forge(dst, src, auth, handle, router):
    router.route(mitogen.core.Message(dst, src, auth, handle, data=b'forged'))
`

func routeDaemon(t testing.TB, opt Options) *Daemon {
	opt.Path = []string{writeFiles(t, map[string]string{"route.py": routesModule})}
	return newDaemon(t, opt)
}

// rss is a process's memory in bytes.
func rss(t testing.TB, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

func pidOf(t testing.TB, c *Child) (pid int) {
	t.Helper()
	if err := c.Call(testContext(t), "os:getpid").Decode(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestSiblings sends messages between children of one hop, of two hops, and of two connections of our own.
func TestSiblings(t *testing.T) {
	list := ends(t)
	env := mark(t)
	d := routeDaemon(t, Options{})
	ctx := testContext(t)
	root := func(i int) *Child { return connect(t, d, target(list[i]), ConnectOptions{Env: env}) }
	under := func(i, j int) *Child {
		return connect(t, d, target(list[i])+"+"+target(list[j]), ConnectOptions{Env: env})
	}
	for name, pair := range map[string][2]*Child{
		"one hop":     {under(0, 0), under(0, 1)},
		"two hops":    {under(0, 1), under(1, 0)},
		"connections": {root(0), root(1)},
		"up and down": {root(1), under(0, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range pair {
				a, b := pair[i], pair[1-i]
				var toA, toB pyproto.Sender
				if err := a.Call(ctx, "route:listen").Decode(&toA); err != nil {
					t.Fatal(err)
				}
				if err := b.Call(ctx, "route:listen").Decode(&toB); err != nil {
					t.Fatal(err)
				}
				pong := b.Start(ctx, "route:pong", toA, 100)
				var seconds float64
				if err := a.Call(ctx, "route:ping", toB, 100).Decode(&seconds); err != nil {
					t.Fatal(err)
				}
				if err := pong.Result(ctx).Err(); err != nil {
					t.Fatal(err)
				}
				receive := b.Start(ctx, "route:receive")
				start := time.Now()
				if err := a.Call(ctx, "route:send", toB, 300, 100000).Err(); err != nil {
					t.Fatal(err)
				}
				var got []int
				if err := receive.Result(ctx).Decode(&got); err != nil || got[0] != 300 || got[1] != 300*100000 {
					t.Errorf("received %v, %v", got, err)
				}
				t.Logf("%v to %v: a round trip in %.0f us, 30 MB in %v", a.Version(), b.Version(), seconds*1e4, time.Since(start))
			}
		})
	}
}

func TestForgedSource(t *testing.T) {
	for _, py := range ends(t) {
		env := mark(t)
		d := routeDaemon(t, Options{})
		ctx := testContext(t)
		a := connect(t, d, target(py)+"+"+target(py), ConnectOptions{Env: env})
		b := connect(t, d, target(py)+"+"+target(py), ConnectOptions{Env: env})
		var got atomic.Int32
		handle := d.handles.add(handler{fn: func(h pyproto.Header, _ []byte, _ bool) { got.Add(1) }, respondent: a.id})
		hop := a.Via()
		for _, c := range []struct {
			dst, src, auth pyproto.ContextID
			arrives        bool
		}{
			{0, a.id, a.id, true},
			{0, b.id, a.id, false},
			{0, a.id, b.id, false},
			{0, a.id, 0, false},
			{0, 0, 0, false},
			{0, a.id, hop.id, false},
			{0, hop.id, hop.id, false},
			{0, 4000000, a.id, false},
		} {
			before := got.Load()
			if err := a.Call(ctx, "route:forge", int64(c.dst), int64(c.src), int64(c.auth), int64(handle)).Err(); err != nil {
				t.Fatal(err)
			}
			// The reply to a later call comes behind the message.
			if arrived := got.Load() > before; arrived != c.arrives {
				t.Errorf("from %d by authority of %d: arrived is %v", c.src, c.auth, arrived)
			}
		}
		// A child calls its sibling by the authority of their parent.
		before := pidOf(t, b)
		if err := a.Call(ctx, "route:forge", int64(b.id), int64(a.id), int64(hop.id), int64(pyproto.Shutdown)).Err(); err != nil {
			t.Fatal(err)
		}
		if pidOf(t, b) != before {
			t.Error("a sibling was shut down")
		}
	}
}

func TestUnidirectional(t *testing.T) {
	for _, py := range ends(t) {
		env := mark(t)
		d := routeDaemon(t, Options{})
		ctx := testContext(t)
		open := connect(t, d, target(py)+"+"+target(py), ConnectOptions{Env: env})
		shut := connect(t, d, target(py)+"+"+target(py)+"&unidirectional=yes", ConnectOptions{Env: env})
		shutRoot := connect(t, d, target(py)+"&unidirectional=yes", ConnectOptions{Env: env})
		for _, pair := range [][2]*Child{{open, shut}, {shut, open}, {open, shutRoot}, {shutRoot, open}, {shut, shutRoot}} {
			context := pyproto.Context{ID: pair[1].id}
			var reason string
			if err := pair[0].Call(ctx, "route:wait_for", context).Decode(&reason); err != nil || !strings.Contains(reason, "parents only") {
				t.Errorf("from %d to %d: %q, %v", pair[0].id, pair[1].id, reason, err)
			}
		}
		for _, c := range []*Child{open, shut, shutRoot} {
			if err := c.Call(ctx, "route:length", "x").Err(); err != nil {
				t.Error(err)
			}
		}
		var reason string
		if err := shut.Call(ctx, "route:wait_for", pyproto.Context{ID: shut.Via().id}).Decode(&reason); err != nil || reason != "invalid handle" {
			t.Errorf("from a child to its parent: %q, %v", reason, err)
		}
	}
}

// TestLostHopWakesWaiters kills the hop in the middle. Calls of contexts behind it end, here and in other children.
func TestLostHopWakesWaiters(t *testing.T) {
	list := ends(t)
	env := mark(t)
	d := routeDaemon(t, Options{})
	ctx := testContext(t)
	lost := connect(t, d, chain(3, list), ConnectOptions{Env: env})
	sibling := connect(t, d, chain(2, list), ConnectOptions{Env: env})
	far := connect(t, d, target(list[1])+"+"+target(list[0]), ConnectOptions{Env: env})
	var to pyproto.Sender
	if err := lost.Call(ctx, "route:listen").Decode(&to); err != nil {
		t.Fatal(err)
	}
	var waits []*Pending
	for _, c := range []*Child{sibling, far} {
		waits = append(waits, c.Start(ctx, "route:await_reply", to))
	}
	poll.Until(t, "both wait", func() bool {
		var n int
		return lost.Call(ctx, "route:waiting").Decode(&n) == nil && n == 2
	})
	here := lost.Start(ctx, "route:forever")
	middle := pidOf(t, lost.Via())
	if err := syscall.Kill(middle, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var dead *DeadError
	if err := here.Result(ctx).Err(); !errors.As(err, &dead) || !dead.Lost {
		t.Errorf("the call ended with %v", err)
	}
	for _, w := range waits {
		var reason string
		if err := w.Result(ctx).Decode(&reason); err != nil || !strings.Contains(reason, "disconnected") {
			t.Errorf("%q, %v", reason, err)
		}
	}
	if err := sibling.Call(ctx, "route:length", "x").Err(); err != nil {
		t.Error(err)
	}
	// Connects behind it make it anew.
	again := connect(t, d, chain(3, list), ConnectOptions{Env: env})
	if err := again.Call(ctx, "route:length", "x").Err(); err != nil {
		t.Error(err)
	}
}

func TestSlowChild(t *testing.T) {
	for _, py := range ends(t) {
		t.Run(py.Version, func(t *testing.T) {
			env := mark(t)
			d := routeDaemon(t, Options{})
			ctx := testContext(t)
			under := func(hops int) *Child {
				return connect(t, d, chain(hops, []pythons.Python{py}), ConnectOptions{Env: env})
			}
			slow, sibling, sender, cousin := under(3), under(3), under(3), under(2)
			far := connect(t, d, target(py), ConnectOptions{Env: env})
			var to pyproto.Sender
			if err := slow.Call(ctx, "route:listen").Decode(&to); err != nil {
				t.Fatal(err)
			}
			hop, top := pidOf(t, slow.Via()), pidOf(t, slow.Via().Via())
			senders := []int{pidOf(t, sender), pidOf(t, far)}
			before := []int{rss(t, hop), rss(t, top)}
			stopped := pidOf(t, slow)
			if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(stopped, syscall.SIGCONT) })
			const count, size = 150, 1 << 20
			var done sync.WaitGroup
			for _, c := range []*Child{sender, far} {
				done.Go(func() {
					if err := c.Call(ctx, "route:send", to, count, size).Err(); err != nil {
						t.Error(err)
					}
				})
			}
			var sent atomic.Int32
			done.Go(func() {
				data := make([]byte, size)
				for range count {
					if err := slow.Notify(ctx, "route:length", data); err != nil {
						t.Error(err)
						return
					}
					sent.Add(1)
				}
			})
			poll.Until(t, "the daemon is stopped", func() bool {
				_, shut := d.gates.Load(slow.id)
				return shut
			})
			for range 30 {
				for _, c := range []*Child{sibling, cousin, slow.Via(), slow.Via().Via()} {
					if err := c.Call(ctx, "route:length", bytes.Repeat([]byte("x"), 1000)).Err(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n := sent.Load(); n == count {
				t.Error("all was sent to a child that takes nothing")
			}
			for i, pid := range []int{hop, top} {
				if grown := rss(t, pid) - before[i]; grown > 64<<20 {
					t.Errorf("a hop has grown by %d MB", grown>>20)
				}
			}
			for _, pid := range senders {
				if n := rss(t, pid); n > 96<<20 {
					t.Errorf("a sender has grown to %d MB", n>>20)
				}
			}
			if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			done.Wait()
			if _, shut := d.gates.Load(slow.id); shut {
				poll.Until(t, "the gate opens", func() bool {
					_, shut := d.gates.Load(slow.id)
					return !shut
				})
			}
			if err := slow.Call(ctx, "route:length", "x").Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStalledChild(t *testing.T) {
	py := pythons.Any(t)
	env := mark(t)
	d := routeDaemon(t, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c := connect(t, d, chain(2, []pythons.Python{py}), ConnectOptions{Env: env})
	if err := c.Via().Call(ctx, "route:stall", 2).Err(); err != nil {
		t.Fatal(err)
	}
	stopped := pidOf(t, c)
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	var dead *DeadError
	for errors.Is(dead, nil) || dead == nil {
		err := c.Start(ctx, "route:length", data)
		if err.err != nil {
			t.Fatal(err.err)
		}
		short, done := context.WithTimeout(ctx, 50*time.Millisecond)
		if err := err.Result(short).Err(); !errors.As(err, &dead) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		done()
	}
	if !strings.Contains(dead.Reason, "reads nothing") || dead.Lost {
		t.Errorf("the reason is %v", dead)
	}
	if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "it takes calls again", func() bool { return c.Call(ctx, "route:length", "x").Err() == nil })
}
