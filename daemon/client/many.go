package client

import (
	"context"
	"errors"
	"io"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
	"mitogend/importer"
	"mitogend/pyproto"
)

// Place is one target of CallMany, RunMany or OpenMany.
type Place struct {
	Name string // as errors call it
	Hops []bootstrap.Hop
	// Secrets is daemon.ConnectOptions.Secrets; may be nil.
	Secrets func(hop int, method string) (string, bool)
}

// Many says on which targets something is done, and within which limits.
type Many struct {
	// Plan's Targets and Late are not looked at.
	work.Plan
	Places []Place
	// Options are those of all targets; Secrets and the functions but OnImport are not called.
	Options daemon.ConnectOptions
	// Log is told what is logged on a target; nil if that is not wanted.
	Log func(target int, l daemon.Log)
	// Begun is told how many targets have begun; may be nil.
	Begun func(n int)
	// Stop, when it is closed, lets no more targets begin; may be nil.
	Stop <-chan struct{}
}

// ManyCalls is a function that is called on many targets.
type ManyCalls struct {
	Convert  daemon.Convert // not of OpenMany
	Function string
	Args     []any
	// Output is told what the function prints on a target; nil if that is not wanted.
	Output func(target int, data []byte)
}

// ManyPrograms is a program that is run on many targets.
type ManyPrograms struct {
	// Program is the same on all targets: Stdout and Stderr are not looked at, and each gets the whole of Stdin, by way of a file of the
	// daemon's that has no name. A failure to read Stdin is no end of it, but gives up what runs, and is the error of RunMany.
	Program daemon.RunOptions
	// Args and HostVars, if not nil, give what is in place of Program's on a target, and Env what comes behind Program.Env.
	Args, Env func(target int) []string
	HostVars  func(target int) []byte
	// Stdout and Stderr are told what the program prints on a target.
	Stdout, Stderr func(target int, data []byte)
}

// Outcome is what came of the work on one target.
type Outcome struct {
	Target int
	State  work.State
	Value  any               // of a function
	Status daemon.ExitStatus // of a program that has ended; its State is Failed if it is not zero, and Err nil
	Err    error
	Python int // the generation, of a function; 0 where it was not reached
	Took   time.Duration
	// Child is set for a generator (daemon.ConvertLines), whose values are asked for there. It has to be closed.
	Child *Child
}

// ErrNoMany says that the daemon does not know work on many targets.
var ErrNoMany = errors.New("client: the daemon is older, and knows no work on many targets")

// CallMany calls a function on many targets, and gives the outcome of each that has begun to done, one after the other, as they come. While
// done runs, the daemon goes on for about a mebibyte of results. When ctx ends, no more targets begin and what runs is given up; the
// outcomes of that still come. The error is that there are no more: those that have begun may have run.
func (c *Client) CallMany(ctx context.Context, m *Many, call *ManyCalls, done func(*Outcome)) error {
	w, err := c.callMany(ctx, "call_many", m, call, done)
	if err != nil {
		return err
	}
	return w.wait(ctx)
}

func (c *Client) callMany(ctx context.Context, method string, m *Many, call *ManyCalls, done func(*Outcome)) (*manyWork, error) {
	w := &manyWork{c: c, m: m, done: done, output: call.Output}
	p := &wire.CallMany{Call: *(&Child{c: c}).params(call.Function, call.Args)}
	p.Convert, p.Output, p.Log = call.Convert.Words(), call.Output != nil, m.Log != nil
	return w, w.open(ctx, method, p, &p.Target, &p.Many)
}

// manyParams are those of a program on many targets, but for what the targets have of their own.
func (c *Client) manyParams(m *Many, o *ManyPrograms) *wire.RunMany {
	p := &wire.RunMany{Run: *runParams(&o.Program)}
	p.Traceparent, p.Log = c.opt.Traceparent, m.Log != nil
	return p
}

// runMany is one request of RunMany. fail is told that the input cannot be read.
func (c *Client) runMany(ctx context.Context, m *Many, o *ManyPrograms, p *wire.RunMany, in io.Reader, fail func(error), done func(*Outcome)) error {
	w := &manyWork{c: c, m: m, done: done, stdout: o.Stdout, stderr: o.Stderr}
	if err := w.open(ctx, "run_many", p, &p.Target, &p.Many); err != nil {
		return err
	}
	if in != nil {
		go w.s.feed(ctx, in, fail)
	}
	return w.wait(ctx)
}

