package control

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"mitogend/daemon"
)

// What was cut short because the daemon stops says so, wherever it noticed.
func TestCaused(t *testing.T) {
	other := errors.New("other")
	cut := fmt.Errorf("reading: %w", context.Canceled)
	for _, c := range []struct{ cause, err, want error }{
		{daemon.ErrShutdown, cut, daemon.ErrShutdown},
		{daemon.ErrShutdown, other, other},
		{daemon.ErrShutdown, nil, nil},
		{context.Canceled, cut, context.Canceled},
		{nil, cut, cut},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if c.cause != nil {
			cancel(c.cause)
		}
		if got := caused(ctx, c.err); !errors.Is(got, c.want) || c.want == nil && got != nil {
			t.Errorf("%v, %v: got %v, want %v", c.cause, c.err, got, c.want)
		}
		cancel(nil)
	}
}

// A request that waits no longer for its turn lets nobody overtake those that it has waited for.
func TestTurns(t *testing.T) {
	c := &conn{turns: map[string]*turn{}}
	waits := func(u *turn) bool {
		select {
		case <-u.come:
			return false
		default:
			return u.come != nil
		}
	}
	a, b, d, e := c.queue("x"), c.queue("x"), c.queue("x"), c.queue("x")
	c.leave("x", b)
	c.leave("x", e)
	c.leave("x", e)
	f := c.queue("x")
	if waits(a) || !waits(d) || !waits(f) {
		t.Error("one has its turn too early")
	}
	c.leave("x", a)
	if waits(d) || !waits(f) {
		t.Error("the next is wrong")
	}
	c.leave("x", d)
	c.leave("x", d)
	if waits(f) {
		t.Error("the last waits")
	}
	c.leave("x", f)
	if len(c.turns) > 0 {
		t.Error("the order is kept")
	}
}

// A transfer that waits when the daemon is told to stop does not begin; one that need not wait was taken before that.
func TestWaitingTransfersDoNotBegin(t *testing.T) {
	s := &Server{}
	s.taking, s.stopTaking = context.WithCancelCause(t.Context())
	c := &conn{s: s, transfers: make(chan struct{}, 1)}
	s.stopTaking(daemon.ErrShutdown)
	if err := c.enterTransfer(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.enterTransfer(t.Context()); !errors.Is(err, daemon.ErrShutdown) {
		t.Error(err)
	}
}
