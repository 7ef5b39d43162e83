package pool

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/importer"
)

// Options configure a pool.
type Options struct {
	// Source says what is served to requests that do not say it.
	Source importer.Options
	// PythonFrom fills in what a request leaves open in its own.
	PythonFrom daemon.PythonFrom
	// Idle is how long a connection that nobody uses is kept; 0 means DefaultIdle, less than 0 not at all.
	Idle time.Duration
	// Max is how many connections there may be before those that nobody uses are closed; 0 means DefaultMax().
	Max int
	// PerTarget is how many connections with one target are made when calls on it take long; 0 means DefaultPerTarget.
	PerTarget int
	Logger    *zap.Logger
	// Watch is told what happens on every connection. May be nil.
	Watch *Watcher
}

// Defaults of Options.
const (
	DefaultIdle      = 10 * time.Minute
	DefaultPerTarget = 4
)

// Timing that is not worth an option.
const (
	// A call that has been running for this long makes its connection a busy one.
	busyAfter = 200 * time.Millisecond
	// A connection that is lost within this time counts as a failed connect.
	shortLived = 5 * time.Second
	// The pause after the first failure, which doubles with each, and its limit.
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
	// How often a connect is tried again that lacked descriptors.
	maxTries = 3
	// How long a child gets to leave by itself.
	closeTime = 5 * time.Second
)

// Watcher is told what happens on a connection. The functions may be nil, are called from any goroutine and must not
// block.
type Watcher struct {
	OnOutput func(c *Conn, data []byte)
	OnLog    func(c *Conn, l daemon.Log)
	OnImport func(c *Conn, e importer.Event)
	// OnFailure is told of a connect that has failed, unless nobody waits for it any more.
	OnFailure func(c *Conn, took time.Duration, err error)
}

// Pool is a set of shared connections. It is safe for concurrent use.
type Pool struct {
	d           *daemon.Daemon
	log         *zap.Logger
	newImporter func(importer.Options) (*importer.Importer, error) // of d

	ctx    context.Context // ends with Shutdown
	cancel context.CancelFunc
	closes context.Context // when it ends, what is being closed is killed
	kill   context.CancelFunc

	// mu protects the following.
	mu      sync.Mutex
	opt     Options
	down    bool
	gen     int // of opt.Source
	byKey   map[string][]*Conn
	all     map[*Conn]bool
	byID    map[uint32]*Conn // those of all that have a child
	pauses  map[string]*pause
	sources map[string]*source
	ghosts  map[string]time.Time // when connections were last used that were closed for want of room
	told    time.Time            // when the log last said that there are too few

	totals      map[string]*total // by name
	unconnected *list.List        // those without a connection, the oldest first

	lastDoing uint64 // the number of what was begun last

	// checkMu protects checks: the last of each importer. Nothing is locked under it.
	checkMu sync.Mutex
	checks  map[checkKey]*check

	// Add only with mu held and down false, or from a goroutine that it counts.
	wg sync.WaitGroup
}

// pause is how long a target that fails has to wait.
type pause struct {
	failures int
	length   time.Duration
	until    time.Time
}

// source is an importer that is shared by connections.
type source struct {
	im   *importer.Importer
	refs int
}

