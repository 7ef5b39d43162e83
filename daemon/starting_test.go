package daemon

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Only so many are started at once; whoever does not come up holds up others for a moment only, and gives nothing back twice.
func TestStarting(t *testing.T) {
	s := newStarting(1)
	ctx := testContext(t)
	var last func()
	for range cap(s) {
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
	if n := len(s); n != cap(s)-1 {
		t.Fatalf("%d places are taken", n)
	}
	for range cap(s) { // the first finds that place, the others those of who has not come up
		if _, err := s.enter(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); len(s) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d places are never given back", len(s))
		}
	}
}
