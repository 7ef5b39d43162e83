package daemon

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// The number of interpreters that start at once on one machine is bounded: a thousand that start together would each
// take longer than connect_timeout. One that is slow for another reason, such as a host that does not answer, holds
// up others for startTime only. While the machine itself is too busy, no more are begun, but for maxStartTime at
// most.
const (
	minStarts    = 32
	startTime    = time.Second
	maxStartTime = 20 * time.Second
)

// starting has the places of the interpreters that start on one machine.
type starting struct {
	places chan struct{}
	busy   func() bool // whether the machine has too little time
}

// newStarting is for a machine of which nothing is known.
func newStarting() starting {
	return starting{make(chan struct{}, minStarts), func() bool { return false }}
}

// startsThere has the places of the children that c starts.
func (c *Child) startsThere() starting {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.starting.places == nil {
		c.starting = newStarting()
	}
	return c.starting
}

// startingHere is for the machine of the daemon.
func startingHere() starting {
	return starting{make(chan struct{}, max(minStarts, 16*runtime.NumCPU())), busyHere}
}

// busyHere tells whether many more threads want to run than there are processors; false where the system does not
// tell.
func busyHere() bool {
	// "0.20 0.18 0.12 1/80 11206": the fourth field says how many threads run, and how many there are.
	b, _ := os.ReadFile("/proc/loadavg")
	fields := bytes.Fields(b)
	if len(fields) < 4 {
		return false
	}
	running, _, _ := bytes.Cut(fields[3], []byte("/"))
	n, err := strconv.Atoi(string(running))
	return err == nil && n > 4*runtime.NumCPU()
}

// enter waits for a place. done gives it back. A start that is slow for a reason other than this machine loses it
// earlier, so that others begin.
func (s starting) enter(ctx context.Context) (done func(), err error) {
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	began := time.Now()
	var once sync.Once
	over := make(chan struct{})
	leave := func() {
		once.Do(func() {
			close(over)
			<-s.places
		})
	}
	var look func()
	look = func() {
		switch {
		case isClosed(over):
		case s.busy() && time.Since(began) < maxStartTime:
			time.AfterFunc(startTime, look)
		default:
			leave()
		}
	}
	t := time.AfterFunc(startTime, look)
	return func() {
		t.Stop()
		leave()
	}, nil
}
