package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/importer/requirements"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
	"mitogend/python"
)

// Daemon is a master: context 0 of a tree of Python interpreters. It is safe for concurrent use. Several daemons in one
// process are independent.
type Daemon struct {
	// Constant after New, but for fixed, which is constant after the first Connect.
	opt      Options
	importer *importer.Importer
	handles  *handles
	fixed    map[pyproto.Handle]func(*Incoming)

	// Of the numbers given out; see ids.go.
	lastID, lastAsked, lastPeer atomic.Uint32

	routes   routes
	streams  sync.Map // *stream to nil
	children children
	programs sync.Map // pyproto.ContextID to *Child, of those that run
	talkers  talkers
	gates    sync.Map // pyproto.ContextID to *gate, of those who want no messages

	hops     hops
	supplies supplies
	starting starting // constant after New
	runtimes runtimes
	boots    boots
	refused  atomic.Int64 // messages that their senders may not send
	assembly *Assembly    // constant after New
	// launchGrace is constant after New. Tests shorten it.
	launchGrace time.Duration
	bounded     atomic.Int64 // how often a peer has come to a bound
	printing    atomic.Int64 // programs that run

	ctx    context.Context // ends with Shutdown
	cancel context.CancelCauseFunc
	// alive ends with the beginning of Shutdown, by which no connect goes on.
	alive context.Context
	die   context.CancelFunc

	// mu protects the following. Nothing is locked under it.
	mu   sync.Mutex
	down bool

	// wg counts every goroutine of the daemon. Add only with mu held and down false, or from a goroutine that it counts.
	wg sync.WaitGroup
}

// New makes a daemon. It reads nothing of the path yet, and starts nothing.
func New(opt Options) (*Daemon, error) {
	opt.setDefaults()
	d := &Daemon{opt: opt, fixed: map[pyproto.Handle]func(*Incoming){}}
	d.handles = newHandles(d.leadsTo)
	d.lastAsked.Store(firstAsked - 1)
	d.lastPeer.Store(firstPeer)
	var err error
	if d.importer, err = d.NewImporter(importer.Options{Path: opt.Path, Venv: opt.Venv, Policy: opt.Policy}); err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	d.alive, d.die = context.WithCancel(d.ctx)
	d.hops.m = map[hopKey]*hop{}
	d.starting = startingHere()
	memory := max(minAssembly, 4*int64(opt.MaxMessage))
	d.assembly = newAssembly(memory, d.reachedTogether("bytes of messages that came in part, of all together", memory))
	d.launchGrace = launchGrace
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

// NewImporter makes an importer for ConnectOptions.Importer: it serves what opt says, and the parts of the child runtime
// that a child fetches when it needs them.
func (d *Daemon) NewImporter(opt importer.Options) (*importer.Importer, error) {
	opt.Logger = d.opt.Logger
	opt.Resolve = func(ctx context.Context, r importer.Requirements, p importer.Platform) (string, error) {
		return requirements.Resolve(ctx, r, p, bootstrap.WithoutSecrets(os.Environ()))
	}
	opt.Virtual = runtimeModules()
	opt.Reserved = map[string]string{
		"mitogen": "not part of the embedded child runtime; --runtime mitogen gives the child all of the Mitogen installed here",
	}
	im, err := importer.New(opt)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
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

// Connect starts the children that target names, hop by hop, and gives the last one. See docs/targets.md for targets. An
// error is a *HopError around a *bootstrap.Error; nothing is left of what was started.
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

// ConnectHops is Connect for a target that was read already; name is what errors call it.
func (d *Daemon) ConnectHops(ctx context.Context, name string, hops []bootstrap.Hop, opt ConnectOptions) (*Child, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.wg.Done()
	if opt.Name == "" {
		opt.Name = name
	}
	opt.chain = name
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.alive, cancel)()
	var c *Child
	steps, err := resolve(hops, opt)
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

// closeTime is what a connection gets to end that nobody wants any more.
const closeTime = 5 * time.Second

// resolve collects the arguments of all hops, with their passwords.
func resolve(hops []bootstrap.Hop, opt ConnectOptions) ([]step, error) {
	if len(hops) > bootstrap.MaxHops {
		return nil, hopError(&bootstrap.Error{Step: bootstrap.StepOptions, Reason: "the target: " + bootstrap.TooManyHops(len(hops)).Error()}, 0)
	}
	steps := make([]step, len(hops))
	for i, hop := range hops {
		hop = hop.Resolved()
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

// connectHop starts a child on this machine, or behind a hop, which it gives back when that fails.
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
	c.unidirectional = isTrue(s.args["unidirectional"])
	c.debug, c.profiling = isTrue(s.args["debug"]), isTrue(s.args["profiling"])
	machine := d.starting
	if c.via != nil {
		machine = c.via.starting
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
		if s.args["runtime"] == nil {
			// As under Mitogen, which knows one runtime.
			c.runtime = c.via.runtime
		}
		err = c.via.proxyConnect(ctx, c, s, plan)
	}
	c.opt.Env, c.opt.Secrets = nil, nil // may be large, and are of no use any more
	if err == nil && plan.Silence > 0 && d.enter() == nil {
		go c.watchSilence(plan.Silence)
	}
	return err
}

// newChild makes a child with an id of its own; it is 0 when they are used up.
func (d *Daemon) newChild(opt ConnectOptions, method string) *Child {
	return d.makeChild(d.allocate(1), opt, method)
}

func (d *Daemon) makeChild(id pyproto.ContextID, opt ConnectOptions, method string) *Child {
	c := &Child{
		d: d, id: id, name: opt.Name, opt: opt, method: method, closed: make(chan struct{}),
		leaving: make(chan struct{}), tracked: newTracked(), guarding: make(chan struct{}, 1),
		asking: make(chan struct{}, 1), starting: newStarting(),
	}
	if opt.OnImport != nil {
		c.observers.add(c, opt.OnImport)
	}
	return c
}

// isTrue reads a flag that bootstrap.Build has accepted.
func isTrue(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		return slices.Contains([]string{"true", "yes", "on", "1"}, strings.ToLower(v))
	case []byte:
		return isTrue(string(v))
	case int64:
		return v != 0
	}
	return false
}

// psName is a target as it is shown in the argv of an interpreter, with nothing in it that a shell treats specially.
func psName(target string) string {
	return strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@.:_+-", r)) {
			return r
		}
		return '_'
	}, target[:min(len(target), 64)])
}

