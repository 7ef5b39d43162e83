package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// TestFaultyStreams: whatever happens to the bytes of one stream, each of its calls ends, the stream is gone when it
// is closed, and a call over another stream is not disturbed. MITOGEND_SEED repeats a run.
func TestFaultyStreams(t *testing.T) {
	seed := faultSeed()
	d := newDaemon(t, Options{})
	honest := newPeer(t, d)
	leaks := noLeaks(t)
	for link := range links {
		for _, fault := range []string{"none", "byte by byte", "in pieces", "cut", "flipped", "inserted", "left out"} {
			t.Run(link+"/"+fault, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, uint64(len(fault))))
				const calls = 20
				p := newPeerOn(t, d, link)
				ended := make(chan bool, 2*calls)
				var data []byte
				for i := range calls {
					h := d.handles.add(handler{fn: func(pyproto.Header, []byte, bool) { ended <- true }, respondent: p.id, once: true})
					value, err := pyproto.Marshal(fmt.Sprint("result ", i))
					if err != nil {
						t.Fatal(err)
					}
					m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Src: p.id, Auth: p.id, Handle: h}, Payload: value}
					data = m.Append(data)
				}
				at := 1 + r.IntN(len(data)-2)
				switch fault {
				case "cut":
					data = data[:at]
				case "flipped":
					data[at] ^= 1 << r.IntN(8)
				case "inserted":
					data = append(data[:at:at], append([]byte{byte(r.Uint32())}, data[at:]...)...)
				case "left out":
					data = append(data[:at:at], data[at+1:]...)
				}
				for len(data) > 0 {
					n := len(data)
					switch fault {
					case "byte by byte":
						n = 1
					case "in pieces":
						n = 1 + r.IntN(n)
					}
					// After a bad frame the stream is closed on the other side.
					_ = p.f.SetWriteDeadline(time.Now().Add(10 * time.Second))
					if _, err := p.f.Write(data[:n]); err != nil {
						break
					}
					data = data[n:]
				}
				_, _ = p.f.Close(), p.in.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				for i := range calls {
					select {
					case <-ended:
					case <-ctx.Done():
						t.Fatalf("seed %d: %d of %d calls have ended", seed, i, calls)
					}
				}
				poll.Until(t, "the stream is gone", func() bool { return p.c.gone() != nil && d.streamOf(p.id) == nil })
			})
		}
	}
	leaks()
	got := make(chan bool, 1)
	h := d.handles.add(handler{fn: func(pyproto.Header, []byte, bool) { got <- true }, respondent: honest.id, once: true})
	honest.send(pyproto.Header{Src: honest.id, Auth: honest.id, Handle: h}, "N.")
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("the honest stream is disturbed")
	}
}

// TestFaultyWrites: the daemon's writes to one stream are short, late, or fail. Calls on it get their own answers, or
// end with the stream.
func TestFaultyWrites(t *testing.T) {
	seed := faultSeed()
	d := newDaemon(t, Options{})
	leaks := noLeaks(t)
	for link := range links {
		for _, fault := range []string{"byte by byte", "short", "not now", "late", "broken"} {
			t.Run(link+"/"+fault, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, uint64(len(fault))))
				const calls = 50
				p := newPeerOn(t, d, link)
				s := p.c.stream
				left := 1 + r.IntN(20_000) // until it is broken
				// The writer owns it, and r.
				s.wfn = func(fd uintptr) bool {
					switch {
					case fault == "not now" && !s.out.block && r.IntN(2) == 0:
						s.out.err = errNotWritten
						return true
					case fault == "late":
						time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
					case fault == "broken" && left <= 0:
						s.out.err = unix.EPIPE
						return true
					case fault == "byte by byte":
						s.out.iov = [][]byte{s.out.iov[0][:1]}
					case fault == "short", fault == "broken":
						s.out.iov = [][]byte{s.out.iov[0][:1+r.IntN(len(s.out.iov[0]))]}
					}
					done := s.writeOnce(fd)
					left -= s.out.wrote
					return done
				}
				type ended struct {
					i    int
					h    pyproto.Header
					text string
				}
				results := make(chan ended, calls)
				for i := range calls {
					var once sync.Once
					end := func(h pyproto.Header, payload []byte, _ bool) {
						once.Do(func() { results <- ended{i, h, string(payload)} })
					}
					h := d.handles.add(handler{fn: end, respondent: p.id, once: true})
					go func() {
						if d.post(p.id, 1234, h, fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", i*20))) != nil {
							// The stream was gone before the handle came, and nobody else ends that.
							end(pyproto.Header{ReplyTo: pyproto.IsDead}, nil, false)
						}
					}()
				}
				echoed := make(chan bool)
				go func() {
					defer close(echoed)
					for {
						m, err := pyproto.ReadMessage(p.br, pyproto.DefaultMaxMessage)
						if err != nil {
							return
						}
						if m.ReplyTo != 0 {
							answer := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Src: p.id, Auth: p.id, Handle: m.ReplyTo}, Payload: m.Payload}
							_, _ = p.f.Write(answer.Append(nil))
						}
					}
				}()
				for range calls {
					select {
					case e := <-results:
						dead := e.h.ReplyTo == pyproto.IsDead
						if dead && fault != "broken" || !dead && e.text != fmt.Sprintf("%d %s", e.i, strings.Repeat("x", e.i*20)) {
							t.Errorf("seed %d: call %d got %v %.40q", seed, e.i, e.h, e.text)
						}
					case <-time.After(30 * time.Second):
						t.Fatalf("seed %d: a call does not end", seed)
					}
				}
				if fault == "broken" {
					poll.Until(t, "the stream is gone", func() bool { return d.streamOf(p.id) == nil })
					if err := p.c.gone(); err == nil || !strings.Contains(err.Error(), "broken pipe") {
						t.Errorf("seed %d: %v", seed, err)
					}
				}
				_, _ = p.f.Close(), p.in.Close()
				<-echoed
				poll.Until(t, "the stream is gone", func() bool { return p.c.gone() != nil && d.streamOf(p.id) == nil })
			})
		}
	}
	leaks()
}

// faultSeed repeats a run: MITOGEND_SEED.
func faultSeed() uint64 {
	if s, err := strconv.ParseUint(os.Getenv("MITOGEND_SEED"), 10, 64); err == nil {
		return s
	}
	return 1
}

// noLeaks gives a function that checks that there are no more descriptors and goroutines than now.
func noLeaks(t testing.TB) func() {
	before, running := openFiles(t), goleak.IgnoreCurrent()
	return func() {
		t.Helper()
		poll.Until(t, "all descriptors are closed", func() bool { return openFiles(t) <= before })
		goleak.VerifyNone(t, running)
	}
}
