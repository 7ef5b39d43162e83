package client

import (
	"context"
	"io"
	"time"

	"mitogend/daemon/faults"
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

// Events are what happens in a daemon, from a subscription.
type Events struct {
	s     stream
	queue []wire.Item
	end   bool
}

// Subscribe begins to collect events in the daemon, which keeps about a mebibyte of them until they are asked for.
func (c *Client) Subscribe(ctx context.Context, p wire.Subscribe) (*Events, error) {
	var got wire.Items
	if err := c.Do(ctx, "subscribe", &p, &got); err != nil {
		return nil, err
	}
	return &Events{s: stream{c: c, id: got.Stream}, queue: got.Items, end: got.End}, nil
}

// Next waits for the next event. dropped is how many were lost before it, for want of room. io.EOF is the end of a subscription
// with Until.
func (e *Events) Next(ctx context.Context) (event *wire.Event, dropped int64, err error) {
	for {
		for len(e.queue) > 0 {
			item := e.queue[0]
			e.queue = e.queue[1:]
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
		var got wire.Items
		if err := e.s.c.Do(ctx, "read", &wire.Read{Stream: e.s.id}, &got); err != nil {
			return nil, dropped, err
		}
		e.queue, e.end = got.Items, got.End
	}
}

// Close ends the subscription.
func (e *Events) Close() { e.s.close() }

// Channel is a function in a child with messages both ways; see daemon.Channel. Recv may be called by one goroutine at a time.
type Channel struct {
	s      stream
	queue  []wire.Item
	end    bool
	result any
	err    error
	opt    func(*wire.Item)
}

// OpenChannel calls a function with a channel as its first argument.
func (c *Child) OpenChannel(ctx context.Context, fn string, args ...any) (*Channel, error) {
	p := c.params(fn, args)
	p.Output = c.opt.OnOutput != nil
	var got wire.Items
	if err := c.c.Do(ctx, "open", p, &got); err != nil {
		return nil, toGo(err)
	}
	return &Channel{s: stream{c: c.c, id: got.Stream}, opt: func(i *wire.Item) { c.output(i.Data) }}, nil
}

// Send sends a value; it waits until the function has taken most of those before.
func (ch *Channel) Send(ctx context.Context, v any) error {
	return toGo(ch.s.c.link.Request(ctx, "write", &wire.Write{Stream: ch.s.id, Value: &wire.Value{V: v}}, nil, nil))
}

// CloseSend tells the function that nothing more comes.
func (ch *Channel) CloseSend(ctx context.Context) error {
	return toGo(ch.s.c.link.Request(ctx, "write", &wire.Write{Stream: ch.s.id, End: true}, nil, nil))
}

// Recv gives the next value that the function has sent; io.EOF says that it has ended, after which Result gives what it returned.
func (ch *Channel) Recv(ctx context.Context) (any, error) {
	for {
		for len(ch.queue) > 0 {
			item := ch.queue[0]
			ch.queue = ch.queue[1:]
			switch item.Kind {
			case wire.ItemMessage:
				return valueOf(&item), nil
			case wire.ItemOutput:
				ch.opt(&item)
			case wire.ItemResult:
				ch.result = valueOf(&item)
			case wire.ItemError:
				ch.err = faults.ToError(item.Error)
			}
		}
		if ch.end {
			return nil, io.EOF
		}
		var got wire.Items
		if err := ch.s.c.Do(ctx, "read", &wire.Read{Stream: ch.s.id}, &got); err != nil {
			return nil, toGo(err)
		}
		ch.queue, ch.end = got.Items, got.End
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

// Receiver takes messages that code in a child sends to it.
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

// Sender is the receiver's address, as an argument for a call.
func (r *Receiver) Sender() pyproto.Sender { return r.sender }

// Send sends a value to a receiver in a child.
func (c *Client) Send(ctx context.Context, to pyproto.Sender, v any) error {
	return toGo(c.Do(ctx, "send", &wire.Send{To: wire.Value{V: to}, Value: &wire.Value{V: v}}, nil))
}
