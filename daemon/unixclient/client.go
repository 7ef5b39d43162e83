package unixclient

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/daemon/service"
	"mitogend/pyproto"
)

// closeTime is how long the children of a client that has gone get to leave.
const closeTime = 10 * time.Second

// client is one program that is connected.
type client struct {
	// Constant after attached.
	s    *Server
	id   pyproto.ContextID
	pid  int
	peer *daemon.Peer
	up   chan struct{} // closed by attached

	ctx  context.Context // ends with the client
	slot chan struct{}   // one for each connect under way
	wg   sync.WaitGroup  // connects

	own struct {
		once    sync.Once
		python  []string
		version uint32 // the interpreter's sys.hexversion; 0 where it is not known
		runtime *daemon.Runtime
		err     error
	}
	modules   modules
	resources resources
	files     *service.Files

	ownServices atomic.Bool // what its children ask of context 0 is the client's to answer

	// mu protects the following. Server.mu may be taken under it.
	mu       sync.Mutex
	children map[pyproto.ContextID]*daemon.Child
	gone     bool
}

func newClient(ctx context.Context, s *Server, pid int) *client {
	c := &client{
		s: s, pid: pid, ctx: ctx, up: make(chan struct{}), slot: make(chan struct{}, s.opt.MaxConnects),
		children: map[pyproto.ContextID]*daemon.Child{},
	}
	c.modules.init(c)
	c.resources.init(c)
	c.files = service.New(ctx, s.d)
	return c
}

func (c *client) attached(p *daemon.Peer) {
	c.peer = p
	close(c.up)
}

// add records a child, until that is gone; false says that the client has gone meanwhile.
func (c *client) add(child *daemon.Child) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	c.children[child.ID()] = child
	c.s.own(child.ID(), c)
	c.wg.Go(func() { c.watch(child) }) // mu is held: end waits after gone is set
	return true
}

// end closes what only this client has used, and waits until it is gone.
func (c *client) end() {
	c.modules.end()
	c.resources.end()
	c.files.Close()
	c.mu.Lock()
	c.gone = true
	list := make([]*daemon.Child, 0, len(c.children))
	for _, child := range c.children {
		list = append(list, child)
	}
	c.mu.Unlock()
	c.wg.Wait()
	others := c.s.others(c)
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, child := range list {
		heir := slices.IndexFunc(others, func(o *client) bool { return o.uses(child.ID()) })
		if heir >= 0 && others[heir].add(child) {
			continue
		}
		wg.Go(func() {
			_ = child.Close(ctx)
			c.s.own(child.ID(), nil)
		})
	}
	wg.Wait()
}

// uses tells whether the client has talked to a context.
func (c *client) uses(id pyproto.ContextID) bool { return c.isUp() && c.peer.HasSentTo(id) }

// isUp tells whether the peer is set.
func (c *client) isUp() bool {
	select {
	case <-c.up:
		return true
	default:
		return false
	}
}

// runtime gives the client's own Mitogen and the command of its interpreter.
func (c *client) runtime() (*daemon.Runtime, []string, error) {
	c.own.once.Do(func() {
		p, err := inspect(c.pid)
		if err == nil {
			c.own.python = p.python
			c.own.runtime, c.own.version, err = c.s.runtimes.ask(c.ctx, p)
		}
		if dir := c.modules.mitogenAt(c.ctx); filepath.Base(dir) == "mitogen" &&
			(err != nil || c.own.runtime.Dir != filepath.Dir(dir)) {
			if r, e := c.s.runtimes.load(dir); e == nil {
				c.own.runtime, err = r, nil
			}
		}
		if err != nil && c.s.opt.Runtime != nil {
			c.s.log.Info("a client's own Mitogen was not found", zap.Int("pid", c.pid), zap.Error(err))
			c.own.runtime, err = c.s.opt.Runtime, nil
		}
		c.own.err = err
	})
	return c.own.runtime, c.own.python, c.own.err
}

// runtimes are the installations that were read, by what led to them.
type runtimes struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[string]*daemon.Runtime
}

// ask finds the Mitogen that a process like this one imports. The interpreter is asked each time, since what it finds
// may change; what is found in the same place is read once, as long as it is of the same version.
func (t *runtimes) ask(ctx context.Context, p *process) (*daemon.Runtime, uint32, error) {
	cmd := exec.CommandContext(ctx, p.python[0], p.python[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	r, version, err := daemon.AskRuntime(ctx, cmd)
	if err != nil {
		return nil, 0, err
	}
	return t.same(r), version, nil
}

// load reads the Mitogen in a directory.
func (t *runtimes) load(dir string) (*daemon.Runtime, error) {
	r, err := daemon.LoadRuntime(dir)
	if err != nil {
		return nil, err
	}
	return t.same(r), nil
}

// same gives what was read before if it is the same.
func (t *runtimes) same(r *daemon.Runtime) *daemon.Runtime {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := r.Dir + " " + r.String() + " " + r.Digest()
	if known := t.m[key]; known != nil {
		return known
	}
	if t.m == nil {
		t.m = map[string]*daemon.Runtime{}
	}
	t.m[key] = r
	return r
}
