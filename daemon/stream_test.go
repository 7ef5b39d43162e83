package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/internal/pty"
	"mitogend/pyproto"
)

// peer is the other end of a stream: a child, driven by the test.
type peer struct {
	t  testing.TB
	id pyproto.ContextID
	f  *os.File // to the daemon
	in *os.File // from there
	br *bufio.Reader
	c  *Child
}

// links are the kinds of connections that children have, by name: our two ends, which may be one file, and the other
// side's.
var links = map[string]func(t testing.TB) (r, w, theirR, theirW *os.File){
	"socketpair": func(t testing.TB) (r, w, theirR, theirW *os.File) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "peer")
		return ours, ours, theirs, theirs
	},
	"pipes": func(t testing.TB) (r, w, theirR, theirW *os.File) {
		r, theirW, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		theirR, w, err = os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w, theirR, theirW
	},
	"pty": func(t testing.TB) (r, w, theirR, theirW *os.File) {
		master, slave, err := pty.Open()
		if err != nil {
			pythons.Missing(t, err)
		}
		if _, err := term.MakeRaw(slave); err != nil {
			t.Fatal(err)
		}
		var files []*os.File
		for _, fd := range []int{master, slave} {
			if err := syscall.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			files = append(files, os.NewFile(uintptr(fd), "pty"))
		}
		return files[0], files[0], files[1], files[1]
	},
}

// newPeer puts a child into the tree whose part the test plays.
func newPeer(t testing.TB, d *Daemon) *peer {
	t.Helper()
	return newPeerOn(t, d, "socketpair")
}

func newPeerOn(t testing.TB, d *Daemon, link string, prepare ...func(*Child)) *peer {
	t.Helper()
	r, w, theirR, theirW := links[link](t)
	c := d.newChild(ConnectOptions{}, "local")
	c.name = fmt.Sprintf("peer%d", c.id)
	c.guarded.Store(true) // nothing of the runtime goes ahead of its calls
	var err error
	if c.stream, err = d.newStream(c.id, c.name, r, w); err != nil {
		t.Fatal(err)
	}
	if err := c.newResponder(); err != nil {
		t.Fatal(err)
	}
	if err := d.enter(); err != nil {
		t.Fatal(err)
	}
	for _, fn := range prepare {
		fn(c)
	}
	d.children.Store(c.id, c)
	d.streams.Store(c.stream, nil)
	d.routes.add(c.id, c.stream)
	go c.stream.readLoop(nil)
	t.Cleanup(func() { _, _ = theirW.Close(), theirR.Close() })
	return &peer{t: t, id: c.id, f: theirW, in: theirR, br: bufio.NewReader(theirR), c: c}
}

func (p *peer) send(h pyproto.Header, payload string) {
	p.t.Helper()
	if h.Enc == 0 {
		h.Enc = pyproto.EncMGC
	}
	m := pyproto.Message{Header: h, Payload: []byte(payload)}
	if _, err := p.f.Write(m.Append(nil)); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) read() *pyproto.Message {
	p.t.Helper()
	_ = p.in.SetReadDeadline(time.Now().Add(time.Minute))
	m, err := pyproto.ReadMessage(p.br, pyproto.DefaultMaxMessage)
	if err != nil {
		p.t.Fatalf("peer %d: %v", p.id, err)
	}
	return m
}

func (p *peer) wantDead(handle pyproto.Handle, reason string) {
	p.t.Helper()
	m := p.read()
	if !m.IsDead() || m.Handle != handle || !strings.Contains(string(m.Payload), reason) {
		p.t.Errorf("got %+v %q, want a dead message to %d with %q", m.Header, m.Payload, handle, reason)
	}
}

// quiet waits until a stream is parked.
func (s *stream) quiet(t *testing.T) {
	t.Helper()
	poll.Until(t, "the stream has no goroutine", s.place.Parked)
}

func TestRelay(t *testing.T) {
	d := newDaemon(t, Options{})
	a, b := newPeer(t, d), newPeer(t, d)
	for _, size := range []int{0, 1, copyBelow, copyBelow + 1, smallBuffer/2 + 1, smallBuffer, readBuffer/2 + 1, 3 * growStep} {
		text := strings.Repeat("x", size)
		go a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: a.id, Handle: 1234, ReplyTo: 5}, text)
		m := b.read()
		if m.Src != a.id || m.Auth != a.id || m.Handle != 1234 || m.ReplyTo != 5 || string(m.Payload) != text {
			t.Fatalf("%d bytes: %+v, %d bytes", size, m.Header, len(m.Payload))
		}
	}
}

