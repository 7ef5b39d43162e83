package daemon

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// echoes answers calls like a child whose functions return their argument, and refuses everything else.
func (p *peer) echoes() {
	for {
		m, err := pyproto.ReadMessage(p.br, pyproto.DefaultMaxMessage)
		if err != nil {
			return
		}
		h := pyproto.Header{Enc: pyproto.EncMGC, Dst: m.Src, Src: p.id, Auth: p.id, Handle: m.ReplyTo, ReplyTo: pyproto.IsDead}
		payload := []byte(noHandle)
		if m.Handle == pyproto.CallFunction && m.Auth == 0 {
			call, err := pyproto.ParseCall(m.Payload)
			if err != nil {
				p.t.Error(err)
				return
			}
			h.ReplyTo = 0
			if payload, err = pyproto.Marshal(call.Args[0]); err != nil {
				p.t.Error(err)
				return
			}
		}
		if m.ReplyTo == 0 || m.IsDead() {
			continue
		}
		if _, err := p.f.Write((&pyproto.Message{Header: h, Payload: payload}).Append(nil)); err != nil {
			return
		}
	}
}

// babbler makes frames, true and false ones.
type babbler struct {
	rng  *rand.Rand
	d    *Daemon
	self pyproto.ContextID
	ids  []pyproto.ContextID // those of others
	own  []pyproto.ContextID // of its blocks
	buf  []byte
}

func (b *babbler) id() pyproto.ContextID {
	switch b.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return pyproto.ContextID(b.rng.Uint32())
	case 2:
		return pyproto.ContextID(b.d.lastID.Load()) + pyproto.ContextID(b.rng.IntN(3))
	case 3:
		return pyproto.ContextID(b.d.lastAsked.Load()) - pyproto.ContextID(b.rng.IntN(2*idBlock))
	case 4:
		return []pyproto.ContextID{firstPeer, firstPeer + 1, firstAsked, endAsked, math.MaxUint32}[b.rng.IntN(5)]
	case 5:
		return b.self
	default:
		return b.ids[b.rng.IntN(len(b.ids))]
	}
}

func (b *babbler) handle() pyproto.Handle {
	switch b.rng.IntN(4) {
	case 0:
		return pyproto.Handle(b.rng.Uint32())
	case 1:
		return 100 + pyproto.Handle(b.rng.IntN(15))
	case 2:
		return []pyproto.Handle{pyproto.Flow, pyproto.Connect, pyproto.LoadCode, pyproto.Ping, pyproto.IsDead, 0}[b.rng.IntN(6)]
	default:
		return b.underWay()
	}
}

// underWay is a handle of a call that is under way, or was just now.
func (b *babbler) underWay() pyproto.Handle {
	shard := b.rng.IntN(handleShards)
	last := b.d.handles.shards[shard].last.Load()
	for i := range b.d.handles.shards {
		s := &b.d.handles.shards[i]
		if s.last.Load() > last || b.rng.IntN(2) == 0 && s.last.Load() > uint32(pyproto.FirstDynamic)/handleShards {
			shard, last = i, s.last.Load()
		}
	}
	return (pyproto.Handle(last)-pyproto.Handle(b.rng.IntN(5)))*handleShards + pyproto.Handle(shard)
}

func (b *babbler) payload(h pyproto.Handle) []byte {
	switch {
	case b.rng.IntN(10) == 0:
		p := make([]byte, b.rng.IntN(64))
		for i := range p {
			p[i] = byte(b.rng.Uint32())
		}
		return p
	case h == pyproto.AddRoute, h == pyproto.DelRoute:
		id := b.id()
		if len(b.own) > 0 && b.rng.IntN(2) == 0 {
			id = b.own[b.rng.IntN(len(b.own))] + pyproto.ContextID(b.rng.IntN(4))
		}
		return fmt.Append(nil, uint32(id))
	case h == pyproto.Flow:
		return fmt.Appendf(nil, "%d:%d", uint32(b.id()), b.rng.IntN(2))
	case h == pyproto.Connect:
		method := []string{"fork", "unfork", "exec", "nothing"}[b.rng.IntN(4)]
		return []byte(connectPayload(method, b.id(), 0, nil))
	case h == pyproto.GetResource:
		p, _ := pyproto.Marshal(pyproto.Tuple{"read", "pkg", "x"})
		return p
	case h == pyproto.ForwardLog:
		return []byte("stdio\x0020\x00text")
	}
	p, _ := pyproto.Marshal(int64(b.rng.Uint32()))
	return p
}

// frame gives the next frame, which is seldom not whole.
func (b *babbler) frame() []byte {
	h := pyproto.Header{Enc: []pyproto.Enc{pyproto.EncMGC, pyproto.EncMGC, pyproto.EncPKL, pyproto.EncBIN}[b.rng.IntN(4)],
		Src: b.self, Auth: b.self, Handle: b.handle()}
	if b.rng.IntN(4) == 0 {
		h.Src = b.id()
	}
	if b.rng.IntN(4) == 0 {
		h.Auth = b.id()
	}
	if b.rng.IntN(4) == 0 {
		h.Dst = b.id()
	}
	switch b.rng.IntN(4) {
	case 0:
		h.ReplyTo = pyproto.IsDead
	case 1:
		h.ReplyTo = b.handle()
	}
	b.buf = (&pyproto.Message{Header: h, Payload: b.payload(h.Handle)}).Append(b.buf[:0])
	if b.rng.IntN(20000) == 0 {
		b.buf[b.rng.IntN(len(b.buf))] ^= 1 << b.rng.IntN(8)
	}
	return b.buf
}

