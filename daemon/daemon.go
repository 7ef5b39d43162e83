package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/importer/requirements"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
	"mitogend/python"
)

// Daemon is a master: context 0 of a tree of Python interpreters. It is safe for concurrent use. Several daemons in one
// process are independent.
type Daemon struct {
	// Constant after New, but for fixed, which is constant after the first Connect.
	opt      Options
	log      *zap.Logger // it writes to opt.Logger
	importer *importer.Importer
	handles  *handles
	fixed    map[pyproto.Handle]func(*Incoming)

	// The last numbers that were given out; see ids.go.
	lastID, lastAsked, lastPeer atomic.Uint32
	accounts                    idAccounts
	detached                    detached

	routes   routes
	streams  sync.Map // *stream to nil
	children children
	programs sync.Map // pyproto.ContextID to *Child, of those that run
	talkers  talkers
	gates    sync.Map // pyproto.ContextID to *gate, of contexts that take no messages now

	hops     hops
	supplies supplies
	starting starting // constant after New
	runtimes runtimes
	boots    boots
	refused  atomic.Int64 // messages that their senders had no right to send
	assembly *Assembly    // constant after New
	// These are constant after New. Tests change them.
	launchGrace, answerTime, sharePatience, lastWrite time.Duration

	bounded  atomic.Int64 // how often a peer has come to a bound
	printing atomic.Int64 // how many programs run

	ctx    context.Context // ends with Shutdown
	cancel context.CancelCauseFunc
	// alive ends when Shutdown begins; every connect ends with it.
	alive context.Context
	die   context.CancelFunc

	// mu protects the following. Nothing is locked under it.
	mu   sync.Mutex
	down bool

	// wg counts every goroutine of the daemon. Add only with mu held and down false, or from a goroutine that it
	// counts.
	wg sync.WaitGroup
}

// New makes a daemon. It reads nothing of the path yet, and starts nothing.
func New(opt Options) (*Daemon, error) {
	opt.setDefaults()
	d := &Daemon{opt: opt, log: slogzap.Zap(opt.Logger), fixed: map[pyproto.Handle]func(*Incoming){}}
	d.handles = newHandles(d.leadsTo)
	d.lastAsked.Store(firstAsked - 1)
	d.lastPeer.Store(firstPeer)
	var err error
	if d.importer, err = d.NewImporter(importer.Options{Path: opt.Path, Modules: opt.Modules, Venv: opt.Venv, Policy: opt.Policy}); err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	d.alive, d.die = context.WithCancel(d.ctx)
	d.hops.m = map[hopKey]*hop{}
	d.starting = startingHere()
	memory := max(minAssembly, 4*int64(opt.MaxMessage))
	d.assembly = newAssembly(memory, d.reachedTogether("bytes of messages that came in part, of all together", memory))
	d.launchGrace, d.answerTime, d.sharePatience, d.lastWrite = launchGrace, answerTime, sharePatience, lastWrite
	return d, nil
}

// runtimeModules has the parts of the child runtime, for all importers.
var runtimeModules = sync.OnceValue(func() map[string]importer.Virtual {
	modules := map[string]importer.Virtual{}
	for name, m := range python.Modules() {
		modules[name] = importer.NewVirtual(m.Path, false, func() []byte { return []byte(m.Text()) })
	}
	return modules
})

// NewImporter makes an importer for ConnectOptions.Importer. It serves what opt says, and the parts of the child
// runtime that a child fetches when it needs them.
func (d *Daemon) NewImporter(opt importer.Options) (*importer.Importer, error) {
	opt.Logger = d.opt.Logger
	opt.Fetch = func(ctx context.Context, r importer.Requirements, p importer.Platform) (string, error) {
		return requirements.Fetch(ctx, r, p, bootstrap.WithoutSecrets(os.Environ()))
	}
	opt.Virtual = runtimeModules()
	opt.Reserved = map[string]string{
		"mitogen": "not part of the embedded child runtime; --runtime mitogen gives the child all of the Mitogen installed here",
	}
	im, err := importer.New(opt)
	if err != nil {
		return nil, errorf("%w", err)
	}
	return im, nil
}

func (d *Daemon) child(id pyproto.ContextID) *Child {
	c, _ := d.children.Load(id)
	return c
}

// enter counts one more goroutine, unless the daemon is down.
func (d *Daemon) enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return ErrShutdown
	}
	d.wg.Add(1)
	return nil
}

// run runs a function in a goroutine that Shutdown waits for.
func (d *Daemon) run(fn func()) error {
	if err := d.enter(); err != nil {
		return err
	}
	go func() {
		defer d.wg.Done()
		fn()
	}()
	return nil
}

// closeTime is how long a connection that nobody wants any more gets to end.
const closeTime = 5 * time.Second

