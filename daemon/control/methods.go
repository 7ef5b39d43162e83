package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/inventory"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto"
)

// methods are what clients can ask for. docs/control.md describes them.
var methods map[string]method

func init() {
	methods = map[string]method{
		"connect":     on(true, func(p *wire.Connect) string { return place(&p.Target) }, (*call).connect),
		"call":        on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).call),
		"call_async":  on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).callAsync),
		"call_many":   on(true, nil, (*call).callMany),
		"run_many":    on(true, nil, (*call).runMany),
		"open_many":   on(true, nil, (*call).openMany),
		"open":        on(true, func(p *wire.Call) string { return place(&p.Target) }, (*call).open),
		"run":         on(true, func(p *wire.Run) string { return place(&p.Target) }, (*call).run),
		"reset_chain": on(true, func(p *wire.ResetChain) string { return place(&wire.Target{Child: p.Child}) }, (*call).resetChain),
		"receiver":    on(true, nil, (*call).receiver),
		"send":        on(true, func(p *wire.Send) string { return fmt.Sprint("send ", p.To.V) }, (*call).send),
		"read":        on(false, func(p *wire.Read) string { return fmt.Sprint("read ", p.Stream) }, (*call).read),
		"write":       on(false, writePlace, (*call).write),
		"close":       on(false, nil, (*call).close),
		"cancel":      on(false, nil, (*call).cancelRequest),
		"subscribe":   on(false, nil, (*call).subscribe),
		"list":        on(false, nil, func(c *call, _ *wire.Common) (any, error) { return c.s.List(), nil }),
		"stats":       on(false, nil, func(c *call, _ *wire.Common) (any, error) { return c.s.Stats(), nil }),
		"modules":     on(true, nil, (*call).modules),
		"log_level":   on(false, nil, (*call).logLevel),
		"environment": on(false, nil, (*call).environment),
		"ping":        on(false, nil, func(*call, *wire.Common) (any, error) { return true, nil }),
		"shutdown":    on(false, nil, (*call).shutdown),
	}
}

// place is what requests for a child have to be in order with.
func place(t *wire.Target) string {
	switch {
	case t.Child != 0:
		return fmt.Sprint("child ", t.Child)
	case t.Fresh:
		return ""
	}
	return "target " + t.Target
}

// writePlace is what writes have to be in order with: those of the same stream, and of open_many those for the same target. What ends the work
// does not wait for what nobody takes.
func writePlace(p *wire.Write) string {
	if p.Stop || p.Cancel {
		return ""
	}
	if p.Target != nil {
		return fmt.Sprint("write ", p.Stream, " ", *p.Target)
	}
	return fmt.Sprint("write ", p.Stream)
}

// request reads a target and its options.
func (s *Server) request(t *wire.Target) (*pool.Request, error) {
	r, err := options(t)
	if err == nil {
		err = s.find(r, t)
	}
	return r, err
}

// options reads what does not depend on which target it is.
func options(t *wire.Target) (r *pool.Request, err error) {
	r = &pool.Request{
		Name: t.Name, Python: t.Python, PythonFrom: daemon.PythonFrom{Builds: t.PythonFrom, Dir: t.PythonDir, Keep: t.KeepPython},
		PreferHere: t.PreferHere, Timeout: t.ConnectTimeout.Duration(),
		Dir: t.Dir, Env: t.Env, Fresh: t.Fresh, Policy: importer.Policy{Allow: t.Allow, Deny: t.Deny},
	}
	if t.Dir != "" && !filepath.IsAbs(t.Dir) {
		return nil, wire.Errorf(wire.KindUsage, "dir %s is not absolute", shorten(t.Dir))
	}
	for _, place := range t.PythonFrom {
		if !filepath.IsAbs(place) {
			return nil, wire.Errorf(wire.KindUsage, "build of Python %s is not absolute", shorten(place))
		}
	}
	if err := checkName(t.Name); err != nil {
		return nil, err
	}
	if r.Bytecode, err = daemon.ParseBytecodeUse(t.Bytecode); err != nil {
		return nil, wire.Errorf(wire.KindUsage, "bytecode: %s", shorten(err.Error()))
	}
	if t.NoBytecode {
		r.Bytecode = daemon.BytecodeNever
	}
	r.Source, err = sourceOptions(t.Source)
	return r, err
}

// maxName bounds what a client calls a target, in bytes.
const maxName = 1000

