package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"

	"mitogend/pyproto"
)

// TestDecodingCounts: the time for decoding counts, even if the result arrived in time.
func TestDecodingCounts(t *testing.T) {
	errTime := errors.New("time is up")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errTime)
	c := &Child{name: "local:"}
	long := reply{payload: []byte("(" + strings.Repeat("N", 1<<20) + "t.")}
	if err := c.result(ended, long).Err(); !errors.Is(err, errTime) {
		t.Errorf("got %v", err)
	}
	done := make(chan struct{})
	close(done)
	k := &Tracked{c: c, done: done, reply: long}
	if err := k.Result(ended).Err(); !errors.Is(err, errTime) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if v, err := k.Result(t.Context()).Value(); err != nil || len(v.(pyproto.Tuple)) != 1<<20 {
			t.Errorf("asked again: %v", err)
		}
	}
	// A fault of a pickle is reported while there is time.
	if err := c.result(t.Context(), reply{payload: []byte("(N")}).Err(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("got %v", err)
	}
}
