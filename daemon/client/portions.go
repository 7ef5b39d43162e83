package client

import (
	"context"
	"io"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
)

const (
	// sureSize is how large a request may be for every daemon, whatever its max_message is: the least is 1 MiB.
	sureSize = 512 << 10
	// aroundTarget is about what a target takes in a request, beside texts; and textSize what a text does.
	aroundTarget = 200
	textSize     = 9
	// maxTexts bounds the texts of targets in a request, which has at most wire.MaxValues values.
	maxTexts = wire.MaxValues / 4
)

// portions makes one RunMany of several requests, one after the other: what all targets have of their own may be more
// than fits into one message.
type portions struct {
	c      *Client
	m      *Many
	o      *ManyPrograms
	common int // bytes of a request that are not of targets
	max    int // bytes of a request; 0 if not known yet
}

// requests gives what the daemon takes in one message.
func (p *portions) requests(ctx context.Context) int {
	var out wire.Limits
	if p.c.Do(ctx, "ping", &wire.Ping{Limits: true}, &out) != nil || out.MaxMessage <= 0 {
		return wire.DefaultMaxMessage / 2 // it is older, or the request itself will show
	}
	return out.MaxMessage / 4 * 3
}

// fill gives what targets from first on have of their own, as many as fit: one at least.
func (p *portions) fill(ctx context.Context, first int, to *wire.RunMany) (n int) {
	argv, env, vars := own(p.o.Args, &to.TargetArgv), own(p.o.Env, &to.TargetEnv), own(p.o.HostVars, &to.TargetHostVars)
	size, texts := p.common, 0
	for i := first; i < len(p.m.Places); i++ {
		a, e, v := argv.of(i), env.of(i), vars.of(i)
		for _, list := range [][]string{a, e} {
			for _, text := range list {
				size += len(text) + textSize
			}
			texts += len(list)
		}
		size += aroundTarget + len(p.m.Places[i].Name) + len(v)
		if size > sureSize && p.max == 0 {
			p.max = p.requests(ctx)
		}
		if n > 0 && (p.max > 0 && size > p.max || texts > maxTexts) {
			break
		}
		argv.set(n, a)
		env.set(n, e)
		vars.set(n, v)
		n++
	}
	// A portion ends with a batch, if it can.
	if batch := p.m.Batch; batch > 0 && first+n < len(p.m.Places) {
		if end := (first + n) / batch * batch; end > first {
			for i := end - first; i < n; i++ {
				argv.drop(i)
				env.drop(i)
				vars.drop(i)
			}
			n = end - first
		}
	}
	return n
}

// ownOf is one thing that targets have of their own.
type ownOf[E any] struct {
	get func(target int) []E // may be nil
	in  map[int][]E
}

func own[E any](get func(int) []E, to *map[int][]E) ownOf[E] {
	if get == nil {
		return ownOf[E]{}
	}
	*to = map[int][]E{}
	return ownOf[E]{get, *to}
}

func (o ownOf[E]) of(target int) []E {
	if o.get == nil {
		return nil
	}
	return o.get(target)
}

func (o ownOf[E]) set(i int, list []E) {
	if list != nil {
		o.in[i] = list
	}
}

func (o ownOf[E]) drop(i int) { delete(o.in, i) }

// RunMany runs a program on many targets. Else it is as CallMany; done and the functions of o are called one after the other, and while they
// run, the programs wait that have printed more than fits. What the targets have of their own may be any size: with more than a message
// takes, those whose part fits run first, and then the next ones.
func (c *Client) RunMany(ctx context.Context, m *Many, o *ManyPrograms, done func(*Outcome)) error {
	p := &portions{c: c, m: m, o: o, common: len(o.Program.Source) + len(o.Program.HostVars)}
	for _, list := range [][]string{o.Program.Args, o.Program.Env} {
		for _, text := range list {
			p.common += len(text) + textSize
		}
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	fail := func(err error) { giveUp(&inputError{err}) }
	params := c.manyParams(m, o)
	n := p.fill(ctx, 0, params)
	if n == len(m.Places) {
		return failedInput(ctx, c.runMany(ctx, m, o, params, o.Program.Stdin, fail, done))
	}
	var input *work.Input
	if o.Program.Stdin != nil {
		input = work.NewInput(o.Program.Stdin, fail)
		defer func() { go input.Close() }() // it waits for the end of what it reads
	}
	failures := 0
	for first := 0; ; {
		part, begun := p.part(first, n, failures)
		err := func() error {
			ctx, over := context.WithCancel(ctx)
			defer over()
			var in io.ReadCloser
			if input == nil {
				return c.runMany(ctx, part, p.from(first), params, nil, fail, p.outcomes(first, &failures, done))
			}
			in = input.Reader()
			defer in.Close()
			defer over() // its end is no failure
			return c.runMany(ctx, part, p.from(first), params, in, fail, p.outcomes(first, &failures, done))
		}()
		if first += n; err != nil || *begun < n || first >= len(m.Places) || failures > m.MaxFail {
			return failedInput(ctx, err)
		}
		if m.Batch <= 0 || first%m.Batch > 0 {
			if !p.pause(ctx, 0) {
				return failedInput(ctx, nil)
			}
		} else if !p.pause(ctx, m.Pause) {
			return failedInput(ctx, nil)
		}
		params = c.manyParams(m, o)
		n = p.fill(ctx, first, params)
	}
}

// pause waits; it gives false if nothing more is to begin.
func (p *portions) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.m.Stop:
	case <-ctx.Done():
	case <-t.C:
		select {
		case <-p.m.Stop:
		default:
			return ctx.Err() == nil
		}
	}
	return false
}

// part is the work on n targets from first on, where so many have failed before. The number of those that have begun is
// told there.
func (p *portions) part(first, n, failures int) (m *Many, begun *int) {
	part, begun := *p.m, new(int)
	part.Places = p.m.Places[first : first+n]
	if part.MaxFail != work.NoLimit {
		part.MaxFail -= failures
	}
	part.Begun = func(n int) {
		if *begun = n; p.m.Begun != nil {
			p.m.Begun(first + n)
		}
	}
	if p.m.Log != nil {
		part.Log = func(target int, l daemon.Log) { p.m.Log(first+target, l) }
	}
	return &part, begun
}

// from gives the program with the numbers of its targets from first on.
func (p *portions) from(first int) *ManyPrograms {
	from := func(f func(int, []byte)) func(int, []byte) {
		if f == nil {
			return nil
		}
		return func(target int, data []byte) { f(first+target, data) }
	}
	o := *p.o
	o.Stdout, o.Stderr = from(o.Stdout), from(o.Stderr)
	return &o
}

// outcomes counts failures, and gives the outcomes to done.
func (p *portions) outcomes(first int, failures *int, done func(*Outcome)) func(*Outcome) {
	return func(out *Outcome) {
		if out.Target += first; out.State != work.Done {
			*failures++
		}
		done(out)
	}
}
