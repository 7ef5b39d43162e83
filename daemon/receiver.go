package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"mitogend/pyproto"
)

// ErrOverflow is the end of a Receiver whose messages were not taken in time, and of a Channel or a program that sends more than it may.
var ErrOverflow = errors.New("daemon: more came than may wait")

// DefaultReceiverBytes bounds what waits in a Receiver, 64 bytes for each message included.
const DefaultReceiverBytes = 16 << 20

// Receiver takes the messages that one child sends to a handle of context 0: what a Receiver is in Python. A plain sender knows no
// flow control, so a receiver whose queue is full ends, with ErrOverflow once the queue is empty; [Child.Open] has flow
// control.
type Receiver struct {
	d      *Daemon
	c      *Child
	handle pyproto.Handle
	max    int

	changed chan struct{} // one token: look again

	// mu protects the following. A shard of handles is locked under it.
	mu    sync.Mutex
	queue []pyproto.Message
	bytes int
	err   error // what follows the queue; set once
}

// NewReceiver makes a receiver of messages from a child, of which at most max bytes wait (0 means DefaultReceiverBytes).
func (d *Daemon) NewReceiver(c *Child, max int) (*Receiver, error) {
	if max <= 0 {
		max = DefaultReceiverBytes
	}
	r := &Receiver{d: d, c: c, max: max, changed: make(chan struct{}, 1)}
	r.mu.Lock() // a child that lies may send before it was told of the handle
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
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return full
}

// Next gives the next message's value. io.EOF says that the sender has closed, *DeadError that the child is gone, ErrOverflow
// that it sent more than was taken. A value that can not be read is an error, after which the next can be asked for. Only one
// goroutine may call it at a time.
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
				err = fmt.Errorf("daemon: %s: a message can not be read: %w", r.c.name, err)
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

// Close ends the receiver; messages that come later are refused. A Next that waits fails.
func (r *Receiver) Close() {
	r.d.handles.remove(r.handle)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	r.queue, r.bytes = nil, 0
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Send sends a value to a receiver in this child or behind it: what a Sender does in Python. It waits for room in the child's queue.
// That the receiver exists is not checked.
func (c *Child) Send(ctx context.Context, to pyproto.Sender, v any) error {
	payload, err := pyproto.Marshal(v)
	if err != nil {
		return fmt.Errorf("daemon: %s: a message can not be sent: %w", c.name, err)
	}
	return c.sendTo(ctx, to, 0, payload)
}

// CloseSender tells a receiver in this child that nothing more comes.
func (c *Child) CloseSender(ctx context.Context, to pyproto.Sender) error {
	return c.sendTo(ctx, to, pyproto.IsDead, []byte("Channel closed by remote end."))
}

func (c *Child) sendTo(ctx context.Context, to pyproto.Sender, replyTo pyproto.Handle, payload []byte) error {
	if len(payload) > c.d.opt.MaxMessage {
		return fmt.Errorf("daemon: %s: the message is %d bytes; at most %d are sent", c.name, len(payload), c.d.opt.MaxMessage)
	}
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: to.Context, Handle: to.Handle, ReplyTo: replyTo}
	return c.sendFrame(ctx, h, newFrame(h, payload))
}

// sendFrame sends a frame to this child or one behind it.
func (c *Child) sendFrame(ctx context.Context, h pyproto.Header, f frame) error {
	err := c.gone()
	if err == nil && c.d.streamOf(h.Dst) != c.stream {
		err = fmt.Errorf("daemon: %s: context %d is not behind it", c.name, h.Dst)
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
