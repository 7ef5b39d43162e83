package daemon

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Only so many start at once. One that does not come up holds up others for a moment only, and gives its place back
// once.
func TestStarting(t *testing.T) {
	s := newStarting()
	ctx := testContext(t)
	var last func()
	for range cap(s.places) {
		done, err := s.enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		last = done
	}
	over, cancel := context.WithCancelCause(ctx)
	why := errors.New("enough")
	cancel(why)
	if _, err := s.enter(over); !errors.Is(err, why) {
		t.Fatalf("all places are taken: %v", err)
	}
	last()
	last()
	if n := len(s.places); n != cap(s.places)-1 {
		t.Fatalf("%d places are taken", n)
	}
	for range cap(s.places) { // the first finds that place, the others those of who has not come up
		if _, err := s.enter(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); len(s.places) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d places are never given back", len(s.places))
		}
	}
}

// While the machine is busy, a slow one keeps its place.
func TestStartingOnABusyMachine(t *testing.T) {
	s := newStarting()
	looked := make(chan bool)
	s.busy = func() bool { return <-looked }
	done, err := s.enter(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	looked <- true
	looked <- true // the second look: the first has not given the place back
	if n := len(s.places); n != 1 {
		t.Errorf("%d places are taken", n)
	}
	done()
	if n := len(s.places); n != 0 {
		t.Errorf("%d places are taken", n)
	}
	select {
	case looked <- true:
		t.Error("who has a place no more is looked at")
	case <-time.After(2 * startTime):
	}
}