// config is the configuration of the child runtime.
func (c *Child) config() map[string]any {
	config := map[string]any{"context_id": int(c.id), "parent_ids": c.parentIDs()}
	if c.d.opt.MaxMessage != pyproto.DefaultMaxMessage {
		config["max_message_size"] = c.d.opt.MaxMessage
	}
	if c.opt.LogLevel > 0 {
		config["log_level"] = c.opt.LogLevel
	}
	if places := c.Importer().Path(); len(places) > 0 {
		config["path"] = someOf(places)
	}
	return config
}

// parentIDs are the contexts from the child's parent up to the daemon, which is 0.
func (c *Child) parentIDs() (ids []int) {
	for p := c.via; p != nil; p = p.via {
		ids = append(ids, int(p.id))
	}
	return append(ids, 0)
}

// someOf says where was looked, for the error of an import, as far as it fits on a line.
func someOf(places []string) string {
	const most = 3
	text := strings.Join(places[:min(most, len(places))], ", ")
	if len(places) > most {
		text += fmt.Sprintf(" and %d more places", len(places)-most)
	}
	return printable.Line(text)
}

// start runs a plan on this machine and takes the child into the tree.
func (d *Daemon) start(ctx context.Context, c *Child, plan *bootstrap.Plan) error {
	proc, err := bootstrap.Start(ctx, plan, bootstrap.StartOptions{
		Preamble: c.preamble,
		Output: func(line string, ready bool) {
			if ready {
				d.onLog(c, c.id, []byte("stdio\x0020\x00"+line+"\n"))
			}
		},
		Dir: c.opt.Dir,
		Env: c.opt.Env,
	})
	if err != nil {
		return err
	}
	c.setVersion(proc.HexVersion)
	s, err := d.newStream(c.id, c.name, proc.Reader(), proc.Writer())
	if err == nil {
		s.proc = proc
		s.old = c.runtime != nil && c.runtime.Old()
		s.unidirectional = c.unidirectional
		c.stream = s
		if err = c.newResponder(); err == nil {
			err = d.enter()
		}
	}
	if err != nil {
		if c.ownResponder {
			c.responder.Close()
		}
		_ = proc.Close(ctx)
		return err
	}
	d.children.Store(c.id, c)
	d.streams.Store(s, nil)
	d.routes.add(c.id, s)
	go s.readLoop(proc.Buffered())
	if d.alive.Err() != nil {
		s.shut()
	}
	return nil
}

// teardown takes a stream out of the tree: waiters learn why, then the process is ended and reaped. The stream's
// readLoop calls it.
func (d *Daemon) teardown(s *stream) {
	reason := "the connection was lost: " + s.failure().Error()
	if s.proc != nil && !errors.Is(s.failure(), errClosed) {
		if s.proc.AwaitExit(context.Background()) {
			if status := s.proc.ExitStatus(); status != "" && status != "exit status 0" {
				reason = "the connection was lost: Python ended with " + status
				if said := s.proc.OwnEnd(); said != "" {
					reason = "the connection was lost: " + said
				}
			}
		}
	}
	d.streams.Delete(s)
	d.talkers.leave(s)
	d.lost(s, d.behind(s), reason)
	d.endUnrouted(s, reason)
	if s.proc != nil {
		_ = s.proc.Close(d.closing())
	} else {
		_ = s.r.Close()
		if s.w != s.r {
			_ = s.w.Close()
		}
	}
}

// lost takes contexts that were reached through s out of the tree.
func (d *Daemon) lost(s *stream, ids []pyproto.ContextID, reason string) {
	for _, id := range ids {
		if c := s.childOf(id); c != nil {
			c.lose(reason)
		}
	}
	d.dropRoutes(s, ids, reason)
}

// ended tells that a child is out of the tree.
func (d *Daemon) ended(c *Child, reason string) {
	kind := Lost
	if c.closing.Load() {
		kind = Closed
	}
	d.event(kind, c, reason)
}

// connecting counts a connect as a goroutine of the daemon. The context that it gives ends with Shutdown as well.
// done has to be called afterwards.
func (d *Daemon) connecting(ctx context.Context) (_ context.Context, done func(), err error) {
	if err := d.enter(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.alive, cancel)
	return ctx, func() {
		stop()
		cancel()
		d.wg.Done()
	}, nil
}

// closing is the context for ending a process: Shutdown cancels it when it has run out of time.
func (d *Daemon) closing() context.Context { return d.ctx }

// Children lists the connected children.
func (d *Daemon) Children() (list []*Child) {
	d.children.Range(func(c *Child) bool {
		list = append(list, c)
		return true
	})
	return list
}

// Shutdown ends all children and waits until their processes are reaped. Whatever waits for a reply fails. When ctx
// ends first, the processes are killed. Shutdown may be called more than once; the error is ctx's.
func (d *Daemon) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	d.down = true
	d.mu.Unlock()
	d.die()
	d.streams.Range(func(v, _ any) bool {
		if s := v.(*stream); s.stamp {
			s.dismiss()
		} else {
			s.shut()
		}
		return true
	})
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		d.cancel(ErrShutdown)
		<-done
	}
	d.cancel(ErrShutdown)
	return ctx.Err()
}
