package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// attach takes a client into the tree, and gives the other end of its connection.
func attach(t *testing.T, d *Daemon) (*Peer, *peer) {
	t.Helper()
	r, _, theirs, _ := links["socketpair"](t)
	p, err := d.Attach(r, "client", func(pyproto.ContextID) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return p, &peer{t: t, id: p.ID(), f: theirs, in: theirs, br: bufio.NewReader(theirs)}
}

// sendsAs has a stream's peer send to a context, as a context behind it.
func (p *peer) sendsAs(src, auth, dst pyproto.ContextID, handle, replyTo pyproto.Handle, payload string) {
	p.t.Helper()
	p.send(pyproto.Header{Dst: dst, Src: src, Auth: auth, Handle: handle, ReplyTo: replyTo}, payload)
}

// announce gives a peer two contexts behind it, from a block of its own.
func (p *peer) announce(d *Daemon) (one, two pyproto.ContextID) {
	p.t.Helper()
	one = p.block(p.id)
	two = one + 1
	for _, id := range []pyproto.ContextID{one, two} {
		p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: pyproto.AddRoute}, fmt.Sprint(id))
		poll.Until(p.t, "the route is there", func() bool { return d.streamOf(id) != nil })
	}
	return one, two
}

// fill has a child send a client more than may wait for it, MaxPending being a mebibyte.
func (p *peer) fill(client *peer) {
	p.t.Helper()
	for range 2 {
		p.sendsAs(p.id, p.id, client.id, 1998, 0, strings.Repeat("x", 1<<20))
	}
	s := p.c.d.streamOf(client.id)
	poll.Until(p.t, "the client's queue is full", func() bool {
		full, _, _ := s.load()
		return full
	})
}

// stalled waits until a stream's peer has read nothing for StallTimeout.
func (s *stream) stalled(t *testing.T) {
	t.Helper()
	poll.Until(t, "it counts as stalled", func() bool {
		_, _, stalled := s.load()
		return stalled
	})
}

// A client with a large result before it gets what else is for it: questions for modules, requests for its services, log
// records. Only one that reads nothing does not.
func TestFullClient(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20})
	p, client := attach(t, d)
	d.Handle(pyproto.CallService, func(in *Incoming) { p.PassOn(in, true) })
	a := newPeer(t, d)
	b := newPeerOn(t, d, "socketpair", func(c *Child) { c.opt.LogTo = p.ID() })
	c := newPeerOn(t, d, "socketpair", func(c *Child) { c.opt.LogTo = p.ID() })
	go a.sendsAs(a.id, a.id, p.ID(), 1998, 0, strings.Repeat("x", 16<<20)) // more than overfull
	poll.Until(t, "the client's queue is full", func() bool {
		_, over, _ := p.s.load()
		return over
	})
	if err := p.Send(pyproto.GetModule, 0, []byte("mod")); err != nil {
		t.Error(err)
	}
	b.send(pyproto.Header{Src: b.id, Auth: b.id, Handle: pyproto.ForwardLog}, "log")
	c.send(pyproto.Header{Src: c.id, Auth: c.id, Handle: pyproto.CallService, ReplyTo: 2000}, "service")
	got := map[pyproto.Handle]string{}
	for len(got) < 4 {
		m := client.read()
		got[m.Handle] = string(m.Payload[:min(len(m.Payload), 10)])
	}
	if got[pyproto.ForwardLog] != "log" || got[pyproto.CallService] != "service" || got[pyproto.GetModule] != "mod" {
		t.Errorf("got %q", got)
	}
}

func TestStalledClient(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20, StallTimeout: 300 * time.Millisecond})
	p, client := attach(t, d)
	d.Handle(pyproto.CallService, func(in *Incoming) { p.PassOn(in, true) })
	a, c := newPeer(t, d), newPeer(t, d)
	a.fill(client)
	p.s.stalled(t)
	if err := p.Send(pyproto.GetModule, 0, []byte("mod")); err == nil {
		t.Error("a question was queued")
	}
	c.send(pyproto.Header{Src: c.id, Auth: c.id, Handle: pyproto.CallService, ReplyTo: 2001}, "service")
	c.wantDead(2001, "reads nothing")
}