func TestRelaySmallFramesThatArriveInPieces(t *testing.T) {
	d := newDaemon(t, Options{})
	a, b := newPeer(t, d), newPeer(t, d)
	var all []byte
	for i := range 200 {
		m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: b.id, Src: a.id, Auth: a.id, Handle: pyproto.Handle(i + 1)},
			Payload: bytes.Repeat([]byte{byte(i)}, i*50)}
		all = m.Append(all)
	}
	go func() {
		for n := 1; len(all) > 0; n = n*3%7001 + 1 {
			k := min(n, len(all))
			if _, err := a.f.Write(all[:k]); err != nil {
				return
			}
			all = all[k:]
		}
	}()
	for i := range 200 {
		if m := b.read(); m.Handle != pyproto.Handle(i+1) || len(m.Payload) != i*50 || i > 0 && m.Payload[0] != byte(i) {
			t.Fatalf("message %d: %+v", i, m.Header)
		}
	}
}

func TestRefused(t *testing.T) {
	d := newDaemon(t, Options{MaxMessage: 1000})
	a, b := newPeer(t, d), newPeer(t, d)
	a.send(pyproto.Header{Dst: 999999, Src: a.id, Auth: a.id, Handle: 1, ReplyTo: 7}, "")
	a.wantDead(7, "no route to context 999999")
	a.send(pyproto.Header{Dst: a.id, Src: a.id, Auth: a.id, Handle: 1, ReplyTo: 8}, "")
	a.wantDead(8, "behind the stream")
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: 5000, ReplyTo: 9}, "")
	a.wantDead(9, "invalid handle")
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: pyproto.CallFunction, ReplyTo: 9}, "")
	a.wantDead(9, "invalid handle")
	a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: a.id, Handle: 1, ReplyTo: 10}, strings.Repeat("x", 5000))
	a.wantDead(10, "message is 5000 bytes; at most 1000 are sent")
	// The stream is whole after that.
	a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: a.id, Handle: 77}, "after")
	if m := b.read(); m.Handle != 77 || string(m.Payload) != "after" {
		t.Errorf("got %+v", m.Header)
	}
}

func TestFalseSourceIsDropped(t *testing.T) {
	d := newDaemon(t, Options{})
	a, b := newPeer(t, d), newPeer(t, d)
	a.send(pyproto.Header{Dst: b.id, Src: b.id, Auth: a.id, Handle: 1}, "src of the receiver")
	a.send(pyproto.Header{Dst: b.id, Src: 0, Auth: a.id, Handle: 1}, "src of the master")
	a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: 0, Handle: 1}, "auth of the master")
	a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: b.id, Handle: 1}, "auth of the receiver")
	a.send(pyproto.Header{Dst: b.id, Src: a.id, Auth: a.id, Handle: 2}, "true")
	if m := b.read(); string(m.Payload) != "true" {
		t.Errorf("%q was let through", m.Payload)
	}
}

func TestRoutes(t *testing.T) {
	d := newDaemon(t, Options{})
	a, b := newPeer(t, d), newPeer(t, d)
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.AllocateID, ReplyTo: 20}, "")
	v, err := a.read().Value()
	if err != nil {
		t.Fatal(err)
	}
	block := v.(pyproto.Tuple)
	below := pyproto.ContextID(block[0].(int64))
	if block[1].(int64)-block[0].(int64) != idBlock {
		t.Errorf("got block %v", block)
	}
	// b's route to a's grandchild is refused; a's own counts.
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.AddRoute}, fmt.Sprintf("%d:x", below))
	a.send(pyproto.Header{Dst: b.id, Src: below, Auth: below, Handle: 30, ReplyTo: 31}, "from below")
	if m := b.read(); m.Src != below {
		t.Errorf("got %+v", m.Header)
	}
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: pyproto.AddRoute}, fmt.Sprint(below))
	if m := b.read(); m.Handle != pyproto.DelRoute || string(m.Payload) != fmt.Sprint(below) {
		t.Errorf("got %+v %q in place of a refusal", m.Header, m.Payload)
	}
	b.send(pyproto.Header{Dst: below, Src: b.id, Auth: b.id, Handle: 31}, "answer")
	if m := a.read(); m.Dst != below || string(m.Payload) != "answer" {
		t.Errorf("got %+v %q", m.Header, m.Payload)
	}
	// A stream that has sent to it learns that it is gone.
	a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: pyproto.DelRoute}, fmt.Sprint(below))
	if m := b.read(); m.Handle != pyproto.DelRoute || string(m.Payload) != fmt.Sprint(below) || m.Src != 0 {
		t.Errorf("got %+v %q", m.Header, m.Payload)
	}
	b.send(pyproto.Header{Dst: a.id, Src: b.id, Auth: b.id, Handle: 40}, "")
	a.read()
	_ = a.f.Close()
	if m := b.read(); m.Handle != pyproto.DelRoute || string(m.Payload) != fmt.Sprint(a.id) {
		t.Errorf("got %+v %q", m.Header, m.Payload)
	}
}

func TestGarbageEndsTheStream(t *testing.T) {
	d := newDaemon(t, Options{})
	a := newPeer(t, d)
	if _, err := a.f.WriteString(strings.Repeat("garbage ", 10)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the stream goes on")
	}
	var dead *DeadError
	if err := a.c.Call(context.Background(), "os:getpid").Err(); !errors.As(err, &dead) || !dead.Lost {
		t.Errorf("got %v", err)
	}
}