func checkName(name string) error {
	if len(name) > maxName {
		return wire.Errorf(wire.KindUsage, "name %s is longer than %d bytes", shorten(name), maxName)
	}
	return nil
}

// find reads which target it is.
func (s *Server) find(r *pool.Request, t *wire.Target) error {
	hops, passwords, err := s.hops(t)
	if err != nil {
		return wire.Errorf(wire.KindUsage, "%v", err)
	}
	// What is behind the first hop runs the same.
	if s.opt.Runtime != "" && t.Source == nil && hops[0].Args["runtime"] == "" {
		args := map[string]string{"runtime": s.opt.Runtime}
		for k, v := range hops[0].Args {
			args[k] = v
		}
		hops[0].Args = args
	}
	r.Target, r.Hops, r.Passwords = t.Target, hops, passwords
	return nil
}

// hops reads a target, which may be a name of the inventory, and gives what passwords are known.
func (s *Server) hops(t *wire.Target) ([]bootstrap.Hop, map[int]string, error) {
	if !inventory.WrittenOut(t.Target) {
		s.invMu.Lock()
		defer s.invMu.Unlock()
		var found []*inventory.Target
		var err error
		if s.inv != nil && t.Target != "" {
			found, err = s.inv.Resolve(t.Target)
		}
		switch {
		case err != nil:
			return nil, nil, err
		case len(found) > 1:
			return nil, nil, fmt.Errorf("%s means %d hosts of the inventory, and a request is for one", shorten(t.Target), len(found))
		case len(found) == 1:
			passwords := map[int]string{}
			for hop, secret := range found[0].Secrets {
				passwords[hop] = string(secret)
			}
			for hop, password := range t.Passwords {
				passwords[hop] = password
			}
			return found[0].Hops, passwords, nil
		}
	}
	hops, err := bootstrap.ParseTarget(t.Target)
	return hops, t.Passwords, err
}

// clientCache bounds what the daemon keeps of modules for one source of clients, in bytes.
const clientCache = 64 << 20

func sourceOptions(s *wire.Source) (*importer.Options, error) {
	if s == nil {
		return nil, nil
	}
	for _, dir := range append(s.Path[:len(s.Path):len(s.Path)], s.Venv) {
		if dir != "" && !filepath.IsAbs(dir) {
			return nil, wire.Errorf(wire.KindUsage, "path entry %s is not absolute", shorten(dir))
		}
	}
	for _, dir := range s.Libs {
		if dir != importer.LibsSystem && !filepath.IsAbs(dir) {
			return nil, wire.Errorf(wire.KindUsage, "directory of libraries %s is not absolute", shorten(dir))
		}
	}
	for _, file := range slices.Concat(s.Wheels, s.Constraints) {
		if !filepath.IsAbs(file) {
			return nil, wire.Errorf(wire.KindUsage, "wheelhouse or constraint file %s is not absolute", shorten(file))
		}
	}
	for _, file := range s.RequirementFiles {
		if !filepath.IsAbs(file) {
			return nil, wire.Errorf(wire.KindUsage, "requirements file %s is not absolute", shorten(file))
		}
	}
	for _, place := range s.FindLinks {
		if !filepath.IsAbs(place) && !strings.Contains(place, "://") {
			return nil, wire.Errorf(wire.KindUsage, "find_links %s is neither absolute nor an address", shorten(place))
		}
	}
	o := &importer.Options{
		Requirements: importer.Requirements{Lines: s.Requirements, Files: s.RequirementFiles, Links: s.FindLinks, Python: s.RequiresPython},
		Path:         s.Path, Venv: s.Venv, Policy: importer.Policy{Allow: s.Allow, Deny: s.Deny}, Libs: s.Libs, Unpack: s.Unpack, MaxCache: clientCache,
		Wheels: s.Wheels, Constraints: s.Constraints,
	}
	if s.Main != nil {
		o.Main = &importer.Main{Path: s.Main.Path, Source: s.Main.Source, Run: s.Main.Run}
	}
	return o, nil
}

func connected(l *pool.Lease) *wire.Connected {
	c := l.Child()
	v := c.Version()
	return &wire.Connected{Child: uint32(c.ID()), Name: c.Name(), Python: [2]int{v.Major, v.Minor}, Shared: l.Shared()}
}

func (c *call) connect(p *wire.Connect) (any, error) {
	if p.Child != 0 {
		return nil, wire.Errorf(wire.KindUsage, "connect takes a target, not a child")
	}
	l, done, err := c.conn.lease(c.ctx, &p.Target, nil)
	if err != nil {
		return nil, err
	}
	out := connected(l)
	if err := c.keep(l); err != nil {
		done()
		return nil, err
	}
	return out, nil
}

