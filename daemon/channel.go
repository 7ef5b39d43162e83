package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"mitogend/pyproto"
)

// channelWindow is how many bytes of messages may be on the way in each direction, messageCost for each included; one
// message may be larger. CallOptions.Window may make it less for the direction from the child. The child counts the
// same (channel.py).
const channelWindow = 1 << 20

// Channel is a function that runs in a child, with messages to it and from it. Both directions have flow control: a
// sender waits until the other side has taken what was sent before. Several goroutines may call its methods, but only
// one at a time may call Recv.
type Channel struct {
	c      *Child
	handle pyproto.Handle
	call   *Tracked
	window int // for what the child sends

	changed chan struct{} // one token: Recv looks again
	room    chan struct{} // one token: Send looks again

	// mu protects the following. Nothing is locked under it.
	mu       sync.Mutex
	peer     pyproto.Handle // 0 until the child has said it
	queue    [][]byte
	waiting  int   // bytes in queue, and messageCost for each message
	unread   int   // the same, of messages that were sent and that the child has not taken
	closed   bool  // by us
	finished bool  // the function has ended
	err      error // what follows the queue; set once
	sendErr  error
}

// Open calls a function in the child with a channel as its first argument, before args. It occupies the child until
// the function returns, as any call does. o.Chain and o.Convert are ignored.
func (c *Child) Open(ctx context.Context, o CallOptions, fn string, args ...any) (*Channel, error) {
	if c.runtime != nil {
		return nil, errorf("%s runs %s, which has no channels with flow control: %w; use a Receiver", c.name, c.runtime, ErrRuntime)
	}
	module, class, function, err := splitFunction(fn)
	if err != nil {
		return nil, err
	}
	args, kwargs := splitKwargs(args)
	if err := c.prepare(ctx, "mitogen.channel", module); err != nil {
		return nil, err
	}
	ch := c.newChannel(o.Window)
	o.Chain, o.Convert = "", 0
	ch.call = c.startTracked(ctx, o, func() { ch.end(io.EOF) }, "mitogen.channel:serve",
		[]any{int64(ch.handle), int64(ch.window), module, classOrNone(class), function, kwargs, args})
	return ch, nil
}

