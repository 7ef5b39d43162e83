package pool

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/importer"
)

// Conn is one connection of a pool.
type Conn struct {
	// Constant after pick.
	p         *Pool
	key       string
	sourceKey string
	target    string
	fresh     bool
	im        *importer.Importer
	ready     chan struct{} // closed when child or err is set
	giveUp    context.CancelFunc
	total     *total

	// Set before ready is closed, constant after that.
	child     *daemon.Child
	err       error
	connected time.Time

	// Logs bounds what the connection's children log to the daemon's own log.
	Logs daemon.LogLimit

	shown           atomic.Pointer[string] // the first of names
	calls, failures atomic.Int64

	// Guarded by p.mu.
	names     []string
	refs      int
	joined    bool
	closed    bool
	lastUsed  time.Time
	idle      *time.Timer
	running   int       // calls
	progress  time.Time // when the running call was begun, or the one before it ended
	abandoned int       // calls that run and that nobody waits for
	programs  int       // that run

	firstDoing, lastDoing *doing // what runs

	stale bool // a module has changed

	// sentMu protects the following. Nothing is locked under it.
	sentMu   sync.Mutex
	sent     map[string]mark // what the connection was sent, or refused, by name
	contents contents        // stands for all of these
	refused  int             // of those
	checked  *check          // by which all of them are as they were

	// watchMu protects watchers. Nothing is locked under it.
	watchMu  sync.RWMutex
	watchers []*Watcher
}

// Target is the target of the first request.
func (c *Conn) Target() string { return c.target }

// Name is the first name that a request has given it; Target if none has.
func (c *Conn) Name() string {
	if name := c.shown.Load(); name != nil {
		return *name
	}
	return c.target
}

// Chain is Target where that is not the name, and otherwise empty.
func (c *Conn) Chain() string {
	if c.Name() == c.target {
		return ""
	}
	return c.target
}

// maxNames is how many names of a connection are kept.
const maxNames = 16

// call notes a name. p.mu is held.
func (c *Conn) call(name string) {
	if name == "" || name == c.target || len(c.names) == maxNames || slices.Contains(c.names, name) {
		return
	}
	c.names = append(c.names, name)
	c.shown.CompareAndSwap(nil, &name)
}

// called tells whether it is known by that name, or is that target. p.mu is held.
func (c *Conn) called(name string) bool { return c.target == name || slices.Contains(c.names, name) }

// usable tells whether the connection can have one more lease. p.mu is held.
func (c *Conn) usable() bool {
	return !c.closed && !c.stale && c.abandoned == 0 && (c.child == nil || !isDone(c.child))
}

// busy tells whether a call would have to wait for another. p.mu is held.
func (c *Conn) busy() bool { return c.running > 0 && time.Since(c.progress) > busyAfter }

func (c *Conn) watch(w *Watcher) {
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	c.watchers = append(c.watchers, w)
}

func (c *Conn) unwatch(w *Watcher) {
	if w == nil {
		return
	}
	c.watchMu.Lock()
	defer c.watchMu.Unlock()
	if i := slices.Index(c.watchers, w); i >= 0 {
		c.watchers = slices.Delete(c.watchers, i, i+1)
	}
}

func (c *Conn) onOutput(data []byte) {
	c.watchMu.RLock()
	defer c.watchMu.RUnlock()
	for _, w := range c.watchers {
		if w.OnOutput != nil {
			w.OnOutput(c, data)
		}
	}
}

func (c *Conn) onLog(l daemon.Log) {
	c.watchMu.RLock()
	defer c.watchMu.RUnlock()
	for _, w := range c.watchers {
		if w.OnLog != nil {
			w.OnLog(c, l)
		}
	}
}

func (c *Conn) onImport(e importer.Event) {
	c.remember(e)
	c.watchMu.RLock()
	defer c.watchMu.RUnlock()
	for _, w := range c.watchers {
		if w.OnImport != nil {
			w.OnImport(c, e)
		}
	}
}