// New makes a pool of the daemon's children.
func New(d *daemon.Daemon, opt Options) (*Pool, error) {
	p := &Pool{
		d: d, log: opt.Logger, newImporter: d.NewImporter,
		byKey: map[string][]*Conn{}, all: map[*Conn]bool{}, byID: map[uint32]*Conn{}, ghosts: map[string]time.Time{},
		pauses: map[string]*pause{}, sources: map[string]*source{}, checks: map[checkKey]*check{},
		totals: map[string]*total{}, unconnected: list.New(),
	}
	if p.log == nil {
		p.log = zap.NewNop()
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.closes, p.kill = context.WithCancel(context.Background())
	return p, p.Configure(opt)
}

// Configure takes new options; Logger and Watch stay what New was given. Connections stay as they are, but those that
// nobody uses are kept for the new time. One that was made with another default source goes only to requests that name a
// source of their own.
func (p *Pool) Configure(opt Options) error {
	if _, err := p.d.NewImporter(opt.Source); err != nil {
		return err
	}
	if opt.Idle == 0 {
		opt.Idle = DefaultIdle
	}
	if opt.Max <= 0 {
		opt.Max = DefaultMax()
	}
	if opt.PerTarget <= 0 {
		opt.PerTarget = DefaultPerTarget
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if opt.Watch == nil {
		opt.Watch = p.opt.Watch
	}
	if sourceKey(&opt.Source) != sourceKey(&p.opt.Source) {
		p.gen++
	}
	p.opt = opt
	for c := range p.all {
		switch {
		case c.idle == nil: // it is used
		case opt.Idle < 0:
			p.close(c)
		default:
			p.keep(c)
		}
	}
	p.trim(0)
	return nil
}

// Get gives a lease on a child for a request. An error of connecting is that of daemon.ConnectHops.
func (p *Pool) Get(ctx context.Context, r Request) (*Lease, error) {
	var made made
	for {
		c, found, wait, err := p.pick(&r, &made)
		if errors.Is(err, errNoSource) {
			made.im, err = p.newImporter(made.opt)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		if c == nil {
			if err := sleep(ctx, wait); err != nil {
				return nil, err
			}
			continue
		}
		if r.Watch != nil {
			c.watch(r.Watch)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			c.unwatch(r.Watch)
			p.release(c)
			return nil, context.Cause(ctx)
		}
		if c.err != nil {
			c.unwatch(r.Watch)
			p.release(c)
			return nil, c.err
		}
		if found && c.outdated(r.Since) {
			p.mu.Lock()
			c.stale = true
			p.mu.Unlock()
			c.unwatch(r.Watch)
			p.release(c)
			continue
		}
		return &Lease{c: c, watch: r.Watch, client: r.Client, name: cmp.Or(r.Name, r.Target)}, nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pick gives a connection that is there or being made, counted for the caller; or how long to wait before one is
// made. errNoSource says that m has what to make first.
func (p *Pool) pick(r *Request, m *made) (c *Conn, found bool, wait time.Duration, err error) {
	full := 0
	defer func() {
		if full > 0 { // no log is written under a lock
			p.log.Warn("more targets are used than max_connections allows, so some are connected anew each time; raise it",
				zap.Int("max_connections", full), zap.String("target", r.Target))
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, false, 0, daemon.ErrShutdown
	}
	sk := r.sourceKey()
	if r.Source == nil {
		sk = fmt.Sprint(p.gen)
	}
	key := r.key(sk)
	if !r.Fresh {
		if c = p.share(key); c != nil {
			p.hold(c)
			c.call(r.Name)
			c.joined = true
			return c, true, 0, nil
		}
		if q := p.pauses[key]; q != nil {
			if wait = time.Until(q.until); wait > 0 {
				return nil, false, wait, nil
			}
		}
	}
	im, err := p.source(sk, r.Source, m)
	if err != nil {
		return nil, false, 0, err
	}
	c = &Conn{p: p, key: key, sourceKey: sk, target: r.Target, fresh: r.Fresh, im: im, ready: make(chan struct{}),
		lastUsed: time.Now()}
	if p.opt.Watch != nil {
		c.watchers = []*Watcher{p.opt.Watch}
	}
	c.call(r.Name)
	c.total = p.join(cmp.Or(r.Name, r.Target))
	p.all[c] = true
	if !r.Fresh {
		p.byKey[key] = append(p.byKey[key], c)
	}
	p.hold(c)
	ago, tell := p.again(key)
	if tell {
		full = p.opt.Max
	}
	p.trim(ago)
	var connecting context.Context
	connecting, c.giveUp = context.WithCancel(p.ctx)
	p.wg.Go(func() { p.connect(connecting, c, *r, im) })
	return c, false, 0, nil
}

// share finds a connection for one more lease. mu is held.
func (p *Pool) share(key string) *Conn {
	var best *Conn
	usable, busy := 0, true
	for _, c := range p.byKey[key] {
		if !c.usable() {
			continue
		}
		usable++
		b := c.busy()
		if best == nil || busy && !b || busy == b && c.refs < best.refs {
			best, busy = c, b
		}
	}
	if best != nil && busy && usable < p.opt.PerTarget {
		return nil
	}
	return best
}

// made is an importer that was made for a request. No lock was held, since that may read files.
type made struct {
	key string
	opt importer.Options
	im  *importer.Importer
}

// errNoSource says what to make: there is none yet.
var errNoSource = errors.New("no importer")

// source gives the importer for a key, counted. mu is held.
func (p *Pool) source(key string, opt *importer.Options, m *made) (*importer.Importer, error) {
	s := p.sources[key]
	if s == nil {
		if m.im == nil || m.key != key {
			if opt == nil {
				opt = &p.opt.Source
			}
			*m = made{key: key, opt: *opt}
			return nil, errNoSource
		}
		s = &source{im: m.im}
		p.sources[key] = s
	}
	s.refs++
	return s.im, nil
}

func (p *Pool) hold(c *Conn) {
	c.refs++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
}

// connect makes a connection, and is its goroutine.
func (p *Pool) connect(ctx context.Context, c *Conn, r Request, im *importer.Importer) {
	started, from := time.Now(), r.PythonFrom
	p.mu.Lock()
	if len(from.Builds) == 0 {
		from.Builds = p.opt.PythonFrom.Builds
	}
	if from.Dir == "" {
		from.Dir = p.opt.PythonFrom.Dir
	}
	from.Keep = from.Keep || p.opt.PythonFrom.Keep
	p.mu.Unlock()
	opt := daemon.ConnectOptions{
		Name: r.Name, Python: r.Python, PythonFrom: from, Timeout: r.Timeout, Importer: im,
		PreferHere: r.PreferHere, Bytecode: r.Bytecode, Env: r.Env,
		Policy: r.Policy,
		Secrets: func(hop int, _ string) (string, bool) {
			password, ok := r.Passwords[hop]
			return password, ok
		},
		OnOutput: c.onOutput, OnLog: c.onLog, OnImport: c.onImport,
	}
	if r.local() {
		opt.Dir = r.Dir
	}
	child, err := p.d.ConnectHops(ctx, r.Target, r.hops(), opt)
	for try := 0; try < maxTries && err != nil && ctx.Err() == nil && p.shed(ctx, err); try++ {
		child, err = p.d.ConnectHops(ctx, r.Target, r.hops(), opt)
	}
	p.mu.Lock()
	given := ctx.Err() != nil // nobody waits any more
	c.child, c.err, c.connected = child, err, time.Now()
	if err != nil {
		p.forget(c)
		if !given {
			p.failed(c.key)
		}
	}
	if err == nil && p.all[c] {
		p.byID[uint32(child.ID())] = c
	}
	close(c.ready)
	gone := err == nil && (c.closed || isDone(child))
	if err == nil && c.refs == 0 && !gone {
		// The last who waited has left just now.
		p.rest(c)
	}
	p.mu.Unlock()
	c.giveUp()
	if err != nil && !given {
		c.onFailure(time.Since(started), err)
	}
	if gone {
		p.end(c)
	}
}

func isDone(c *daemon.Child) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// failed makes the next connect wait. mu is held.
func (p *Pool) failed(key string) {
	q := p.pauses[key]
	if q == nil {
		q = &pause{}
		p.pauses[key] = q
	}
	if time.Since(q.until) > 2*q.length+time.Second {
		q.failures = 0 // nobody hammers at it
	}
	q.length = min(firstPause<<min(q.failures, 10), maxPause)
	q.failures++
	q.until = time.Now().Add(q.length)
	for k, other := range p.pauses {
		if time.Since(other.until) > 6*maxPause {
			delete(p.pauses, k)
		}
	}
}

// Event must be told what daemon.Options.OnEvent is told. It adds the connection's name.
func (p *Pool) Event(e *daemon.Event) {
	if e.Kind != daemon.Lost && e.Kind != daemon.Closed {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.byID[uint32(e.ID)]
	if c == nil {
		return
	}
	p.forget(c)
	// By now the first to use it may have given it a name.
	if name := c.Name(); name != c.target {
		e.Target, e.Chain = name, c.target
	}
	if e.Kind == daemon.Lost && time.Since(c.connected) < shortLived {
		p.failed(c.key)
	} else if e.Kind == daemon.Lost {
		delete(p.pauses, c.key)
	}
}

// forget takes a connection out of the tables. mu is held.
func (p *Pool) forget(c *Conn) {
	if !p.all[c] {
		return
	}
	delete(p.all, c)
	p.leave(c.total)
	if c.child != nil {
		delete(p.byID, uint32(c.child.ID()))
	}
	list := slices.DeleteFunc(p.byKey[c.key], func(x *Conn) bool { return x == c })
	if p.byKey[c.key] = list; len(list) == 0 {
		delete(p.byKey, c.key)
	}
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	if s := p.sources[c.sourceKey]; s != nil {
		if s.refs--; s.refs == 0 {
			delete(p.sources, c.sourceKey)
		}
	}
}

// release takes a lease back.
func (p *Pool) release(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.refs--
	c.lastUsed = time.Now()
	if c.refs > 0 || !p.all[c] {
		return
	}
	select {
	case <-c.ready:
		p.rest(c)
	default:
		c.giveUp()
		p.forget(c)
		c.closed = true
	}
}

// rest is for a connection that nobody uses any more. mu is held.
func (p *Pool) rest(c *Conn) {
	switch {
	case c.fresh || c.stale || c.running > 0 || p.opt.Idle < 0:
		p.close(c)
	default:
		p.keep(c)
		p.trim(0)
	}
}

// keep closes a connection that nobody uses when that has been so for Idle, even if some of it has passed. mu is held.
func (p *Pool) keep(c *Conn) {
	if c.idle != nil {
		c.idle.Stop()
	}
	var timer *time.Timer
	timer = time.AfterFunc(p.opt.Idle-time.Since(c.lastUsed), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c.idle == timer { // otherwise it was used since, or has another time
			p.close(c)
		}
	})
	c.idle = timer
}

// close ends a connection in the background. mu is held.
func (p *Pool) close(c *Conn) {
	p.forget(c)
	c.closed = true
	if p.down || c.child == nil {
		return // Close, or connect, sees to it
	}
	p.wg.Go(func() { p.end(c) })
}

// end closes a child and waits until it is gone.
func (p *Pool) end(c *Conn) {
	ctx, cancel := context.WithTimeout(p.closes, closeTime)
	defer cancel()
	if err := c.child.Close(ctx); err != nil && ctx.Err() == nil {
		p.log.Warn("closing", zap.String("target", c.target), zap.Error(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(c)
}

// Match says which connections are meant. Exactly one of its fields is set.
type Match struct {
	ID     uint32 // a context
	Target string // or a name of it
	Idle   bool   // those that nobody uses
	All    bool
}

// Close ends connections, whoever uses them, waits until they are gone, and tells how many they were.
func (p *Pool) Close(ctx context.Context, m Match) (int, error) {
	var wanted []*Conn
	p.mu.Lock()
	for c := range p.all {
		if c.child == nil {
			continue
		}
		if m.All || m.Idle && c.refs == 0 || m.ID != 0 && uint32(c.child.ID()) == m.ID ||
			m.Target != "" && c.called(m.Target) {
			wanted = append(wanted, c)
		}
	}
	for _, c := range wanted {
		p.close(c)
	}
	p.mu.Unlock()
	for _, c := range wanted {
		if err := gone(ctx, c.child); err != nil {
			return len(wanted), err
		}
	}
	return len(wanted), nil
}

// Shutdown gives up connects, refuses new leases and waits for what is being closed, which is killed when ctx ends. The
// children that are left are ended by the daemon's own Shutdown, at once.
func (p *Pool) Shutdown(ctx context.Context) {
	defer context.AfterFunc(ctx, p.kill)()
	p.mu.Lock()
	p.down = true
	for c := range p.all {
		if c.idle != nil {
			c.idle.Stop()
		}
	}
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}
