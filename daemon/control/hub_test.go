package control

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
)

// The backlog is bounded in events and in bytes, and its count of bytes is right.
func TestBacklogIsBounded(t *testing.T) {
	h := newHub()
	log := zap.New(logCore{h: h})
	for i := range 3000 {
		log.Info(strings.Repeat("x", i%100*10000))
		sum := 0
		for _, e := range h.backlog {
			sum += sizeOf(e)
			if len(e.Text) > daemon.MaxLogText+100 {
				t.Fatalf("an event of %d bytes is kept", len(e.Text))
			}
		}
		if sum != h.bytes || sum > backlogBytes || len(h.backlog) > backlogSize {
			t.Fatalf("%d events of %d bytes, counted as %d", len(h.backlog), sum, h.bytes)
		}
	}
	if n := len(h.backlog); n < 10 {
		t.Errorf("%d events are left", n)
	}
	for range 3000 {
		h.publish(wire.Event{Kind: wire.EventLost})
	}
	if len(h.backlog) < backlogSize*9/10 || len(h.backlog) > backlogSize {
		t.Errorf("%d small events are kept", len(h.backlog))
	}
}

// A child that logs without end fills neither the disk nor the backlog, and the log says so.
func TestChildThatLogsWithoutEnd(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	s := &Server{hub: newHub()}
	c := &pool.Conn{}
	log := zap.New(core)
	for range 20000 {
		s.onLog(log)(c, daemon.Log{Level: 40, Text: strings.Repeat("A", 1000)})
		s.onOutput(log)(c, []byte(strings.Repeat("A", 1000)))
	}
	size := 0
	for _, e := range logs.All() {
		size += len(e.Message)
	}
	if size < 1<<20 || size > 8<<20 {
		t.Errorf("%d bytes were logged of 40 MB", size)
	}
	if n := logs.FilterMessage(daemon.DroppedLogs).Len(); n < 1 || n > 10 {
		t.Errorf("%d lines tell that records were dropped", n)
	}
}

// Of a backlog that does not fit, the newest events are given, and the others are counted.
func TestBacklogThatDoesNotFit(t *testing.T) {
	h := newHub()
	for i := range 500 {
		h.publish(wire.Event{Kind: wire.EventLog, Child: uint32(i), Text: strings.Repeat("x", 5000)})
	}
	h.publish(wire.Event{Kind: wire.EventLost, Child: 500})
	for _, n := range []int{1, 100, 450, 1000} {
		s := &stream{c: &conn{s: &Server{hub: h}}, max: streamBytes, changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
		h.dropped.Store(0)
		h.add(&subscriber{kinds: allKinds, stream: s}, n)
		items, dropped := s.items, 0
		if items[0].Kind == wire.ItemDropped {
			dropped = int(items[0].Count)
			items = items[1:]
		}
		if got := len(items) + dropped; got != min(n, len(h.backlog)) || (dropped > 0) != (n > 200) || h.dropped.Load() != int64(dropped) {
			t.Errorf("of %d: %d events, and %d dropped", n, len(items), dropped)
		}
		for i, item := range items {
			if want := 500 - len(items) + 1 + i; item.Event == nil || item.Event.Child != uint32(want) {
				t.Fatalf("of %d: item %d is %+v, not event %d", n, i, item, want)
			}
		}
	}
}
