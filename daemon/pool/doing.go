package pool

import (
	"context"
	"errors"
	"time"

	"mitogend/daemon"
)

// Doing is a call, a channel's function or a program that runs on a connection, or waits there for its turn.
type Doing struct {
	ID     uint64 // never used twice
	Kind   Kind
	What   string // the function, or the program's name
	Target string // what the request called it
	Client int    // the process that has asked for it, 0 if that is not known
	Since  time.Time
}

// Kind is what kind of thing runs.
type Kind string

const (
	KindCall    Kind = "call"
	KindChannel Kind = "open"
	KindProgram Kind = "run"
)

// maxListed bounds what Info lists of one connection; Running and Programs count all.
const maxListed = 16

// doing is an entry of a connection's list, which is in the order in which they began. Guarded by Pool.mu.
type doing struct {
	Doing
	next, prev *doing
	end        context.CancelCauseFunc // of a program
	ended      chan struct{}           // of a program, closed by finish
}

// errEnded is why a program's context ends in End.
var errEnded = errors.New("pool: ended")

// begin notes what is about to be sent.
func (l *Lease) begin(kind Kind, what string, end context.CancelCauseFunc) *doing {
	c := l.c
	now := time.Now()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.lastDoing++
	w := &doing{Doing: Doing{ID: c.p.lastDoing, Kind: kind, What: what, Target: l.name, Client: l.client, Since: now},
		end: end, prev: c.lastDoing}
	if w.prev == nil {
		c.firstDoing = w
	} else {
		w.prev.next = w
	}
	c.lastDoing = w
	if kind == KindProgram {
		w.ended = make(chan struct{})
		c.programs++
	} else if c.running++; c.running == 1 {
		c.progress = now
	}
	return w
}

// finish notes the end of it.
func (c *Conn) finish(w *doing, ok bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if w.prev == nil {
		c.firstDoing = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		c.lastDoing = w.prev
	} else {
		w.next.prev = w.prev
	}
	if !ok {
		c.failures.Add(1)
		c.total.failures.Add(1)
	}
	if !ok || w.Kind == KindProgram || !Internal(w.What) {
		c.calls.Add(1)
		c.total.calls.Add(1)
	}
	if w.Kind == KindProgram {
		close(w.ended)
		c.programs--
		return
	}
	c.running--
	c.progress = time.Now()
}

// abandon follows a call that nobody waits for. release gives back its result.
func (c *Conn) abandon(w *doing, done <-chan struct{}, release func()) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.abandoned++
	w.Client = 0
	go func() { // ends with the call, at the latest with the child
		<-done
		release()
		c.finish(w, false)
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		c.abandoned--
	}()
}

// list gives the first of what runs. p.mu is held.
func (c *Conn) list() []Doing {
	var out []Doing
	for w := c.firstDoing; w != nil && len(out) < maxListed; w = w.next {
		out = append(out, w.Doing)
	}
	return out
}

// End ends what has this number, whoever has asked for it, and waits until that is done. A program ends with its
// processes. A call ends with its connection, since its interpreter can do nothing else meanwhile. End gives false if
// nothing has this number any more.
func (p *Pool) End(ctx context.Context, id uint64) (bool, error) {
	p.mu.Lock()
	for c := range p.all {
		for w := c.firstDoing; w != nil; w = w.next {
			if w.ID != id {
				continue
			}
			if w.Kind == KindProgram {
				p.mu.Unlock()
				w.end(errEnded)
				select {
				case <-w.ended:
					return true, nil
				case <-ctx.Done():
					return true, context.Cause(ctx)
				}
			}
			p.close(c)
			p.mu.Unlock()
			return true, gone(ctx, c.child)
		}
	}
	p.mu.Unlock()
	return false, nil
}

// gone waits for the end of a child.
func gone(ctx context.Context, c *daemon.Child) error {
	select {
	case <-c.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
