package daemon

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// channelModule is what the children of these tests import.
const channelModule = `
import hashlib, sys, time

def digest(channel):
    sizes, sha = [], hashlib.sha1()
    for data in channel:
        assert isinstance(data, bytes), type(data)
        sizes.append(len(data))
        sha.update(data)
    return sum(sizes), sha.hexdigest(), sum(1 for n in sizes if n > 262144)

def limit():
    import mitogen.core
    return mitogen.core.ExternalContext().config['max_message_size']

def sha1(*args):
    return [hashlib.sha1(arg).hexdigest() if isinstance(arg, bytes) else arg for arg in args]

def echo(channel, extra=None):
    n = 0
    for item in channel:
        channel.send(item)
        n += 1
    return n, extra

def source(channel, count, size):
    for i in range(count):
        channel.send(b'x' * size)
    return count

def slow(channel, seconds):
    first = channel.recv()
    time.sleep(seconds)
    return 1 + sum(1 for _ in channel)

def until_closed(channel):
    n = 0
    try:
        while 1:
            channel.send(n)
            n += 1
    except Exception as e:
        return type(e).__name__

def say(text, fail=False):
    sys.stdout.write(text)
    if fail:
        raise ValueError(text)

def square(n):
    import chanlater
    return chanlater.square(n)

def pool(channel):
    import multiprocessing
    try:
        context = multiprocessing.get_context('fork')
    except AttributeError:
        context = multiprocessing
    workers = context.Pool(2)
    try:
        return workers.map_async(square, range(5)).get(30)
    finally:
        workers.terminate()

def prints(channel):
    print('before')
    sys.stdout.flush()
    channel.recv()

def many(sender, count):
    for i in range(count):
        sender.send((i, b'x' * 1000))
    sender.close()
    return count
`

func channelDaemon(t *testing.T) *Daemon {
	return newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"chanmod.py": channelModule, "chanlater.py": "def square(n):\n    return n * n\n"})}})
}

func TestChannelEchoes(t *testing.T) {
	d := channelDaemon(t)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py))
		ctx := t.Context()
		ch, err := c.Open(ctx, CallOptions{}, "chanmod:echo", pyproto.Kwargs{{Name: "extra", Value: "e"}})
		if err != nil {
			t.Fatal(err)
		}
		const count = 3000
		var wg sync.WaitGroup
		defer wg.Wait()
		defer ch.Close()
		wg.Go(func() {
			for i := range int64(count) {
				if err := ch.Send(ctx, []any{i, strings.Repeat("x", 2000)}); err != nil {
					t.Error(err)
					return
				}
			}
			if err := ch.CloseSend(ctx); err != nil {
				t.Error(err)
			}
		})
		for i := range int64(count) {
			v, err := ch.Recv(ctx)
			if err != nil {
				t.Fatal(i, err, ch.Result(ctx).Err())
			}
			if got := v.([]any)[0]; got != i {
				t.Fatalf("got %v, want %d", got, i)
			}
		}
		if _, err := ch.Recv(ctx); err != io.EOF {
			t.Errorf("after the last: %v", err)
		}
		wg.Wait()
		v, err := ch.Result(ctx).Value()
		if tuple, ok := v.(pyproto.Tuple); err != nil || !ok || tuple[0] != int64(count) {
			t.Errorf("the function gave %v, %v", v, err)
		}
		if err := ch.Send(ctx, 1); err != io.ErrClosedPipe {
			t.Errorf("sending after the end: %v", err)
		}
	})
}