// arguments gives what a call passes: args, and kwargs as the last one; and what the child converts.
func arguments(p *wire.Call) ([]any, daemon.Convert, error) {
	var args []any
	convert, err := daemon.ParseConvert(p.Convert)
	if err != nil {
		return nil, 0, wire.Errorf(wire.KindUsage, "%v", err)
	}
	switch a := p.Args.V.(type) {
	case nil:
	case []any:
		args = a
	case pyproto.Tuple:
		args = a
	default:
		return nil, 0, wire.Errorf(wire.KindUsage, "args is no array")
	}
	switch kw := p.Kwargs.V.(type) {
	case nil:
	case *pyproto.Dict:
		var kwargs pyproto.Kwargs
		for k, v := range kw.All() {
			name, ok := k.(string)
			if !ok {
				return nil, 0, wire.Errorf(wire.KindUsage, "kwargs has a name that is no text")
			}
			kwargs = append(kwargs, pyproto.Arg{Name: name, Value: v})
		}
		args = append(args, kwargs)
	default:
		return nil, 0, wire.Errorf(wire.KindUsage, "kwargs is no map")
	}
	return args, convert, nil
}

func (c *call) call(p *wire.Call) (any, error) {
	args, convert, err := arguments(p)
	if err != nil {
		return nil, err
	}
	l, done, err := c.conn.lease(c.ctx, &p.Target, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	started := time.Now()
	k := l.Start(c.ctx, daemon.CallOptions{Chain: p.Chain, Room: c.room, Convert: convert}, p.Function, args...)
	c.begun()
	v, err := k.Wait(c.ctx).Value()
	c.s.called(l, p.Function, p.Traceparent, started, err)
	var value *wire.Value
	if err == nil {
		value, err = wire.NewValue(v, !p.Exact, c.s.maxMessage())
	}
	c.made = k.Release
	return value, err
}

// called counts a call and tells of it.
func (s *Server) called(l *pool.Lease, fn, trace string, started time.Time, err error) {
	s.counts.calls.Add(1)
	e := wire.Event{Kind: wire.EventCall, Function: fn, OK: err == nil, Trace: trace}
	if err != nil {
		s.counts.failed.Add(1)
	}
	if !s.hub.wants(e.Kind) {
		return
	}
	e.Seconds = time.Since(started).Seconds()
	if l != nil {
		e.Child, e.Target, e.Chain = uint32(l.Child().ID()), l.Conn().Name(), l.Conn().Chain()
	}
	if err != nil {
		e.Text = err.Error()
	}
	s.hub.publish(e)
}

func (c *call) resetChain(p *wire.ResetChain) (any, error) {
	l, done, err := c.conn.lease(c.ctx, &wire.Target{Child: p.Child}, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return nil, l.Child().ResetChain(c.ctx, p.Chain)
}

// address reads a sender's address: as extension type, or as [context id, handle].
func address(v any) (to pyproto.Sender, err error) {
	if to, ok := v.(pyproto.Sender); ok {
		return to, nil
	}
	if list, ok := v.([]any); ok && len(list) == 2 {
		id, ok1 := list[0].(int64)
		h, ok2 := list[1].(int64)
		if ok1 && ok2 && id > 0 && id < 1<<32 && h > 0 && h < 1<<32 {
			return pyproto.Sender{Context: pyproto.ContextID(id), Handle: pyproto.Handle(h)}, nil
		}
	}
	return to, wire.Errorf(wire.KindUsage, "to is no sender: an extension of type %d, or [context id, handle]", wire.ExtSender)
}

func (c *call) send(p *wire.Send) (any, error) {
	to, err := address(p.To.V)
	if err != nil {
		return nil, err
	}
	// The context may be one of the client's children, or lie behind one.
	var via *daemon.Child
	c.mu.Lock()
	for _, h := range c.leases {
		if h.lease.Child().Reaches(to.Context) {
			via = h.lease.Child()
			break
		}
	}
	c.mu.Unlock()
	switch {
	case via == nil:
		return nil, wire.Errorf(wire.KindUnknown, "context %d is no child of this client, nor behind one", to.Context)
	case p.Close:
		return nil, via.CloseSender(c.ctx, to)
	case p.Value == nil:
		return nil, wire.Errorf(wire.KindUsage, "there is neither value nor close")
	}
	return nil, via.Send(c.ctx, to, p.Value.V)
}

func (c *call) read(p *wire.Read) (any, error) {
	s, err := c.stream(p.Stream)
	if err != nil {
		return nil, err
	}
	return s.read(c.ctx, p.Max)
}

func (c *call) write(p *wire.Write) (any, error) {
	s, err := c.stream(p.Stream)
	if err != nil {
		return nil, err
	}
	if s.write == nil {
		return nil, wire.Errorf(wire.KindUsage, "stream %d can not be written to", p.Stream)
	}
	return nil, s.write(c.ctx, p)
}

func (c *call) close(p *wire.Close) (any, error) {
	switch {
	case p.Stream != 0:
		s, err := c.stream(p.Stream)
		if err != nil {
			return nil, err
		}
		c.forget(s)
		select {
		case <-s.done: // a program was killed, say
		case <-c.ctx.Done():
		}
		return &wire.Closed{Closed: 1}, nil
	case p.Child != 0:
		return &wire.Closed{Closed: 1}, c.letGo(p.Child)
	case p.Work != 0:
		done, err := c.s.pool.End(c.ctx, p.Work)
		out := &wire.Closed{}
		if done {
			out.Closed = 1
		}
		return out, err
	case p.Kill == 0 && p.Target == "" && !p.Idle && !p.All:
		return nil, wire.Errorf(wire.KindUsage, "close what? Give stream, child, work, kill, target, idle or all")
	}
	n, err := c.s.pool.Close(c.ctx, pool.Match{ID: p.Kill, Target: p.Target, Idle: p.Idle, All: p.All})
	return &wire.Closed{Closed: n}, err
}

// letGo gives back a child that the client has connected.
func (c *conn) letGo(id uint32) error { return c.giveBack(id, nil) }

// giveBack is letGo, of the one with this channel where that is not nil.
func (c *conn) giveBack(id uint32, left chan struct{}) error {
	c.mu.Lock()
	h := c.leases[id]
	if h == nil {
		c.mu.Unlock()
		return wire.Errorf(wire.KindUnknown, "this client has not connected a child %d, or has closed it", id)
	}
	switch i := slices.Index(h.left, left); {
	case left != nil && i < 0:
		c.mu.Unlock()
		return nil // given back already
	case i >= 0:
		h.left = slices.Delete(h.left, i, i+1)
	case len(h.left) > 0:
		close(h.left[0])
		h.left = h.left[1:]
	}
	if h.count--; h.count == 0 {
		delete(c.leases, id)
	} else {
		h = nil
	}
	c.mu.Unlock()
	if h != nil {
		h.lease.Release()
	}
	return nil
}

func (c *call) cancelRequest(p *wire.Cancel) (any, error) {
	c.mu.Lock()
	cancel := c.requests[p.Request]
	c.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
	return cancel != nil, nil
}

func (c *call) modules(p *wire.Modules) (any, error) {
	opt, err := sourceOptions(p.Source)
	if err != nil {
		return nil, err
	}
	if opt == nil {
		o := c.s.pool.Source()
		opt = &o
	}
	im, err := c.s.d.NewImporter(*opt)
	if err != nil {
		return nil, wire.Errorf(wire.KindUsage, "%v", err)
	}
	out := &wire.Described{Modules: []any{}}
	for _, name := range p.Names {
		d, err := im.Describe(c.ctx, name, importer.Version{Major: p.Python[0], Minor: p.Python[1]})
		if err != nil {
			return nil, err
		}
		out.Modules = append(out.Modules, d)
	}
	return out, nil
}

func (c *call) logLevel(p *wire.LogLevel) (any, error) {
	if p.Level != "" {
		if err := c.s.levels.Set(p.Component, p.Level); err != nil {
			return nil, wire.Errorf(wire.KindUsage, "%v", err)
		}
	}
	return &wire.Levels{Levels: c.s.levels.Map()}, nil
}

func (c *call) shutdown(p *wire.Shutdown) (any, error) {
	if c.s.opt.OnShutdown == nil {
		return nil, wire.Errorf(wire.KindUsage, "this daemon is part of another program, and is not stopped by clients")
	}
	grace := p.Grace.Duration()
	if grace <= 0 {
		grace = c.s.Grace()
	}
	c.s.opt.OnShutdown(grace)
	return os.Getpid(), nil
}

// ended tells whether an error is only that the client has closed a stream or is gone.
func ended(err error) bool { return errors.Is(err, errStreamClosed) || errors.Is(err, errClientGone) }