// ManyChannels are channels with a function on each of many targets. Their methods may be called from several goroutines.
type ManyChannels struct {
	w     *manyWork
	ended chan struct{}
	err   error // set when ended is closed
}

// OpenMany calls a function on many targets with a channel to it as its first argument, and returns at once. What the functions send goes to
// message, and what they return to done, one after the other; the rest is as for CallMany.
func (c *Client) OpenMany(ctx context.Context, m *Many, call *ManyCalls, message func(target int, v any), done func(*Outcome)) (*ManyChannels, error) {
	w, err := c.callMany(ctx, "open_many", m, call, done)
	if err != nil {
		return nil, err
	}
	w.message = message
	ch := &ManyChannels{w: w, ended: make(chan struct{})}
	go func() {
		ch.err = w.wait(ctx)
		close(ch.ended)
	}()
	return ch, nil
}

// Send sends a value to the function of a target; it waits until the target has begun, and the function has taken most of what was sent before.
func (ch *ManyChannels) Send(ctx context.Context, target int, v any) error {
	return ch.write(ctx, &wire.Write{Target: &target, Value: &wire.Value{V: v}})
}

// CloseSend tells the function of a target that nothing more comes.
func (ch *ManyChannels) CloseSend(ctx context.Context, target int) error {
	return ch.write(ctx, &wire.Write{Target: &target, End: true})
}

func (ch *ManyChannels) write(ctx context.Context, w *wire.Write) error {
	w.Stream = ch.w.s.id
	return toGo(ch.w.c.link.Request(ctx, "write", w, nil))
}

// Wait waits for the last outcome. The error is that there are no more.
func (ch *ManyChannels) Wait() error {
	<-ch.ended
	return ch.err
}

// manyWork is a request for many targets that runs.
type manyWork struct {
	c                      *Client
	m                      *Many
	done                   func(*Outcome)
	output, stdout, stderr func(target int, data []byte) // may be nil
	message                func(target int, v any)       // may be nil

	s       *stream
	got     wire.Items // the first ones
	stop    context.CancelFunc
	longest int // hops of a target
}

// open makes the request of p, whose target and plan are filled in.
func (w *manyWork) open(ctx context.Context, method string, p any, t *wire.Target, plan *wire.Many) (err error) {
	if w.m.Options.Importer != nil {
		return errImporter
	}
	*t = w.c.target(w.m.Options)
	if err = w.plan(plan, t.Dir); err != nil {
		return err
	}
	answering, stop := w.c.whileAnswering(context.WithoutCancel(ctx), connectTime(w.m.Options, w.longest))
	defer func() {
		if err != nil {
			stop()
		}
	}()
	before, end := context.WithCancelCause(answering) // nothing has begun
	defer end(nil)
	defer context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })()
	if err = w.c.addEnvironment(before, t, w.m.Options); err != nil {
		return w.c.unreached(answering, err, "", w.longest)
	}
	// It takes no place, for which it might wait when ctx has ended. From here on, steer looks at ctx.
	err = w.c.link.Request(answering, method, p, &w.got)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Message == `there is no method "`+method+`"` {
		return ErrNoMany
	}
	if err != nil {
		return w.c.unreached(answering, err, "", w.longest)
	}
	w.s, w.stop = &stream{c: w.c, ctx: answering, id: w.got.Stream}, stop
	return nil
}

