package pool

import (
	"container/list"
	"strings"
	"sync/atomic"
)

const (
	// maxTotals is how many targets without a connection keep their counters. Then the one goes that was the first to
	// have none.
	maxTotals = 1000
	// maxTarget bounds the name of one, in bytes.
	maxTarget = 1000
)

// Total are the counters of a target, over all connections since the daemon knows it.
type Total struct {
	Target      string // the name of the request that a connection was made for, else its target
	Connections int    // now
	Calls       int64  // that have ended; programs and channels included
	Failures    int64  // of those
}

// total counts for all connections of one name. Guarded by Pool.mu but for the atomics.
type total struct {
	name            string
	conns           int
	calls, failures atomic.Int64
	place           *list.Element // in Pool.unconnected, if conns is 0
}

// join counts a connection. mu is held.
func (p *Pool) join(name string) *total {
	name = strings.ToValidUTF8(name[:min(len(name), maxTarget)], "?")
	t := p.totals[name]
	if t == nil {
		t = &total{name: strings.Clone(name)}
		p.totals[t.name] = t
	}
	if t.place != nil {
		p.unconnected.Remove(t.place)
		t.place = nil
	}
	t.conns++
	return t
}

// leave takes a connection off. mu is held.
func (p *Pool) leave(t *total) {
	if t.conns--; t.conns > 0 {
		return
	}
	t.place = p.unconnected.PushBack(t)
	if p.unconnected.Len() > maxTotals {
		oldest := p.unconnected.Remove(p.unconnected.Front()).(*total)
		delete(p.totals, oldest.name)
	}
}

// Totals gives the counters of all targets.
func (p *Pool) Totals() []Total {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Total, 0, len(p.totals))
	for _, t := range p.totals {
		out = append(out, Total{t.name, t.conns, t.calls.Load(), t.failures.Load()})
	}
	return out
}

// Internal tells whether a function is one that commands call by themselves: for facts (also those of --where), and for
// the further values of a generator. It counts as a call only if it fails.
func Internal(fn string) bool {
	return fn == "mitogen.facts:collect" || fn == "mitogen.plain:more" || fn == "mitogen.plain:end"
}
