package control

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"mitogend/daemon"
)

// What was cut short because the daemon stops says so, wherever it noticed.
func TestCaused(t *testing.T) {
	other := errors.New("other")
	cut := fmt.Errorf("reading: %w", context.Canceled)
	for _, c := range []struct{ cause, err, want error }{
		{daemon.ErrShutdown, cut, daemon.ErrShutdown},
		{daemon.ErrShutdown, other, other},
		{daemon.ErrShutdown, nil, nil},
		{context.Canceled, cut, context.Canceled},
		{nil, cut, cut},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		if c.cause != nil {
			cancel(c.cause)
		}
		if got := caused(ctx, c.err); !errors.Is(got, c.want) || c.want == nil && got != nil {
			t.Errorf("%v, %v: got %v, want %v", c.cause, c.err, got, c.want)
		}
		cancel(nil)
	}
}