func TestChannelHoldsBothSides(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	ctx := t.Context()
	// The child sends much that nobody takes. It has to stop at the window.
	for window, size := range map[int]int{0: 1 << 20, 8 << 10: 1 << 10} {
		ch, err := c.Open(ctx, CallOptions{Window: window}, "chanmod:source", 64, size)
		if err != nil {
			t.Fatal(err)
		}
		for range 64 {
			if _, err := ch.Recv(ctx); err != nil {
				t.Fatal(err)
			}
			ch.mu.Lock()
			if ch.waiting > max(ch.window, size+64+messageCost) {
				t.Errorf("%d bytes wait where %d may", ch.waiting, ch.window)
			}
			ch.mu.Unlock()
		}
		if err := ch.Result(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// The child takes nothing for a while. The sender has to wait, and fill no memory.
	ch, err := c.Open(ctx, CallOptions{}, "chanmod:slow", 3)
	if err != nil {
		t.Fatal(err)
	}
	held := false
	for range 32 {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := ch.Send(short, make([]byte, 1<<19))
		cancel()
		for errors.Is(err, context.DeadlineExceeded) {
			held = true
			err = ch.Send(ctx, make([]byte, 1<<19))
		}
		if err != nil {
			t.Fatal(err)
		}
		ch.mu.Lock()
		if ch.unread > channelWindow+64 {
			t.Errorf("%d bytes are on the way", ch.unread)
		}
		ch.mu.Unlock()
	}
	if err := ch.CloseSend(ctx); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := ch.Result(ctx).Decode(&n); err != nil || n != 32 || !held {
		t.Error(n, err, held)
	}
}

func TestChannelClosedHere(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	for _, early := range []bool{true, false} {
		ch, err := c.Open(t.Context(), CallOptions{}, "chanmod:until_closed")
		if err != nil {
			t.Fatal(err)
		}
		if !early {
			if _, err := ch.Recv(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ch.Close()
		if _, err := ch.Recv(t.Context()); err != io.ErrClosedPipe {
			t.Errorf("receiving after Close: %v", err)
		}
		if v, err := ch.Result(t.Context()).Value(); err != nil || v != "ChannelError" {
			t.Errorf("the function gave %v, %v", v, err)
		}
	}
}

func TestChannelOfALostChild(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	ch, err := c.Open(t.Context(), CallOptions{}, "chanmod:echo")
	if err != nil {
		t.Fatal(err)
	}
	c.stream.proc.Kill()
	if _, err := ch.Recv(t.Context()); err != io.EOF {
		t.Errorf("receiving: %v", err)
	}
	var dead *DeadError
	if err := ch.Result(t.Context()).Err(); !errors.As(err, &dead) || !dead.Lost {
		t.Errorf("the result: %v", err)
	}
}

func TestOutputBelongsToItsCall(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	ctx := t.Context()
	var mu sync.Mutex
	const count = 200
	got := make([]string, count)
	calls := make([]*Tracked, count)
	for i := range calls {
		out := func(data []byte) {
			mu.Lock()
			defer mu.Unlock()
			got[i] += string(data)
		}
		calls[i] = c.StartWith(ctx, CallOptions{Output: out}, "chanmod:say", string(rune('a'+i%26))+"\n", i%3 == 0)
	}
	for i, call := range calls {
		err := call.Result(ctx).Err()
		var raised *pyproto.CallError
		if errors.As(err, &raised) != (i%3 == 0) {
			t.Fatal(i, err)
		}
		mu.Lock()
		if want := string(rune('a'+i%26)) + "\n"; got[i] != want {
			t.Errorf("call %d printed %q, want %q", i, got[i], want)
		}
		mu.Unlock()
	}
	c.tracked.mu.Lock()
	defer c.tracked.mu.Unlock()
	if len(c.tracked.calls) != 0 {
		t.Errorf("%d calls are left", len(c.tracked.calls))
	}
}

func TestGivenUpCallIsFollowed(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	short, cancel := context.WithCancel(t.Context())
	call := c.StartWith(t.Context(), CallOptions{}, "time:sleep", 1)
	cancel()
	if err := call.Result(short).Err(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := call.Result(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	select {
	case <-call.Done():
	default:
		t.Error("not done")
	}
}

func TestChain(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	ctx := t.Context()
	o := CallOptions{Chain: "c1"}
	var raised *pyproto.CallError
	if err := c.StartWith(ctx, o, "chanmod:say", "one", true).Result(ctx).Err(); !errors.As(err, &raised) {
		t.Fatal(err)
	}
	if err := c.StartWith(ctx, o, "os:getpid").Result(ctx).Err(); !errors.As(err, &raised) || raised.Message() != "one" {
		t.Errorf("the second call of the chain: %v", err)
	}
	if err := c.StartWith(ctx, CallOptions{Chain: "c2"}, "os:getpid").Result(ctx).Err(); err != nil {
		t.Errorf("another chain: %v", err)
	}
	if err := c.ResetChain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := c.StartWith(ctx, o, "os:getpid").Result(ctx).Err(); err != nil {
		t.Errorf("after the reset: %v", err)
	}
}

func TestReceiver(t *testing.T) {
	d := channelDaemon(t)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py))
		ctx := t.Context()
		r, err := d.NewReceiver(c, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		call := c.StartWith(ctx, CallOptions{}, "chanmod:many", r.Sender(), 100)
		for i := range int64(100) {
			v, err := r.Next(ctx)
			if tuple, ok := v.(pyproto.Tuple); err != nil || !ok || tuple[0] != i {
				t.Fatal(i, v, err)
			}
		}
		if _, err := r.Next(ctx); err != io.EOF {
			t.Error(err)
		}
		if err := call.Result(ctx).Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestReceiverOverflows(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	r, err := d.NewReceiver(c, 10000)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "chanmod:many", r.Sender(), 100).Err(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		if _, err = r.Next(t.Context()); err != nil {
			break
		}
		n++
	}
	if n < 5 || n > 10 || err != ErrOverflow {
		t.Errorf("%d messages, then %v", n, err)
	}
}

// Random reads make chunks of any size, an empty one among them.
type choppy struct {
	r   io.Reader
	rnd *rand.Rand
}

func (c choppy) Read(b []byte) (int, error) { return c.r.Read(b[:c.rnd.Intn(len(b)+1)]) }

func TestChannelSendFrom(t *testing.T) {
	d := channelDaemon(t)
	data := make([]byte, 5_000_007)
	rnd := rand.New(rand.NewSource(1))
	_, _ = rnd.Read(data)
	sum := fmt.Sprintf("%x", sha1.Sum(data))
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py))
		for _, r := range []io.Reader{bytes.NewReader(data), choppy{bytes.NewReader(data), rnd}} {
			ch, err := c.Open(t.Context(), CallOptions{}, "chanmod:digest")
			if err != nil {
				t.Fatal(err)
			}
			defer ch.Close()
			if n, err := ch.SendFrom(t.Context(), r); n != int64(len(data)) || err != nil {
				t.Fatalf("sent %d: %v", n, err)
			}
			if err := ch.CloseSend(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := ch.Result(t.Context()).Value()
			if want := (pyproto.Tuple{int64(len(data)), sum, int64(0)}); err != nil || text(got) != text(want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		}
	})
}

// text makes one string of what Python 2 and 3 give for it.
func text(v any) string { return fmt.Sprintf("%s", v) }

func TestSendFromStops(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, target(pythons.Any(t)))
	ch, err := c.Open(t.Context(), CallOptions{}, "chanmod:digest")
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	broken := errors.New("the disk is broken")
	n, err := ch.SendFrom(t.Context(), io.MultiReader(strings.NewReader("first"), iotest.ErrReader(broken)))
	if n != 5 || !errors.Is(err, broken) {
		t.Errorf("sent %d, %v", n, err)
	}
	if err := ch.CloseSend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := ch.SendFrom(t.Context(), strings.NewReader("more")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("sent %d after CloseSend, %v", n, err)
	}
}

func TestLongArguments(t *testing.T) {
	d := channelDaemon(t)
	long := make([]byte, 1_000_000)
	rnd := rand.New(rand.NewSource(2))
	_, _ = rnd.Read(long)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, d, target(py))
		for _, sizes := range [][]int{{65536}, {1_000_000, 3, 65535, 65536, 255, 256}, {70_000, 70_001, 70_002}} {
			var args, want []any
			for _, n := range sizes {
				args = append(args, long[:n])
				want = append(want, fmt.Sprintf("%x", sha1.Sum(long[:n])))
			}
			got, err := c.Call(t.Context(), "chanmod:sha1", args...).Value()
			if err != nil || text(got) != text(want) {
				t.Errorf("%v: got %v, %v; want %v", sizes, got, err, want)
			}
		}
	})
}

