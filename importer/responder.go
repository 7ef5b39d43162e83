package importer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Sink is the way to one child. Its methods queue a message on the child's stream; they may wait for room there, and fail once
// the stream is lost, which ends the responder. Payloads are shared between streams and must not be changed.
type Sink interface {
	// LoadModule queues a LOAD_MODULE.
	LoadModule(payload []byte, name string) error
	// ForwardModule queues a FORWARD_MODULE, which asks the child to pass a module on towards a context below it.
	ForwardModule(payload []byte, target uint32, name string) error
}

// ResponderOptions describe the child.
type ResponderOptions struct {
	Version Version
	// Policy applies in addition to the importer's.
	Policy Policy
	// Main is this child's script; nil for the importer's.
	Main *Main
	// Local names packages that the child has itself: nothing in them is sent unless it asks.
	Local []string
	// Reasons puts the reason into a negative answer, unless nothing of that name exists. Stock children expect None there.
	Reasons bool
	// With names modules that go along with the first module that is sent.
	With []string
	// WithPaths names a module that goes ahead of the first that mentions __file__, __path__ and the like; empty for none.
	WithPaths string
	// MarkPackages: a package that lists what it has marks the packages among them by a dot at the end. Children of ours know these
	// from modules then. Stock children would look for such names.
	MarkPackages bool
	// Stock children cannot load extension modules, which are refused, nor unpack packages, which go as they are.
	Stock bool
	// MaxPending bounds the names that were asked for and not yet answered; 0 means DefaultMaxPending.
	MaxPending int
	// Miss is called when the child asks for a module that was not found here; true says that somebody else will answer. With Miss, no
	// refusal is foretold. It must not block, and may be nil.
	Miss func(name string) bool
	// Code takes the bytecode of a module just before its LoadModule: a magic number, and what is marshalled, as zlib. An interpreter of
	// the same release has left it beside the source, or Compiled has it. Its errors are the sink's. nil: no bytecode is sent. See
	// search.bytecode.
	Code func(name string, magic, code []byte) error
	// Far: what lies beside the source is not sent, since it is not compressed.
	Far bool
	// Compiled gives the magic number and the code of a source, as zlib, or nothing. It does not wait for a compiler. It may be nil.
	Compiled func(Uncompiled) (magic, code []byte)
	// Kept gives a source as zlib, if that was kept, or nothing. Others who need that source wait meanwhile, so it must not
	// ask the Uncompiled for it. Several goroutines call it, also for other children and after Close. It may be nil.
	Kept func(Uncompiled) []byte
	// Ahead is told of a source whose code Compiled will be asked for soon, by the goroutine that is about to call Kept: several do that at
	// once, and one sends. It may be nil.
	Ahead func(Uncompiled)
	// Keep is told, once, of a source that had to be compressed. Like Kept, it is called by several goroutines, and must not block. It may be
	// nil.
	Keep func(Uncompiled)
	// Observe is told what is done, by the goroutine that runs Serve: before the message is sent, so that whoever has what the child
	// answers with a module has been told of it. It may be nil.
	Observe func(Event)
	// Reached is called, by any goroutine, when the child reaches a bound of what is remembered for it. It may be nil.
	Reached func(bound string, limit int)
}

// DefaultMaxPending is beyond what any program imports at once.
const DefaultMaxPending = 10000

// maxPendingBytes bounds the names themselves.
const maxPendingBytes = 4 << 20

// maxResend is how often a record is sent again to a child that asks for it again.
const maxResend = 3

var (
	// ErrClosed: the responder was closed, or its sink has failed.
	ErrClosed = errors.New("importer: the responder is closed")
	// ErrFlood: the child asks for more than it can mean to import. Nothing was queued; its stream should be closed.
	ErrFlood = errors.New("importer: too many module requests at once")
)

// Event is one thing that a responder did.
type Event struct {
	Name string
	What What
	// Bytes is the size of the message sent, 0 for none.
	Bytes int
	// Took is how long finding and building took.
	Took time.Duration
	// Reason is set for Refused and Foretold.
	Reason string
	// Target is the context that a module was forwarded to.
	Target uint32
	// Mark is that of what was sent, as Look.Mark gives it for a child of that Platform. It is zero where this cannot be said.
	Mark     [16]byte
	Platform Platform
	// Repeated: somebody else has been told of the same.
	Repeated bool
	// For is why another module was preloaded or foretold: the module that imports it, or else the one asked for. It is empty for the
	// name of a push, and for those of several names that no other imports.
	For string
}

