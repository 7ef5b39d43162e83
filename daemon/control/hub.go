package control

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap/zapcore"

	"mitogend/daemon"
	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

// How many events are kept for later subscribers, and how many bytes of them.
const (
	backlogSize  = 1000
	backlogBytes = 4 << 20
)

// allKinds are the kinds of events. A subscription has all but the last by default.
var allKinds = []string{
	wire.EventConnected, wire.EventLost, wire.EventClosed, wire.EventImport, wire.EventLog, wire.EventCall, wire.EventOutput,
}

// hub gives events to subscribers.
type hub struct {
	dropped atomic.Int64

	// wanted counts subscriptions by kind, so that events that nobody wants are not made.
	wanted [7]atomic.Int32

	// tap gets every call and import as well; nil for nobody. Constant after New.
	tap func(*wire.Event)

	// mu protects the following. A subscriber's own lock is taken under it.
	mu      sync.Mutex
	subs    map[*subscriber]bool
	backlog []*wire.Event // oldest first
	bytes   int           // of those
}

// subscriber gets events into its stream.
type subscriber struct {
	kinds  []string
	target string
	stream *stream
}

func (s *subscriber) takes(e *wire.Event) bool {
	return slices.Contains(s.kinds, e.Kind) && (s.target == "" || s.target == e.Target || s.target == e.Chain)
}

func newHub() *hub { return &hub{subs: map[*subscriber]bool{}} }

// wants tells whether anybody would get an event of that kind.
func (h *hub) wants(kind string) bool {
	i := slices.Index(allKinds, kind)
	return h.wanted[i].Load() > 0 || kept(kind) || h.tap != nil
}

// kept tells whether events of that kind are in the backlog.
func kept(kind string) bool {
	return kind == wire.EventLog || kind == wire.EventConnected || kind == wire.EventLost || kind == wire.EventClosed
}

// publish never blocks.
func (h *hub) publish(e wire.Event) {
	if !h.wants(e.Kind) {
		return
	}
	if e.Time == 0 {
		e.Time = stamp(time.Now())
	}
	if h.tap != nil {
		h.tap(&e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if kept(e.Kind) {
		h.keep(&e)
	}
	for s := range h.subs {
		s.give(&e)
	}
}

// keep adds to the backlog. mu is held.
func (h *hub) keep(e *wire.Event) {
	if n := backlogSize / 10; len(h.backlog) == backlogSize {
		h.forget(n)
	}
	h.backlog = append(h.backlog, e)
	h.bytes += sizeOf(e)
	if h.bytes > backlogBytes {
		n, left := 0, h.bytes
		for ; left > backlogBytes*9/10 && n < len(h.backlog)-1; n++ {
			left -= sizeOf(h.backlog[n])
		}
		h.forget(n)
	}
}

// forget drops the oldest n of the backlog. mu is held.
func (h *hub) forget(n int) {
	for _, e := range h.backlog[:n] {
		h.bytes -= sizeOf(e)
	}
	h.backlog = slices.Delete(h.backlog, 0, n)
}

func sizeOf(e *wire.Event) int { return (&wire.Item{Event: e}).Size() }

func stamp(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func (s *subscriber) give(e *wire.Event) {
	if s.takes(e) {
		s.stream.offer(wire.Item{Kind: wire.ItemEvent, Event: e})
	}
}

// add subscribes, and first gives the last n events that were kept. Of those that do not fit into the stream, the oldest
// are dropped.
func (h *hub) add(s *subscriber, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var old []*wire.Event
	dropped, left := int64(0), s.stream.max-sizeOf(nil) // an item may say what was dropped
	for i := len(h.backlog) - 1; i >= 0 && len(old)+int(dropped) < n; i-- {
		e := h.backlog[i]
		if !s.takes(e) {
			continue
		}
		if left -= sizeOf(e); left < 0 && len(old) > 0 {
			dropped++
			continue
		}
		old = append(old, e)
	}
	if dropped > 0 {
		s.stream.skip(dropped)
	}
	for _, e := range slices.Backward(old) {
		s.give(e)
	}
	h.subs[s] = true
	for _, k := range s.kinds {
		h.wanted[slices.Index(allKinds, k)].Add(1)
	}
}

func (h *hub) remove(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.subs[s] {
		return
	}
	delete(h.subs, s)
	for _, k := range s.kinds {
		h.wanted[slices.Index(allKinds, k)].Add(-1)
	}
}

// logCore is a zapcore.Core that makes events of log records. The fields target, chain, context and logger have their
// own places; others follow the text.
type logCore struct {
	h      *hub
	fields []zapcore.Field
}

func (c logCore) Enabled(zapcore.Level) bool { return true }

func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	return logCore{c.h, slices.Concat(c.fields, fields)}
}

func (c logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c logCore) Sync() error { return nil }

func (c logCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	e := wire.Event{Kind: wire.EventLog, Time: stamp(entry.Time), Text: entry.Message, Logger: entry.LoggerName, Level: pythonLevel(entry.Level)}
	enc := zapcore.NewMapObjectEncoder()
	var names []string
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(enc)
		switch f.Key {
		case "target":
			e.Target = f.String
		case "chain":
			e.Chain = f.String
		case "context":
			e.Child = uint32(f.Integer)
		case "logger":
			e.Logger += "." + text(enc.Fields[f.Key])
		default:
			names = append(names, f.Key)
		}
	}
	for _, name := range names {
		e.Text += " " + name + "=" + text(enc.Fields[name])
	}
	e.Text = printable.Cut(e.Text, daemon.MaxLogText)
	c.h.publish(e)
	return nil
}

// pythonLevel gives Python's number for a level.
func pythonLevel(l zapcore.Level) int { return 10 * (int(l) + 2) }
