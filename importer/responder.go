package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
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
	// Reasons puts the reason into a negative answer, unless it is that there is nothing of that name. Stock children expect
	// None there.
	Reasons bool
	// With names modules that go along with the first module that is sent.
	With []string
	// WithPaths names a module that goes ahead of the first that mentions __file__, __path__ and the like; empty for none.
	WithPaths string
	// MarkPackages has the names of packages end in a dot where a package tells what it has: children of ours then know the one
	// kind from the other. Stock children would look for such names.
	MarkPackages bool
	// Stock children can not load extension modules, which are refused, nor unpack packages, which go as they are.
	Stock bool
	// MaxPending bounds the names that were asked for and not yet answered; 0 means DefaultMaxPending.
	MaxPending int
	// Miss is asked for a module that the child asked for and that was not found here; true says that it will be answered
	// otherwise. No refusal is foretold then. It must not block, and may be nil.
	Miss func(name string) bool
	// Code is given the bytecode of a module, its magic number and what is marshalled, as zlib, just before its LoadModule, where an
	// interpreter of the same release has left it beside the source, or Compiled has it; nil for no bytecode. Its errors are the sink's.
	// See search.bytecode.
	Code func(name string, magic, code []byte) error
	// Far: what lies beside the source is not sent, since it is not compressed.
	Far bool
	// Compiled gives the magic number and the code of a source, as zlib, or nothing. It does not wait for a compiler. It may be nil.
	Compiled func(Uncompiled) (magic, code []byte)
	// Observe is told what was done, by the goroutine that runs Serve. It may be nil.
	Observe func(Event)
	// Reached is told, by the same goroutine, that the child has come to a bound of what is remembered for it. It may be nil.
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
	// Repeated: somebody else has been told of the same.
	Repeated bool
	// For is the module for whose sake another one was preloaded or foretold: the one that imports it, else the one asked for.
	// It is empty for the one name of a push, and of several for what is imported by no other.
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

// Responder answers the module requests of one stream, in the order in which they come. One goroutine, the one that runs
// Serve, owns what was sent; the other methods hand their work to it and are safe for concurrent use.
//
// What the peers rely on: a module is sent before one that needs it, a submodule after its package (unless the package is what
// was asked for, and comes last); nothing is sent twice; every request is answered. A request for what was sent unasked has
// crossed with it, or would find it in the child: the record already sent is the answer. A child that asks for what it was
// sent because it asked has lost it, and is sent it again, up to three times.
//
// What a module sent will look for here in vain is refused ahead, so that the child need not ask. Refusals may be repeated: a
// child may have forgotten one, because things have changed, and so each request is looked up anew. Nothing is preloaded that
// was refused, since the child may hold on to that.
type Responder struct {
	im   *Importer
	sink Sink
	opt  ResponderOptions

	// mu guards the following, and nothing that blocks is done under it.
	mu           sync.Mutex
	self         Platform
	platforms    []Platform // of the child, then of those below it
	jobs         []*job
	pending      map[string]bool // names in jobs that were asked for
	pendingBytes int
	closed       bool

	wake chan struct{} // one token: there may be jobs

	// Owned by Serve.
	sent         map[string]*sentModule
	refused      map[string]bool
	refusedBytes int // of the names
	forwarded    map[uint32]map[string]bool
	likely       ahead
}

// maxRefused and maxRefusedBytes bound Responder.refused. What is refused beyond them may be preloaded when it appears, and ignored
// by the child.
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
	done     chan error
}

// NewResponder makes a responder that does nothing until Serve runs.
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
		im: im, sink: sink, opt: opt, self: Platform{Version: opt.Version}, platforms: []Platform{{Version: opt.Version}}, pending: map[string]bool{},
		wake: make(chan struct{}, 1), sent: map[string]*sentModule{}, refused: map[string]bool{},
		forwarded: map[uint32]map[string]bool{}, likely: newAhead(),
	}, nil
}

// Request queues the answer to a GET_MODULE. It never blocks. A name that is waiting already is answered once.
func (r *Responder) Request(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return ErrClosed
	case r.pending[name]:
		return nil
	case len(r.pending) >= r.opt.MaxPending || r.pendingBytes+len(name) > maxPendingBytes:
		return ErrFlood
	}
	r.pending[name] = true
	r.pendingBytes += len(name)
	r.jobs = append(r.jobs, &job{names: []string{name}, asked: true})
	r.signal()
	return nil
}

