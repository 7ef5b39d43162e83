package daemon

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zaptest "go.uber.org/zap/zaptest/observer"

	"mitogend/integration/poll"
	"mitogend/internal/slogzap"
	"mitogend/pyproto"
)

func TestAssembly(t *testing.T) {
	newTest := func() *Assembly {
		a := newAssembly(4<<20, func(string) {})
		a.stall = 50 * time.Millisecond
		return a
	}
	grow := func(p *Part, n int) <-chan error {
		done := make(chan error, 1)
		go func() { done <- p.Grow(n) }()
		return done
	}
	ended := func(c chan error) func(error) { return func(err error) { c <- err } }
	ctx := testContext(t)

	// A message that stands still is given up for one that waits, and no other is.
	a := newTest()
	gone := make(chan error, 9)
	still, moving, other := a.Begin(ctx, "", ended(gone)), a.Begin(ctx, "", func(err error) { t.Errorf("the moving one was ended: %v", err) }), a.Begin(ctx, "", nil)
	if err := errors.Join(still.Grow(2<<20), moving.Grow(1<<20)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				moving.Came(assemblyMove)
			}
		}
	}()
	waits := grow(other, 3<<20)
	if err := <-gone; err == nil {
		t.Error("no reason")
	}
	still.Done()
	if err := <-waits; err != nil {
		t.Error(err)
	}
	other.Done()
	if err := still.Grow(1 << 20); err == nil {
		t.Error("what was given up goes on")
	}
	close(stop)

	// When all wait for each other, the oldest is given up; then the others fit one after the other.
	a = newTest()
	a.stall = time.Minute
	var parts [4]*Part
	var grown [4]<-chan error
	for i := range parts {
		parts[i] = a.Begin(ctx, "", func(error) {})
		if err := parts[i].Grow(1 << 20); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range parts {
		done := make(chan error, 1)
		grown[i] = done
		go func() {
			err := p.Grow(1 << 20)
			p.Done()
			done <- err
		}()
	}
	for i := range parts {
		if err := <-grown[i]; (err != nil) != (i == 0) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if a.used != 0 || len(a.parts) != 0 {
		t.Errorf("%d bytes and %d messages are left", a.used, len(a.parts))
	}

	// A message that is alone may be larger than the bound. One that waits can give up.
	large := a.Begin(ctx, "", nil)
	if err := errors.Join(large.Grow(3<<20), large.Grow(9<<20)); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := a.Begin(short, "", nil).Grow(1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Who stands still is decided by a clock that nobody sets, and by nothing else.
func TestAssemblyClock(t *testing.T) {
	if !strings.Contains(started.String(), " m=") {
		t.Error("the clock is that of the day")
	}
	if now := newAssembly(0, nil).now(); now > time.Since(started) {
		t.Errorf("it is %v", now)
	}
	var clock atomic.Int64
	a := newAssembly(2<<20, func(string) {})
	a.stall = time.Second
	a.now = func() time.Duration { return time.Duration(clock.Load()) }
	ctx := testContext(t)
	gone := make(chan error, 9)
	still := a.Begin(ctx, "", func(err error) { gone <- err })
	moving := a.Begin(ctx, "", func(error) { t.Error("the moving one was ended") })
	if err := errors.Join(still.Grow(1<<20), moving.Grow(1<<20)); err != nil {
		t.Fatal(err)
	}
	look := func() bool { // as one who waits does
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.victim() != nil
	}
	clock.Store(int64(time.Second))
	if look() {
		t.Error("one is given up in time")
	}
	moving.Came(assemblyMove)
	clock.Store(int64(time.Second + 1))
	waits := make(chan error, 1)
	go func() { waits <- a.Begin(ctx, "", nil).Grow(1 << 20) }()
	if err := <-gone; err == nil {
		t.Error("no reason")
	}
	still.Done()
	if err := <-waits; err != nil {
		t.Error(err)
	}
}

// Children that send halves of large messages lose their connections when an honest child needs the memory.
func TestHalfFrames(t *testing.T) {
	core, logs := zaptest.New(zapcore.WarnLevel)
	d := newDaemon(t, Options{Logger: slogzap.Slog(zap.New(core))})
	d.assembly = newAssembly(16<<20, d.assembly.reached)
	d.assembly.stall = 3 * time.Second
	good := newPeer(t, d)
	r, err := d.NewReceiver(good.c, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	var evil []*peer
	for range 8 {
		p := newPeer(t, d)
		evil = append(evil, p)
		go func() {
			h := pyproto.Header{Enc: pyproto.EncMGC, Src: p.id, Auth: p.id, Handle: 1, Length: 64 << 20}
			_, _ = p.f.Write(h.Append(nil))
			half := make([]byte, 60<<20)
			_, _ = p.f.Write(half[:])
		}()
	}
	poll.Until(t, "the memory is used up", func() bool {
		d.assembly.mu.Lock()
		defer d.assembly.mu.Unlock()
		return d.assembly.used > 8<<20
	})
	good.send(pyproto.Header{Src: good.id, Auth: good.id, Handle: r.handle}, pickle(t, make([]byte, 8<<20)))
	v, err := r.Next(testContext(t))
	if b, _ := v.([]byte); len(b) != 8<<20 || err != nil {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	told := 0
	for _, e := range logs.FilterMessage(boundText).All() {
		if strings.Contains(e.ContextMap()["bound"].(string), "came in part") && strings.HasPrefix(e.ContextMap()["stream"].(string), "peer") {
			told++
		}
	}
	if told == 0 || told > 1+len(evil) {
		t.Errorf("the bound was told %d times", told)
	}
	for _, p := range evil {
		_ = p.f.Close()
	}
	for _, p := range evil {
		<-p.c.stream.ended
	}
	if d.assembly.used != 0 || len(d.assembly.parts) != 0 {
		t.Errorf("%d bytes are left", d.assembly.used)
	}
	evil, v = nil, nil
	poll.Until(t, "the memory is free", func() bool { return heap()-before < 8<<20 })
}
