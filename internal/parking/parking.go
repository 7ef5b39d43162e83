// Package parking lets readers of quiet connections wait without a goroutine each: a goroutine costs at least 4 KiB of
// stack, and most connections of a large fleet are quiet most of the time.
//
// A reader has a [Place], and calls its Begin, Active with each read, and End. Once nothing came for one to two times
// [Period], Nudge is called on a goroutine of this package: the reader then calls Park and ends its own goroutine. When
// its file becomes readable, or its other side is closed, Resume is called on a new one. Whoever wants a reader to end
// while it may be parked calls Unpark, and resumes it by himself.
//
// All daemons of one process share the one table, as they share descriptors, without meeting.
//
// # Goroutines
//
//	name      started in          ends when                               waited for by
//	watch     waits.open          there is no reader any more             nobody: it holds nothing
//	Resume    wake                the reader parks again, or ends         who owns the reader
//
// A look at who reads (sweep) is a timer's: it holds nothing, and no next one follows when nobody reads.
//
// # Locks
//
// lot.mu is taken alone. It is not held across I/O: to add a file to an epoll set does not wait.
package parking

import (
	"sync"
	"sync/atomic"
	"time"
)

// Period is how often readers are looked at.
const Period = time.Second

// Reader is what a Place is of.
type Reader interface {
	// Nudge ends the wait for input of a reader that was not active since the last look, so that it parks. It must not
	// block, and may come late, when the reader is parked, or has ended.
	Nudge()
	// Resume reads on, until the next Park or the end.
	Resume()
}

// Place is a reader's own. The zero value is ready for Begin. It must not be copied after that.
type Place struct {
	reader Reader
	active atomic.Bool
	fd     int32 // while it is parked; guarded by lot.mu, as is parked
	parked bool
}

// lot has the readers of this process, and those of them that are parked.
var lot struct {
	// mu protects the following.
	mu       sync.Mutex
	awake    map[*Place]struct{}
	sweeping bool
	waits    waits
}

// Begin is called by a reader that begins to read.
func (p *Place) Begin(r Reader) {
	p.reader = r
	lot.mu.Lock()
	defer lot.mu.Unlock()
	p.wakes()
}

// wakes notes that the reader has a goroutine. mu is held.
func (p *Place) wakes() {
	p.active.Store(true)
	if lot.awake == nil {
		lot.awake = map[*Place]struct{}{}
	}
	lot.awake[p] = struct{}{}
	if !lot.sweeping {
		lot.sweeping = true
		time.AfterFunc(Period, sweep)
	}
}

// Active notes that something was read.
func (p *Place) Active() {
	if !p.active.Load() {
		p.active.Store(true)
	}
}

// End is called by a reader that reads no more.
func (p *Place) End() {
	lot.mu.Lock()
	defer lot.mu.Unlock()
	if delete(lot.awake, p); len(lot.awake) == 0 {
		lot.waits.closeUnused()
	}
}

// Unpark is true for one caller of a parked reader, who has to call Resume on a goroutine, and false if it is not parked.
func (p *Place) Unpark() bool {
	lot.mu.Lock()
	defer lot.mu.Unlock()
	return p.leave()
}

// Parked tells whether the reader has no goroutine now.
func (p *Place) Parked() bool {
	lot.mu.Lock()
	defer lot.mu.Unlock()
	return p.parked
}

// leave is Unpark. mu is held.
func (p *Place) leave() bool {
	if !p.parked {
		return false
	}
	p.parked = false
	lot.waits.remove(p)
	p.wakes()
	return true
}

// sweep nudges the readers that were not active since the last look.
func sweep() {
	for _, r := range quiet() {
		r.Nudge()
	}
}

// quiet gives the readers that were not active since the last look, and has the next one follow if anybody reads.
func quiet() (readers []Reader) {
	lot.mu.Lock()
	defer lot.mu.Unlock()
	for p := range lot.awake {
		if !p.active.Swap(false) {
			readers = append(readers, p.reader)
		}
	}
	if lot.sweeping = len(lot.awake) > 0; lot.sweeping {
		time.AfterFunc(Period, sweep)
	} else {
		lot.awake = nil // a map does not shrink
	}
	return readers
}
