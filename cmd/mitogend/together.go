package main

import (
	"context"
	"errors"
	"strings"
	"sync"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/work"
)

// together is work on all targets of a fleet as one request to the running daemon.
type together struct {
	fl *fleet
	// start makes the request, and returns when there are no more outcomes.
	start func(ctx context.Context, c *client.Client, m *client.Many, done func(*client.Outcome)) error
	// outcome tells how it went on a target, if the daemon has no error.
	outcome func(ctx context.Context, j *job, o *client.Outcome) *outcome
	// judges says that outcome may find a failure where the daemon finds none.
	judges bool

	ctx  context.Context
	jobs map[int]*job // of targets that have printed something and have no outcome, and of generators
	have int          // how many targets have begun
	stop chan struct{}
	once sync.Once
}

// possible tells whether one request can do the work. It cannot if this process has to see a failure before the next
// target begins, or if something is asked of each target by itself (imports, --where).
func (t *together) possible() bool {
	fl := t.fl
	_, running := fl.daemon.(*client.Client)
	judged := fl.flags.maxFail != "" && (t.judges || fl.outDir != nil)
	return running && len(fl.targets) > 1 && !fl.flags.traceImports && fl.where == nil && !judged
}

// run does the work, and returns when there are no more outcomes. It is false if the daemon is too old.
func (t *together) run(ctx context.Context) bool {
	fl := t.fl
	t.ctx, t.jobs, t.stop = ctx, map[int]*job{}, make(chan struct{})
	m := &client.Many{
		Plan: work.Plan{
			Parallel: fl.flags.parallel, Batch: fl.plan.batch, Pause: fl.plan.pause, MaxFail: fl.plan.maxFail,
			Retry: fl.flags.retry, Timeout: fl.flags.timeout,
		},
		Options: fl.connectOptions(), Begun: t.begun, Stop: t.stop,
	}
	for _, target := range fl.targets {
		m.Places = append(m.Places, client.Place{Name: target.name, Hops: target.hops, Secrets: target.passwords(fl.secrets)})
	}
	m.Log = func(i int, l daemon.Log) { fl.app.childLog(t.job(i).stderr, l) }
	err := t.start(ctx, fl.daemon.(*client.Client), m, t.done)
	if errors.Is(err, client.ErrNoMany) {
		return false
	}
	fl.wg.Wait() // for generators
	t.rest(ctx, err)
	return true
}

// begun counts the targets that have begun.
func (t *together) begun(n int) {
	fl := t.fl
	for ; t.have < n; t.have++ {
		fl.tally.begin(fl.targets[t.have].name)
		fl.running.Add(1)
	}
}

// job gives the job of a target. It is made when the target first says something.
func (t *together) job(i int) *job {
	j := t.jobs[i]
	if j == nil {
		j = t.fl.newJob(t.fl.targets[i])
		t.jobs[i] = j
	}
	return j
}

// done shows the outcome of a target.
func (t *together) done(o *client.Outcome) {
	t.begun(o.Target + 1)
	j := t.job(o.Target)
	j.python = o.Python
	if o.Child == nil {
		delete(t.jobs, o.Target)
		t.finish(t.ctx, j, o)
		return
	}
	// A generator's values come one by one. What it logs comes in the stream of all targets, and may be slower.
	o.Child.OnOutput(func(data []byte) { _, _ = j.stderr.Write(data) })
	j.child, j.more = o.Child, t.fl.outDir != nil || t.fl.flags.gather
	t.fl.wg.Go(func() {
		ctx := t.ctx
		if d := t.fl.flags.timeout; d > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, max(d-o.Took, 1), timeoutError{d})
			defer cancel()
		}
		t.finish(ctx, j, o)
		closing, cancel := t.fl.app.closing(endTime)
		defer cancel()
		_ = o.Child.Close(closing)
	})
}

