package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"mitogend/pyproto"
)

// TestFaultyStreams: whatever happens to the bytes of one stream, each of its calls ends, the stream is gone when it is closed, and a
// call over another one is not disturbed. MITOGEND_SEED repeats a run.
func TestFaultyStreams(t *testing.T) {
	seed := uint64(1)
	if s := os.Getenv("MITOGEND_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	d := newDaemon(t, Options{})
	honest := newPeer(t, d)
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
				eventually(t, "the stream is gone", func() bool { return p.c.gone() != nil && d.streamOf(p.id) == nil })
			})
		}
	}
	got := make(chan bool, 1)
	h := d.handles.add(handler{fn: func(pyproto.Header, []byte, bool) { got <- true }, respondent: honest.id, once: true})
	honest.send(pyproto.Header{Src: honest.id, Auth: honest.id, Handle: h}, "N.")
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("the honest stream is disturbed")
	}
}
