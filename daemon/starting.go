package daemon

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// minStarts and startTime bound what begins at once on one machine: a thousand interpreters that start together would each take
// longer than connect_timeout. Who is slow for other reasons, as a host that does not answer, holds up others for startTime only.
const (
	minStarts = 32
	startTime = time.Second
)

// starting are the places of those that are being started on one machine.
type starting chan struct{}

// newStarting is for a machine of that many processors.
func newStarting(processors int) starting { return make(starting, max(minStarts, 16*processors)) }

// startingHere is newStarting for the machine of the daemon.
func startingHere() starting { return newStarting(runtime.NumCPU()) }

// enter waits for a place, which is given back by done, or after startTime.
func (s starting) enter(ctx context.Context) (done func(), err error) {
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	leave := func() { once.Do(func() { <-s }) }
	t := time.AfterFunc(startTime, leave)
	return func() {
		t.Stop()
		leave()
	}, nil
}
