package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"mitogend/daemon/wire"
)

// A result that is put into a stream after its client has closed it takes no room.
func TestPutAfterClose(t *testing.T) {
	s := &stream{max: streamBytes, changed: make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{})}
	close(s.gone)
	s.drop()
	released := 0
	if err := s.put(wire.Item{Kind: wire.ItemResult, Taken: func() { released++ }}); err != nil || released != 1 || len(s.items) > 0 {
		t.Error(err, released, len(s.items))
	}
}

// The end of a request's context does not end standard input: the program, which is being ended, would take what came
// before for all of it.
func TestInputOfWhatIsGivenUp(t *testing.T) {
	s := &stream{over: make(chan struct{})}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(t.Context())
	cancel()
	in := newInput(s)
	go func() {
		for range 100 {
			_ = in.write(t.Context(), &wire.Write{Data: []byte{1}})
		}
		close(s.over)
	}()
	n, err := io.Copy(io.Discard, in)
	if n != 100 || err != nil {
		t.Error(n, err)
	}
}

// A write that ends the work of a plan does not wait for a write that nobody takes.
func TestWritePlaces(t *testing.T) {
	one := 1
	for want, writes := range map[string][]wire.Write{
		"":          {{Stream: 7, Cancel: true}, {Stream: 7, Stop: true}},
		"write 7":   {{Stream: 7, Data: []byte("x")}, {Stream: 7, End: true}},
		"write 7 1": {{Stream: 7, Target: &one, End: true}},
	} {
		for _, w := range writes {
			if got := writePlace(&w); got != want {
				t.Errorf("%+v: %q", w, got)
			}
		}
	}
}

// Errors take room in a stream by their texts, as results do.
func TestErrorsTakeRoom(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what has no room is not waited for
	s := &stream{ctx: ctx, max: streamBytes, changed: make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{})}
	n := 0
	for ; n < 200; n++ {
		text := strings.Repeat("x", 100_000)
		if s.put(wire.Item{Kind: wire.ItemError, Error: &wire.Error{Kind: wire.KindCall, Message: text}}) != nil {
			break
		}
	}
	if n < 5 || n > 10 {
		t.Errorf("%d errors of 100 kB wait", n)
	}
}

// The count of bytes is right when something was dropped.
func TestDroppedIsCounted(t *testing.T) {
	h := newHub()
	s := &stream{c: &conn{s: &Server{hub: h}}, max: 1000, changed: make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{})}
	for range 100 {
		for range 20 {
			s.offer(wire.Item{Kind: wire.ItemEvent, Event: &wire.Event{Text: strings.Repeat("x", 100)}})
		}
		s.take(600)
		s.offer(wire.Item{Kind: wire.ItemEvent, Event: &wire.Event{}})
		for len(s.items) > 0 {
			s.take(1)
		}
	}
	if s.bytes != 0 || h.dropped.Load() == 0 {
		t.Errorf("%d bytes are in an empty stream; %d were dropped", s.bytes, h.dropped.Load())
	}
}

// slowClient takes some bytes of each write until the deadline, and nothing once it is full.
type slowClient struct {
	net.Conn
	room int
}

func (c *slowClient) SetWriteDeadline(time.Time) error { return nil }

func (c *slowClient) Write(b []byte) (int, error) {
	n := min(len(b), c.room, 1<<10)
	c.room -= n
	if n < len(b) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

// A client that takes its replies slowly is served; one that takes nothing is not.
func TestSlowClient(t *testing.T) {
	const size = 20 << 10
	slow := &slowClient{room: size}
	c := &conn{s: &Server{}, nc: slow, ctx: t.Context()}
	if n, err := c.writeSome(make([]byte, size)); n != size || err != nil {
		t.Error(n, err)
	}
	slow.room = size / 2
	if n, err := c.writeSome(make([]byte, size)); n != size/2 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(n, err)
	}
}
