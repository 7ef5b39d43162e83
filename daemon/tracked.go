package daemon

import (
	"context"
	"slices"
	"sync"

	"mitogend/pyproto"
)

// CallOptions are the options of a call.
type CallOptions struct {
	// Chain names a call chain. Once a call of it has raised, later calls of that name do not run and raise the same,
	// until ResetChain.
	Chain string
	// Output gets what the child prints while the function runs, on the stream's readLoop. It must not block, nor
	// keep the slice, and is not called any more once the result is there. If it is nil, ConnectOptions.OnOutput gets
	// the output.
	Output func(data []byte)
	// Room, if not nil, is where a large result counts from before it is read until Tracked.Release. While there is
	// no room, the child's connection is not read, for StallTimeout at most.
	Room *Assembly
	// Convert has the child make values plain that cannot be sent as they are. Without it they are errors.
	Convert Convert
	// Window, of Open, is how many bytes of messages the function may send ahead of Recv; one message may be larger.
	// 0 is a mebibyte.
	Window int
}

// Tracked is a call that was sent by StartWith.
type Tracked struct {
	c      *Child
	output func([]byte)
	ended  func()        // called once, when done is closed; may be nil, must not block
	done   chan struct{} // closed when reply or err is set
	reply  reply
	err    error
	room   *Assembly
	kept   *Part // the reply's part of room

	// arriving belongs to the readLoop that brings the reply.
	arriving *Part

	// decoding protects the following, and is held while the reply is decoded.
	decoding sync.Mutex
	result   *Result
}

// tracked are a child's calls that wait for a reply, in the order in which they were sent. The child runs them in
// that order, so what it prints belongs to the first.
type tracked struct {
	sending turn // of who sends, so that the order here is that on the wire

	// mu protects calls. Nothing is locked under it.
	mu    sync.Mutex
	calls []*Tracked
}

// print gives what was printed to the call that runs.
func (t *tracked) print(data []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.calls) == 0 || t.calls[0].output == nil {
		return false
	}
	t.calls[0].output(data)
	return true
}

func (t *tracked) add(call *Tracked) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = append(t.calls, call)
}

func (t *tracked) remove(call *Tracked) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.calls, call); i >= 0 {
		t.calls = slices.Delete(t.calls, i, i+1)
	}
}

// StartWith is Start with options. ctx limits the wait for room in the child's queue. The call is tracked until it
// ends in the child, even if nobody asks for its result.
func (c *Child) StartWith(ctx context.Context, o CallOptions, fn string, args ...any) *Tracked {
	return c.startTracked(ctx, o, nil, fn, args)
}

// CallWith is Call with options.
func (c *Child) CallWith(ctx context.Context, o CallOptions, fn string, args ...any) *Result {
	return c.StartWith(ctx, o, fn, args...).Result(ctx)
}

func (c *Child) startTracked(ctx context.Context, o CallOptions, ended func(), fn string, args []any) *Tracked {
	t := &Tracked{c: c, output: o.Output, ended: ended, room: o.Room, done: make(chan struct{})}
	var payload parts
	var err error
	if o.Convert != 0 {
		fn, args, err = c.converted(ctx, o.Convert, fn, args)
	}
	if err == nil {
		payload, err = c.encode(ctx, o.Chain, fn, args, borrowFrom)
	}
	if err == nil {
		if err = c.tracked.sending.take(ctx); err == nil {
			err = t.send(ctx, payload)
			c.tracked.sending.end()
		}
	}
	if err != nil {
		t.err = err
		t.finish()
	}
	return t
}

func (t *Tracked) send(ctx context.Context, payload parts) error {
	c := t.c
	c.tracked.add(t)
	e := handler{fn: t.deliver, respondent: c.id, once: true}
	if t.room != nil {
		e.call = t
	}
	handle := c.d.handles.add(e)
	err := c.sendCall(ctx, handle, payload)
	if err != nil && !c.d.handles.remove(handle) {
		return nil // a dead message was delivered: the child is gone
	}
	if err != nil {
		c.tracked.remove(t)
	}
	return err
}

func (t *Tracked) deliver(h pyproto.Header, payload []byte, shared bool) {
	t.c.tracked.remove(t)
	if shared {
		payload = append(make([]byte, 0, len(payload)), payload...)
	}
	if h.ReplyTo != pyproto.IsDead {
		t.kept = t.arriving
	}
	t.reply = reply{h, payload}
	t.finish()
}

// Release gives back what the result takes of CallOptions.Room. Call it when the call has ended and its result is not
// used any more.
func (t *Tracked) Release() {
	if isClosed(t.done) && t.kept != nil {
		t.kept.Done()
	}
}

func (t *Tracked) finish() {
	close(t.done)
	if t.ended != nil {
		t.ended()
	}
}

// Done is closed when the call has ended.
func (t *Tracked) Done() <-chan struct{} { return t.done }

// Result waits for the end of the call. When ctx ends first, it gives ctx's error, and may be called again.
func (t *Tracked) Result(ctx context.Context) *Result {
	select {
	case <-t.done:
	default:
		select {
		case <-t.done:
		case <-ctx.Done():
			return &Result{err: context.Cause(ctx)}
		}
	}
	t.decoding.Lock()
	defer t.decoding.Unlock()
	if t.result != nil {
		return t.result
	}
	r := &Result{err: t.err}
	if t.err == nil {
		if r = t.c.result(ctx, t.reply); r.err != nil && ctx.Err() != nil {
			return r // it was not read to its end
		}
	}
	t.result, t.reply = r, reply{}
	return r
}

// ResetChain ends a call chain: the next call of that name runs again.
func (c *Child) ResetChain(ctx context.Context, chain string) error {
	return c.StartWith(ctx, CallOptions{}, "mitogen.core:Dispatcher.forget_chain", chain).Result(ctx).Err()
}
