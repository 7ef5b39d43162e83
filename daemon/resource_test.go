package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// A context that has said by FLOW that it takes nothing gets no answers, and is in nobody's way; what it asks meanwhile
// is bounded, and answered when it takes messages again.
func TestParkedQuestions(t *testing.T) {
	d := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"pkg/__init__.py": "", "pkg/data": strings.Repeat("x", 5000)})}})
	hop := newPeer(t, d)
	asker, other := hop.behind(), hop.behind()
	q := &hop.c.stream.resources
	parked := func() questions {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.waiting
	}
	ask := func(src pyproto.ContextID, handle pyproto.Handle, question ...any) {
		t.Helper()
		h := pyproto.Header{Src: src, Auth: src, Handle: pyproto.GetResource, ReplyTo: handle}
		hop.send(h, pickle(t, pyproto.Tuple(question)))
	}
	flow := func(state string) {
		hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.Flow}, fmt.Sprintf("%d:%s", asker.id, state))
	}
	want := func(dst pyproto.ContextID, handle pyproto.Handle) *pyproto.Message {
		t.Helper()
		m := hop.read()
		if m.Dst != dst || m.Handle != handle {
			t.Fatalf("got %+v, want handle %d of context %d", m.Header, handle, dst)
		}
		return m
	}
	const n = 10
	flow("1")
	for i := range n {
		ask(asker.id, pyproto.Handle(2000+i), "read", "pkg", "data")
	}
	for _, src := range []pyproto.ContextID{other.id, hop.id} {
		ask(src, 1999, "read", "pkg", "data")
		want(src, 1999)
	}
	if got := parked(); got.n != n {
		t.Errorf("%+v are parked", got)
	}
	flow("0")
	seen := map[pyproto.Handle]bool{}
	for range n {
		m := hop.read()
		if seen[m.Handle] = true; m.Dst != asker.id || m.IsDead() || len(m.Payload) < 5000 {
			t.Errorf("%+v", m.Header)
		}
	}
	if len(seen) != n || parked() != (questions{}) {
		t.Errorf("%v are answered, %+v are parked", seen, parked())
	}

	// Beyond the bounds it is refused, in number and in bytes; others are not.
	flow("1")
	for i := range maxQuestions {
		if i%100 == 0 { // the queue takes as many
			poll.Until(t, "those before are parked", func() bool { return parked().n == i })
		}
		ask(asker.id, pyproto.Handle(2000+i), "read", "pkg", "data")
	}
	poll.Until(t, "all are parked", func() bool { return parked().n == maxQuestions })
	ask(asker.id, 4000, "read", "pkg", "data")
	if m := want(asker.id, 4000); !m.IsDead() {
		t.Errorf("%+v", m.Header)
	}
	flow("0")
	for range maxQuestions {
		if m := hop.read(); m.Dst != asker.id || m.IsDead() {
			t.Fatalf("%+v", m.Header)
		}
	}
	flow("1")
	for range 4 {
		ask(asker.id, 2000, "read", "pkg", strings.Repeat("y", maxQuestion-1000))
	}
	ask(asker.id, 2001, "read", "pkg", strings.Repeat("y", 5000))
	if m := want(asker.id, 2001); !m.IsDead() {
		t.Errorf("%+v", m.Header)
	}
	ask(hop.id, 2002, "read", "pkg", "data")
	want(hop.id, 2002)

	// The end of the context, and that of the connection, ends the waiting.
	hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.DelRoute}, fmt.Sprint(asker.id))
	poll.Until(t, "none is parked", func() bool { return parked() == questions{} })
	hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.Flow}, fmt.Sprintf("%d:1", other.id))
	ask(other.id, 2003, "read", "pkg", "data")
	poll.Until(t, "one is parked", func() bool { return parked().n == 1 })
	_ = hop.f.Close()
	poll.Until(t, "none is parked", func() bool { return parked() == questions{} })
}

