package client

import (
	"context"
	"io"
	"time"

	"mitogend/daemon/faults"
	"mitogend/daemon/internal/link"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto"
)

// List describes the contexts of the daemon's tree.
func (c *Client) List(ctx context.Context) ([]wire.Context, error) {
	var out wire.List
	err := c.Do(ctx, "list", nil, &out)
	return out.Contexts, err
}

// Stats gives the daemon's counters.
func (c *Client) Stats(ctx context.Context) (*wire.Stats, error) {
	var out wire.Stats
	err := c.Do(ctx, "stats", nil, &out)
	return &out, err
}

// End ends connections of the daemon, whoever uses them, and tells how many they were. Only Kill, Target, Idle and All of what
// count.
func (c *Client) End(ctx context.Context, what wire.Close) (int, error) {
	what.Child, what.Stream = 0, 0
	var out wire.Closed
	err := c.Do(ctx, "close", &what, &out)
	return out.Closed, err
}

// Stop asks the daemon to stop, and gives its process id. Running work may take up to grace; 0 is the configured time.
func (c *Client) Stop(ctx context.Context, grace time.Duration) (pid int, err error) {
	err = c.Do(ctx, "shutdown", &wire.Shutdown{Grace: wire.Seconds(grace.Seconds())}, &pid)
	return pid, err
}

// Levels sets the log level of a component, of all when that is empty, of none when level is; and gives those of all.
func (c *Client) Levels(ctx context.Context, component, level string) (map[string]string, error) {
	var out wire.Levels
	err := c.Do(ctx, "log_level", &wire.LogLevel{Component: component, Level: level}, &out)
	return out.Levels, err
}

// Modules tells what the daemon would serve to a child of version v for names; see importer.Describe.
func (c *Client) Modules(ctx context.Context, v importer.Version, names ...string) ([]importer.Description, error) {
	var out struct {
		Modules []importer.Description `codec:"modules"`
	}
	p := &wire.Modules{Names: names, Python: [2]int{v.Major, v.Minor}, Source: c.source()}
	err := c.Do(ctx, "modules", p, &out)
	return out.Modules, err
}

// reader takes the items of a stream when it is asked for them.
type reader struct {
	s     stream
	queue []wire.Item
	end   bool
	asked *link.Asked // a read whose answer nobody has had yet: the daemon has given away what is in it
}

// next takes the first item of the queue.
func (r *reader) next() wire.Item {
	item := r.queue[0]
	r.queue[0] = wire.Item{}
	r.queue = r.queue[1:]
	return item
}

// more waits for further items. It takes no place among the requests: what they wait for may depend on them.
func (r *reader) more(ctx context.Context) (err error) {
	if r.asked == nil {
		if r.asked, err = r.s.c.link.Begin(ctx, "read", &wire.Read{Stream: r.s.id}); err != nil {
			return err
		}
	}
	m, err := r.asked.Answer(ctx)
	if err != nil {
		return err
	}
	r.asked = nil
	var got wire.Items
	if err := link.Decode(m, &got); err != nil {
		return err
	}
	r.queue, r.end = got.Items, got.End
	return nil
}

// Events are what happens in a daemon, from a subscription.
type Events struct{ reader }

// Subscribe begins to collect events in the daemon, which keeps about a mebibyte of them until they are asked for.
func (c *Client) Subscribe(ctx context.Context, p wire.Subscribe) (*Events, error) {
	var got wire.Items
	if err := c.Do(ctx, "subscribe", &p, &got); err != nil {
		return nil, err
	}
	e := &Events{reader{s: stream{c: c, id: got.Stream}}}
	e.queue, e.end = got.Items, got.End
	return e, nil
}

// Next waits for the next event. dropped is how many were lost before it, for want of room. io.EOF is the end of a subscription
// with Until. When ctx ends, no event is lost: the next Next gives it.
func (e *Events) Next(ctx context.Context) (event *wire.Event, dropped int64, err error) {
	for {
		for len(e.queue) > 0 {
			item := e.next()
			switch {
			case item.Kind == wire.ItemDropped:
				dropped += item.Count
			case item.Error != nil:
				return nil, dropped, faults.ToError(item.Error)
			case item.Event != nil:
				return item.Event, dropped, nil
			}
		}
		if e.end {
			return nil, dropped, io.EOF
		}
		if err := e.more(ctx); err != nil {
			return nil, dropped, err
		}
	}
}