// Push sends the closure of the modules named, as far as the child was not sent it. When it returns nil all of it is queued on
// the stream, so that a call queued next finds the modules in place.
func (r *Responder) Push(ctx context.Context, names ...string) error {
	return r.submit(ctx, &job{names: names, platform: r.own()})
}

// own is the child's platform.
func (r *Responder) own() Platform {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.self
}

// Learn tells what the child is, once there is more known than its version.
func (r *Responder) Learn(p Platform) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.self = p
	if r.platforms[0].ABI == "" {
		r.platforms = r.platforms[1:]
	}
	r.platforms = append([]Platform{p}, slices.DeleteFunc(r.platforms, func(have Platform) bool { return have == p })...)
}

// Forward is Push for a context below the child, of platform p: the modules go to the child, and it is told to pass them on.
func (r *Responder) Forward(ctx context.Context, target uint32, p Platform, names ...string) error {
	r.Add(p)
	return r.submit(ctx, &job{names: names, platform: p, target: target})
}

// Forget drops what is kept for a context below the child that is gone. It does not wait until that is done.
func (r *Responder) Forget(target uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.jobs = append(r.jobs, &job{forget: target})
		r.signal()
	}
}

// Add tells of a context below the child: what its Python lacks and the child's has (a backport of a standard library module) is
// served from now on.
func (r *Responder) Add(p Platform) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, have := range r.platforms {
		if have == p || have.Version == p.Version && p.ABI == "" {
			return
		}
		if have.Version == p.Version && have.ABI == "" {
			r.platforms[i] = p
			return
		}
	}
	r.platforms = append(r.platforms, p)
}

// Resource is the importer's Resource within the responder's policy. It may be called from any goroutine.
func (r *Responder) Resource(ctx context.Context, pkg, name string) ([]byte, error) {
	return r.im.Resource(ctx, pkg, name, r.opt.Policy)
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
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.jobs = append(r.jobs, j)
	r.signal()
	r.mu.Unlock()
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Responder) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Close makes Serve return once what it is doing is done, and fails what waits. It does not wait for Serve.
func (r *Responder) Close() {
	r.mu.Lock()
	jobs := r.jobs
	r.closed, r.jobs = true, nil
	r.signal()
	r.mu.Unlock()
	for _, j := range jobs {
		j.finish(ErrClosed)
	}
}

func (j *job) finish(err error) {
	if j.done != nil {
		j.done <- err
	}
}

// next gives the oldest job, nil when there is none.
func (r *Responder) next() (j *job, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.jobs) == 0 {
		return nil, r.closed
	}
	j = r.jobs[0]
	if r.jobs = r.jobs[1:]; len(r.jobs) == 0 {
		r.jobs = nil // lets the array go
	}
	return j, false
}

