package daemon

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"mitogend/pyproto"
)

// longSilence waits until a stream that nothing has come on since would be parked.
func longSilence(t *testing.T, d *Daemon) { newPeer(t, d).c.stream.quiet(t) }

// A quiet stream has no goroutine, keeps nothing for writing, and goes on where it was.
func TestQuietStreams(t *testing.T) {
	for link := range links {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, Options{})
			p := newPeerOn(t, d, link)
			p.honest()
			s := p.c.stream
			for range 2 {
				s.quiet(t)
				s.mu.Lock()
				if s.out != nil || s.queue != nil || s.in != nil {
					t.Error("it keeps what it writes and reads with")
				}
				s.mu.Unlock()
				p.call(t)
			}
		})
	}
}

// What has come in part is no quiet stream's, however long the rest takes.
func TestSilenceWithinAMessage(t *testing.T) {
	d := newDaemon(t, Options{MaxMessage: 4 * growStep})
	for name, size := range map[string]int{"header": 0, "small": 100, "large": 3 * growStep, "too large": 5 * growStep} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newPeer(t, d), newPeer(t, d)
			text := strings.Repeat("x", size)
			m := pyproto.Message{
				Header:  pyproto.Header{Enc: pyproto.EncMGC, Dst: b.id, Src: a.id, Auth: a.id, Handle: 1234, ReplyTo: 5},
				Payload: []byte(text),
			}
			frame := m.Append(nil)
			half := (pyproto.HeaderLen + len(frame)) / 2
			if size == 0 {
				half = pyproto.HeaderLen / 2
			}
			_ = a.f.SetWriteDeadline(time.Now().Add(within))
			if _, err := a.f.Write(frame[:half]); err != nil {
				t.Fatal(err)
			}
			longSilence(t, d)
			if a.c.stream.place.Parked() {
				t.Error("it is parked within a message")
			}
			go func() { _, _ = a.f.Write(frame[half:]) }()
			if size > 4*growStep {
				a.wantDead(5, "message is 5242880 bytes")
			} else if m := b.read(); m.Handle != 1234 || string(m.Payload) != text {
				t.Errorf("%+v, %d bytes", m.Header, len(m.Payload))
			}
		})
	}
}

// A quiet stream ends as any other.
func TestQuietStreamEnds(t *testing.T) {
	for name, row := range map[string]struct {
		end    func(*peer)
		reason string
	}{
		"by its peer":    {func(p *peer) { _ = p.f.Close() }, "closed by the other side"},
		"from here":      {func(p *peer) { _ = p.c.Close(testContext(p.t)) }, "closed"},
		"by garbage":     {func(p *peer) { _, _ = p.f.Write(bytes.Repeat([]byte("text\n"), 20)) }, "no frame of Mitogen"},
		"by a fault":     {func(p *peer) { p.c.stream.fail(errors.New("a fault")) }, "a fault"},
		"by nobody left": {func(p *peer) { p.c.d.die(); p.c.stream.shut() }, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, Options{})
			p := newPeer(t, d)
			p.c.stream.quiet(t)
			row.end(p)
			select {
			case <-p.c.stream.ended:
			case <-time.After(within):
				t.Fatal("it does not end")
			}
			if err := p.c.stream.failure(); err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("it ended because %v", err)
			}
		})
	}
}

// Quiet children answer as others do, also through a hop, and Shutdown ends them.
func TestQuietChildren(t *testing.T) {
	for _, py := range ends(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			env := mark(t)
			d := treeDaemon(t, Options{})
			direct := connect(t, d, target(py), ConnectOptions{Env: env})
			behind := connect(t, d, target(py)+"+"+target(py), ConnectOptions{Env: env})
			for range 2 {
				direct.stream.quiet(t)
				behind.stream.quiet(t)
				for _, c := range []*Child{direct, behind} {
					if n, err := Call[int](testContext(t), c, "tree:length", "text"); n != 4 || err != nil {
						t.Errorf("%d, %v", n, err)
					}
				}
			}
			direct.stream.quiet(t)
			behind.stream.quiet(t)
		})
	}
}
