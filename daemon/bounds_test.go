package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zaptest "go.uber.org/zap/zaptest/observer"

	"mitogend/bootstrap"
	"mitogend/integration/poll"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

// heap is the memory in use, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what a sync.Pool holds goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// frame is a message of the peer's own to context 0.
func (p *peer) frame(handle, replyTo pyproto.Handle, payload string) []byte {
	m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Src: p.id, Auth: p.id, Handle: handle, ReplyTo: replyTo}, Payload: []byte(payload)}
	return m.Append(nil)
}

// pour writes a frame again and again, for at least n bytes or as long as it is read. False says that it is not read
// any more.
func (p *peer) pour(n int, frame []byte) bool {
	p.t.Helper()
	many := bytes.Repeat(frame, max(1, (1<<20)/len(frame)))
	defer func() { _ = p.f.SetWriteDeadline(time.Time{}) }()
	for ; n > 0; n -= len(many) {
		for piece := range slices.Chunk(many, 64<<10) { // each has its time: a busy machine reads slowly
			_ = p.f.SetWriteDeadline(time.Now().Add(20 * time.Second))
			if _, err := p.f.Write(piece); err != nil {
				return false
			}
		}
	}
	return true
}

// honest answers its calls until the stream ends.
func (p *peer) honest() {
	p.c.pushed.store("mod", struct{}{})
	go func() {
		for {
			m, err := pyproto.ReadMessage(p.br, pyproto.DefaultMaxMessage)
			if err != nil {
				return
			}
			if m.Handle == pyproto.CallFunction && m.ReplyTo != 0 {
				answer := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Src: p.id, Auth: p.id, Handle: m.ReplyTo}, Payload: []byte("\x80\x02K\x07.")}
				if _, err := p.f.Write(answer.Append(nil)); err != nil {
					return
				}
			}
		}
	}()
}

// call is an honest call, and how long it took.
func (p *peer) call(t *testing.T) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	start := time.Now()
	if v, err := p.c.Call(ctx, "mod:fn").Value(); v != int64(7) || err != nil {
		t.Errorf("the honest child's call gives %v, %v", v, err)
	}
	return time.Since(start)
}

