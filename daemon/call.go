package daemon

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"

	"mitogend/importer"
	"mitogend/pyproto"
)

// Result is the outcome of a call. Its methods give the same answer each time.
type Result struct {
	value any
	err   error
}

// Err is nil, *pyproto.CallError when Python raised, *DeadError when the child is gone, reads nothing or has no such
// handle, the context's error, or one that says what is wrong: the function's name, an argument that cannot be sent, a
// result that cannot be read.
func (r *Result) Err() error { return r.err }

// Value gives what the function returned; package pyproto has the table of types.
func (r *Result) Value() (any, error) { return r.value, r.err }

// Decode stores what the function returned in *dst, by the rules of pyproto.Assign.
func (r *Result) Decode(dst any) error {
	if r.err != nil {
		return r.err
	}
	return pyproto.Assign(dst, r.value)
}

// Caller is who functions are called in: a *Child, a *client.Child, or any Remote.
type Caller interface {
	Call(ctx context.Context, fn string, args ...any) *Result
}

// Call runs a function in a child, by Child.Call, and gives what it returned as a T, by the rules of Result.Decode.
//
//	version, err := daemon.Call[string](ctx, child, "platform:python_version")
func Call[T any](ctx context.Context, c Caller, fn string, args ...any) (T, error) {
	var v T
	if err := c.Call(ctx, fn, args...).Decode(&v); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

// Pending is a call that was sent.
type Pending struct {
	c      *Child
	handle pyproto.Handle
	w      *waiter
	err    error // it was not sent
}

// waiter is where the reply to one call arrives.
type waiter struct{ reply chan reply }

type reply struct {
	h       pyproto.Header
	payload []byte
}

var waiters = sync.Pool{New: func() any { return &waiter{reply: make(chan reply, 1)} }}

func (w *waiter) deliver(h pyproto.Header, payload []byte, shared bool) {
	if shared {
		payload = append(make([]byte, 0, len(payload)), payload...)
	}
	w.reply <- reply{h, payload}
}

// Call runs a function in the child and waits for what it returns. fn is MODULE:FUNCTION or MODULE:CLASS.METHOD, the
// latter for class methods and static methods. args are positional; a last one of type pyproto.Kwargs gives keyword
// arguments. Calls to one child run one at a time, in the order in which they were sent.
//
// An argument that is a []byte of 64 kB or more is sent from where it is: nobody may change it before the call has
// ended with the child's answer.
//
// When ctx ends, Call returns at once and the function goes on in the child; its result is dropped.
func (c *Child) Call(ctx context.Context, fn string, args ...any) *Result {
	return c.Start(ctx, fn, args...).Result(ctx)
}

// Start is the first half of Call: it sends. ctx limits the wait for room in the child's queue.
func (c *Child) Start(ctx context.Context, fn string, args ...any) *Pending {
	p := &Pending{c: c}
	payload, err := c.encode(ctx, "", fn, args, borrowFrom)
	if err != nil {
		p.err = err
		return p
	}
	p.w = waiters.Get().(*waiter)
	p.handle = c.d.handles.add(handler{fn: p.w.deliver, respondent: c.id, once: true})
	if err := c.sendCall(ctx, p.handle, payload); err != nil {
		c.d.handles.remove(p.handle)
		p.err = err
	}
	return p
}

// Notify runs a function in the child and does not ask for its result; a failure is logged. The arguments are copied.
func (c *Child) Notify(ctx context.Context, fn string, args ...any) error {
	payload, err := c.encode(ctx, "", fn, args, math.MaxInt)
	if err != nil {
		return err
	}
	return c.sendCall(ctx, 0, payload)
}

// Result waits for the reply. It must be called exactly once.
func (p *Pending) Result(ctx context.Context) *Result {
	if p.err != nil {
		return &Result{err: p.err}
	}
	select {
	case r := <-p.w.reply:
		waiters.Put(p.w)
		return p.c.result(ctx, r)
	default:
	}
	select {
	case r := <-p.w.reply:
		waiters.Put(p.w)
		return p.c.result(ctx, r)
	case <-ctx.Done():
		if p.c.d.handles.remove(p.handle) {
			// Nobody will use the waiter any more.
			waiters.Put(p.w)
		}
		return &Result{err: context.Cause(ctx)}
	}
}

// result decodes a reply until ctx ends: what a child has sent may be large, and made to be slow.
func (c *Child) result(ctx context.Context, r reply) *Result {
	if r.h.ReplyTo == pyproto.IsDead {
		if err := c.gone(); err != nil {
			return &Result{err: err}
		}
		return &Result{err: &DeadError{Target: c.name, Reason: string(r.payload)}}
	}
	if r.h.Enc == pyproto.EncBIN {
		return &Result{value: r.payload}
	}
	v, err := pyproto.DecodeOptions{Alias: true}.UnmarshalContext(ctx, r.payload)
	if err != nil && ctx.Err() != nil {
		return &Result{err: context.Cause(ctx)}
	}
	if err != nil {
		return &Result{err: errorf("%s: the result cannot be read: %w", c.name, err)}
	}
	if e, ok := v.(*pyproto.CallError); ok {
		return &Result{err: e}
	}
	return &Result{value: v}
}

// encode makes the payload of CALL_FUNCTION, after it has begun to send the modules that the function's module imports.
// Arguments that are bytes, and this many, stay where they are.
func (c *Child) encode(ctx context.Context, chain, fn string, args []any, borrow int) (p parts, err error) {
	module, class, function, err := splitFunction(fn)
	if err != nil {
		return p, err
	}
	call := pyproto.Call{ChainID: chain, Module: module, Class: class, Function: function, Py3: c.Version().Major == 3}
	call.Args, call.Kwargs = splitKwargs(args)
	if p.head, p.rest, err = call.AppendParts(make([]byte, 0, 128), borrow); err != nil {
		return p, errorf("%s: an argument cannot be sent: %w", fn, err)
	}
	return p, c.prepare(ctx, module)
}

// prepare comes ahead of a call that needs these modules, a large one last: what importing it takes may still be on its way
// afterwards, and whatever is pushed then waits for that.
func (c *Child) prepare(ctx context.Context, modules ...string) error {
	for _, module := range modules {
		if err := c.guard(ctx, module); err != nil {
			return err
		}
		if _, done := c.pushed.load(module); done {
			continue
		}
		if err := c.push(ctx, true, module); err != nil {
			return err
		}
	}
	return nil
}

// guard has the child watched before the first function of a user's is called there: when the connection is lost, its
// own code may be kept from noticing by a function that never gives up the interpreter's lock. Programs are forked off
// what watches.
func (c *Child) guard(ctx context.Context, module string) error {
	if c.runtime != nil || strings.HasPrefix(module, "mitogen.") || c.guarded.Load() {
		return nil
	}
	if c.stream.proc == nil {
		// Who started it watches.
		c.guarded.Store(true)
		return c.Push(ctx, "mitogen.running")
	}
	// Whoever calls meanwhile waits for it, and does it if this call is given up.
	if err := c.guarding.take(ctx); err != nil {
		return err
	}
	defer c.guarding.end()
	if c.guarded.Load() {
		return nil
	}
	if err := c.Push(ctx, "mitogen.running", "mitogen.guard", "mitogen.watcher"); err != nil {
		return err
	}
	call := pyproto.Call{Module: "mitogen.guard", Function: "start", Py3: c.Version().Major == 3}
	payload, err := call.AppendPickle(nil)
	if err != nil {
		return errorf("mitogen.guard: %w", err)
	}
	if err := c.sendCall(ctx, 0, parts{head: payload}); err != nil {
		return err
	}
	c.guarded.Store(true)
	return nil
}

// Push sends modules, with all that importing them will load from here, before the child asks for them.
func (c *Child) Push(ctx context.Context, modules ...string) error {
	return c.push(ctx, false, modules...)
}

// push is Push. With early, it does not wait for all that comes with the modules.
func (c *Child) push(ctx context.Context, early bool, modules ...string) error {
	var err error
	if slices.ContainsFunc(modules, func(name string) bool { return !strings.HasPrefix(name, "mitogen.") }) {
		if err := c.learn(ctx); err != nil {
			return err
		}
	}
	switch {
	case c.ownResponder && early:
		err = c.responder.Begin(ctx, modules...)
	case c.ownResponder:
		err = c.responder.Push(ctx, modules...)
	default:
		err = c.responder.Forward(ctx, uint32(c.id), c.Platform(), modules...)
	}
	if err != nil {
		if errors.Is(err, importer.ErrClosed) {
			// The connection is being torn down, which takes a moment to learn why.
			select {
			case <-c.closed:
			case <-ctx.Done():
			}
		}
		if gone := c.gone(); gone != nil {
			return gone
		}
		return errorf("%s: %w", c.name, err)
	}
	for _, m := range modules {
		c.pushed.store(m, struct{}{})
	}
	return nil
}

func (c *Child) sendCall(ctx context.Context, replyTo pyproto.Handle, payload parts) error {
	if size := payload.size(); size > c.d.opt.MaxMessage {
		return errorf("%s: the arguments are %d bytes; at most %d are sent", c.name, size, c.d.opt.MaxMessage)
	}
	if err := c.gone(); err != nil {
		return err
	}
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: pyproto.CallFunction, ReplyTo: replyTo}
	if err := c.send(ctx, payload.frame(h)); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if gone := c.gone(); gone != nil {
			return gone
		}
		return &DeadError{Target: c.name, Reason: err.Error(), Lost: c.stream.failure() != nil}
	}
	// The child may have gone between the check and now, and then nobody would end the wait.
	if err := c.gone(); err != nil && replyTo != 0 && c.d.handles.remove(replyTo) {
		return err
	}
	return nil
}