// plan fills in the targets and limits.
func (w *manyWork) plan(p *wire.Many, dir string) error {
	m := w.m
	*p = wire.Many{
		Parallel: m.Parallel, Batch: m.Batch, Pause: wire.Seconds(m.Pause.Seconds()), Retry: m.Retry, Each: wire.Seconds(m.Timeout.Seconds()),
		Targets: make([]string, len(m.Places)),
	}
	if m.MaxFail != work.NoLimit {
		p.MaxFail = &m.MaxFail
	}
	for i, place := range m.Places {
		opt := m.Options
		opt.Secrets = place.Secrets
		var passwords map[int]string
		var err error
		if p.Targets[i], passwords, err = w.c.resolve(place.Hops, opt, dir); err != nil {
			return &daemon.HopError{Target: place.Name, Hops: len(place.Hops), Err: err}
		}
		if name := shownName(place.Name, p.Targets[i]); name != "" {
			if p.Names == nil {
				p.Names = make([]string, len(m.Places))
			}
			p.Names[i] = name
		}
		if len(passwords) > 0 {
			if p.TargetPasswords == nil {
				p.TargetPasswords = map[int]map[int]string{}
			}
			p.TargetPasswords[i] = passwords
		}
		w.longest = max(w.longest, len(place.Hops))
	}
	return nil
}

// wait takes all items.
func (w *manyWork) wait(ctx context.Context) error {
	defer w.stop()
	w.c.streams.Add(1)
	defer w.c.streams.Add(-1)
	over := make(chan struct{})
	defer close(over)
	go w.steer(ctx, over)
	err := w.s.each(w.got, func(items *wire.Items) {
		if w.m.Begun != nil && items.Begun > 0 {
			w.m.Begun(items.Begun)
		}
	}, func(item *wire.Item) error {
		if item.Kind == wire.ItemError && item.State == "" {
			return faults.ToError(item.Error) // of them all
		}
		w.take(item)
		return nil
	})
	if errors.Is(context.Cause(w.s.ctx), errSilent) {
		return silent("", w.longest)
	}
	return err
}

// steer tells the daemon that no more may begin, or that what runs is given up.
func (w *manyWork) steer(ctx context.Context, over chan struct{}) {
	stop := w.m.Stop
	for {
		p := &wire.Write{Stream: w.s.id, Stop: true}
		select {
		case <-stop:
			stop = nil
		case <-ctx.Done():
			p.Cancel = true
		case <-over:
			return
		}
		_ = w.c.link.Request(w.s.ctx, "write", p, nil) // the stream may have ended
		if p.Cancel {
			return
		}
	}
}

var manyStates = map[string]work.State{
	wire.StateFailed: work.Failed, wire.StateNotReached: work.NotReached, wire.StateMayHaveRun: work.MayHaveRun,
}

// take gives an item to whom it is for.
func (w *manyWork) take(item *wire.Item) {
	if item.Target < 0 || item.Target >= len(w.m.Places) {
		return
	}
	tell := func(to func(int, []byte), data []byte) {
		if to != nil {
			to(item.Target, data)
		}
	}
	place := &w.m.Places[item.Target]
	out := &Outcome{Target: item.Target, Python: item.Python, Took: time.Duration(item.Seconds * float64(time.Second))}
	switch item.Kind {
	case wire.ItemOutput:
		tell(w.output, item.Data)
		return
	case wire.ItemDropped:
		tell(w.output, droppedText(item.Count))
		return
	case wire.ItemStdout:
		tell(w.stdout, item.Data)
		return
	case wire.ItemStderr:
		tell(w.stderr, item.Data)
		return
	case wire.ItemMessage:
		if w.message != nil {
			w.message(item.Target, valueOf(item))
		}
		return
	case wire.ItemEvent:
		if e := item.Event; e.Kind == wire.EventLog && w.m.Log != nil {
			w.m.Log(item.Target, daemon.Log{Target: place.Name, Context: pyproto.ContextID(e.Child), Logger: e.Logger, Level: e.Level, Text: e.Text})
		}
		return
	case wire.ItemResult:
		out.Value = valueOf(item)
		if item.Child != 0 {
			out.Child = &Child{c: w.c, id: pyproto.ContextID(item.Child), name: place.Name, python: importer.Version{Major: item.Python}, shared: true}
		}
	case wire.ItemExit:
		if out.Status = (daemon.ExitStatus{Code: item.Code, Signal: item.Signal}); out.Status != (daemon.ExitStatus{}) {
			out.State = work.Failed
		}
	case wire.ItemError:
		out.State, out.Err = manyStates[item.State], faults.ToError(item.Error)
		var hop *daemon.HopError
		if errors.As(out.Err, &hop) {
			hop.Target = place.Name
		}
	default:
		return
	}
	w.done(out)
}