func pickle(t *testing.T, v any) string {
	t.Helper()
	b, err := pyproto.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func connectRequest(t *testing.T, evil *peer, method string, launcher int64, args map[string]any) []byte {
	return evil.frame(pyproto.Connect, 0, pickle(t, map[string]any{"method": method, "name": strings.Repeat("x", 5000), "via": int64(evil.id), "launcher": launcher, "args": args}))
}

// In each row a child makes the daemon keep something without end. The log must tell of the bound, little must be
// kept, another child must be served all the time, and everything must be free once the attacker is gone.
func TestBounds(t *testing.T) {
	for _, row := range []struct {
		name  string
		bound string // in the log
		// attack reaches the bound. Its result is kept from being collected.
		attack func(t *testing.T, d *Daemon, evil *peer) any
		ends   bool  // the attacker is disconnected
		kept   int64 // bytes, at most; 0 is 16 MiB
	}{
		{name: "refusals that are not read", bound: "answers that are not read", ends: true, attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(54321, 1999, ""))
			return nil
		}},
		{name: "ids that are not read", bound: "blocks of context ids", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			_, _ = evil.f.Write(bytes.Repeat(evil.frame(pyproto.AllocateID, 1999, ""), 2*maxBlocks))
			return nil
		}},
		{name: "detaching that is not read", bound: "answers that are not read", ends: true, attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.Detaching, 1999, ""))
			return nil
		}},
		{name: "refused connects that are not read", bound: "answers that are not read", ends: true, attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.Connect, 1999, "x"))
			return nil
		}},
		{name: "refused routes that are not read", bound: "answers that are not read", ends: true, attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.AddRoute, 0, "1000000"))
			return nil
		}},
		{name: "all ids that one connection gets", bound: "context ids for the connections of one name", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.c.d.accounts.of(evil.c.stream.name).taken.Store(maxIDs - 10*idBlock)
			_, _ = evil.f.Write(bytes.Repeat(evil.frame(pyproto.AllocateID, 1999, ""), 20))
			for i := range 20 {
				if m := evil.read(); m.IsDead() != (i >= 10) {
					evil.t.Errorf("block %d: refused %v", i, m.IsDead())
				}
			}
			return nil
		}},
		{name: "children behind each other", bound: "children behind each other", attack: func(t *testing.T, _ *Daemon, evil *peer) any {
			via := uint32(evil.id)
			for i := range 2 * maxDepth {
				evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.Connect, ReplyTo: 1999}, pickle(t, map[string]any{
					"method": "fork", "name": nil, "via": int64(via), "launcher": int64(0), "args": map[string]any{},
				}))
				m := evil.read()
				for m.Handle != 1999 { // the numbers that it may announce
					m = evil.read()
				}
				var up behindReply
				if err := pyproto.Decode(m.Payload, &up); err != nil {
					t.Fatal(err)
				}
				if refused := up.Error != nil; refused != (i >= maxDepth) {
					t.Fatalf("child %d: refused %v", i, refused)
				}
				if up.Error == nil {
					via = up.ID
				}
			}
			return nil
		}},
		{name: "modules before the connect is done", bound: "modules asked for before", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			c := evil.c
			c.mu.Lock()
			c.responder.Close()
			c.responder, c.ownResponder = nil, false
			c.mu.Unlock()
			for i := range 2 * maxEarly {
				_, _ = evil.f.Write(evil.frame(pyproto.GetModule, 0, fmt.Sprint("m", i)))
			}
			poll.Until(evil.t, "there are as many as there may be", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.early) == maxEarly
			})
			return nil
		}},
		{name: "modules with long names before the connect is done", bound: "modules asked for before", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			c := evil.c
			c.mu.Lock()
			c.responder.Close()
			c.responder, c.ownResponder = nil, false
			c.mu.Unlock()
			evil.pour(8<<20, evil.frame(pyproto.GetModule, 0, strings.Repeat("x", 60<<10)))
			return nil
		}},
		{name: "names of modules that there are not", bound: "bytes of refused names", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			for i := range 3000 {
				evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.GetModule}, fmt.Sprintf("%01000d", i))
				evil.read()
			}
			return nil
		}},
		{name: "routes", bound: "contexts behind one connection", attack: func(_ *testing.T, d *Daemon, evil *peer) any {
			var all []byte
			for range 2 * maxRoutes / idBlock {
				first := take(&d.lastAsked, idBlock, endAsked)
				evil.c.stream.ids.addBlock(first, evil.id)
				for id := first; id < first+idBlock; id++ {
					all = append(all, evil.frame(pyproto.AddRoute, 0, fmt.Sprint(id))...)
				}
			}
			_, _ = evil.f.Write(all)
			return nil
		}},
		{name: "forks", bound: "forks that are waited for", attack: func(t *testing.T, d *Daemon, evil *peer) any {
			evil.pour(32<<20, connectRequest(t, evil, "fork", 0, map[string]any{}))
			for _, c := range d.Children() {
				if len(c.Name()) > maxChildName+100 {
					t.Errorf("a name of %d bytes is kept", len(c.Name()))
				}
			}
			return nil
		}},
		{name: "launchers that never answer", bound: "connects under way", attack: func(t *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(32<<20, connectRequest(t, evil, "local", 5000, map[string]any{"connect_timeout": int64(3600)}))
			return nil
		}},
		{name: "large requests for children", bound: "bytes of a request for a child", attack: func(t *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, connectRequest(t, evil, "fork", 0, map[string]any{"x": strings.Repeat("y", 3<<20)}))
			return nil
		}},
		{name: "large questions", bound: "bytes of a request for a resource", attack: func(t *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.GetResource, 1999, pickle(t, pyproto.Tuple{"read", "x", strings.Repeat("y", 8<<20)})))
			return nil
		}},
		{name: "questions whose answers are not read", bound: "requests for resources that wait", attack: func(t *testing.T, _ *Daemon, evil *peer) any {
			// The first answer fills the queue, so that the others wait for room.
			evil.c.stream.offerBulk(t, 8<<20)
			evil.pour(16<<20, evil.frame(pyproto.GetResource, 1999, pickle(t, pyproto.Tuple{"read", "x", strings.Repeat("y", 60<<10)})))
			return nil
		}},
		{name: "module names", bound: "bytes of a module's name", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.GetModule, 0, strings.Repeat("x", 3<<20)))
			return nil
		}},
		{name: "log records", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(64<<20, evil.frame(pyproto.ForwardLog, 0, "evil\x0040\x00"+strings.Repeat("A", 1000)))
			return nil
		}},
		{name: "large log records", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			evil.pour(128<<20, evil.frame(pyproto.ForwardLog, 0, "evil\x0040\x00"+strings.Repeat("A", 16<<20)))
			return nil
		}},
		{name: "false sources", attack: func(_ *testing.T, _ *Daemon, evil *peer) any {
			m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Src: 0, Auth: 0, Handle: 5}}
			evil.pour(8<<20, m.Append(nil))
			return nil
		}},
		{name: "empty messages to a receiver", bound: "bytes that wait in a receiver", kept: 32 << 20, attack: func(t *testing.T, d *Daemon, evil *peer) any {
			r, err := d.NewReceiver(evil.c, 0)
			if err != nil {
				t.Fatal(err)
			}
			evil.pour(16<<20, evil.frame(r.handle, 0, ""))
			return r
		}},
		{name: "empty messages in a channel", bound: "bytes that wait in a channel", attack: func(_ *testing.T, d *Daemon, evil *peer) any {
			ch := evil.c.newChannel(0)
			evil.pour(16<<20, evil.frame(ch.handle, 0, "m"))
			return ch
		}},
		{name: "a program's output", bound: "bytes of a program's output", attack: func(_ *testing.T, d *Daemon, evil *peer) any {
			p := &program{c: evil.c, changed: make(chan struct{}, 1)}
			evil.pour(64<<20, evil.frame(d.handles.add(handler{fn: p.deliver, respondent: evil.id}), 0, "o"+strings.Repeat("x", 1<<20)))
			return p
		}},
		{name: "a program's messages of no kind", bound: "bytes of a program's output", attack: func(_ *testing.T, d *Daemon, evil *peer) any {
			p := &program{c: evil.c, changed: make(chan struct{}, 1)}
			evil.pour(8<<20, evil.frame(d.handles.add(handler{fn: p.deliver, respondent: evil.id}), 0, "z"))
			return p
		}},
		{name: "a program's empty output", attack: func(_ *testing.T, d *Daemon, evil *peer) any {
			p := &program{c: evil.c, changed: make(chan struct{}, 1)}
			evil.pour(16<<20, evil.frame(d.handles.add(handler{fn: p.deliver, respondent: evil.id}), 0, "o"))
			return p
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			core, logs := zaptest.New(zapcore.WarnLevel)
			sizes := &sizeCore{Core: core, t: t}
			d := newDaemon(t, Options{Logger: slogzap.Slog(zap.New(sizes)), StallTimeout: time.Second})
			good := newPeer(t, d)
			good.honest()
			good.call(t)
			before := heap()
			evil := newPeer(t, d)
			s := evil.c.stream
			kept := row.attack(t, d, evil)
			seen := func() (n int) {
				for _, e := range logs.FilterMessage("a bound was reached").All() {
					if row.bound != "" && strings.Contains(e.ContextMap()["bound"].(string), row.bound) && e.ContextMap()["stream"] == evil.c.name {
						n++
					}
				}
				return n
			}
			if row.bound != "" {
				poll.Until(t, "the bound is told", func() bool { return seen() > 0 })
			}
			took := good.call(t)
			var grown int64
			poll.Until(t, "little is kept", func() bool { // what was written last may still be on its way
				grown = heap() - before
				return grown <= max(row.kept, 16<<20)
			})
			if row.ends {
				<-s.ended
			} else if err := evil.c.gone(); err != nil {
				t.Errorf("the stream was ended: %v", err)
			}
			runtime.KeepAlive(kept)
			kept = nil
			_ = evil.f.Close()
			<-s.ended
			good.call(t)
			if n := len(d.Children()); n != 1 {
				t.Errorf("%d children are left", n)
			}
			if n := len(d.Routes()); n != 1 {
				t.Errorf("%d routes are left", n)
			}
			if row.bound != "" && seen() != 1 {
				t.Errorf("the bound was told %d times", seen())
			}
			most := 10
			if strings.Contains(row.name, "log records") {
				most = 2 * logBurst / 1000
			}
			if n := logs.Len(); n > most {
				t.Errorf("%d lines were logged", n)
			}
			logs.TakeAll()
			id := evil.c.id
			evil = nil
			s = nil
			poll.Until(t, "the memory is free", func() bool { return heap()-before < 4<<20 })
			poll.Until(t, "the connects have ended", func() bool { return d.child(id) == nil })
			t.Logf("%d kB were kept; the other's call took %v", grown>>10, took)
		})
	}
}