// Only what has a client's own authority gets the daemon's: its own messages, and those of clients of its Listener. What
// is behind it otherwise, such as children of a fork of it, has its own, and no more rights than any child.
func TestAuthorityBehindAClient(t *testing.T) {
	d := watched(t, Options{})
	services := make(chan pyproto.ContextID, 10)
	d.Handle(pyproto.CallService, func(in *Incoming) { services <- in.Auth })
	d.Handle(pyproto.LoadModuleHandle, func(*Incoming) { t.Error("a module came through") })
	_, client := attach(t, d)
	evil, own := client.announce(d)
	y := newPeer(t, d)
	alone := newPeerOn(t, d, "socketpair", func(c *Child) { c.stream.unidirectional = true })
	for _, row := range []struct{ src, auth, want pyproto.ContextID }{
		{evil, evil, evil},
		{own, client.id, 0},
		{client.id, client.id, 0},
	} {
		client.sendsAs(row.src, row.auth, y.id, pyproto.CallFunction, 2000, "x")
		if m := y.read(); m.Src != row.src || m.Auth != row.want {
			t.Errorf("%d with authority of %d: got %+v", row.src, row.auth, m.Header)
		}
		client.sendsAs(row.src, row.auth, 0, pyproto.CallService, 0, "x")
		if auth := <-services; auth != row.want {
			t.Errorf("%d with authority of %d: the service sees %d", row.src, row.auth, auth)
		}
	}
	// The answer to a handle of the runtime's own, and an answer in the client's name.
	client.sendsAs(evil, evil, y.id, 1, pyproto.Shutdown, "x")
	client.sendsAs(client.id, evil, 0, pyproto.LoadModuleHandle, 0, "x")
	client.sendsAs(evil, evil, y.id, 1999, 0, "last")
	if m := y.read(); m.Handle != 1999 {
		t.Errorf("got %+v", m.Header)
	}

	// Who talks to its parents only is reached by the client and by those who act for it, and may answer them.
	client.sendsAs(evil, evil, alone.id, 1, 2001, "x")
	client.wantDead(2001, "parents only")
	for i, src := range []pyproto.ContextID{own, client.id} {
		client.sendsAs(src, client.id, alone.id, 1, 2002, "x")
		if m := alone.read(); m.Src != src {
			t.Fatalf("got %+v", m.Header)
		}
		alone.sendsAs(alone.id, alone.id, src, 2002, 0, fmt.Sprint(i))
		if m := client.read(); m.Dst != src || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("got %+v %q", m.Header, m.Payload)
		}
	}
	alone.sendsAs(alone.id, alone.id, evil, 1, 2003, "x")
	alone.wantDead(2003, "parents only")
	y.sendsAs(y.id, y.id, alone.id, 1, 2004, "x")
	y.wantDead(2004, "parents only")
}

// Who reads nothing for StallTimeout is told of each reply that was dropped, once he reads again, in the name of who has
// sent it. Of too many over one connection he is told no more; that connection stays: he may have asked for all of them.
func TestLostReplies(t *testing.T) {
	for _, row := range []struct {
		name    string
		replyTo pyproto.Handle
	}{{"replies", 0}, {"dead messages", pyproto.IsDead}} {
		t.Run(row.name, func(t *testing.T) {
			d := newDaemon(t, Options{MaxPending: 1 << 20, StallTimeout: 300 * time.Millisecond})
			p, client := attach(t, d)
			a, b, evil := newPeer(t, d), newPeer(t, d), newPeer(t, d)
			a.fill(client)
			p.s.stalled(t)
			for _, handle := range []pyproto.Handle{2000, 2001, 2000, 2000} {
				b.sendsAs(b.id, b.id, p.ID(), handle, row.replyTo, "x")
			}
			b.sendsAs(b.id, b.id, p.ID(), pyproto.ForwardLog, 0, "x") // nobody waits for that
			(&liar{b, b.id}).sync()
			for i := range maxLost + 1 {
				evil.sendsAs(evil.id, evil.id, p.ID(), pyproto.Handle(3000+i), row.replyTo, "x")
			}
			(&liar{evil, evil.id}).sync()
			if d.Bounded() != 1 {
				t.Errorf("a bound was reached %d times", d.Bounded())
			}
			count := map[pyproto.Handle]int{}
			for count[3000+maxLost-1] == 0 {
				m := client.read()
				if m.Handle == 1998 && len(m.Payload) == 1<<20 {
					continue
				}
				from := b.id
				if m.Handle >= 3000 {
					from = evil.id
				}
				if !m.IsDead() || m.Src != from || m.Auth != from || !strings.Contains(string(m.Payload), "reads nothing") {
					t.Fatalf("got %+v %q", m.Header, m.Payload)
				}
				count[m.Handle]++
			}
			if count[2000] != 1 || count[2001] != 1 || len(count) < maxLost {
				t.Errorf("2000 was told %d times, 2001 %d times, of %d", count[2000], count[2001], len(count))
			}
			b.sendsAs(b.id, b.id, p.ID(), 2005, 0, "x")
			if m := client.answer(2005); m.Src != b.id {
				t.Errorf("got %+v", m.Header)
			}
			p.s.mu.Lock()
			defer p.s.mu.Unlock()
			if p.s.lost != nil {
				t.Errorf("%d connections are remembered", len(p.s.lost))
			}
		})
	}
}

