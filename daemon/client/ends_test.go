package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/internal/link"
	"mitogend/daemon/wire"
	"mitogend/integration/poll"
	"mitogend/pyproto"
)

func message(v any) wire.Item { return wire.Item{Kind: wire.ItemMessage, Value: &wire.Value{V: v}} }

// What a read has taken that is on its way when the context ends is what the next call gives, up to the end.
func TestContextEndsWhileItemsCome(t *testing.T) {
	var reads int
	var late *wire.Message
	answers := []*wire.Items{
		{Items: []wire.Item{message("one"), {Kind: wire.ItemEvent, Event: &wire.Event{Text: "one"}}}},
		{Items: []wire.Item{{Kind: wire.ItemResult, Value: &wire.Value{V: "result"}}}, End: true},
	}
	c := stubThat(t, func(m *wire.Message, reply func(*wire.Message, any)) {
		switch m.Method {
		case "cancel":
			t.Error("a read was cancelled")
		case "read":
			if late = m; reads >= len(answers) {
				reads++
				t.Errorf("%d reads", reads)
			}
		case "stats": // the test says that the context has ended
			reply(late, answers[reads])
			reads++
			reply(m, nil)
		}
	})
	for name, next := range map[string]func(r reader) (func(context.Context) (any, error), func() (any, error)){
		"channel": func(r reader) (func(context.Context) (any, error), func() (any, error)) {
			ch := &Channel{reader: r}
			return ch.Recv, ch.Result
		},
		"receiver": func(r reader) (func(context.Context) (any, error), func() (any, error)) {
			ch := &Receiver{Channel: Channel{reader: r}}
			return ch.Recv, ch.Result
		},
		"events": func(r reader) (func(context.Context) (any, error), func() (any, error)) {
			e := &Events{r}
			return func(ctx context.Context) (any, error) {
				event, _, err := e.Next(ctx)
				if err != nil {
					return nil, err
				}
				return event.Text, nil
			}, nil
		},
	} {
		reads = 0
		recv, result := next(reader{s: stream{c: c, id: 1}})
		for i := range answers {
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if v, err := recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v, %v", name, v, err)
				}
				cancel()
			}
			if err := c.Do(t.Context(), "stats", nil, nil); err != nil {
				t.Fatal(err)
			}
			v, err := recv(t.Context())
			if i == 0 && (v != "one" || err != nil) || i == 1 && err != io.EOF {
				t.Errorf("%s: %v, %v", name, v, err)
			}
		}
		if result == nil {
			continue
		}
		if v, err := result(); v != "result" || err != nil {
			t.Errorf("%s: the result is %v, %v", name, v, err)
		}
	}
}

// What a request has made whose context has ended is closed: nobody knows that it is there.
func TestContextEndsWhileSomethingIsMade(t *testing.T) {
	child := func(c *Client) *Child { return &Child{c: c} }
	for method, tt := range map[string]struct {
		do     func(context.Context, *Client) error
		result any
		want   wire.Close
	}{
		"connect": {func(ctx context.Context, c *Client) error {
			_, err := c.Connect(ctx, "local:")
			return err
		}, &wire.Connected{Child: 7, Python: [2]int{3, 9}}, wire.Close{Child: 7}},
		"open": {func(ctx context.Context, c *Client) error {
			_, err := child(c).OpenChannel(ctx, "a:b")
			return err
		}, &wire.Items{Stream: 8, Child: &wire.Connected{Child: 7}}, wire.Close{Stream: 8}},
		"receiver": {func(ctx context.Context, c *Client) error {
			_, err := child(c).NewReceiver(ctx)
			return err
		}, &wire.NewReceiver{Stream: 9, Sender: &wire.Value{V: pyproto.Sender{Handle: 1000}}, Handle: 1000}, wire.Close{Stream: 9}},
		"subscribe": {func(ctx context.Context, c *Client) error {
			_, err := c.Subscribe(ctx, wire.Subscribe{})
			return err
		}, &wire.Items{Stream: 10}, wire.Close{Stream: 10}},
		"run": {func(ctx context.Context, c *Client) error {
			_, err := child(c).Run(ctx, daemon.RunOptions{})
			return err
		}, &wire.Items{Stream: 11}, wire.Close{Stream: 11}},
		"put": {func(ctx context.Context, c *Client) error {
			return c.Do(ctx, "put", &wire.Transfer{}, nil)
		}, &wire.Items{Stream: 12}, wire.Close{Stream: 12}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		closed := make(chan wire.Close, 1)
		var asked *wire.Message
		c := stubThat(t, func(m *wire.Message, reply func(*wire.Message, any)) {
			switch m.Method {
			case method:
				asked = m
				cancel()
			case "cancel": // it comes too late
				reply(asked, tt.result)
			case "close":
				var p wire.Close
				if err := wire.Unmarshal(m.Params, &p); err != nil {
					t.Error(err)
				}
				closed <- p
				reply(m, nil)
			default:
				reply(m, nil)
			}
		})
		if err := tt.do(ctx, c); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", method, err)
		}
		select {
		case got := <-closed:
			if got.Child != tt.want.Child || got.Stream != tt.want.Stream {
				t.Errorf("%s: %+v was closed", method, got)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: nothing was closed", method)
		}
		cancel()
	}
}

// While the daemon answers nothing and all places are taken, children are given back, and work on many targets ends with
// its context.
func TestManyEndWhileNothingIsAnswered(t *testing.T) {
	asked := make(chan bool, 2*link.MaxPending)
	c := stub(t, func(m *wire.Message) bool {
		asked <- true
		return false
	})
	ended, stop := context.WithCancel(t.Context())
	defer stop()
	for range link.MaxPending {
		go func() { _ = c.Do(ended, "stats", nil, nil) }()
	}
	for range link.MaxPending {
		<-asked
	}
	go func() { _ = (&Child{c: c}).Close(t.Context()) }()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.CallMany(ctx, &Many{}, &ManyCalls{Function: "a:b"}, nil) }()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits")
	}
}