// A hop that is asked to start a child and does not answer gets the plan's time and a grace, whichever way it is
// asked.
func TestHopThatDoesNotAnswer(t *testing.T) {
	for _, row := range []struct {
		name    string
		connect func(ctx context.Context, evil *peer, next *Child, plan *bootstrap.Plan) error
	}{
		{"its launcher", func(ctx context.Context, evil *peer, next *Child, plan *bootstrap.Plan) error {
			evil.c.launcher.Store(5000)
			return evil.c.launch(ctx, next, plan)
		}},
		{"it is asked for its launcher", func(ctx context.Context, evil *peer, next *Child, plan *bootstrap.Plan) error {
			evil.c.pushed.store("mitogen.launch", struct{}{})
			return evil.c.launch(ctx, next, plan)
		}},
		{"a stock hop", func(ctx context.Context, evil *peer, next *Child, plan *bootstrap.Plan) error {
			evil.c.runtime = &Runtime{}
			next.runtime = evil.c.runtime
			evil.c.pushed.store("mitogen.parent", struct{}{})
			return evil.c.proxyConnect(ctx, next, step{bootstrap.Hop{Method: "local"}, map[string]any{}}, plan)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDaemon(t, Options{})
			d.launchGrace = 50 * time.Millisecond
			evil := newPeer(t, d)
			next := d.newChild(ConnectOptions{Name: "next"}, "local")
			next.via = evil.c
			plan, err := bootstrap.Build("local", map[string]any{"connect_timeout": "0.1"}, bootstrap.Boot{Stub: "pass"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = row.connect(ctx, evil, next, plan)
			if err == nil || !strings.Contains(err.Error(), "next: the hop before it does not answer") {
				t.Errorf("got %v", err)
			}
			if n := len(d.Children()); n != 1 {
				t.Errorf("%d children are left", n)
			}
		})
	}
}

// sizeCore cuts the records that an observer keeps.
type sizeCore struct {
	zapcore.Core
	t *testing.T
}

func (c *sizeCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c *sizeCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	if len(e.Message) > MaxLogText+100 {
		c.t.Errorf("a record of %d bytes", len(e.Message))
	}
	e.Message = strings.Clone(e.Message[:min(len(e.Message), 100)])
	return c.Core.Write(e, f)
}

// offerBulk queues so many bytes for a peer that does not read.
func (s *stream) offerBulk(t *testing.T, n int) {
	t.Helper()
	if err := s.offer(newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: s.id, Handle: 5000}, make([]byte, n))); err != nil {
		t.Fatal(err)
	}
}

