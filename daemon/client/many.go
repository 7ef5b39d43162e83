package client

import (
	"context"
	"errors"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
	"mitogend/importer"
	"mitogend/pyproto"
)

// Place is one target of CallMany.
type Place struct {
	Name string // as errors call it
	Hops []bootstrap.Hop
	// Secrets is daemon.ConnectOptions.Secrets; may be nil.
	Secrets func(hop int, method string) (string, bool)
}

// Many is a call on many targets.
type Many struct {
	// Plan's Targets and Late are not looked at.
	work.Plan
	Places []Place
	// Options are those of all targets; Secrets and the functions but OnImport are not called.
	Options  daemon.ConnectOptions
	Convert  daemon.Convert
	Function string
	Args     []any
	// Output and Log are told of a target what its function prints, and what is logged there; nil if that is not wanted.
	Output func(target int, data []byte)
	Log    func(target int, l daemon.Log)
	// Begun is told how many targets have begun; may be nil.
	Begun func(n int)
	// Stop, when it is closed, lets no more targets begin; may be nil.
	Stop <-chan struct{}
}

// Outcome is what came of a call on one target.
type Outcome struct {
	Target int
	State  work.State
	Value  any
	Err    error
	Python int // the generation; 0 where it was not reached
	Took   time.Duration
	// Child is set for a generator (daemon.ConvertLines), whose values are asked for there. It has to be closed.
	Child *Child
}

// ErrNoMany says that the daemon does not know calls on many targets.
var ErrNoMany = errors.New("client: the daemon is older, and knows no calls on many targets")

// CallMany calls a function on many targets, and gives the outcome of each that has begun to done, one after the other, as they come. While
// done runs, the daemon goes on for about a mebibyte of results. When ctx ends, no more targets begin and what runs is given up; the
// outcomes of that still come. The error is that there are no more: those that have begun may have run.
func (c *Client) CallMany(ctx context.Context, m *Many, done func(*Outcome)) error {
	if m.Options.Importer != nil {
		return errImporter
	}
	p, longest, err := c.manyParams(m)
	if err != nil {
		return err
	}
	answering, stop := c.whileAnswering(context.WithoutCancel(ctx), connectTime(m.Options, longest))
	defer stop()
	if err := c.addEnvironment(answering, &p.Target, m.Options); err != nil {
		return err
	}
	var got wire.Items
	err = c.Do(answering, "call_many", p, &got)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Message == `there is no method "call_many"` {
		return ErrNoMany
	}
	if err != nil {
		return toGo(err)
	}
	s := &stream{c: c, ctx: answering, id: got.Stream}
	c.streams.Add(1)
	defer c.streams.Add(-1)
	over := make(chan struct{})
	defer close(over)
	go m.steer(ctx, s, over)
	err = s.each(got, func(items *wire.Items) {
		if m.Begun != nil && items.Begun > 0 {
			m.Begun(items.Begun)
		}
	}, func(item *wire.Item) error {
		if item.Kind == wire.ItemError && item.State == "" {
			return item.Error.Go() // of them all
		}
		m.take(c, item, done)
		return nil
	})
	if errors.Is(context.Cause(answering), errSilent) {
		return silent("", longest)
	}
	return err
}

// manyParams gives the parameters, and how many hops a target has at most.
func (c *Client) manyParams(m *Many) (p *wire.CallMany, longest int, err error) {
	p = &wire.CallMany{
		Call: *(&Child{c: c}).params(m.Function, m.Args), Parallel: m.Parallel, Batch: m.Batch, Pause: wire.Seconds(m.Pause.Seconds()),
		Retry: m.Retry, Each: wire.Seconds(m.Timeout.Seconds()), Targets: make([]string, len(m.Places)),
	}
	p.Convert, p.Output, p.Log = m.Convert.Words(), m.Output != nil, m.Log != nil
	if m.MaxFail != work.NoLimit {
		p.MaxFail = &m.MaxFail
	}
	p.Target = c.target(m.Options)
	for i, place := range m.Places {
		opt := m.Options
		opt.Secrets = place.Secrets
		var passwords map[int]string
		if p.Targets[i], passwords, err = c.resolve(place.Hops, opt, p.Dir); err != nil {
			return nil, 0, &daemon.HopError{Target: place.Name, Hops: len(place.Hops), Err: err}
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
		longest = max(longest, len(place.Hops))
	}
	return p, longest, nil
}

// steer tells the daemon that no more may begin, or that what runs is given up.
func (m *Many) steer(ctx context.Context, s *stream, over chan struct{}) {
	stop := m.Stop
	for {
		w := &wire.Write{Stream: s.id, End: true}
		select {
		case <-stop:
			stop = nil
		case <-ctx.Done():
			w.Cancel = true
		case <-over:
			return
		}
		_ = s.c.request(s.ctx, "write", w, nil, nil) // the stream may have ended
		if w.Cancel {
			return
		}
	}
}

var manyStates = map[string]work.State{
	wire.StateFailed: work.Failed, wire.StateNotReached: work.NotReached, wire.StateMayHaveRun: work.MayHaveRun,
}

// take gives an item to whom it is for.
func (m *Many) take(c *Client, item *wire.Item, done func(*Outcome)) {
	if item.Target < 0 || item.Target >= len(m.Places) {
		return
	}
	place := &m.Places[item.Target]
	out := &Outcome{Target: item.Target, Python: item.Python, Took: time.Duration(item.Seconds * float64(time.Second))}
	switch item.Kind {
	case wire.ItemOutput:
		m.Output(item.Target, item.Data)
		return
	case wire.ItemEvent:
		if e := item.Event; e.Kind == wire.EventLog && m.Log != nil {
			m.Log(item.Target, daemon.Log{Target: place.Name, Context: pyproto.ContextID(e.Child), Logger: e.Logger, Level: e.Level, Text: e.Text})
		}
		return
	case wire.ItemDropped:
		m.Output(item.Target, droppedText(item.Count))
		return
	case wire.ItemResult:
		if item.Value != nil {
			out.Value = item.Value.V
		}
		if item.Child != 0 {
			out.Child = &Child{c: c, id: pyproto.ContextID(item.Child), name: place.Name, python: importer.Version{Major: item.Python}, shared: true}
		}
	case wire.ItemError:
		out.State, out.Err = manyStates[item.State], item.Error.Go()
		var hop *daemon.HopError
		if errors.As(out.Err, &hop) {
			hop.Target = place.Name
		}
	default:
		return
	}
	done(out)
}
