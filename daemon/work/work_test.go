package work

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mitogend/daemon"
)

// stub is a lease of the tests.
type stub struct{ released *atomic.Int64 }

func (s stub) Release() { s.released.Add(1) }

// bench is work whose parts a test replaces.
type bench struct {
	plan     Plan
	lease    func(ctx context.Context, target int) error
	do       func(ctx context.Context, target int) (int, error)
	leased   atomic.Int64
	released atomic.Int64

	mu       sync.Mutex
	outcomes []Outcome[int]
}

func (b *bench) runner() *Runner[stub, int] {
	return New(b.plan, func(ctx context.Context, target int) (stub, error) {
		if b.lease != nil {
			if err := b.lease(ctx, target); err != nil {
				return stub{}, err
			}
		}
		b.leased.Add(1)
		return stub{&b.released}, nil
	}, func(ctx context.Context, target int, _ stub) (int, error) {
		if b.do == nil {
			return 10 * target, nil
		}
		return b.do(ctx, target)
	}, func(o Outcome[int]) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.outcomes = append(b.outcomes, o)
	})
}

// check says what is wrong with the outcomes: each target that has begun has one, and no lease is left.
func (b *bench) check(t *testing.T, begun int) {
	t.Helper()
	var seen []int
	for _, o := range b.outcomes {
		seen = append(seen, o.Target)
	}
	slices.Sort(seen)
	for i := range begun {
		if i >= len(seen) || seen[i] != i {
			t.Fatalf("%d have begun, outcomes of %v", begun, seen)
		}
	}
	if len(seen) != begun || b.leased.Load() != b.released.Load() {
		t.Fatalf("%d have begun, %d outcomes; %d leases, %d given back", begun, len(seen), b.leased.Load(), b.released.Load())
	}
}

func (b *bench) count(s State) (n int) {
	for _, o := range b.outcomes {
		if o.State == s {
			n++
		}
	}
	return n
}

var errOwn = errors.New("own")

func TestRun(t *testing.T) {
	for _, plan := range []Plan{
		{}, {Targets: 1}, {Targets: 100}, {Targets: 100, Parallel: 7}, {Targets: 5, Parallel: 50}, {Targets: 20, Parallel: 4, Batch: 3}, {Targets: 20, Parallel: 2, Batch: 50},
	} {
		plan.MaxFail = NoLimit
		b := &bench{plan: plan}
		var running, most atomic.Int64
		b.do = func(_ context.Context, target int) (int, error) {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Microsecond)
			running.Add(-1)
			if target%3 == 2 {
				return 0, errOwn
			}
			return 10 * target, nil
		}
		if n := b.runner().Run(t.Context()); n != plan.Targets {
			t.Errorf("%+v: %d have begun", plan, n)
		}
		b.check(t, plan.Targets)
		for _, o := range b.outcomes {
			if bad := o.Target%3 == 2; bad != (o.State == Failed) || bad != (o.Err == errOwn) || !bad && o.Value != 10*o.Target {
				t.Errorf("%+v: %+v", plan, o)
			}
		}
		if most.Load() > int64(max(plan.Parallel, 1)) {
			t.Errorf("%+v: %d at once", plan, most.Load())
		}
	}
}

// Nothing of a batch begins before the one ahead of it is done.
func TestBatches(t *testing.T) {
	b := &bench{plan: Plan{Targets: 30, Parallel: 8, Batch: 5, MaxFail: NoLimit}}
	var ended atomic.Int64
	b.do = func(_ context.Context, target int) (int, error) {
		if done := int(ended.Load()); done < target/5*5 {
			t.Errorf("target %d begins when %d are done", target, done)
		}
		defer ended.Add(1)
		time.Sleep(time.Duration(target%3) * time.Millisecond)
		return 0, nil
	}
	b.check(t, b.runner().Run(t.Context()))
}

func TestMaxFail(t *testing.T) {
	for _, max := range []int{0, 1, 5} {
		b := &bench{plan: Plan{Targets: 50, Parallel: 1, MaxFail: max}}
		b.do = func(_ context.Context, target int) (int, error) {
			if target >= 10 {
				return 0, errOwn
			}
			return 0, nil
		}
		if n := b.runner().Run(t.Context()); n != 11+max {
			t.Errorf("at most %d may fail, and %d have begun", max, n)
		}
		b.check(t, 11+max)
	}
}