// A peer that reads is not bounded in what the daemon itself says to it.
func TestAnswersThatAreRead(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20})
	p := newPeer(t, d)
	const n = 200_000
	var wg sync.WaitGroup
	wg.Go(func() {
		f := p.frame(54321, 1999, "")
		for range n / 1000 {
			if _, err := p.f.Write(bytes.Repeat(f, 1000)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range n {
		if m := p.read(); !m.IsDead() {
			t.Fatalf("got %+v", m.Header)
		}
	}
	wg.Wait()
	poll.Until(t, "nothing waits", func() bool {
		s := p.c.stream
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queued == 0 && s.owed == 0
	})
}

// Standard input goes ahead of what the child has taken, but not for ever. A child that claims to have taken more
// changes nothing.
func TestInputAhead(t *testing.T) {
	d := newDaemon(t, Options{})
	e := newPeer(t, d)
	p := &program{c: e.c, id: 77, input: 1234, changed: make(chan struct{}, 1), over: make(chan struct{})}
	window := d.share(inputBytes)
	all := make([]byte, 3*window)
	for i := range all {
		all[i] = byte(i >> 10)
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		p.feed(context.Background(), bytes.NewReader(all), &feeder{c: e.c}, nil)
	}()
	var got []byte
	piece := func() int {
		m := e.read()
		if m.Handle != 1234 || m.Payload[0] != 'i' {
			t.Fatalf("%+v", m.Header)
		}
		got = append(got, m.Payload[1:]...)
		return len(m.Payload) - 1
	}
	pieces := 0
	for ; len(got)+d.inputPiece() <= window; pieces++ {
		piece()
	}
	e.send(pyproto.Header{Src: e.id, Auth: e.id, Handle: 54321, ReplyTo: 1999}, "")
	if m := e.read(); m.Handle != 1999 {
		t.Errorf("%d bytes, and then another piece: the window is %d", len(got), window)
	}
	// It claims to have taken all of them, and many more.
	for range 3 * maxPieces {
		p.take('a', nil)
	}
	before := len(got)
	for len(got)-before+d.inputPiece() <= window {
		piece()
	}
	e.send(pyproto.Header{Src: e.id, Auth: e.id, Handle: 54321, ReplyTo: 1999}, "")
	for e.read().Handle != 1999 {
		pieces++
	}
	close(p.over)
	<-fed
	if len(got) > 3*window || !bytes.Equal(got, all[:len(got)]) {
		t.Errorf("%d bytes came, or others", len(got))
	}
}

// Output in tiny pieces is joined, and none of it is lost.
func TestProgramThatPrintsByByte(t *testing.T) {
	d := newDaemon(t, Options{})
	e := newPeer(t, d)
	p := &program{c: e.c, id: 77, changed: make(chan struct{}, 1)}
	var want, got bytes.Buffer
	for i := range 100_000 {
		p.deliver(pyproto.Header{}, []byte{'o', byte(i)}, true)
		want.WriteByte(byte(i))
	}
	if n := len(p.queue); n != 1 {
		t.Errorf("%d pieces wait", n)
	}
	p.deliver(pyproto.Header{}, []byte("eerr"), true)
	p.deliver(pyproto.Header{}, []byte("x256"), true)
	var stderr bytes.Buffer
	status, err := p.copy(context.Background(), RunOptions{Stdout: &got, Stderr: &stderr})
	if err != nil || status.Code != 1 || !bytes.Equal(got.Bytes(), want.Bytes()) || stderr.String() != "err" {
		t.Errorf("%v, %v, %d bytes, %q", status, err, got.Len(), stderr.String())
	}
}

// TestLentOutput: output in buffers that are used again takes less than twice its size, however its pieces are cut, and
// stays what it was.
func TestLentOutput(t *testing.T) {
	d := newDaemon(t, Options{})
	e := newPeer(t, d)
	for name, sizes := range map[string][]int{
		"over the small size":      {copyBelow + 1},
		"over the large size":      {shareFrom + 1},
		"of all sizes":             {1, copyBelow + 1, joinBelow - 1, shareFrom, 1, smallBuffer, joinBelow - 1, joinBelow - 1, readBuffer + 1, 10},
		"pieces behind a full one": {shareFrom, 100},
	} {
		p := &program{c: e.c, id: 77, lent: true, window: maxWindow, changed: make(chan struct{}, 1)}
		var want, got bytes.Buffer
		for i := 0; want.Len() < maxOutput/2; i++ {
			piece := bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)])
			p.deliver(pyproto.Header{}, append([]byte{'o'}, piece...), true)
			want.Write(piece)
		}
		kept := 0
		for _, k := range p.queue {
			kept += cap(k.data)
			if k.buf != nil && &k.buf.b[0] != &k.data[0] {
				t.Fatalf("%s: a buffer is kept that has nothing in it", name)
			}
		}
		if kept >= 2*want.Len()+len(p.queue)*messageCost {
			t.Errorf("%s: %d bytes are kept for %d", name, kept, want.Len())
		}
		p.deliver(pyproto.Header{}, []byte("x0"), true)
		if _, err := p.copy(context.Background(), RunOptions{Stdout: &got}); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%s: %v, or it is not what came", name, err)
		}
	}
	for _, w := range []io.Writer{nil, io.Discard, faultyWriter{}} {
		b := bufferFor(shareFrom)
		k := chunk{tag: 'o', data: b.b[:1], buf: b}
		if _ = k.write(w); k.buf != nil {
			t.Errorf("a buffer is not given back after what was written to %T", w)
		}
	}
}