// finish makes our outcome of the daemon's, and shows it.
func (t *together) finish(ctx context.Context, j *job, o *client.Outcome) {
	fl := t.fl
	defer fl.running.Add(-1)
	var out *outcome
	switch {
	case o.Err == nil:
		if out = t.ended(ctx, j, o); out == nil {
			fl.drop(j)
			return
		}
	case errors.Is(o.Err, context.DeadlineExceeded) && fl.flags.timeout > 0:
		late := timeoutError{fl.flags.timeout}
		out = &outcome{Error: &failure{Kind: kindTimeout, Message: late.Error()}}
		out.status = out.Error.status()
	case stopped(ctx) && o.State != work.Failed:
		fl.drop(j)
		return // the target has no outcome
	default:
		out = failed(context.Background(), o.Err)
	}
	out.Target, out.Seconds = j.target.name, o.Took.Seconds()
	fl.show(j, out)
	if fl.tooMany() {
		t.once.Do(func() { close(t.stop) })
	}
	if done, size := int(fl.done.Load()), fl.plan.batch; fl.plan.pause > 0 && done%size == 0 && done < len(fl.targets) && !stopped(ctx) && !fl.tooMany() {
		fl.notePause(done/size, len(portions(len(fl.targets), size)))
	}
}

// ended calls outcome. It gives nil if the work was interrupted before it had one.
func (t *together) ended(ctx context.Context, j *job, o *client.Outcome) *outcome {
	use := ctx
	if stopped(ctx) {
		var cancel context.CancelFunc
		use, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
	}
	out := t.outcome(use, j, o)
	if stopped(ctx) && !out.OK && out.ended == nil {
		return nil
	}
	return out
}

// rest closes the output of generators, and tells of those that have begun and have no outcome: the connection with
// the daemon is gone.
func (t *together) rest(ctx context.Context, err error) {
	fl := t.fl
	open := map[string][]*job{} // by name of the target
	for i, j := range t.jobs {
		switch {
		case j.shown != nil: // a generator
			if err := j.close(j.shown); err != nil {
				if !j.files.told {
					fl.app.console.complain("%s: %v", strings.TrimSuffix(j.target.name, ":"), err)
				}
				if j.shown.OK {
					fl.raise(statusRaised)
				}
			}
		case j.child != nil: // a generator that has its outcome, or was interrupted
		case err == nil || stopped(ctx):
			fl.drop(j)
		default:
			open[fl.targets[i].name] = append(open[fl.targets[i].name], j)
		}
	}
	if err == nil || stopped(ctx) {
		return
	}
	for _, left := range fl.tally.without(fl.targets) {
		name := left.target.name
		out := failed(context.Background(), err)
		out.Target = name
		if !left.begun {
			fl.tally.begin(name)
		}
		var j *job
		if jobs := open[name]; len(jobs) > 0 {
			j, open[name] = jobs[0], jobs[1:]
		} else {
			j = fl.newJob(left.target)
		}
		fl.show(j, out)
	}
}

// callTogether is a call on all targets. returned makes an outcome of a value.
func (fl *fleet) callTogether(call *client.ManyCalls, returned func(ctx context.Context, j *job, v any) *outcome) *together {
	t := &together{fl: fl}
	call.Output = func(i int, data []byte) { _, _ = t.job(i).stderr.Write(data) }
	t.outcome = func(ctx context.Context, j *job, o *client.Outcome) *outcome { return returned(ctx, j, o.Value) }
	t.start = func(ctx context.Context, c *client.Client, m *client.Many, done func(*client.Outcome)) error {
		return c.CallMany(ctx, m, call, done)
	}
	return t
}

// runTogether is a program on all targets. args and vars, if not nil, give its arguments and host variables for a
// target.
func (fl *fleet) runTogether(o daemon.RunOptions, in *programInput, args func(target) []string, vars func(target) []byte) *together {
	t := &together{fl: fl}
	t.outcome = func(_ context.Context, j *job, o *client.Outcome) *outcome { return fl.programEnded(j, o.Status) }
	t.start = func(ctx context.Context, c *client.Client, m *client.Many, done func(*client.Outcome)) error {
		p := &client.ManyPrograms{Program: o, Env: func(i int) []string { return []string{fl.targets[i].setting()} }}
		p.Program.Stdin = in.all()
		p.Stdout = func(i int, data []byte) { _, _ = fl.output(t.job(i)).stdout.Write(data) }
		p.Stderr = func(i int, data []byte) { _, _ = fl.output(t.job(i)).stderr.Write(data) }
		if args != nil {
			p.Args = func(i int) []string { return args(fl.targets[i]) }
		}
		if vars != nil {
			p.HostVars = func(i int) []byte { return vars(fl.targets[i]) }
		}
		return c.RunMany(ctx, m, p, done)
	}
	return t
}
