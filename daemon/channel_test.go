package daemon

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// channelModule is what the children of these tests import.
const channelModule = `
import sys, time

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

def many(sender, count):
    for i in range(count):
        sender.send((i, b'x' * 1000))
    sender.close()
    return count
`

func channelDaemon(t *testing.T) *Daemon {
	return newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"chanmod.py": channelModule})}})
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
	// The child sends 64 MB that nobody takes: it has to stop at the window.
	ch, err := c.Open(ctx, CallOptions{}, "chanmod:source", 64, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := ch.Recv(ctx); err != nil {
			t.Fatal(err)
		}
		ch.mu.Lock()
		if ch.waiting > channelWindow+64 {
			t.Errorf("%d bytes wait", ch.waiting)
		}
		ch.mu.Unlock()
	}
	if err := ch.Result(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	// It takes nothing for a while: the sender has to wait, and not fill anybody's memory.
	ch, err = c.Open(ctx, CallOptions{}, "chanmod:slow", 1)
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
	if len(c.tracked.calls) != 0 {
		t.Errorf("%d calls are left", len(c.tracked.calls))
	}
}

func TestGivenUpCallIsFollowed(t *testing.T) {
	d := channelDaemon(t)
	c := connect(t, d, "local:")
	short, cancel := context.WithCancel(t.Context())
	call := c.StartWith(t.Context(), CallOptions{}, "time:sleep", 0.2)
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