// What happened.
type What string

const (
	Answered  What = "answered"  // sent because the child asked for it
	Preloaded What = "preloaded" // sent ahead of another module, or of a call
	Refused   What = "refused"   // answered that there is none
	Foretold  What = "foretold"  // told that there is none before the child has asked
	Duplicate What = "duplicate" // asked for, but already on its way
	Forwarded What = "forwarded" // the child was told to pass it on
)

// Responder answers the module requests of one stream, in the order in which they come. One goroutine at a time, which
// lives while there is work, owns what was sent; the methods hand their work to it and are safe for concurrent use.
//
// What the peers rely on: a module is sent before one that needs it, a submodule after its package (unless the package is what
// was asked for, and comes last); nothing is sent twice; every request is answered. A child may ask for what was sent ahead: its
// request has crossed with the record, which is the answer. A child that asks once more for what it had asked for has lost it, and is
// sent it again, up to three times.
//
// A push goes in parts of partSize bytes of source: what is first is sent before what is last is read.
//
// Names that a module will look for in vain are refused ahead, so that the child need not ask. Each request is looked up anew, and may
// be refused again: files change, and children forget. What was refused is not preloaded, since the child may remember the refusal.
type Responder struct {
	im   *Importer
	sink Sink
	opt  ResponderOptions

	// mu guards the following, and nothing that blocks is done under it.
	mu           sync.Mutex
	kinds        kinds
	jobs         []*job
	pending      map[string]bool // names in jobs that were asked for
	pendingBytes int
	closed       bool
	working      bool // somebody runs work, or is about to

	// Constant after Start.
	ctx    context.Context
	run    func(work func()) error
	failed func(error)

	// Owned by work.
	sent         map[string]*sentModule
	refused      map[string]bool
	refusedBytes int // of the names
	forwarded    map[uint32]map[string]bool
	likely       ahead
}

// maxRefused and maxRefusedBytes bound Responder.refused. A module that was refused beyond them may be preloaded once it exists; the
// child may ignore it then.
const (
	maxRefused      = 100000
	maxRefusedBytes = 2 << 20
)

// sentModule is a module that went out on the stream.
type sentModule struct {
	asked  bool // the child has asked for it
	resent int
	bytes  int // of its record
}

// job is one request, or the names of one push.
type job struct {
	names    []string
	asked    bool // a request for the one name; otherwise a push
	platform Platform
	target   uint32 // forward to this context, 0 for none
	forget   uint32 // the context is gone
	lists    [][]string
	early    bool // done already when the first part is sent
	done     chan error
}

// NewResponder makes a responder that does nothing until Start is called.
func NewResponder(im *Importer, sink Sink, opt ResponderOptions) (*Responder, error) {
	if err := opt.Policy.check(); err != nil {
		return nil, err
	}
	if opt.MaxPending <= 0 {
		opt.MaxPending = DefaultMaxPending
	}
	if opt.Main == nil {
		opt.Main = im.opt.Main
	}
	return &Responder{
		im: im, sink: sink, opt: opt, kinds: kinds{own: Platform{Version: opt.Version}},
	}, nil
}

// put sets an entry of a map that is made with its first: most of a quiet child's have none.
func put[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = value
}

// Request queues the answer to a GET_MODULE. It never blocks. A name that is waiting already is answered once.
func (r *Responder) Request(name string) error {
	return r.add(&job{names: []string{name}, asked: true})
}

// add queues a job, and has somebody do it.
func (r *Responder) add(j *job) error {
	begin, err := r.queue(j)
	if begin {
		r.begin()
	}
	return err
}

// queue queues a job. With begin, the caller has to call the method of that name.
func (r *Responder) queue(j *job) (begin bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false, ErrClosed
	}
	if j.asked {
		name := j.names[0]
		switch {
		case r.pending[name]:
			return false, nil
		case len(r.pending) >= r.opt.MaxPending || r.pendingBytes+len(name) > maxPendingBytes:
			return false, ErrFlood
		}
		put(&r.pending, name, true)
		r.pendingBytes += len(name)
	}
	r.jobs = append(r.jobs, j)
	return r.wanted(), nil
}

// wanted tells whether somebody has to begin with the work. mu is held.
func (r *Responder) wanted() bool {
	if r.run == nil || r.working || len(r.jobs) == 0 {
		return false
	}
	r.working = true
	return true
}

func (r *Responder) begin() {
	if r.run(r.work) != nil {
		r.Close()
	}
}

