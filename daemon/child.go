package daemon

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"mitogend/importer"
	"mitogend/pyproto"
)

// Child is a Python interpreter that this daemon connected. It is safe for concurrent use.
type Child struct {
	// Constant after Connect.
	d         *Daemon
	id        pyproto.ContextID
	name      string
	method    string
	opt       ConnectOptions
	runtime   *Runtime // nil when it runs ours
	debug     bool     // of a stock child
	profiling bool     // of a stock child
	via       *Child   // nil when the connection is our own
	stream    *stream  // its own, or the one that it is behind
	// responder serves its modules, and those of all behind it up to the next that has its own: the children of the
	// daemon itself do, and those whose runtime is another than that of the child before them.
	responder      *importer.Responder
	ownResponder   bool
	hexVersion     atomic.Uint32
	unidirectional bool
	platform       atomic.Pointer[importer.Platform] // what it has said of itself, see learn
	asking         turn                              // of who asks it
	guarded        atomic.Bool                       // a process of its own was told to watch over the child
	guarding       turn                              // of who tells it

	launcher atomic.Uint32 // the handle that starts children behind this one; 0 until it is asked for
	hop      *hop          // what of via is in use by this child; nil if it does not keep it

	arrivals arrivals // behind a stock child

	supplying few[pyproto.ContextID, *supplying] // of children that it launches and that may be sent Python

	closing   atomic.Bool           // by us
	closed    chan struct{}         // when the child is out of the tree
	pushed    few[string, struct{}] // modules whose closure is sent, or being sent
	tracked   tracked
	observers observers     // of the modules that go over the connection, where it is our own
	left      sync.Once     // hop is given back
	leaving   chan struct{} // closed when that is done

	// mu protects the following. Nothing is locked under it.
	mu       sync.Mutex
	reason   string              // why it is out of the tree
	noRoute  error               // why its route was refused
	starting starting            // of children on its machine; empty before the first
	early    []string            // modules that were asked for before there was a responder
	starter  *importer.Responder // until then, where another child has started it

	earlyBytes int // of early
}

// turn is a lock that is held while something is waited for, and is waited for with a context. It takes no memory of its
// own before it is first taken.
type turn struct {
	// mu protects c. Nothing is locked under it.
	mu sync.Mutex
	c  chan struct{} // has what holds the turn; constant once it is there
}

func (t *turn) take(ctx context.Context) error {
	t.mu.Lock()
	if t.c == nil {
		t.c = make(chan struct{}, 1)
	}
	c := t.c
	t.mu.Unlock()
	select {
	case c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end is for who has taken it.
func (t *turn) end() { <-t.c }

// errClosed ends a stream that was closed from here.
var errClosed = errors.New("closed")

// ID is the child's context id.
func (c *Child) ID() pyproto.ContextID { return c.id }

// Name is the child's name in logs: ConnectOptions.Name, or its target.
func (c *Child) Name() string { return c.name }

// String is Name.
func (c *Child) String() string { return c.name }

// Via is the child that this one is behind, or nil.
func (c *Child) Via() *Child { return c.via }

// Version is the child's Python.
func (c *Child) Version() importer.Version {
	hex := c.hexVersion.Load()
	return importer.Version{Major: int(hex >> 24), Minor: int(hex >> 16 & 0xff)}
}

func (c *Child) setVersion(hex uint32) { c.hexVersion.Store(hex) }

// Done is closed when the child is gone.
func (c *Child) Done() <-chan struct{} { return c.closed }

// end marks the child as gone, once. Called by who took it out of the tree.
func (c *Child) end(reason string) {
	c.mu.Lock()
	if isClosed(c.closed) {
		c.mu.Unlock()
		return
	}
	if c.reason == "" {
		c.reason = reason
	}
	r, own := c.responder, c.ownResponder
	close(c.closed)
	c.mu.Unlock()
	switch {
	case r == nil:
	case own:
		r.Close()
	default:
		r.Forget(uint32(c.id))
	}
	if own && c.via != nil && c.via.responder != nil {
		c.via.responder.Forget(uint32(c.id))
	}
	c.leaveHop()
}

// refuseRoute notes why the route of a child that is being started was refused.
func (c *Child) refuseRoute(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noRoute = why
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (c *Child) gone() error {
	if !isClosed(c.closed) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &DeadError{Target: c.name, Reason: c.reason, Lost: !c.closing.Load()}
	if c.d.alive.Err() != nil {
		e.cause = ErrShutdown
	}
	return e
}

// Close ends the child and everything behind it, and waits until its process is reaped: by us or, behind a hop, by the
// child that started it. The hops on the way to it end with the last child that was connected through them. When ctx
// ends before, the process is killed, at once or, behind a hop, by that hop within a few seconds; a hop that does not
// answer is not waited for, and not shared any more if it had the time for that.
func (c *Child) Close(ctx context.Context) error {
	c.closing.Store(true)
	if c.via == nil {
		c.stream.shut()
		select {
		case <-c.stream.ended:
			return nil
		case <-ctx.Done():
			c.stream.proc.Kill()
			<-c.stream.ended
			return ctx.Err()
		}
	}
	return c.endBehind(ctx, "it was closed, and the hop before it has not ended it")
}

// answerTime is how long a hop must have had, at least, to answer an order to end a child before it counts as silent.
const answerTime = 2 * time.Second

// endBehind has the hop before the child end it, and waits until it is gone. When ctx ends before, the child is taken
// out of the tree for that reason, and gives its hop back: another that waits for the same would hold it for ever.
func (c *Child) endBehind(ctx context.Context, reason string) error {
	asked := time.Now()
	answered, err := c.via.endLaunched(ctx, c)
	for _, done := range []func() <-chan struct{}{c.Done, c.leaveHop} {
		if err != nil {
			break
		}
		select {
		case <-done():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil {
		return nil
	}
	if !answered && c.hop != nil && time.Since(asked) >= c.d.answerTime {
		c.hop.distrust()
	}
	c.via.abandonLaunched(c)
	c.giveUp(reason)
	return err
}

// giveUp takes a child that nobody ends, and the children behind it, out of the tree, and tells those that may wait for
// them. Their routes stay until the hop reports their end, or is gone itself.
func (c *Child) giveUp(reason string) {
	gone := map[pyproto.ContextID]bool{}
	c.stream.eachChild(func(x *Child) {
		if !x.isBehind(c) || !x.lose(reason) {
			return
		}
		gone[x.id] = true
		if x.via != nil {
			c.d.takeBack(c.stream, x.via.id, x.id)
		}
		c.d.openGate(x.id)
	})
	c.d.handles.drop(gone, reason)
	c.d.tellEnd(c.stream, gone)
}

// shut ends a stream from here.
func (s *stream) shut() { s.fail(errClosed) }

// fail gives the child up, and with it all behind it.
func (c *Child) fail(err error) {
	if c.via == nil {
		c.stream.fail(err)
		return
	}
	c.d.log.Warn("a child is given up", zap.String("target", c.name), zap.Error(err))
	if c.d.enter() == nil {
		go func() {
			defer c.d.wg.Done()
			ctx, cancel := context.WithTimeout(c.d.ctx, closeTime)
			defer cancel()
			_ = c.endBehind(ctx, err.Error())
		}()
	}
}
