package integration

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mitogend/daemon"
	"mitogend/integration/poll"
)

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A daemon in this process releases all descriptors and goroutines, however its children end.
func TestNothingLeaksInProcess(t *testing.T) {
	p := AnyPython(t)
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	// After this, everything that the standard library opens once is open.
	cycle(ctx, t, p.Target())
	before := descriptors(t)
	running := goleak.IgnoreCurrent()
	for _, stdio := range []string{"socketpair", "pipes", "pty", "hybrid", "hybrid-pipes"} {
		cycle(ctx, t, p.Target()+"&stdio="+stdio)
	}
	poll.Until(t, "all descriptors are closed", func() bool { return descriptors(t) <= before })
	goleak.VerifyNone(t, running)
}

// cycle has a child that closes, one that dies, one that times out, one that fails to start, and one that Shutdown has to end.
func cycle(ctx context.Context, t *testing.T, target string) {
	t.Helper()
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	child := func() *daemon.Child {
		t.Helper()
		c, err := d.Connect(ctx, target)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	closed := child()
	if err := closed.Call(ctx, "os:getpid").Err(); err != nil {
		t.Error(err)
	}
	if err := closed.Close(ctx); err != nil {
		t.Error(err)
	}
	var dead *daemon.DeadError
	if err := child().Call(ctx, "os:_exit", 0).Err(); !errors.As(err, &dead) || !dead.Lost {
		t.Error(err)
	}
	late, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	if err := child().Call(late, "time:sleep", 1000).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	stop()
	if _, err := d.Connect(ctx, "local:?python_path=/bin/false"); err == nil {
		t.Error("/bin/false was connected")
	}
	child()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := d.Connect(ctx, target); !errors.Is(err, daemon.ErrShutdown) {
		t.Error(err)
	}
}