// A stock child, whose questions have no handle for a refusal, is answered all the same; one that does not read that is
// disconnected. What is too large for a question gets no answer of its size.
func TestStockQuestionsInVain(t *testing.T) {
	d := newDaemon(t, Options{StallTimeout: time.Second})
	p := newPeerOn(t, d, "socketpair", func(c *Child) { c.runtime = &Runtime{Version: []int{0, 3, 37}} })
	vain := func(name string) []byte {
		return p.frame(pyproto.GetResource, 0, pickle(t, pyproto.Tuple{int64(1), name}))
	}
	for _, frame := range [][]byte{vain(strings.Repeat("x", 2*maxQuestion)), vain("y")} {
		if _, err := p.f.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	if m := p.read(); m.Handle != pyproto.LoadResource || len(m.Payload) > 1000 {
		t.Errorf("%+v, %d bytes", m.Header, len(m.Payload))
	}
	p.pour(64<<20, vain("y"))
	poll.Until(t, "it is disconnected", func() bool { return p.c.gone() != nil })
	if err := p.c.gone(); !strings.Contains(err.Error(), unreadAnswers) {
		t.Error(err)
	}
}

// Mitogen 0.3.37 and 0.3.38 ask in bytes, and keep the answer under its names: only text ends their waiting. Others get the
// names that they have sent.
func TestNamesOfStockResources(t *testing.T) {
	d := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"pkg/__init__.py": "", "pkg/data": "abc", "pkg/d\u00e9": "d"})}})
	data, bytes := pyproto.Tuple{"pkg", "data", []byte("abc")}, pyproto.Tuple{[]byte("pkg"), []byte("data")}
	for _, test := range []struct {
		version     []int
		asked, want pyproto.Tuple
	}{
		{[]int{0, 3, 37}, bytes, data}, {[]int{0, 3, 38}, bytes, data}, {[]int{0, 3, 39}, data[:2], data}, {[]int{0, 3, 41}, data[:2], data[:2]},
		{[]int{0, 3, 37}, pyproto.Tuple{[]byte("pkg"), []byte("d\u00e9")}, pyproto.Tuple{"pkg", "d\u00e9", []byte("d")}},
		{[]int{0, 3, 37}, pyproto.Tuple{[]byte("pkg"), []byte("none")}, pyproto.Tuple{"pkg", "none", nil}},
		{[]int{0, 3, 37}, pyproto.Tuple{[]byte("pkg"), []byte("\xff")}, pyproto.Tuple{"pkg", []byte("\xff"), nil}},
		{[]int{0, 3, 40}, pyproto.Tuple{[]byte("pkg"), []byte("none")}, pyproto.Tuple{[]byte("pkg"), []byte("none"), nil}},
	} {
		p := newPeerOn(t, d, "socketpair", func(c *Child) { c.runtime = &Runtime{Version: test.version} })
		p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: pyproto.GetResource}, pickle(t, test.asked))
		got, _, err := pyproto.UnmarshalPrefix(p.read().Payload)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%v: %q: got %#v, %v, want %#v", test.version, test.asked, got, err, test.want)
		}
	}
}

// What a program waits for and does not get ends it: here a target that has read nothing for StallTimeout.
func TestInputThatIsNotTaken(t *testing.T) {
	d := newDaemon(t, Options{MaxPending: 1 << 20, StallTimeout: 100 * time.Millisecond})
	hop := newPeer(t, d)
	p := &program{c: hop.c, changed: make(chan struct{}, 1), over: make(chan struct{})}
	hop.c.stream.offerBulk(t, 8<<20)
	p.feed(context.Background(), strings.NewReader("abc"), &feeder{c: hop.c}, nil)
	_, err := p.copy(testContext(t), RunOptions{})
	var dead *DeadError
	if !errors.As(err, &dead) || !dead.Lost || !strings.Contains(dead.Reason, "reads nothing") {
		t.Errorf("%v", err)
	}
}

// A reader that never gives anything any more keeps nobody waiting once its program has ended.
func TestLateReaderThatHangs(t *testing.T) {
	d := newDaemon(t, Options{})
	hop := newPeer(t, d)
	sh := hop.c.stream.shared()
	late := func() int {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return sh.late
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{c: hop.c, changed: make(chan struct{}, 1), over: make(chan struct{})}
	to, done := &feeder{c: hop.c}, make(chan struct{})
	sh.mu.Lock()
	sh.mark(to, true)
	sh.mu.Unlock()
	go func() {
		defer close(done)
		p.feed(ctx, r, to, nil)
	}()
	cancel()
	poll.Until(t, "none is late", func() bool { return late() == 0 })
	_ = w.Close()
	<-done
}