// Close ends the subscription.
func (e *Events) Close() { e.s.close() }

// Channel is a function in a child with messages both ways; see daemon.Channel. Recv may be called by one goroutine at a time.
type Channel struct {
	reader
	result any
	err    error
	output func([]byte) // what the function prints; nil of a Receiver
}

// OpenChannel calls a function with a channel as its first argument.
func (c *Child) OpenChannel(ctx context.Context, fn string, args ...any) (*Channel, error) {
	p := c.params(fn, args)
	p.Output = c.opt.OnOutput != nil
	var got wire.Items
	if err := c.c.Do(ctx, "open", p, &got); err != nil {
		return nil, toGo(err)
	}
	return &Channel{reader: reader{s: stream{c: c.c, id: got.Stream}}, output: c.output}, nil
}

// Send sends a value; it waits until the function has taken most of those before.
func (ch *Channel) Send(ctx context.Context, v any) error {
	return toGo(ch.s.c.link.Request(ctx, "write", &wire.Write{Stream: ch.s.id, Value: &wire.Value{V: v}}, nil))
}

// CloseSend tells the function that nothing more comes.
func (ch *Channel) CloseSend(ctx context.Context) error {
	return toGo(ch.s.c.link.Request(ctx, "write", &wire.Write{Stream: ch.s.id, End: true}, nil))
}

// Recv gives the next value that the function has sent; io.EOF says that it has ended, after which Result gives what it returned.
// When ctx ends, no value is lost: the next Recv gives it.
func (ch *Channel) Recv(ctx context.Context) (any, error) {
	for {
		for len(ch.queue) > 0 {
			item := ch.next()
			switch item.Kind {
			case wire.ItemMessage:
				return valueOf(&item), nil
			case wire.ItemOutput:
				ch.output(item.Data)
			case wire.ItemDropped:
				ch.output(droppedText(item.Count))
			case wire.ItemResult:
				ch.result = valueOf(&item)
			case wire.ItemError:
				ch.err = faults.ToError(item.Error)
			}
		}
		if ch.end {
			return nil, io.EOF
		}
		if err := ch.more(ctx); err != nil {
			return nil, toGo(err)
		}
	}
}

func valueOf(i *wire.Item) any {
	if i.Value == nil {
		return nil
	}
	return i.Value.V
}

// Result gives what the function returned, once Recv has given io.EOF.
func (ch *Channel) Result() (any, error) { return ch.result, ch.err }

// Close gives the channel up.
func (ch *Channel) Close() { ch.s.close() }

// Receiver takes messages that code in a child sends to it. Recv gives io.EOF when the sender has closed, and the error itself
// when the child is gone or has sent more than was taken.
type Receiver struct {
	Channel
	sender pyproto.Sender
}

// NewReceiver makes a receiver of a child's messages; see daemon.Receiver.
func (c *Child) NewReceiver(ctx context.Context) (*Receiver, error) {
	var got wire.NewReceiver
	if err := c.c.Do(ctx, "receiver", &wire.Receiver{Child: uint32(c.id), Exact: true}, &got); err != nil {
		return nil, toGo(err)
	}
	r := &Receiver{sender: pyproto.Sender{Context: pyproto.ContextID(got.Context), Handle: pyproto.Handle(got.Handle)}}
	r.s = stream{c: c.c, id: got.Stream}
	return r, nil
}

// Recv is Channel.Recv, but for its end.
func (r *Receiver) Recv(ctx context.Context) (any, error) {
	v, err := r.Channel.Recv(ctx)
	if err == io.EOF && r.err != nil {
		err = r.err
	}
	return v, err
}

// Sender is the receiver's address, as an argument for a call.
func (r *Receiver) Sender() pyproto.Sender { return r.sender }

// Send sends a value to a receiver in a child.
func (c *Client) Send(ctx context.Context, to pyproto.Sender, v any) error {
	return toGo(c.Do(ctx, "send", &wire.Send{To: wire.Value{V: to}, Value: &wire.Value{V: v}}, nil))
}