// Nothing is asked for whose context has ended before, but what is given back.
func TestContextEndedBefore(t *testing.T) {
	closed := 0
	c := stub(t, func(m *wire.Message) bool {
		switch m.Method {
		case "close":
			closed++
		case "ping", "cancel":
		default:
			t.Errorf("%s was sent", m.Method)
		}
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if err := (&Child{c: c}).Call(ctx, "a:b").Err(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_ = (&Child{c: c}).Close(ctx)
	}
	poll.Until(t, "all are given back", func() bool {
		if err := c.Do(t.Context(), "ping", nil, nil); err != nil {
			t.Fatal(err)
		}
		return closed >= 20
	})
	if closed != 20 {
		t.Errorf("%d were given back", closed)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Standard input that fails is not at its end for the program: whoever gives it has ended the context.
func TestInputThatFails(t *testing.T) {
	var writes []wire.Write
	c := stub(t, func(m *wire.Message) bool {
		if m.Method == "write" {
			var p wire.Write
			if err := wire.Unmarshal(m.Params, &p); err != nil {
				t.Error(err)
			}
			writes = append(writes, p)
		}
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{c: c, ctx: t.Context(), id: 1}
	reads := 0
	s.feed(ctx, readerFunc(func(p []byte) (int, error) {
		if reads++; reads == 1 {
			return copy(p, "half"), nil
		}
		cancel()
		return 0, io.ErrUnexpectedEOF
	}), nil)
	if err := c.Do(t.Context(), "ping", nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(writes) != 1 || string(writes[0].Data) != "half" || writes[0].End {
		t.Errorf("%+v was written", writes)
	}
}

// What a function has printed in vain is told, and a receiver says why it has ended.
func TestItemsOfChannels(t *testing.T) {
	var items wire.Items
	c := stubThat(t, func(m *wire.Message, reply func(*wire.Message, any)) { reply(m, &items) })
	var printed []byte
	child := &Child{c: c, opt: daemon.ConnectOptions{OnOutput: func(data []byte) { printed = append(printed, data...) }}}
	ch, err := child.OpenChannel(t.Context(), "a:b")
	if err != nil {
		t.Fatal(err)
	}
	items = wire.Items{Items: []wire.Item{{Kind: wire.ItemOutput, Data: []byte("a")}, {Kind: wire.ItemDropped, Count: 5}, message("one")}}
	if v, err := ch.Recv(t.Context()); v != "one" || err != nil {
		t.Error(v, err)
	}
	if want := "a" + string(droppedText(5)); string(printed) != want {
		t.Errorf("got %q, want %q", printed, want)
	}
	r := &Receiver{Channel: Channel{reader: reader{s: stream{c: c, id: 1}}}}
	items = wire.Items{Items: []wire.Item{message("two"), {Kind: wire.ItemError, Error: wire.Errorf(wire.KindOverflow, "too much")}}, End: true}
	if v, err := r.Recv(t.Context()); v != "two" || err != nil {
		t.Error(v, err)
	}
	for range 2 {
		var e *wire.Error
		if v, err := r.Recv(t.Context()); v != nil || !errors.As(err, &e) || e.Kind != wire.KindOverflow {
			t.Error(v, err)
		}
	}
}