// TestRandomFrames: one child sends random and mutated frames, and connects anew when its stream has ended. Ten
// honest children beside it must get all calls right. MITOGEND_FRAMES says how many frames.
func TestRandomFrames(t *testing.T) {
	frames := 100_000
	if s := os.Getenv("MITOGEND_FRAMES"); s != "" {
		var err error
		if frames, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := watched(t, Options{})
	var peers []*peer
	b := &babbler{rng: rand.New(rand.NewPCG(seed, 0)), d: d}
	for range 10 {
		p := newPeer(t, d)
		p.c.pushed.store("mod", struct{}{})
		peers = append(peers, p)
		b.ids = append(b.ids, p.id)
		go p.echoes()
	}
	quiet := func() { // so that none of their goroutines counts
		for _, p := range peers {
			p.c.stream.quiet(t)
		}
	}
	quiet()
	goroutines := runtime.NumGoroutine()
	var stop atomic.Bool
	var calls, slowest atomic.Int64
	var working sync.WaitGroup
	for i, p := range peers {
		working.Go(func() {
			for n := int64(i); !stop.Load(); n += 10 {
				start := time.Now()
				v, err := p.c.Call(t.Context(), "mod:fn", n).Value()
				if v != n || err != nil {
					t.Errorf("the call gave %v and not %d: %v", v, n, err)
					return
				}
				calls.Add(1)
				slowest.Store(max(slowest.Load(), int64(time.Since(start))))
			}
		})
	}
	before, most, connects := rss(t, os.Getpid()), 0, 0
	start := time.Now()
	for sent := 0; sent < frames && !t.Failed(); connects++ {
		evil := newPeer(t, d)
		b.self = evil.id
		first := evil.block(evil.id)
		b.own = []pyproto.ContextID{evil.id, first}
		reading := make(chan bool)
		go func() { // it reads, and remembers nothing
			defer close(reading)
			_, _ = bufio.NewReader(evil.in).WriteTo(nothing{})
		}()
		w := bufio.NewWriterSize(evil.f, 64<<10)
		for n := 0; n < 200_000 && sent < frames; n++ {
			if sent++; sent%100_000 == 0 {
				most = max(most, rss(t, os.Getpid()))
			}
			if _, err := w.Write(b.frame()); err != nil {
				break
			}
		}
		_ = w.Flush()
		_ = evil.f.Close()
		<-evil.c.stream.ended
		<-reading
	}
	took := time.Since(start)
	stop.Store(true)
	working.Wait()
	most = max(most, rss(t, os.Getpid()))
	quiet()
	poll.Until(t, "nothing of it is left", func() bool {
		gates, left := 0, 0
		d.gates.Range(func(any, any) bool { gates++; return true })
		for i := range d.handles.shards {
			s := &d.handles.shards[i]
			s.mu.Lock()
			left += len(s.m)
			s.mu.Unlock()
		}
		return len(d.Children()) == 10 && len(d.Routes()) == 10 && gates == 0 && left == 0 && runtime.NumGoroutine() <= goroutines
	})
	if calls.Load() == 0 {
		t.Error("no call was made meanwhile")
	}
	runtime.GC()
	t.Logf("%d frames over %d connections in %v, %d refused; %d honest calls, the slowest %v; %d MiB before, at most %d", frames, connects,
		took.Round(time.Millisecond), d.Refused(), calls.Load(), time.Duration(slowest.Load()), before>>20, most>>20)
	if limit := before + 256<<20; most > limit {
		t.Errorf("it took %d MiB of memory, and %d were used before", most>>20, before>>20)
	}
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }

// What waits for a peer that does not read takes at most four times what it counts, whatever else was in the buffers that it
// came in.
func TestLittleIsKeptOfABuffer(t *testing.T) {
	for _, size := range []int{copyBelow + 1, 2*copyBelow + 1, smallBuffer + 1, shareFrom - 1, shareFrom, readBuffer/2 - 100} {
		d := newDaemon(t, Options{})
		a, b := newPeer(t, d), newPeer(t, d)
		between := a.frame(99, 0, strings.Repeat("x", 120<<10))
		m := pyproto.Message{
			Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: b.id, Src: a.id, Auth: a.id, Handle: 1234}, Payload: bytes.Repeat([]byte("y"), size),
		}
		frame := m.Append(nil)
		before := heap()
		for range 30 {
			for _, data := range [][]byte{frame, between, between} {
				if _, err := a.f.Write(data); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.send(pyproto.Header{Src: a.id, Auth: a.id, Handle: 54321, ReplyTo: 1999}, "")
		a.answer(1999)
		kept := heap() - before
		s := b.c.stream
		s.mu.Lock()
		counted := int64(s.queued)
		s.mu.Unlock()
		if kept > 4*counted+512<<10 {
			t.Errorf("%d bytes are kept for frames of %d that count %d", kept, size, counted)
		}
	}
}
