package pool

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"mitogend/daemon"
	"mitogend/integration/poll"
)

func (p *Pool) totalOf(name string) Total {
	for _, t := range p.Totals() {
		if t.Target == name {
			return t
		}
	}
	return Total{}
}

// The counters of a target go on when one of its connections ends, and their name stays.
func TestTotals(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{})
	r := ask(t, "local:")
	call := func(l *Lease, fn string) {
		_ = l.Start(t.Context(), daemon.CallOptions{}, fn).Wait(t.Context())
	}
	l := p.must(t, r)
	call(l, "os:getpid")
	call(l, "os:no_such_function")
	l.Release()
	named := r
	named.Name = "web"
	l = p.must(t, named) // the same connection
	call(l, "os:getpid")
	call(l, "mitogen.plain:end") // fails: it takes a number
	if _, err := p.Close(t.Context(), Match{All: true}); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if got, want := p.totalOf(r.Target), (Total{r.Target, 0, 4, 2}); got != want {
		t.Errorf("after its end: %+v", got)
	}
	l = p.must(t, r)
	call(l, "os:getpid")
	if got, want := p.totalOf(r.Target), (Total{r.Target, 1, 5, 2}); got != want || len(p.Totals()) != 1 {
		t.Errorf("connected again: %+v of %v", got, p.Totals())
	}
	k := l.Start(t.Context(), daemon.CallOptions{}, "os:getpid")
	if got := p.totalOf(r.Target).Calls; got != 5 {
		t.Errorf("a call that nobody has waited for counts: %d", got)
	}
	k.Wait(t.Context())
	if got := p.totalOf(r.Target).Calls; got != 6 {
		t.Errorf("a call that has ended: %d", got)
	}
	l.Release()
}

// What commands ask for by themselves is no call, unless it fails.
func TestInternalCallsDoNotCount(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{})
	r := ask(t, "local:")
	l := p.must(t, r)
	defer l.Release()
	if v, err := l.Start(t.Context(), daemon.CallOptions{Convert: daemon.ConvertResult}, "mitogen.facts:collect", []any{"system"}).Wait(t.Context()).Value(); err != nil {
		t.Fatal(v, err)
	}
	if got := p.totalOf(r.Target); got.Calls != 0 || p.List()[0].Calls != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTotalsAreBounded(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{})
	p.mu.Lock()
	for i := range 3 * maxTotals {
		p.leave(p.join(fmt.Sprint("t", i)))
	}
	kept := p.join("t2500")
	for i := range maxTotals {
		p.leave(p.join(fmt.Sprint("other", i)))
	}
	p.leave(p.join(strings.Repeat("\xc3\xa9", maxTarget)))
	p.leave(p.join("x" + strings.Repeat("\xc3\xa9", maxTarget)))
	if p.totals["t2500"] != kept || len(p.totals) != maxTotals+1 || p.unconnected.Len() != maxTotals {
		t.Errorf("%d, %d without a connection", len(p.totals), p.unconnected.Len())
	}
	for name := range p.totals {
		if len(name) > maxTarget || !utf8.ValidString(name) {
			t.Errorf("a name of %d bytes", len(name))
		}
	}
	p.mu.Unlock()
}

// Whoever watches is told of a connect that has failed.
func TestFailedConnectIsTold(t *testing.T) {
	t.Parallel()
	var failed atomic.Int32
	var target atomic.Value
	p := newPool(t, Options{Watch: &Watcher{OnFailure: func(c *Conn, _ time.Duration, err error) {
		target.Store(c.Name() + ": " + err.Error())
		failed.Add(1)
	}}})
	r := ask(t, "exec:false")
	r.Name = "web"
	if _, err := p.Get(context.Background(), r); err == nil {
		t.Fatal("connected")
	}
	poll.Until(t, "it is told", func() bool { return failed.Load() == 1 })
	if text := target.Load().(string); !strings.HasPrefix(text, "web: ") {
		t.Error(text)
	}
}