// The same behind a hop that says that one behind it takes nothing, and for dead messages where far too much waits.
func TestLostRepliesBehindAHop(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20, StallTimeout: 300 * time.Millisecond})
	hop, b, evil := newPeer(t, d), newPeer(t, d), newPeer(t, d)
	dst := hop.behind().id
	hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.Flow}, fmt.Sprintf("%d:1", dst))
	poll.Until(t, "its gate is closed for long", func() bool {
		_, shut := d.gateOf(dst)
		return shut
	})
	for range 2 {
		b.sendsAs(b.id, b.id, dst, 2000, 0, "x")
	}
	for i := range maxLost + 1 {
		evil.sendsAs(evil.id, evil.id, dst, pyproto.Handle(3000+i), 0, "x")
	}
	(&liar{evil, evil.id}).sync()
	count := map[pyproto.Handle]int{}
	for len(count) < maxLost+1 {
		if m := hop.read(); m.Dst != dst || !m.IsDead() || m.Src == 0 || m.Auth != m.Src {
			t.Fatalf("got %+v", m.Header)
		} else {
			count[m.Handle]++
		}
	}
	if count[2000] != 1 {
		t.Errorf("2000 was told %d times", count[2000])
	}
}

func TestLostDeadMessages(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20})
	p, client := attach(t, d)
	a, b := newPeer(t, d), newPeer(t, d)
	go a.sendsAs(a.id, a.id, p.ID(), 1998, 0, strings.Repeat("x", 16<<20))
	poll.Until(t, "far too much waits", func() bool {
		_, over, _ := p.s.load()
		return over
	})
	b.sendsAs(b.id, b.id, p.ID(), 2000, pyproto.IsDead, "x")
	if m := client.answer(2000); !m.IsDead() {
		t.Errorf("got %+v", m.Header)
	}
}

// A client that is dismissed is told of the end of all that it has talked to, also behind what it has not read yet.
func TestDismissedClient(t *testing.T) {
	for name, dismiss := range map[string]func(*Daemon, *Peer){
		"one":          func(_ *Daemon, p *Peer) { p.Close() },
		"twice":        func(_ *Daemon, p *Peer) { p.Close(); p.Close() },
		"the daemon":   func(d *Daemon, _ *Peer) { go func() { _ = d.Shutdown(context.Background()) }() },
		"both at once": func(d *Daemon, p *Peer) { go p.Close(); go func() { _ = d.Shutdown(context.Background()) }() },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, Options{MaxPending: 1 << 20})
			d.lastWrite = time.Minute
			p, client := attach(t, d)
			a, b := newPeer(t, d), newPeer(t, d)
			client.sendsAs(client.id, client.id, a.id, 1, 2000, "x")
			client.sendsAs(client.id, client.id, b.id, 1, 0, "x")
			a.answer(1)
			b.answer(1)
			a.fill(client)
			dismiss(d, p)
			told, large := map[string]int{}, 0
			for {
				_ = client.in.SetReadDeadline(time.Now().Add(time.Minute))
				m, err := pyproto.ReadMessage(client.br, pyproto.DefaultMaxMessage)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if m.Handle == pyproto.DelRoute {
					told[string(m.Payload)]++
				} else {
					large++
				}
			}
			if len(told) != 2 || told[fmt.Sprint(a.id)] != 1 || told[fmt.Sprint(b.id)] != 1 || large != 2 {
				t.Errorf("it was told of %v, behind %d large messages", told, large)
			}
			select {
			case <-p.Done():
			case <-testContext(t).Done():
				t.Error("the stream is still there")
			}
		})
	}
}

// One that does not read keeps nobody waiting.
func TestDismissedClientThatDoesNotRead(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20})
	p, client := attach(t, d)
	a := newPeer(t, d)
	a.fill(client)
	p.Close()
	select {
	case <-p.Done():
	case <-testContext(t).Done():
		t.Error("the stream is still there")
	}
	_, client = attach(t, d)
	a.fill(client)
	if err := d.Shutdown(testContext(t)); err != nil {
		t.Error(err)
	}
}

// A stock child is not told that a client is gone, or a client's client, unless it waits for that.
func TestEndOfAClientsClient(t *testing.T) {
	d := newDaemon(t, Options{})
	_, client := attach(t, d)
	quiet, waits := client.announce(d)
	a := newPeer(t, d)
	a.c.runtime = &Runtime{}
	other := newPeer(t, d)
	for _, p := range []*peer{a, other} {
		p.sendsAs(p.id, p.id, quiet, 1, 0, "x")
		p.sendsAs(p.id, p.id, waits, 1, 2000, "x")
		client.read()
		client.read()
	}
	for _, id := range []pyproto.ContextID{quiet, waits} {
		client.send(pyproto.Header{Src: client.id, Auth: client.id, Handle: pyproto.DelRoute}, fmt.Sprint(id))
	}
	for _, want := range []struct {
		p  *peer
		id pyproto.ContextID
	}{{a, waits}, {other, quiet}, {other, waits}} {
		if m := want.p.read(); m.Handle != pyproto.DelRoute || string(m.Payload) != fmt.Sprint(want.id) {
			t.Errorf("got %+v %q; want the end of %d", m.Header, m.Payload, want.id)
		}
	}
}