// newChannel gives a channel that takes window bytes of messages ahead of Recv; 0 is channelWindow.
func (c *Child) newChannel(window int) *Channel {
	if window <= 0 {
		window = channelWindow
	}
	ch := &Channel{c: c, window: window, changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	ch.mu.Lock() // a child that lies may use the handle before it knows it, and the child may end
	defer ch.mu.Unlock()
	ch.handle = c.d.handles.add(handler{fn: ch.deliver, respondent: c.id})
	return ch
}

// deliver takes a message of the child; see channel.py.
func (ch *Channel) deliver(h pyproto.Header, payload []byte, _ bool) {
	if h.ReplyTo == pyproto.IsDead {
		ch.end(io.EOF)
		return
	}
	if len(payload) == 0 {
		return
	}
	body, full := payload[1:], false
	ch.mu.Lock()
	switch payload[0] {
	case 'h':
		n, _ := strconv.ParseUint(string(body), 10, 32)
		if ch.peer = pyproto.Handle(n); ch.peer.Reserved() {
			ch.peer = 0
		}
		if ch.closed {
			defer ch.dismiss(ch.peer)
		}
	case 'm':
		if ch.waiting > 0 && ch.waiting+len(body)+messageCost > ch.window && ch.err == nil {
			ch.err, full = ErrOverflow, true
		}
		if ch.err == nil && !ch.closed {
			ch.queue = append(ch.queue, bytes.Clone(body))
			ch.waiting += len(body) + messageCost
		}
	case 'a':
		n, _ := strconv.Atoi(string(body))
		ch.unread -= n
	case 'e':
		if ch.err == nil {
			ch.err = io.EOF
		}
	}
	ch.mu.Unlock()
	if full {
		_ = ch.c.stream.reached("bytes that wait in a channel", ch.window)
	}
	ch.wake()
}

func (ch *Channel) wake() {
	token(ch.changed)
	token(ch.room)
}

// end is called when the function has ended.
func (ch *Channel) end(err error) {
	ch.mu.Lock()
	handle := ch.handle
	ch.finished = true
	if ch.err == nil {
		ch.err = err
	}
	ch.mu.Unlock()
	ch.c.d.handles.remove(handle)
	ch.wake()
}

// Send sends a value to the function. io.ErrClosedPipe says that the function has ended, or that CloseSend was
// called.
func (ch *Channel) Send(ctx context.Context, v any) error {
	payload, err := pyproto.Marshal(v)
	if err != nil {
		return errorf("%s: a message cannot be sent: %w", ch.c.name, err)
	}
	return ch.write(ctx, 'm', payload)
}

// CloseSend tells the function that nothing more comes.
func (ch *Channel) CloseSend(ctx context.Context) error {
	err := ch.write(ctx, 'e', nil)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.sendErr = io.ErrClosedPipe
	return err
}

// SendFrom sends all that r gives, as bytes values of up to 256 kB each, and gives the number of bytes. Nothing is
// pickled: a chunk is written from where it was read to.
func (ch *Channel) SendFrom(ctx context.Context, r io.Reader) (total int64, err error) {
	for {
		buf := getBuffer(true)
		n, err := r.Read(buf.b)
		if n > 0 {
			if serr := ch.sendChunk(ctx, buf, n); serr != nil {
				return total, serr
			}
			total += int64(n)
		} else {
			buf.release()
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, errorf("%s: reading what to send: %w", ch.c.name, err)
		}
	}
}

// sendChunk sends n bytes of a buffer, and gives the buffer back.
func (ch *Channel) sendChunk(ctx context.Context, buf *buffer, n int) error {
	if ch.c.d.readsPicklesOnly(ch.c.stream, ch.c.id) {
		// It takes pickles only.
		defer buf.release()
		return ch.Send(ctx, buf.b[:n])
	}
	peer, err := ch.reserve(ctx, n)
	if err != nil {
		buf.release()
		return err
	}
	h := pyproto.Header{Enc: pyproto.EncBIN, Dst: ch.c.id, Handle: peer, Length: uint32(n)}
	defer buf.release()
	return ch.c.sendFrame(ctx, h, passFrame(h, buf.b[:n], buf))
}

func (ch *Channel) write(ctx context.Context, tag byte, payload []byte) error {
	peer, err := ch.reserve(ctx, len(payload))
	if err != nil {
		return err
	}
	// The tag is copied with the payload: they have to be one message.
	return ch.c.sendTo(ctx, pyproto.Sender{Context: ch.c.id, Handle: peer}, 0, append([]byte{tag}, payload...))
}

// reserve waits until the function's side can take n bytes more, and gives its handle.
func (ch *Channel) reserve(ctx context.Context, n int) (pyproto.Handle, error) {
	n += messageCost
	for {
		ch.mu.Lock()
		switch {
		case ch.finished || ch.sendErr != nil:
			ch.mu.Unlock()
			ch.wake()
			return 0, io.ErrClosedPipe
		case ch.peer != 0 && (ch.unread == 0 || ch.unread+n <= channelWindow):
			ch.unread += n
			peer := ch.peer
			ch.mu.Unlock()
			ch.wake() // another sender may fit as well
			return peer, nil
		}
		ch.mu.Unlock()
		select {
		case <-ch.room:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// Recv gives the next value that the function has sent. io.EOF says that nothing more comes.
func (ch *Channel) Recv(ctx context.Context) (any, error) {
	for {
		ch.mu.Lock()
		if len(ch.queue) > 0 {
			data := ch.queue[0]
			ch.queue[0] = nil
			ch.queue = ch.queue[1:]
			ch.waiting -= len(data) + messageCost
			peer, finished := ch.peer, ch.finished
			ch.mu.Unlock()
			if !finished {
				_ = ch.c.d.post(ch.c.id, peer, 0, fmt.Appendf(nil, "a%d", len(data)+messageCost))
			}
			v, err := pyproto.DecodeOptions{}.UnmarshalContext(ctx, data)
			if err != nil {
				err = errorf("%s: a message cannot be read: %w", ch.c.name, err)
			}
			return v, err
		}
		err := ch.err
		ch.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-ch.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Result waits for the end of the function.
func (ch *Channel) Result(ctx context.Context) *Result { return ch.call.Result(ctx) }

// Done is closed when the function has ended.
func (ch *Channel) Done() <-chan struct{} { return ch.call.Done() }

// Close gives the channel up: the function's next use of it raises ChannelError there. A function that does not use
// it again runs on.
func (ch *Channel) Close() {
	ch.mu.Lock()
	peer, finished := ch.peer, ch.finished
	ch.closed = true
	ch.queue, ch.waiting = nil, 0
	if ch.err == nil {
		ch.err = io.ErrClosedPipe
	}
	ch.sendErr = io.ErrClosedPipe
	ch.mu.Unlock()
	ch.wake()
	if !finished && peer != 0 {
		ch.dismiss(peer)
	}
}

// dismiss tells the function's side that this side is gone.
func (ch *Channel) dismiss(peer pyproto.Handle) {
	if s := ch.c.d.streamOf(ch.c.id); s != nil {
		h := pyproto.Header{Enc: pyproto.EncMGC, Dst: ch.c.id, Handle: peer, ReplyTo: pyproto.IsDead}
		_ = s.offer(own(newFrame(h, []byte("Channel closed by remote end."))))
	}
}