// Serve answers until the context ends, Close is called or the sink fails; what is left undone fails with ErrClosed. It returns
// the sink's error, or nil. It must be called once.
func (r *Responder) Serve(ctx context.Context) error {
	defer r.Close()
	for {
		j, closed := r.next()
		if closed || ctx.Err() != nil {
			if j != nil {
				j.finish(ErrClosed)
			}
			return nil
		}
		if j == nil {
			select {
			case <-r.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := r.do(ctx, j); err != nil {
			j.finish(fmt.Errorf("%w: %w", ErrClosed, err))
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		j.finish(nil)
	}
}

// do handles one job. An error is the sink's or the context's.
func (r *Responder) do(ctx context.Context, j *job) error {
	switch {
	case j.forget != 0:
		if had := r.forwarded[j.forget]; had != nil {
			delete(r.forwarded, j.forget)
			r.im.log.Debug("forgot what was forwarded", zap.Uint32("context", j.forget), zap.Int("modules", len(had)))
		}
		return nil
	case j.lists != nil:
		r.likely.learn(j.lists)
		return nil
	case j.asked:
		// No longer pending: what is asked from here on may be after the answer.
		name := j.names[0]
		r.mu.Lock()
		delete(r.pending, name)
		r.pendingBytes -= len(name)
		r.mu.Unlock()
		return r.answer(ctx, name)
	}
	s := r.search(j.platform)
	names := r.unsent(s.closure(j.names...), j.target != 0)
	if len(names) > 0 {
		names = append(names, r.unsent(s.closure(r.opt.With...), j.target != 0)...)
	}
	defer compressAhead(s.units(names))()
	for _, name := range names {
		if err := r.preload(ctx, s, name, "", j.target != 0); err != nil {
			return err
		}
		if j.target != 0 {
			if err := r.forward(name, j.target); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Responder) search(p Platform) *search {
	s := r.im.searchFor(p.Version, p)
	s.main, s.mark, s.withPaths, s.stock = r.opt.Main, r.opt.MarkPackages, r.opt.WithPaths, r.opt.Stock
	return s
}

// unsent leaves out what the child was sent, unless it is to be forwarded.
func (r *Responder) unsent(names []string, forward bool) []string {
	if forward {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool { return r.sent[name] != nil })
}

// answer sends what was asked for, behind what it needs; or says that there is no such module.
func (r *Responder) answer(ctx context.Context, name string) error {
	start := time.Now()
	if was := r.sent[name]; was != nil && (!was.asked || was.resent >= maxResend) {
		was.asked = true
		r.observe(Event{Name: name, What: Duplicate})
		return nil
	}
	s, rec, err := r.lookUp(ctx, name)
	var none *NotFoundError
	if errors.As(err, &none) {
		if r.opt.Miss != nil && nameFault(name) == "" && r.im.refuses(&r.im.opt.Policy, name) == "" && r.im.refuses(&r.opt.Policy, name) == "" && r.opt.Miss(name) {
			return nil
		}
		return r.refuse(none, Refused, "", start)
	}
	if err != nil {
		return err
	}
	took := time.Since(start)
	was := r.sent[name]
	if was != nil {
		was.resent++
	} else {
		names := r.unsent(s.closure(name), false)
		defer compressAhead(s.units(names))()
		for _, rel := range names {
			if rel == name {
				continue
			}
			if err := r.preload(ctx, s, rel, name, false); err != nil {
				return err
			}
		}
		if err := r.foretell(ctx, s, name); err != nil {
			return err
		}
		was = &sentModule{bytes: len(rec)}
	}
	first := r.sent[name] == nil
	if err := r.send(s, rec, name); err != nil {
		return err
	}
	was.asked = true
	r.sent[name] = was
	if r.refused[name] {
		delete(r.refused, name)
		r.refusedBytes -= len(name)
	}
	r.observe(Event{Name: name, What: Answered, Bytes: len(rec), Took: took})
	for _, with := range r.unsent(s.closure(r.opt.With...), false) {
		if err := r.preload(ctx, s, with, name, false); err != nil {
			return err
		}
	}
	if !first {
		return nil
	}
	return r.sendAhead(ctx, s, name)
}

// send sends a record, and ahead of it the module's bytecode if that is wanted and there is some.
func (r *Responder) send(s *search, rec []byte, name string) error {
	if u := s.find(name).unit; u != nil {
		r.likely.learn(u.src.lists)
	}
	if r.opt.Code != nil && s.v == r.opt.Version {
		var magic, code []byte
		if !r.opt.Far {
			magic, code = s.bytecode(name)
		}
		if code == nil && r.opt.Compiled != nil {
			if u, ok := s.uncompiled(name); ok {
				magic, code = r.opt.Compiled(u)
			}
		}
		if len(code) > 0 {
			if err := r.opt.Code(name, magic, code); err != nil {
				return err
			}
		}
	}
	return r.sink.LoadModule(rec, name)
}

// lookUp finds a module for the child, or for one of those below it.
func (r *Responder) lookUp(ctx context.Context, name string) (s *search, rec []byte, err error) {
	r.mu.Lock()
	platforms := slices.Clone(r.platforms)
	r.mu.Unlock()
	var first error
	for _, p := range platforms {
		s := r.search(p)
		rec, err := s.record(ctx, name)
		if err == nil {
			if why := s.refuses(&r.opt.Policy, s.find(name)); why != "" {
				return nil, nil, &NotFoundError{Name: name, Reason: why}
			}
		}
		var none *NotFoundError
		if !errors.As(err, &none) {
			return s, rec, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// refuse tells the child that there is no such module.
func (r *Responder) refuse(none *NotFoundError, what What, by string, start time.Time) error {
	name, text := none.Name, ""
	if r.opt.Reasons && !none.Absent {
		text = none.Reason
	}
	rec, err := negative(name, text)
	if err != nil {
		return fmt.Errorf("importer: encoding the answer for %s: %w", shorten(name), err)
	}
	if err := r.sink.LoadModule(rec, name); err != nil {
		return err
	}
	switch {
	case r.refused[name]:
	case len(name) > MaxName:
		r.reached("bytes of a module's name that is remembered", MaxName)
	case len(r.refused) >= maxRefused:
		r.reached("refused names that are remembered", maxRefused)
	case r.refusedBytes+len(name) > maxRefusedBytes:
		r.reached("bytes of refused names that are remembered", maxRefusedBytes)
	default:
		r.refused[name] = true
		r.refusedBytes += len(name)
	}
	r.observe(Event{Name: name, What: what, Bytes: len(rec), Took: time.Since(start), Reason: none.Reason, For: by})
	return nil
}

func (r *Responder) reached(bound string, limit int) {
	if r.opt.Reached != nil {
		r.opt.Reached(bound, limit)
	}
}

// foretell refuses ahead what a module will look for in vain, unless the child may have it itself or somebody below it can be
// served.
func (r *Responder) foretell(ctx context.Context, s *search, name string) error {
	if r.opt.Miss != nil {
		return nil
	}
	vain := s.find(name).missed
	for _, rel := range s.find(name).related {
		if s.refuses(&r.opt.Policy, s.find(rel)) != "" {
			vain = append(vain[:len(vain):len(vain)], rel)
		}
	}
	for _, miss := range vain {
		if r.sent[miss] != nil || r.refused[miss] || r.local(miss) {
			continue
		}
		start := time.Now()
		_, _, err := r.lookUp(ctx, miss)
		var none *NotFoundError
		if !errors.As(err, &none) {
			if err != nil {
				return err
			}
			continue
		}
		if err := r.refuse(none, Foretold, name, start); err != nil {
			return err
		}
	}
	return nil
}

// preload sends a module that was not asked for, unless the child has it, may not have it, or lacks its package. asked is the
// module that will follow.
func (r *Responder) preload(ctx context.Context, s *search, name, asked string, always bool) error {
	if r.sent[name] != nil || r.refused[name] || !always && r.local(name) || s.refuses(&r.opt.Policy, s.find(name)) != "" {
		return nil
	}
	if parent, _ := parentName(name); parent != "" && parent != asked && r.sent[parent] == nil && !r.local(parent) && !r.im.within(name, parent) {
		return nil
	}
	start := time.Now()
	rec, err := s.record(ctx, name)
	var none *NotFoundError
	if errors.As(err, &none) {
		r.im.log.Debug("not preloaded", zap.String("module", name), zap.String("reason", none.Reason))
		return nil
	}
	if err != nil {
		return err
	}
	took := time.Since(start)
	if err := r.send(s, rec, name); err != nil {
		return err
	}
	r.sent[name] = &sentModule{bytes: len(rec)}
	r.observe(Event{Name: name, What: Preloaded, Bytes: len(rec), Took: took, For: cmp.Or(s.by[name], asked)})
	return r.foretell(ctx, s, name)
}

func (r *Responder) local(name string) bool {
	for _, prefix := range r.opt.Local {
		if within(name, prefix) {
			return true
		}
	}
	return false
}

// forward tells the child to pass a module on that it was sent. The payload is the context's id, a NUL and the name.
func (r *Responder) forward(name string, target uint32) error {
	if r.sent[name] == nil || r.forwarded[target][name] {
		return nil
	}
	payload := append(strconv.AppendUint(nil, uint64(target), 10), 0)
	payload = append(payload, name...)
	if err := r.sink.ForwardModule(payload, target, name); err != nil {
		return err
	}
	if r.forwarded[target] == nil {
		r.forwarded[target] = map[string]bool{}
	}
	r.forwarded[target][name] = true
	r.observe(Event{Name: name, What: Forwarded, Bytes: len(payload), Target: target})
	return nil
}

func (r *Responder) observe(e Event) {
	if r.opt.Observe != nil {
		r.opt.Observe(e)
	}
}