// The arguments have more parts than the kernel takes at once, in one call and in many at the same time.
func TestManyLongArguments(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, target(pythons.Any(t)))
	long := make([]byte, 64<<10+1500)
	rnd := rand.New(rand.NewSource(3))
	_, _ = rnd.Read(long)
	var pending []*Pending
	var wants []string
	for _, count := range []int{1, 1500, 2, 700, 1} {
		var args, want []any
		for i := range count {
			args = append(args, long[i:i+64<<10])
			want = append(want, fmt.Sprintf("%x", sha1.Sum(long[i:i+64<<10])))
		}
		pending = append(pending, c.Start(t.Context(), "chanmod:sha1", args...))
		wants = append(wants, text(want))
	}
	for i, p := range pending {
		if got, err := p.Result(t.Context()).Value(); err != nil || text(got) != wants[i] {
			t.Errorf("call %d: got %.200v, %v", i, got, err)
		}
	}
}

// The preamble leaves the default limit out; code that asks for it finds it all the same.
func TestConfigHasTheLimit(t *testing.T) {
	for _, max := range []int{pyproto.DefaultMaxMessage, 1 << 20} {
		d := newDaemon(t, Options{MaxMessage: max, Path: []string{writeFiles(t, map[string]string{"chanmod.py": channelModule})}})
		c := connect(t, d, target(pythons.Any(t)))
		if got, err := c.Call(t.Context(), "chanmod:limit").Value(); err != nil || got != int64(max) {
			t.Errorf("got %v, %v; want %d", got, err, max)
		}
	}
}

// TestChannelIsACall: a function that has a channel is called like any: it may fork, its output comes while it runs, and
// its process does not outlive the daemon.
func TestChannelIsACall(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := channelDaemon(t).Connect(ctx, target(py))
		if err != nil {
			t.Fatal(err)
		}
		came := make(chan struct{}, 1)
		ch, err := c.Open(ctx, CallOptions{Output: func([]byte) { token(came) }}, "chanmod:prints")
		if err != nil {
			t.Fatal(err)
		}
		if !c.guarded.Load() {
			t.Error("nobody ends the function when the daemon is gone")
		}
		select {
		case <-came:
		case <-ctx.Done():
			t.Fatal("what it has printed does not come")
		}
		ch.Close()
		_ = ch.Result(ctx).Err()
		if ch, err = c.Open(ctx, CallOptions{}, "chanmod:pool"); err != nil {
			t.Fatal(err)
		}
		var got []int
		if err := ch.Result(ctx).Decode(&got); err != nil || fmt.Sprint(got) != "[0 1 4 9 16]" {
			t.Errorf("%v, %v", got, err)
		}
	})
}