// Push sends the closure of the modules named, without what the child was sent before. When it returns nil all of it is queued on
// the stream, so that a call queued next finds the modules in place.
func (r *Responder) Push(ctx context.Context, names ...string) error {
	return r.submit(ctx, &job{names: names, platform: r.own()})
}

// Begin is Push that does not wait for more than the first sources, of which a large closure has many: the child imports these while the
// others are found and packed. If it is faster, it asks for some that are on their way.
func (r *Responder) Begin(ctx context.Context, names ...string) error {
	return r.submit(ctx, &job{names: names, platform: r.own(), early: true})
}

// own is the child's platform.
func (r *Responder) own() Platform {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kinds.own
}

// Learn tells what the child is, once more than its version is known.
func (r *Responder) Learn(p Platform) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds.own = p
}

// Forward is Push for a context below the child, of platform p, which Add has told of: the modules go to the child, and it is told to pass
// them on.
func (r *Responder) Forward(ctx context.Context, target uint32, p Platform, names ...string) error {
	return r.submit(ctx, &job{names: names, platform: p, target: target})
}

// Forget drops what is kept for a context below the child that is gone. It does not wait until that is done.
func (r *Responder) Forget(target uint32) {
	r.mu.Lock()
	r.kinds.remove(target)
	r.mu.Unlock()
	_ = r.add(&job{forget: target})
}

// Add tells of a context below the child. Until Forget, modules are served that its Python lacks, and the child's has: backports of the
// standard library.
func (r *Responder) Add(target uint32, p Platform) {
	r.mu.Lock()
	ok := r.kinds.add(target, p)
	r.mu.Unlock()
	if !ok {
		r.reached("kinds of Pythons behind one connection", maxKinds)
	}
}

// Resource is the importer's Resource within the responder's policy. It may be called from any goroutine.
func (r *Responder) Resource(ctx context.Context, pkg, name string) ([]byte, error) {
	return r.im.Resource(ctx, r.opt.Version, pkg, name, r.opt.Policy)
}

// Withholds says why the child may not have a data file of a package, wherever it comes from; "" if it may.
func (r *Responder) Withholds(pkg, name string) string {
	for _, fault := range []string{nameFault(pkg), dataFault(name)} {
		if fault != "" {
			return fault
		}
	}
	for _, p := range []*Policy{&r.im.opt.Policy, &r.opt.Policy} {
		if why := p.Refuses(pkg); why != "" {
			return why
		}
		if why := p.refusesData(pkg, name, false); why != "" {
			return why
		}
	}
	return ""
}

func (r *Responder) submit(ctx context.Context, j *job) error {
	j.done = make(chan error, 1)
	if err := r.add(j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the work after the current job, which it does not wait for. Jobs that wait fail.
func (r *Responder) Close() {
	r.mu.Lock()
	jobs := r.jobs
	r.closed, r.jobs = true, nil
	r.mu.Unlock()
	for _, j := range jobs {
		j.finish(ErrClosed)
	}
}

func (j *job) finish(err error) {
	if j.done == nil {
		return
	}
	select {
	case j.done <- err:
	default: // it was done early
	}
}

// next gives the oldest job. With nil, the work has ended.
func (r *Responder) next() *job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.jobs) == 0 {
		r.working = false
		return nil
	}
	j := r.jobs[0]
	if r.jobs = r.jobs[1:]; len(r.jobs) == 0 {
		r.jobs = nil // lets the array go
	}
	return j
}

// Start has jobs done until the context ends, Close is called or the sink fails, which failed is told of unless the
// context has ended. run has a function run by a goroutine, and fails where it cannot. Jobs that are left over fail with
// ErrClosed. Start must be called once.
func (r *Responder) Start(ctx context.Context, run func(work func()) error, failed func(error)) {
	r.mu.Lock()
	r.ctx, r.run, r.failed = ctx, run, failed
	begin := r.wanted()
	r.mu.Unlock()
	if begin {
		r.begin()
	}
}

// work does the jobs that wait.
func (r *Responder) work() {
	for j := r.next(); j != nil; j = r.next() {
		err := r.ctx.Err()
		if err == nil {
			err = r.do(r.ctx, j)
		}
		if err == nil {
			j.finish(nil)
			continue
		}
		j.finish(fmt.Errorf("%w: %w", ErrClosed, err))
		r.Close()
		if r.ctx.Err() == nil {
			r.failed(err)
		}
	}
}