// config is what the child runtime gets as its configuration.
func (c *Child) config() map[string]any {
	parents := []int{}
	for p := c.via; p != nil; p = p.via {
		parents = append(parents, int(p.id))
	}
	config := map[string]any{
		"context_id": int(c.id), "parent_ids": append(parents, 0),
	}
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

// someOf is for the error of an import: where was looked, as far as it fits on a line.
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

// exitWait is how long a lost connection waits for the program's exit status, to say more than that it is lost; maxExitWait while the
// system is about to end the program, which closes its descriptors first. On a busy machine that may take long.
const (
	exitWait    = 300 * time.Millisecond
	maxExitWait = 5 * time.Second
)

// waitExit waits for the program's exit status, and tells whether it is there.
func waitExit(proc *bootstrap.Process) bool {
	began := time.Now()
	for wait := exitWait; ; wait = exitWait / 10 {
		select {
		case <-proc.Done():
			return true
		case <-time.After(wait):
			if !proc.Exiting() || time.Since(began) > maxExitWait {
				return false
			}
		}
	}
}

// teardown takes a stream out of the tree: waiters learn why, then the process is ended and reaped. Called by its readLoop.
func (d *Daemon) teardown(s *stream) {
	reason := "the connection was lost: " + s.failure().Error()
	if s.proc != nil && !errors.Is(s.failure(), errClosed) {
		if waitExit(s.proc) {
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

// lost takes contexts out of the tree that were reached through s.
func (d *Daemon) lost(s *stream, ids []pyproto.ContextID, reason string) {
	for _, id := range ids {
		// Others end children, too: who takes it out of the table does so.
		if c := s.childOf(id); c != nil && d.children.CompareAndDelete(id, c) {
			c.end(reason)
			kind := Lost
			if c.closing.Load() {
				kind = Closed
			}
			d.event(kind, c, reason)
		}
	}
	d.dropRoutes(s, ids, reason)
}

// closing gives the time that a process may take to leave: less once Shutdown has run out of time.
func (d *Daemon) closing() context.Context { return d.ctx }

// Children lists the children that were connected and not closed or lost since.
func (d *Daemon) Children() (list []*Child) {
	d.children.Range(func(c *Child) bool {
		list = append(list, c)
		return true
	})
	return list
}

// Shutdown ends all children and waits until their processes are reaped. What waits for a reply fails. When ctx ends
// before, processes are killed. It may be called more than once; the error is ctx's.
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
