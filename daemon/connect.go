package daemon

import (
	"context"
	"errors"
	"strings"
	"unicode"

	"mitogend/bootstrap"
	"mitogend/pyproto"
	"mitogend/python"
)

// Connect starts the children that target names, hop by hop, and gives the last one. docs/targets.md describes
// targets. A hop that fails is a *HopError around a *bootstrap.Error, and nothing is left of what was started. A target
// that cannot be read is a *bootstrap.Error alone.
func (d *Daemon) Connect(ctx context.Context, target string, options ...ConnectOptions) (*Child, error) {
	var opt ConnectOptions
	if len(options) > 0 {
		opt = options[0]
	}
	hops, err := bootstrap.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	return d.ConnectHops(ctx, target, hops, opt)
}

// ConnectHops is Connect for a target that was read already; errors call it name.
func (d *Daemon) ConnectHops(ctx context.Context, name string, hops []bootstrap.Hop, opt ConnectOptions) (*Child, error) {
	ctx, done, err := d.connecting(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if opt.Name == "" {
		opt.Name = name
	}
	opt.chain = name
	var c *Child
	steps, err := stepsOf(hops, opt)
	if err == nil {
		c, err = d.connectSteps(ctx, steps, opt)
	}
	var at *HopError
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, context.Canceled) && d.alive.Err() != nil:
		return nil, &HopError{Target: name, Hops: len(hops), Err: ErrShutdown}
	case errors.As(err, &at):
		return nil, &HopError{Target: name, Hop: at.Hop, Hops: len(hops), Err: at.Err}
	}
	return nil, err
}

// stepsOf gives the hops with all their arguments, passwords among them.
func stepsOf(hops []bootstrap.Hop, opt ConnectOptions) ([]step, error) {
	if len(hops) > bootstrap.MaxHops {
		return nil, hopError(&bootstrap.Error{Step: bootstrap.StepOptions, Reason: "the target: " + bootstrap.TooManyHops(len(hops)).Error()}, 0)
	}
	steps := make([]step, len(hops))
	for i, hop := range hops {
		hop = hop.OrSSH()
		args, err := hop.Options()
		if err != nil {
			return nil, hopError(err, i)
		}
		if args["python"] == nil && args["python_path"] == nil && len(opt.Python) > 0 {
			args["python"] = opt.Python
		}
		opt.PythonFrom.args(args)
		if args["connect_timeout"] == nil && opt.Timeout > 0 {
			args["connect_timeout"] = opt.Timeout
		}
		if args["password"] == nil && opt.Secrets != nil {
			if password, ok := opt.Secrets(i, hop.Method); ok {
				args["password"] = bootstrap.Secret(password)
			}
		}
		steps[i] = step{hop, args}
	}
	return steps, nil
}

// step is one hop of a target with all its arguments, the password among them.
type step struct {
	hop  bootstrap.Hop
	args map[string]any
}

// connectSteps connects the last of the steps, behind hops that it shares with other connects. The error is a
// *HopError.
func (d *Daemon) connectSteps(ctx context.Context, steps []step, opt ConnectOptions) (*Child, error) {
	last := len(steps) - 1
	var via *hop
	if last > 0 {
		var err error
		if via, err = d.takeHop(ctx, steps[:last], opt); err != nil {
			return nil, hopError(err, last-1)
		}
	}
	c, err := d.connectHop(ctx, via, steps[last], opt)
	if err != nil {
		return nil, hopError(err, last)
	}
	if via != nil && opt.OnImport != nil {
		c.root().observers.add(c, opt.OnImport)
	}
	return c, nil
}

// hopError says at which hop it was, unless err says so already.
func hopError(err error, i int) error {
	var he *HopError
	if errors.As(err, &he) {
		return err
	}
	return &HopError{Hop: i, Err: err}
}

// connectHop starts a child on this machine, or behind a hop. If that fails, it gives the hop back.
func (d *Daemon) connectHop(ctx context.Context, via *hop, s step, opt ConnectOptions) (*Child, error) {
	c := d.newChild(opt, s.hop.Method)
	if via != nil {
		c.via, c.hop = via.child, via
	}
	err := errNoIDs
	if c.id != 0 {
		err = d.connectChild(ctx, c, s, opt)
	}
	if err != nil {
		<-c.leaveHop()
		return nil, err
	}
	if opt.PreferHere && c.runtime == nil {
		if err := c.Notify(ctx, "mitogen.resources:prefer_here"); err != nil {
			ctx, cancel := context.WithTimeout(d.ctx, closeTime) // the caller's may have ended
			defer cancel()
			_ = c.Close(ctx)
			return nil, err
		}
	}
	d.event(Connected, c, "")
	return c, nil
}

func (d *Daemon) connectChild(ctx context.Context, c *Child, s step, opt ConnectOptions) error {
	var supply *bootstrap.Supply
	if c.via == nil || c.via.runtime == nil {
		var err error
		if supply, err = d.supply(s); err != nil {
			return err
		}
	}
	plan, err := bootstrap.Build(s.hop.Method, s.args, bootstrap.Boot{
		Supply: supply, Stub: python.Stub(), Args: []string{"mitogend:" + psName(opt.Name)}, Elsewhere: c.via != nil,
		Mitogen: opt.AsMitogen, SudoPrompt: opt.AsMitogen && opt.Runtime != nil && !opt.Runtime.before(versionSudoPrompt),
	})
	if err != nil {
		return err
	}
	if c.runtime, err = d.runtimeOf(ctx, s, &opt); err != nil {
		return err
	}
	if c.via != nil && c.via.runtime != nil && s.args["runtime"] == nil {
		// As under Mitogen: its children all have one runtime.
		c.runtime = c.via.runtime
	}
	if err := c.mayRunThere(s); err != nil {
		return err
	}
	c.unidirectional = isTrue(s.args["unidirectional"])
	c.debug, c.profiling = isTrue(s.args["debug"]), isTrue(s.args["profiling"])
	machine := d.starting
	if c.via != nil {
		machine = c.via.startsThere()
	}
	started, err := machine.enter(ctx)
	if err != nil {
		return err
	}
	defer started()
	switch {
	case c.via == nil:
		err = d.start(ctx, c, plan)
	case c.via.runtime == nil:
		err = c.via.launch(ctx, c, plan)
	default:
		err = c.via.proxyConnect(ctx, c, s, plan)
	}
	c.opt.Env, c.opt.Secrets = nil, nil // they may be large, and are not needed any more
	if err == nil && plan.Silence > 0 && d.enter() == nil {
		go c.watchSilence(plan.Silence)
	}
	return err
}

// newChild makes a child with an id of its own; the id is 0 when all are used up.
func (d *Daemon) newChild(opt ConnectOptions, method string) *Child {
	return d.makeChild(d.allocate(1), opt, method)
}

func (d *Daemon) makeChild(id pyproto.ContextID, opt ConnectOptions, method string) *Child {
	c := &Child{
		d: d, id: id, name: opt.Name, opt: opt, method: method, closed: make(chan struct{}),
	}
	if opt.OnImport != nil {
		c.observers.add(c, opt.OnImport)
	}
	return c
}

// isTrue reads a flag that bootstrap.Build has accepted; nil is one that is not set.
func isTrue(v any) bool {
	on, _ := bootstrap.ReadFlag(v)
	return on
}

// psName is a target for the argv of an interpreter, without anything that a shell treats specially.
func psName(target string) string {
	return strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@.:_+-", r)) {
			return r
		}
		return '_'
	}, target[:min(len(target), 64)])
}
