package control

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/inventory"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto/printable"
)

// held is a child that the client has connected, once or more often.
type held struct {
	lease *pool.Lease
	count int
	left  []chan struct{} // one is closed each time that the client gives it back
}

// lease gives the child that a request is for. done has to be called afterwards.
func (c *conn) lease(ctx context.Context, t *wire.Target, w *pool.Watcher) (l *pool.Lease, done func(), err error) {
	if t.Child == 0 {
		r, err := c.options(t)
		if err == nil {
			err = c.s.find(ctx, r, t)
		}
		if err != nil {
			return nil, nil, err
		}
		r.Watch, r.Client = w, c.pid
		l, err := c.s.pool.Get(ctx, *r)
		if err != nil {
			return nil, nil, err
		}
		return l, l.Release, nil
	}
	if t.Target != "" {
		return nil, nil, wire.Errorf(wire.KindUsage, "child and target exclude each other")
	}
	c.mu.Lock()
	h, err := c.holds(t.Child)
	c.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if w == nil {
		return h.lease, func() {}, nil
	}
	return h.lease, h.lease.Watch(w), nil
}

// holds gives a child that the client has connected. mu is held.
func (c *conn) holds(id uint32) (*held, error) {
	if h := c.leases[id]; h != nil {
		return h, nil
	}
	return nil, wire.Errorf(wire.KindUnknown, "this client has not connected a child %d, or has closed it", id)
}

