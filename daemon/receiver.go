package daemon

import (
	"bytes"
	"context"
	"io"
	"sync"

	"mitogend/pyproto"
)

// ErrOverflow is the end of a Receiver whose messages were not taken in time, and of a Channel or program that sends
// more than it may.
var ErrOverflow = errorf("more came than may wait")

// DefaultReceiverBytes bounds what waits in a Receiver, 64 bytes for each message included.
const DefaultReceiverBytes = 16 << 20

// Receiver takes the messages that one child sends to a handle of context 0, like a Receiver in Python. A plain
// sender has no flow control, so a receiver whose queue is full ends, with ErrOverflow behind the queue. [Child.Open]
// has flow control.
type Receiver struct {
	d      *Daemon
	c      *Child
	handle pyproto.Handle
	max    int

	changed chan struct{} // one token: Next looks again

	// mu protects the following. A shard of handles is locked under it.
	mu    sync.Mutex
	queue []pyproto.Message
	bytes int
	err   error // what follows the queue; set once
}

// NewReceiver makes a receiver of a child's messages. At most max bytes wait; 0 means DefaultReceiverBytes.
func (d *Daemon) NewReceiver(c *Child, max int) (*Receiver, error) {
	if max <= 0 {
		max = DefaultReceiverBytes
	}
	r := &Receiver{d: d, c: c, max: max, changed: make(chan struct{}, 1)}
	r.mu.Lock() // a child that lies may use the handle before it knows it
	r.handle = d.handles.add(handler{fn: r.deliver, respondent: c.id})
	r.mu.Unlock()
	if err := c.gone(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Sender is the receiver's address, as an argument for a call.
func (r *Receiver) Sender() pyproto.Sender { return pyproto.Sender{Context: 0, Handle: r.handle} }

func (r *Receiver) deliver(h pyproto.Header, payload []byte, _ bool) {
	if r.take(h, payload) {
		_ = r.c.stream.reached("bytes that wait in a receiver", r.max)
	}
}

// take queues a message; true says that there is no room for it.
func (r *Receiver) take(h pyproto.Header, payload []byte) (full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return false
	}
	switch {
	case h.ReplyTo == pyproto.IsDead:
		r.err = io.EOF
		if gone := r.c.gone(); gone != nil {
			r.err = gone
		}
	case r.bytes+len(payload)+messageCost > r.max && len(r.queue) > 0:
		r.err, full = ErrOverflow, true
		r.d.handles.remove(r.handle)
	default:
		r.queue = append(r.queue, pyproto.Message{Header: h, Payload: bytes.Clone(payload)})
		r.bytes += len(payload) + messageCost
	}
	token(r.changed)
	return full
}

// Next gives the next message's value. io.EOF says that the sender has closed, *DeadError that the child is gone,
// ErrOverflow that it sent more than was taken. A value that cannot be read is an error; Next may be called again
// after it. Only one goroutine may call Next at a time.
func (r *Receiver) Next(ctx context.Context) (any, error) {
	for {
		r.mu.Lock()
		if len(r.queue) > 0 {
			m := r.queue[0]
			r.queue[0] = pyproto.Message{}
			r.queue = r.queue[1:]
			r.bytes -= len(m.Payload) + messageCost
			r.mu.Unlock()
			v, err := m.ValueContext(ctx)
			if err != nil {
				err = errorf("%s: a message cannot be read: %w", r.c.name, err)
			}
			return v, err
		}
		err := r.err
		r.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-r.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends the receiver, and a Next that waits fails. Messages that come later are refused.
func (r *Receiver) Close() {
	r.d.handles.remove(r.handle)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	r.queue, r.bytes = nil, 0
	token(r.changed)
}

// token leaves a token in a channel for one, where the next reader finds it. It never blocks.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Send sends a value to a receiver in this child or behind it, like a Sender in Python. It waits for room in the
// child's queue, and does not check that the receiver exists.
func (c *Child) Send(ctx context.Context, to pyproto.Sender, v any) error {
	payload, err := pyproto.Marshal(v)
	if err != nil {
		return errorf("%s: a message cannot be sent: %w", c.name, err)
	}
	return c.sendTo(ctx, to, 0, payload)
}

// CloseSender tells a receiver in this child that nothing more comes.
func (c *Child) CloseSender(ctx context.Context, to pyproto.Sender) error {
	return c.sendTo(ctx, to, pyproto.IsDead, []byte("Channel closed by remote end."))
}

func (c *Child) sendTo(ctx context.Context, to pyproto.Sender, replyTo pyproto.Handle, payload []byte) error {
	if to.Handle.Reserved() {
		return errorf("%s: handle %d is no receiver's", c.name, to.Handle)
	}
	if len(payload) > c.d.opt.MaxMessage {
		return errorf("%s: the message is %d bytes; at most %d are sent", c.name, len(payload), c.d.opt.MaxMessage)
	}
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: to.Context, Handle: to.Handle, ReplyTo: replyTo}
	return c.sendFrame(ctx, h, newFrame(h, payload))
}

// sendFrame sends a frame to this child or a context behind it.
func (c *Child) sendFrame(ctx context.Context, h pyproto.Header, f frame) error {
	err := c.gone()
	if err == nil && c.d.streamOf(h.Dst) != c.stream {
		err = errorf("%s: context %d is not behind it", c.name, h.Dst)
	}
	if err != nil {
		f.done()
		return err
	}
	err = c.send(ctx, f)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if gone := c.gone(); gone != nil {
		return gone
	}
	return &DeadError{Target: c.name, Reason: err.Error()}
}