func (c *Conn) onFailure(took time.Duration, err error) {
	c.watchMu.RLock()
	defer c.watchMu.RUnlock()
	for _, w := range c.watchers {
		if w.OnFailure != nil {
			w.OnFailure(c, took, err)
		}
	}
}

// remember notes what was sent under a name, if it is not known: what it is now where the event does not tell.
func (c *Conn) remember(e importer.Event) {
	name := e.Name
	if len(name) > importer.MaxName {
		return // never served
	}
	c.sentMu.Lock()
	_, known := c.sent[name]
	c.sentMu.Unlock()
	if known {
		return
	}
	m := mark(e.Mark)
	if m == (mark{}) || e.Platform != c.platform() {
		m = markOf(c.importer().Look(c.version()), name)
	}
	if !c.keep(name, m) {
		select {
		case <-c.ready:
			if c.child != nil {
				c.child.Reached("refused names that are looked at when files change", maxRefused)
			}
		default:
		}
	}
}

// keep is false for one more refused name than there may be.
func (c *Conn) keep(name string, m mark) bool {
	c.sentMu.Lock()
	defer c.sentMu.Unlock()
	if c.sent == nil {
		c.sent = map[string]mark{}
	}
	if _, ok := c.sent[name]; ok {
		return true
	}
	if m == (mark{}) {
		if c.refused >= maxRefused {
			return false
		}
		c.refused++
	}
	c.sent[name] = m
	c.contents.add(name, m)
	c.checked = nil
	return true
}

// maxRefused is how many refused names a connection remembers. Beyond that, a name whose module appears does not make
// the connection stale.
const maxRefused = 10000

// importer is what the child is served from.
func (c *Conn) importer() *importer.Importer {
	select {
	case <-c.ready:
		if c.child != nil {
			return c.child.Importer()
		}
	default:
	}
	return c.im
}

// version is the child's, or unknown while it is being connected.
func (c *Conn) version() importer.Version { return c.platform().Version }

// platform is the child's, or unknown while it is being connected.
func (c *Conn) platform() importer.Platform {
	select {
	case <-c.ready:
		if c.child != nil {
			return c.child.Platform()
		}
	default:
	}
	return importer.Platform{}
}

// outdated tells whether something that was sent differs from what would be sent now, or at since. It reads
// directories and files' times, for all connections at once.
func (c *Conn) outdated(since time.Time) bool {
	v := c.version()
	k := c.p.check(c.importer(), v, since)
	c.sentMu.Lock()
	if c.checked == k || len(c.sent) == 0 {
		c.sentMu.Unlock()
		return false
	}
	contents := c.contents
	c.sentMu.Unlock()
	changed := k.changed(contents, func() map[string]mark {
		c.sentMu.Lock()
		defer c.sentMu.Unlock()
		return maps.Clone(c.sent)
	})
	c.sentMu.Lock()
	defer c.sentMu.Unlock()
	if !changed && c.contents == contents {
		c.checked = k
	}
	return changed
}

// Lease is the right to use a connection until Release.
type Lease struct {
	c        *Conn
	watch    *Watcher
	client   int
	name     string
	released atomic.Bool
}

// Child is the connection's child.
func (l *Lease) Child() *daemon.Child { return l.c.child }

// Shared tells whether the connection was made for somebody else.
func (l *Lease) Shared() bool {
	l.c.p.mu.Lock()
	defer l.c.p.mu.Unlock()
	return l.c.joined
}

// Another is one more lease on the connection, whose watchers do not count for it. This one has not been released.
func (l *Lease) Another() *Lease {
	l.c.p.mu.Lock()
	defer l.c.p.mu.Unlock()
	l.c.p.hold(l.c)
	return &Lease{c: l.c, client: l.client, name: l.name}
}

// Release gives the lease back. It may be called more than once.
func (l *Lease) Release() {
	if l.released.CompareAndSwap(false, true) {
		l.c.unwatch(l.watch)
		l.c.p.release(l.c)
	}
}

