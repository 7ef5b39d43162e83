package daemon

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Assembly bounds the memory of large messages that have come in part, over all children and clients of a daemon. A
// message that needs more than there is waits, unread, until others end. While somebody waits, a message that does
// not get on is given up, and its connection with it. When all wait for each other, the oldest is given up: senders
// of halves were there before the one who needs the memory now. An Assembly is safe for concurrent use.
type Assembly struct {
	max     int64
	stall   time.Duration
	reached func(peer string) // tells the log
	now     func() time.Duration

	// mu protects the following and what parts say. Part.end is called without it.
	mu    sync.Mutex
	used  int64
	parts map[*Part]bool
	room  chan struct{} // closed when something ends
	told  time.Time     // when the log was told that somebody waits
}

const (
	// minAssembly is the least that an Assembly of a daemon holds: four messages of the default size.
	minAssembly = 512 << 20
	// assemblyStall is how long a message may take for assemblyMove bytes while others wait for its memory.
	assemblyStall = 10 * time.Second
	assemblyMove  = 64 << 10
)

// Part is one message of an Assembly. Its methods are for one goroutine.
type Part struct {
	a     *Assembly
	peer  string // whose message it is, for the log
	ctx   context.Context
	end   func(error) // wakes the reader of the message; must not block
	began time.Duration
	came  int          // bytes since moved
	moved atomic.Int64 // when assemblyMove bytes more had come, by a.now

	// Guarded by a.mu.
	held    int64
	waiting bool
	whole   bool // it has come and is in use
	err     error
}

func newAssembly(max int64, reached func(peer string)) *Assembly {
	return &Assembly{
		max: max, stall: assemblyStall, reached: reached, now: sinceStart, parts: map[*Part]bool{}, room: make(chan struct{}),
	}
}

// started has the reading of a clock that nobody sets, unlike that of the day.
var started = time.Now()

func sinceStart() time.Duration { return time.Since(started) }

// Begin begins a message; Done has to be called for it. ctx ends a wait. end is called from another goroutine when
// the message is given up.
func (a *Assembly) Begin(ctx context.Context, peer string, end func(error)) *Part {
	p := &Part{a: a, peer: peer, ctx: ctx, end: end, began: a.now()}
	p.moved.Store(int64(p.began))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.parts[p] = true
	return p
}

// Grow takes n bytes more, and waits for them. An error says that the message is given up.
func (p *Part) Grow(n int) error {
	a := p.a
	for {
		a.mu.Lock()
		// One message may always be as large as it likes.
		if p.err == nil && (a.used+int64(n) <= a.max || a.used == p.held) {
			a.used += int64(n)
			p.held += int64(n)
			p.waiting = false
			p.moved.Store(int64(a.now()))
			a.mu.Unlock()
			return nil
		}
		p.waiting = true
		victim := a.victim()
		if victim != nil {
			victim.err = fmt.Errorf("messages that have come in part take %d bytes already, and this one does not get on", a.used)
		}
		err, room := p.err, a.room
		tell := err == nil && time.Since(a.told) >= warnEvery
		if tell {
			a.told = time.Now()
		}
		a.mu.Unlock()
		switch {
		case victim != nil:
			a.reached(victim.peer) // once for each, whose connection it ends
		case tell:
			a.reached(p.peer)
		}
		if victim != nil && victim != p {
			victim.end(victim.err)
		}
		if err != nil {
			return err
		}
		t := time.NewTimer(a.stall / 10)
		select {
		case <-room:
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return context.Cause(p.ctx)
		}
		t.Stop()
	}
}

// victim is the message to give up: one that stands still, or the oldest of those that wait for each other. mu is
// held.
func (a *Assembly) victim() *Part {
	var still, oldest *Part
	all := true
	for p := range a.parts {
		switch {
		case p.err != nil:
			return nil // one is being given up
		case p.held == 0:
			continue
		case p.whole:
			all = false
		case !p.waiting:
			all = false
			if a.now()-time.Duration(p.moved.Load()) > a.stall && (still == nil || p.moved.Load() < still.moved.Load()) {
				still = p
			}
		case oldest == nil || p.began < oldest.began:
			oldest = p
		}
	}
	if all {
		return oldest
	}
	return still
}

// Came says that n bytes of the message have come.
func (p *Part) Came(n int) {
	if p.came += n; p.came >= assemblyMove {
		p.came = 0
		p.moved.Store(int64(p.a.now()))
	}
}

// Whole says that the message has come. It counts until Done and is not given up; Done may be called from any
// goroutine then.
func (p *Part) Whole() {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.whole = true
}

// Done gives everything back. It may be called more than once.
func (p *Part) Done() {
	a := p.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.parts[p] {
		return
	}
	delete(a.parts, p)
	a.used -= p.held
	close(a.room)
	a.room = make(chan struct{})
}

// NewAssembly bounds the results that wait for one user of the daemon; see CallOptions.Room.
func (d *Daemon) NewAssembly(max int64) *Assembly {
	return newAssembly(max, d.reachedTogether("bytes of results that a client has not read", max))
}

// reachedTogether is Assembly.reached of a bound that many share.
func (d *Daemon) reachedTogether(bound string, max int64) func(peer string) {
	return func(peer string) {
		d.bounded.Add(1)
		d.log.Warn(boundText, zap.String("bound", bound), zap.Int64("limit", max), zap.String("stream", peer))
	}
}

// Assembly is the daemon's bound of messages that have come in part. Messages of clients count there, too.
func (d *Daemon) Assembly() *Assembly { return d.assembly }
