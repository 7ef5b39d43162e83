package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
)

// hop is a child on the way to others. Connects with the same steps to it and the same options share it: one of them
// connects it while the others wait. It is closed when the last child behind it has ended.
type hop struct {
	d   *Daemon
	key hopKey
	// cancel ends the connect.
	cancel context.CancelFunc
	// ready is closed when the connect has ended; child and err are set then.
	ready chan struct{}
	child *Child
	err   error

	// Guarded by hops.mu.
	users int
	kept  bool // it stays in the table for a while, though nobody uses it
}

// refusedTime is how long a hop that has refused the password stays refused, for all that are on their way through it.
const refusedTime = 5 * time.Second

type hopKey [sha256.Size]byte

// hops are the hops in use, by their keys.
type hops struct {
	// mu protects the following and hop.users. Daemon.mu may be taken under it.
	mu sync.Mutex
	m  map[hopKey]*hop
}

// keyOf gives what two connects must have in common to share a hop. It is a hash because passwords are part of it.
func keyOf(steps []step, opt *ConnectOptions) hopKey {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%q:%q", s.hop.Method, s.hop.Spec)
		names := make([]string, 0, len(s.args))
		for name := range s.args {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			v := s.args[name]
			if secret, ok := v.(bootstrap.Secret); ok {
				v = string(secret)
			}
			fmt.Fprintf(&b, "&%q=%T%q", name, v, fmt.Sprint(v))
		}
	}
	fmt.Fprintf(&b, "|%p|%q|%q|%t|%q|%q|%q|%p|%d|%q|%q|%p|%p", opt.Importer, opt.Policy.Allow, opt.Policy.Deny, opt.PreferHere, opt.Bytecode, opt.Dir, opt.Env,
		opt.Runtime, opt.StockLevel, opt.StockOverrides, opt.StockBlocks, opt.Miss, opt.MissResource)
	return sha256.Sum256([]byte(b.String()))
}

// takeHop gives the connected hop at the end of these steps. Every caller gives it back by release.
func (d *Daemon) takeHop(ctx context.Context, steps []step, opt ConnectOptions) (*hop, error) {
	key := keyOf(steps, &opt)
	for {
		h, err := d.joinHop(key, steps, opt)
		if err != nil {
			return nil, err
		}
		select {
		case <-h.ready:
		case <-ctx.Done():
			h.release(d.closing())
			return nil, context.Cause(ctx)
		}
		if h.err != nil {
			h.release(d.closing())
			return nil, h.err
		}
		if h.child.gone() == nil {
			return h, nil
		}
		// It was lost in the meantime: connect another one.
		h.release(d.closing())
	}
}

// joinHop adds a user to the hop of that key. If there is none, it begins to connect one.
func (d *Daemon) joinHop(key hopKey, steps []step, opt ConnectOptions) (*hop, error) {
	d.hops.mu.Lock()
	defer d.hops.mu.Unlock()
	if h := d.hops.m[key]; h != nil && (h.child == nil || h.child.gone() == nil) {
		h.users++
		return h, nil
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	h := &hop{d: d, key: key, ready: make(chan struct{}), users: 1}
	d.hops.m[key] = h
	// The connect does not end with the caller's: it goes on while anybody wants it.
	ctx, cancel := context.WithCancel(d.alive)
	h.cancel = cancel
	go h.connect(ctx, steps, hopOptions(steps, opt))
	return h, nil
}

// hopOptions are the options of a child on the way. The last child's own are left out.
func hopOptions(steps []step, opt ConnectOptions) ConnectOptions {
	list := make([]bootstrap.Hop, len(steps))
	for i, s := range steps {
		list[i] = s.hop
	}
	return ConnectOptions{
		Name: bootstrap.FormatTarget(list), Timeout: opt.Timeout, Importer: opt.Importer, Policy: opt.Policy,
		PreferHere: opt.PreferHere, Bytecode: opt.Bytecode, Dir: opt.Dir, Env: opt.Env, Runtime: opt.Runtime, StockLevel: opt.StockLevel,
		StockOverrides: opt.StockOverrides, StockBlocks: opt.StockBlocks,
		Miss: opt.Miss, MissResource: opt.MissResource,
	}
}

func (h *hop) connect(ctx context.Context, steps []step, opt ConnectOptions) {
	defer h.d.wg.Done()
	defer h.cancel()
	child, err := h.d.connectSteps(ctx, steps, opt)
	h.d.hops.mu.Lock()
	var refused *bootstrap.Error
	switch {
	case errors.As(err, &refused) && refused.PasswordRefused():
		h.kept = true
		time.AfterFunc(refusedTime, func() {
			h.d.hops.mu.Lock()
			defer h.d.hops.mu.Unlock()
			h.forget()
		})
	case err != nil:
		h.forget()
	}
	h.child, h.err = child, err
	wanted := h.users > 0
	h.d.hops.mu.Unlock()
	close(h.ready)
	if child != nil && !wanted {
		h.close(context.Background())
	}
}

// forget takes the hop out of the table. hops.mu is held.
func (h *hop) forget() {
	if h.d.hops.m[h.key] == h {
		delete(h.d.hops.m, h.key)
	}
}

// distrust is for a hop that has not answered: those who use it keep it, others connect another one. Which of the hops on
// the way is silent is not known, and so it is for all of them.
func (h *hop) distrust() {
	h.d.hops.mu.Lock()
	defer h.d.hops.mu.Unlock()
	for ; h != nil; h = h.child.hop {
		h.forget()
	}
}

// release gives the hop back. With its last user it is closed, and release waits for that.
func (h *hop) release(ctx context.Context) {
	h.d.hops.mu.Lock()
	h.users--
	last := h.users == 0
	if last && !h.kept {
		h.forget()
	}
	child := h.child
	h.d.hops.mu.Unlock()
	if !last {
		return
	}
	h.cancel()
	if child != nil {
		h.close(ctx)
	}
}

func (h *hop) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	_ = h.child.Close(ctx)
}

// leaveHop gives the hop that c is behind back, once. The channel is closed when that is done.
func (c *Child) leaveHop() <-chan struct{} {
	if c.hop == nil {
		return closed
	}
	c.left.Do(func() {
		c.leaving = make(chan struct{})
		if c.d.enter() != nil {
			// Shutdown closes every connection by itself.
			close(c.leaving)
			return
		}
		go func() {
			defer c.d.wg.Done()
			defer close(c.leaving)
			if c.opt.OnImport != nil {
				c.root().observers.remove(c)
			}
			c.hop.release(context.Background())
		}()
	})
	return c.leaving
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// root is the child whose connection is the daemon's own.
func (c *Child) root() *Child {
	for c.via != nil {
		c = c.via
	}
	return c
}

// observers are told of the modules that go over a shared connection.
type observers struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[pyproto.ContextID]func(importer.Event)
}

func (o *observers) add(c *Child, fn func(importer.Event)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil {
		o.m = map[pyproto.ContextID]func(importer.Event){}
	}
	o.m[c.id] = fn
}

func (o *observers) remove(c *Child) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.m, c.id)
}

// tell tells all of them. Of a module that is passed on to one of them, it tells only that one.
func (o *observers) tell(e importer.Event) {
	var told []func(importer.Event)
	o.mu.Lock()
	if e.What != importer.Forwarded {
		told = slices.Collect(maps.Values(o.m))
	} else if fn := o.m[pyproto.ContextID(e.Target)]; fn != nil {
		told = append(told, fn)
	}
	o.mu.Unlock()
	for _, fn := range told {
		fn(e)
		e.Repeated = true
	}
}
