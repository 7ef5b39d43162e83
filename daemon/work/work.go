package work

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"mitogend/daemon"
)

// NoLimit is a Plan.MaxFail that is never exceeded.
const NoLimit = math.MaxInt

// Plan says on how many targets something is done, and within which limits.
type Plan struct {
	Targets int
	// Parallel is on how many at once.
	Parallel int
	// Batch is how many are done before the next ones begin, Pause later; 0 means all.
	Batch int
	Pause time.Duration
	// MaxFail is how many may fail before no more are begun.
	MaxFail int
	// Retry is how often connecting is tried again.
	Retry int
	// Timeout is for each target, connecting included; 0 means none. Late is the cause of the target's context then.
	Timeout time.Duration
	Late    error
}

// State is what is known of a target that has begun.
type State int

// The states. A target that has none was not begun.
const (
	Done       State = iota // it has a result
	Failed                  // it has an error, and nothing runs any more
	NotReached              // nothing has run there
	MayHaveRun              // it was given up, or lost, while it ran
)

// Outcome is what came of the work on a target.
type Outcome[R any] struct {
	Target int
	State  State
	Value  R
	Err    error
	Took   time.Duration
}

// Lease is a target that is connected, until Release.
type Lease interface{ Release() }

// Runner does the work of a Plan.
type Runner[L Lease, R any] struct {
	// Constant after New.
	plan  Plan
	lease func(ctx context.Context, target int) (L, error)
	do    func(ctx context.Context, target int, l L) (R, error)
	put   func(Outcome[R])
	stop  chan struct{} // closed by Stop

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	begun   int
	failed  int
	stopped bool
}

// New makes a runner. lease and do may be called from several goroutines at once, and so may put.
func New[L Lease, R any](plan Plan, lease func(context.Context, int) (L, error),
	do func(context.Context, int, L) (R, error), put func(Outcome[R]),
) *Runner[L, R] {
	plan.Parallel = max(plan.Parallel, 1)
	if plan.Batch <= 0 {
		plan.Batch = plan.Targets
	}
	return &Runner[L, R]{plan: plan, lease: lease, do: do, put: put, stop: make(chan struct{})}
}

// Stop lets no more targets begin. It may be called at any time, and more than once. It is false if it changed nothing: all had begun, or
// no more were to begin anyway.
func (r *Runner[L, R]) Stop() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.stopped = true
	close(r.stop)
	return r.begun < r.plan.Targets && r.failed <= r.plan.MaxFail
}

// Begun is how many targets have begun.
func (r *Runner[L, R]) Begun() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun
}

// Run works on the targets until all are done or no more may begin, and tells how many have begun. It is called once.
func (r *Runner[L, R]) Run(ctx context.Context) int {
	for end := 0; end < r.plan.Targets; {
		if end > 0 && (!r.more(ctx) || !r.wait(ctx, r.plan.Pause)) {
			break
		}
		end = min(end+r.plan.Batch, r.plan.Targets)
		var wg sync.WaitGroup
		for range min(r.plan.Parallel, end-r.Begun()) {
			wg.Go(func() {
				for {
					target, ok := r.begin(ctx, end)
					if !ok {
						return
					}
					r.work(ctx, target)
				}
			})
		}
		wg.Wait()
	}
	return r.Begun()
}

// begin gives the next target before end, if one may begin.
func (r *Runner[L, R]) begin(ctx context.Context, end int) (target int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun >= end || r.over(ctx) {
		return 0, false
	}
	r.begun++
	return r.begun - 1, true
}

// over tells whether nothing more may begin. mu is held.
func (r *Runner[L, R]) over(ctx context.Context) bool {
	return r.stopped || r.failed > r.plan.MaxFail || ctx.Err() != nil
}

// more tells whether something may begin yet.
func (r *Runner[L, R]) more(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.over(ctx)
}

// wait waits for d; it gives false, at once, when nothing more is to begin.
func (r *Runner[L, R]) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.stop:
	case <-ctx.Done():
	}
	return false
}

// work does the work on one target.
func (r *Runner[L, R]) work(ctx context.Context, target int) {
	out := Outcome[R]{Target: target}
	began := time.Now()
	if r.plan.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.plan.Timeout, r.plan.Late)
		defer cancel()
	}
	l, err := r.connect(ctx, target)
	if err != nil {
		out.State, out.Err = NotReached, err
	} else {
		out.Value, out.Err = r.do(ctx, target, l)
		out.State = stateOf(ctx, out.Err)
		l.Release()
	}
	out.Took = time.Since(began)
	if out.Err != nil {
		r.mu.Lock()
		r.failed++
		r.mu.Unlock()
	}
	r.put(out)
}

func stateOf(ctx context.Context, err error) State {
	var dead *daemon.DeadError
	switch {
	case err == nil:
		return Done
	case ctx.Err() != nil, errors.As(err, &dead) && dead.Lost:
		return MayHaveRun
	}
	return Failed
}

// Times between tries to connect.
const (
	firstRetry = 500 * time.Millisecond
	maxRetry   = 10 * time.Second
)

// connect leases a target, as often as Retry says.
func (r *Runner[L, R]) connect(ctx context.Context, target int) (l L, err error) {
	err = Retry(ctx, r.plan.Retry, func() (err error) {
		l, err = r.lease(ctx, target)
		return err
	})
	return l, err
}

// Retry connects. Where a hop has failed, and so nothing has run, it tries again up to that many times, after growing
// pauses. A password that was refused is not sent again.
func Retry(ctx context.Context, times int, connect func() error) error {
	pause := firstRetry
	for try := 0; ; try++ {
		err := connect()
		var hop *daemon.HopError
		if err == nil || try >= times || !errors.As(err, &hop) || ctx.Err() != nil || hop.PasswordRefused() {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		pause = min(2*pause, maxRetry)
	}
}