// Call is a call that was started. Wait has to be called once.
type Call struct {
	*daemon.Tracked
	c *Conn
	w *doing
}

// Start starts a call; see daemon.Child.StartWith. Output that o does not take goes to the watchers.
func (l *Lease) Start(ctx context.Context, o daemon.CallOptions, fn string, args ...any) *Call {
	w := l.begin(KindCall, fn, nil)
	return &Call{l.c.child.StartWith(ctx, o, fn, args...), l.c, w}
}

// Wait waits for the end of the call. If ctx ends first, the call is given up: nobody waits for it any more, and its
// connection gets no new lease until the call has ended.
func (call *Call) Wait(ctx context.Context) *daemon.Result {
	r := call.Result(ctx)
	select {
	case <-call.Done():
		r = call.Result(context.Background())
		call.c.finish(call.w, r.Err() == nil)
	default:
		call.c.abandon(call.w, call.Done(), call.Release)
	}
	return r
}

// Channel is an open channel; see daemon.Channel. Close has to be called.
type Channel struct {
	*daemon.Channel
	c *Conn
	w *doing
}

// Open opens a channel; see daemon.Child.Open.
func (l *Lease) Open(ctx context.Context, o daemon.CallOptions, fn string, args ...any) (*Channel, error) {
	w := l.begin(KindChannel, fn, nil)
	ch, err := l.c.child.Open(ctx, o, fn, args...)
	if err != nil {
		l.c.finish(w, false)
		return nil, err
	}
	return &Channel{ch, l.c, w}, nil
}

// Close gives up the channel, and its function as Call.Wait gives up a call.
func (ch *Channel) Close() {
	ch.Channel.Close()
	select {
	case <-ch.Done():
		ch.c.finish(ch.w, ch.Result(context.Background()).Err() == nil)
	default:
		ch.c.abandon(ch.w, ch.Done(), func() {})
	}
}

// Run runs a program; see daemon.Child.Run. Whatever its status is, one that has run has not failed.
func (l *Lease) Run(ctx context.Context, o daemon.RunOptions) (status daemon.ExitStatus, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := l.begin(KindProgram, cmp.Or(o.Title, o.Path), end)
	defer func() { l.c.finish(w, err == nil) }()
	status, err = l.c.child.Run(ctx, o)
	if err != nil && context.Cause(ctx) == errEnded {
		err = &daemon.DeadError{Target: l.c.child.Name(), Reason: "another request has ended the program", Lost: true}
	}
	return status, err
}

// Info describes a connection.
type Info struct {
	Child     *daemon.Child // nil while it is being connected
	Target    string
	Names     []string // what requests have called it
	Fresh     bool
	Leases    int
	Connected time.Time // the start of the connect until it is done
	LastUsed  time.Time
	Calls     int64 // that have ended; programs and channels included
	Failures  int64
	Running   int
	Programs  int     // running
	Doing     []Doing // of what runs, the first
}

// List describes the connections.
func (p *Pool) List() []Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Info, 0, len(p.all))
	for c := range p.all {
		i := Info{
			Child: c.child, Target: c.target, Names: slices.Clone(c.names), Fresh: c.fresh,
			Leases: c.refs, Connected: c.connected, LastUsed: c.lastUsed,
			Calls: c.calls.Load(), Failures: c.failures.Load(), Running: c.running, Programs: c.programs,
			Doing: c.list(),
		}
		if c.child == nil {
			i.Connected = c.lastUsed
		}
		out = append(out, i)
	}
	return out
}

// Watch adds a watcher until the lease is released or stop is called.
func (l *Lease) Watch(w *Watcher) (stop func()) {
	l.c.watch(w)
	return func() { l.c.unwatch(w) }
}

// Conn is the connection, for how it is called.
func (l *Lease) Conn() *Conn { return l.c }

// Source is what is served to requests that do not say it.
func (p *Pool) Source() importer.Options {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opt.Source
}