// A write that fails leaves the child what it may send.
func TestCreditOfAFailedWrite(t *testing.T) {
	d := newDaemon(t, Options{})
	e := newPeer(t, d)
	p := &program{c: e.c, id: 77, lent: true, window: d.OutputShare(), changed: make(chan struct{}, 1)}
	p.deliver(pyproto.Header{}, append([]byte{'o'}, make([]byte, d.OutputShare()/8)...), true)
	_, err := p.copy(context.Background(), RunOptions{Stdout: faultyWriter{}})
	if want := d.OutputShare() / 8 * 7; err == nil || p.window != want {
		t.Errorf("%v; the child may send %d, not %d", err, p.window, want)
	}
}

type faultyWriter struct{}

func (faultyWriter) Write([]byte) (int, error) { return 0, errors.New("no") }

// A frame over the limit does not touch an earlier frame in the same buffer that waits for another peer.
func TestSkippedFrameBehindWaitingOnes(t *testing.T) {
	d := newDaemon(t, Options{MaxMessage: 1 << 20, MaxPending: 64 << 20})
	a, b := newPeer(t, d), newPeer(t, d)
	go func() {
		var all []byte
		for i := range 61 {
			m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: b.id, Src: a.id, Auth: a.id, Handle: 2000, ReplyTo: 1999},
				Payload: bytes.Repeat([]byte{'a'}, 20000)}
			if i == 60 {
				m.Payload = bytes.Repeat([]byte{'Z'}, 3<<20)
			}
			all = m.Append(all)
		}
		_, _ = a.f.Write(all)
	}()
	a.wantDead(1999, "at most")
	for i := range 60 {
		if m := b.read(); len(m.Payload) != 20000 || bytes.Contains(m.Payload, []byte{'Z'}) {
			t.Fatalf("message %d is another", i)
		}
	}
}