// A header that promises much costs little until the bytes come.
func TestHeaderAloneAllocatesLittle(t *testing.T) {
	d := newDaemon(t, Options{})
	a := newPeer(t, d)
	h := pyproto.Header{Enc: pyproto.EncMGC, Src: a.id, Auth: a.id, Handle: 1, Length: pyproto.DefaultMaxMessage}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := a.f.Write(h.Append(nil)); err != nil {
		t.Fatal(err)
	}
	_ = a.f.Close()
	<-a.c.stream.ended
	runtime.ReadMemStats(&after)
	// Other tests' allocations count, too.
	if n := after.TotalAlloc - before.TotalAlloc; n > pyproto.DefaultMaxMessage/8 {
		t.Errorf("a header of %d bytes had %d bytes allocated", pyproto.DefaultMaxMessage, n)
	}
}

func TestCallAgainstAPeer(t *testing.T) {
	d := newDaemon(t, Options{})
	a, b := newPeer(t, d), newPeer(t, d)
	a.c.pushed.store("mod", struct{}{})
	p := a.c.Start(context.Background(), "mod:fn", 1)
	m := a.read()
	if m.Handle != pyproto.CallFunction || m.Src != 0 || m.Auth != 0 {
		t.Fatalf("got %+v", m.Header)
	}
	// Somebody else's reply is not taken.
	b.send(pyproto.Header{Dst: 0, Src: b.id, Auth: b.id, Handle: m.ReplyTo, ReplyTo: 50}, "\x80\x02K\x01.")
	b.wantDead(50, "reply from unexpected context")
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: m.ReplyTo}, "\x80\x02K\x02.")
	if v, err := p.Result(context.Background()).Value(); v != int64(2) || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
	// A second reply finds no call.
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: m.ReplyTo, ReplyTo: 51}, "\x80\x02K\x02.")
	a.wantDead(51, "invalid handle")
	// Half a pickle.
	p = a.c.Start(context.Background(), "mod:fn")
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: a.read().ReplyTo}, "\x80\x02K")
	if err := p.Result(context.Background()).Err(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("got %v", err)
	}
	// The caller gives up. A late reply is refused, and does no harm.
	ctx, cancel := context.WithCancel(context.Background())
	p = a.c.Start(ctx, "mod:fn")
	m = a.read()
	cancel()
	if err := p.Result(ctx).Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	a.send(pyproto.Header{Dst: 0, Src: a.id, Auth: a.id, Handle: m.ReplyTo, ReplyTo: 52}, "\x80\x02K\x02.")
	a.wantDead(52, "invalid handle")
	// The child dies under a call.
	p = a.c.Start(context.Background(), "mod:fn")
	_ = a.f.Close()
	var dead *DeadError
	if err := p.Result(context.Background()).Err(); !errors.As(err, &dead) || !dead.Lost {
		t.Errorf("got %v", err)
	}
}

// The senders of a peer that reads nothing wait, and others do not. After StallTimeout the senders learn of it.
func TestFullQueue(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20, StallTimeout: 300 * time.Millisecond})
	slow, sender, other := newPeer(t, d), newPeer(t, d), newPeer(t, d)
	go func() {
		m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: slow.id, Src: sender.id, Auth: sender.id, Handle: 1, ReplyTo: 60},
			Payload: make([]byte, 64<<10)}
		frame := m.Append(nil)
		for range 100 {
			if _, err := sender.f.Write(frame); err != nil {
				return
			}
		}
	}()
	sender.wantDead(60, "reads nothing")
	other.c.pushed.store("mod", struct{}{})
	p := other.c.Start(context.Background(), "mod:fn")
	other.send(pyproto.Header{Src: other.id, Auth: other.id, Handle: other.read().ReplyTo}, "\x80\x02K\x02.")
	if err := p.Result(context.Background()).Err(); err != nil {
		t.Error(err)
	}
	slow.c.stream.mu.Lock()
	queued := slow.c.stream.queued
	slow.c.stream.mu.Unlock()
	if limit := 1<<20 + 65<<10; queued > limit {
		t.Errorf("%d bytes wait for the slow peer; at most %d should", queued, limit)
	}
	// A caller can give up.
	slow.c.pushed.store("mod", struct{}{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := slow.c.Call(ctx, "mod:fn").Err(); err == nil {
		t.Error("the call went through")
	}
	// The peer reads again, and everything is as it was.
	for range 15 {
		if m := slow.read(); len(m.Payload) != 64<<10 {
			t.Fatalf("got %+v", m.Header)
		}
	}
}

func TestShutdownEndsEverything(t *testing.T) {
	d := newDaemon(t, Options{})
	a := newPeer(t, d)
	a.c.pushed.store("mod", struct{}{})
	p := a.c.Start(context.Background(), "mod:fn")
	if err := d.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.Result(context.Background()).Err(); err == nil {
		t.Error("the call has a result")
	}
	if _, err := d.Connect(context.Background(), "local:"); !errors.Is(err, ErrShutdown) {
		t.Errorf("got %v", err)
	}
	if err := d.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