// Stop lets what runs end, and the end of the context does not.
func TestStopAndCancel(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{plan: Plan{Targets: 100, Parallel: 3, MaxFail: NoLimit}}
		enough := make(chan struct{}, 100)
		goOn := make(chan struct{})
		b.do = func(ctx context.Context, target int) (int, error) {
			if target < 10 {
				return target, nil
			}
			enough <- struct{}{}
			select {
			case <-goOn:
				return target, nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
		r := b.runner()
		ended := make(chan int)
		go func() { ended <- r.Run(ctx) }()
		for range 3 {
			<-enough
		}
		if cancelled {
			cancel()
		} else {
			r.Stop()
			r.Stop()
			close(goOn)
		}
		if n := <-ended; n != 13 {
			t.Errorf("cancelled: %v; %d have begun", cancelled, n)
		}
		b.check(t, 13)
		if n := b.count(MayHaveRun); cancelled != (n == 3) || !cancelled != (n == 0) {
			t.Errorf("cancelled: %v; %d may have run", cancelled, n)
		}
		cancel()
	}
}

// A pause ends with Stop, and with the context.
func TestPause(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, end := range []func(*Runner[stub, int]){func(r *Runner[stub, int]) { r.Stop() }, func(*Runner[stub, int]) { cancel() }} {
		b := &bench{plan: Plan{Targets: 4, Batch: 2, Pause: time.Hour, MaxFail: NoLimit}}
		r := b.runner()
		ended := make(chan int)
		go func() { ended <- r.Run(ctx) }()
		for deadline := time.Now().Add(30 * time.Second); r.Begun() < 2; {
			if time.Now().After(deadline) {
				t.Fatal("the first batch does not begin")
			}
			time.Sleep(time.Millisecond)
		}
		end(r)
		if n := <-ended; n != 2 {
			t.Errorf("%d have begun", n)
		}
	}
}

// There is no pause when too many have failed: nothing comes behind it.
func TestNoPauseAtTheEnd(t *testing.T) {
	b := &bench{plan: Plan{Targets: 4, Batch: 1, Pause: time.Hour}}
	b.do = func(context.Context, int) (int, error) { return 0, errOwn }
	ended := make(chan int)
	go func() { ended <- b.runner().Run(t.Context()) }()
	select {
	case n := <-ended:
		b.check(t, n)
		if n != 1 {
			t.Errorf("%d have begun", n)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for a batch that does not begin")
	}
}

func TestStates(t *testing.T) {
	late := errors.New("late")
	b := &bench{plan: Plan{Targets: 5, Parallel: 5, MaxFail: NoLimit, Timeout: time.Second, Late: late, Retry: 2}}
	var tries atomic.Int64
	b.lease = func(_ context.Context, target int) error {
		if target != 0 {
			return nil
		}
		tries.Add(1)
		return errOwn // no failure to connect: it is not tried again
	}
	b.do = func(ctx context.Context, target int) (int, error) {
		switch target {
		case 1:
			return 0, &daemon.DeadError{Lost: true}
		case 2:
			return 0, &daemon.DeadError{}
		case 3:
			<-ctx.Done()
			return 0, context.Cause(ctx)
		}
		return 44, nil
	}
	b.check(t, b.runner().Run(t.Context()))
	want := []State{NotReached, MayHaveRun, Failed, MayHaveRun, Done}
	for _, o := range b.outcomes {
		if o.State != want[o.Target] || o.Target == 3 && o.Err != late || o.Target == 4 && o.Value != 44 {
			t.Errorf("%+v", o)
		}
	}
	if tries.Load() != 1 {
		t.Errorf("%d tries", tries.Load())
	}
}

// Connecting is tried again, and nothing else is.
func TestRetry(t *testing.T) {
	for _, retry := range []int{0, 1} {
		b := &bench{plan: Plan{Targets: 1, Retry: retry}}
		tries, runs := 0, 0
		b.lease = func(context.Context, int) error {
			if tries++; tries == 1 {
				return &daemon.HopError{Err: errOwn}
			}
			return nil
		}
		b.do = func(context.Context, int) (int, error) { runs++; return 0, &daemon.HopError{Err: errOwn} }
		b.check(t, b.runner().Run(t.Context()))
		if tries != 1+retry || runs != retry {
			t.Errorf("%d times more: %d tries, %d runs", retry, tries, runs)
		}
	}
}

// A put that waits for room holds up what has not begun.
func TestCredit(t *testing.T) {
	var begun atomic.Int64
	room := make(chan struct{})
	r := New(Plan{Targets: 100, Parallel: 4, MaxFail: NoLimit}, func(context.Context, int) (stub, error) {
		begun.Add(1)
		return stub{new(atomic.Int64)}, nil
	}, func(context.Context, int, stub) (int, error) { return 0, nil }, func(Outcome[int]) { <-room })
	ended := make(chan struct{})
	go func() { r.Run(t.Context()); close(ended) }()
	for range 50 {
		room <- struct{}{}
	}
	if n := begun.Load(); n > 54 {
		t.Errorf("%d have begun with room for the outcomes of 50", n)
	}
	close(room)
	<-ended
}
