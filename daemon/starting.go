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

// What begins at once on one machine is bounded: a thousand interpreters that start together would each take longer than
// connect_timeout. Who is slow for other reasons, as a host that does not answer, holds up others for startTime only. While the
// machine has too little time for those that it starts, no more are begun, but for maxStartTime at most.
const (
	minStarts    = 32
	startTime    = time.Second
	maxStartTime = 20 * time.Second
)

// starting are the places of those that are being started on one machine.
type starting struct {
	places chan struct{}
	busy   func() bool // whether the machine has too little time
}

// newStarting is for a machine of which nothing is known.
func newStarting() starting {
	return starting{make(chan struct{}, minStarts), func() bool { return false }}
}

// startingHere is for the machine of the daemon.
func startingHere() starting {
	return starting{make(chan struct{}, max(minStarts, 16*runtime.NumCPU())), busyHere}
}

// busyHere tells whether many more threads want to run than there are processors; false where the system does not tell.
func busyHere() bool {
	b, _ := os.ReadFile("/proc/loadavg") // "0.20 0.18 0.12 1/80 11206": the fourth is how many run, and how many there are
	fields := bytes.Fields(b)
	if len(fields) < 4 {
		return false
	}
	running, _, _ := bytes.Cut(fields[3], []byte("/"))
	n, err := strconv.Atoi(string(running))
	return err == nil && n > 4*runtime.NumCPU()
}

// enter waits for a place. It is given back by done, or when the start takes long for another reason than this machine.
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