// Of one child's log records a burst comes through, then few. A line says how many were dropped.
func TestLogLimit(t *testing.T) {
	var l LogLimit
	taken, lines, dropped := 0, 0, 0
	for range 20000 {
		ok, say, n := l.Take(1000)
		if ok {
			taken++
		}
		if say {
			lines++
			dropped += n
		}
	}
	if taken < 3000 || taken > 5000 || lines < 1 || lines > 3 || dropped == 0 {
		t.Errorf("%d records were taken, %d lines tell of %d dropped", taken, lines, dropped)
	}
}

// A client may answer those who ask in the daemon's place, even while others ask without end and get no answer. What is
// remembered of that is bounded, and goes with who has asked.
func TestAnswersOwed(t *testing.T) {
	d := newDaemon(t, Options{})
	good, evil := newPeer(t, d), newPeer(t, d)
	slow := evil.behind()
	p, client := attach(t, d)
	ask := func(who pyproto.ContextID, reply pyproto.Handle) {
		h := pyproto.Header{Enc: pyproto.EncMGC, Src: who, Handle: pyproto.CallService, ReplyTo: reply}
		p.PassOn(&Incoming{Message: pyproto.Message{Header: h}, d: d}, true)
	}
	ask(good.id, 2000)
	ask(slow.id, 2000) // over the same connection as the flood
	ask(evil.id, 1)    // of the runtime's own
	owed := &evil.c.stream.passed
	for i := range 2 * maxPassed {
		ask(evil.id, pyproto.FirstDynamic+pyproto.Handle(i))
		if i%3 == 0 {
			owed.take(replyKey{p.ID(), evil.id, pyproto.FirstDynamic + pyproto.Handle(i)})
		}
	}
	owed.mu.Lock()
	if n := owed.n; n != maxPassed || len(owed.m[evil.id].m) != n-1 || len(owed.m[evil.id].order) > 2*n+64 {
		t.Errorf("%d answers are remembered, %d of them in %d places", n, len(owed.m[evil.id].m), len(owed.m[evil.id].order))
	}
	owed.mu.Unlock()
	reply := func(to pyproto.ContextID) {
		client.send(pyproto.Header{Dst: to, Src: p.ID(), Auth: p.ID(), Handle: 2000}, "N.")
	}
	for _, who := range []struct {
		from *peer
		id   pyproto.ContextID
	}{{good, good.id}, {evil, slow.id}} {
		reply(who.id)
		reply(who.id)
		if m := who.from.answer(2000); m.Src != 0 {
			t.Errorf("the answer comes from %d", m.Src)
		}
		if m := who.from.answer(2000); m.Src != p.ID() {
			t.Errorf("a second one comes from %d", m.Src)
		}
	}
	ask(slow.id, 2001)
	evil.send(pyproto.Header{Src: evil.id, Auth: evil.id, Handle: pyproto.DelRoute}, fmt.Sprint(slow.id))
	poll.Until(t, "what was owed to it is forgotten", func() bool {
		owed.mu.Lock()
		defer owed.mu.Unlock()
		return owed.m[slow.id] == nil && owed.n == len(owed.m[evil.id].m)
	})
}