// options reads everything about a target but which one it is.
func (c *conn) options(t *wire.Target) (r *pool.Request, err error) {
	r = &pool.Request{
		Name: t.Name, Python: t.Python, PythonFrom: daemon.PythonFrom{Builds: t.PythonFrom, Dir: t.PythonDir, Keep: t.KeepPython},
		PreferHere: t.PreferHere, Timeout: t.ConnectTimeout.Duration(),
		Dir: t.Dir, Env: t.Env, Fresh: t.Fresh, Policy: importer.Policy{Allow: t.Allow, Deny: t.Deny},
	}
	if t.Dir != "" && !filepath.IsAbs(t.Dir) {
		return nil, wire.Errorf(wire.KindUsage, "dir %s is not absolute", printable.Short(t.Dir))
	}
	for _, place := range t.PythonFrom {
		if !filepath.IsAbs(place) {
			return nil, wire.Errorf(wire.KindUsage, "build of Python %s is not absolute", printable.Short(place))
		}
	}
	if err := checkName(t.Name); err != nil {
		return nil, err
	}
	if r.Bytecode, err = daemon.ParseBytecodeUse(t.Bytecode); err != nil {
		return nil, wire.Errorf(wire.KindUsage, "bytecode: %s", printable.Short(err.Error()))
	}
	if t.NoBytecode {
		r.Bytecode = daemon.BytecodeNever
	}
	if r.Source, err = sourceOptions(t.Source); err == nil && t.Environment != 0 {
		r.Env, err = c.namedEnvironment(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Since = c.busy
	return r, err
}

// maxName bounds the name that a client gives a target, in bytes.
const maxName = 1000

func checkName(name string) error {
	if len(name) > maxName {
		return wire.Errorf(wire.KindUsage, "name %s is longer than %d bytes", printable.Short(name), maxName)
	}
	return nil
}

// find reads which target it is.
func (s *Server) find(ctx context.Context, r *pool.Request, t *wire.Target) error {
	hops, passwords, err := s.hops(ctx, t)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return wire.Errorf(wire.KindUsage, "%v", err)
	}
	// Whatever is behind the first hop has the same runtime.
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

// hops reads a target, which may be a name of the inventory, and gives the passwords that are known.
func (s *Server) hops(ctx context.Context, t *wire.Target) ([]bootstrap.Hop, map[int]string, error) {
	if !inventory.WrittenOut(t.Target) {
		found, err := s.resolve(ctx, t.Target)
		switch {
		case err != nil:
			return nil, nil, err
		case len(found) > 1:
			return nil, nil, fmt.Errorf("%s means %d hosts of the inventory, and a request is for one", printable.Short(t.Target), len(found))
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

// resolve asks the inventory for a name, which may run a program. It waits no longer than ctx, neither for others nor for
// the answer.
func (s *Server) resolve(ctx context.Context, name string) ([]*inventory.Target, error) {
	if name == "" {
		return nil, nil
	}
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	inv := s.inv
	s.mu.Unlock()
	if inv == nil {
		<-s.asking
		return nil, nil
	}
	var found []*inventory.Target
	var err error
	done := make(chan struct{})
	s.wg.Go(func() {
		defer close(done)
		defer func() { <-s.asking }()
		found, err = inv.Resolve(name)
	})
	select {
	case <-done:
		return found, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// clientCache bounds the bytes of modules that the daemon keeps for one source of clients.
const clientCache = 64 << 20

func sourceOptions(s *wire.Source) (*importer.Options, error) {
	if s == nil {
		return nil, nil
	}
	for _, dir := range append(s.Path[:len(s.Path):len(s.Path)], s.Venv) {
		if dir != "" && !filepath.IsAbs(dir) {
			return nil, wire.Errorf(wire.KindUsage, "path entry %s is not absolute", printable.Short(dir))
		}
	}
	for _, dir := range s.Libs {
		if dir != importer.LibsSystem && !filepath.IsAbs(dir) {
			return nil, wire.Errorf(wire.KindUsage, "directory of libraries %s is not absolute", printable.Short(dir))
		}
	}
	for _, file := range slices.Concat(s.Wheels, s.Constraints) {
		if !filepath.IsAbs(file) {
			return nil, wire.Errorf(wire.KindUsage, "wheelhouse or constraint file %s is not absolute", printable.Short(file))
		}
	}
	for _, file := range s.RequirementFiles {
		if !filepath.IsAbs(file) {
			return nil, wire.Errorf(wire.KindUsage, "requirements file %s is not absolute", printable.Short(file))
		}
	}
	for _, place := range s.FindLinks {
		if !filepath.IsAbs(place) && !strings.Contains(place, "://") {
			return nil, wire.Errorf(wire.KindUsage, "find_links %s is neither absolute nor an address", printable.Short(place))
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

// environment keeps an environment for later requests.
func (c *call) environment(p *wire.Environment) (any, error) {
	size := 64
	for _, entry := range p.Env {
		size += len(entry) + 16
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.envBytes+size > maxEnvironmentBytes {
		return nil, wire.Errorf(wire.KindOverflow, "the environments of this client have %d bytes", c.envBytes)
	}
	c.envBytes += size
	c.envs = append(c.envs, p.Env)
	return &wire.NewEnvironment{Environment: uint32(len(c.envs))}, nil
}

func (c *conn) namedEnvironment(t *wire.Target) ([]string, error) {
	if len(t.Env) > 0 {
		return nil, wire.Errorf(wire.KindUsage, "env and environment exclude each other")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if int64(t.Environment) > int64(len(c.envs)) {
		return nil, wire.Errorf(wire.KindUnknown, "this client has named no environment %d", t.Environment)
	}
	return c.envs[t.Environment-1], nil
}

// keep makes the lease the client's, until the client closes the child or is gone.
func (c *conn) keep(l *pool.Lease) error {
	id := uint32(l.Child().ID())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leases == nil {
		return errClientGone
	}
	if h := c.leases[id]; h != nil {
		h.count++
		l.Release()
		return nil
	}
	c.leases[id] = &held{lease: l, count: 1}
	return nil
}

// keepUntil is keep. The channel is closed when the client gives the child back.
func (c *conn) keepUntil(l *pool.Lease) (left chan struct{}, err error) {
	if err := c.keep(l); err != nil {
		return nil, err
	}
	left = make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.leases[uint32(l.Child().ID())]
	if h == nil {
		return nil, errClientGone
	}
	h.left = append(h.left, left)
	return left, nil
}

// forgetLeft is for who waits no longer for the client to give a child back. The client still holds it.
func (c *conn) forgetLeft(id uint32, left chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.leases[id]; h != nil {
		h.left = slices.DeleteFunc(h.left, func(l chan struct{}) bool { return l == left })
	}
}

// letGo gives back a child that the client has connected.
func (c *conn) letGo(id uint32) error { return c.giveBack(id, nil) }

// giveBack is letGo. If left is not nil, it gives back the lease with this channel.
func (c *conn) giveBack(id uint32, left chan struct{}) error {
	c.mu.Lock()
	h, err := c.holds(id)
	if err != nil {
		c.mu.Unlock()
		return err
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
