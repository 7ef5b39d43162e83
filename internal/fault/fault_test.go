package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"mitogend/internal/fault"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	inner := fault.Errorf("socket", "open %s: %w", "/run/x", fs.ErrNotExist)
	for _, c := range []struct {
		err          error
		whole, plain string
	}{
		{inner, "socket: open /run/x: file does not exist", "open /run/x: file does not exist"},
		{fault.Errorf("control", "%w", inner), "control: socket: open /run/x: file does not exist", "socket: open /run/x: file does not exist"},
		// Not its own name.
		{fmt.Errorf("web1: %w", inner), "web1: socket: open /run/x: file does not exist", "web1: socket: open /run/x: file does not exist"},
		{errors.New("socket: no name, but text"), "socket: no name, but text", "socket: no name, but text"},
	} {
		if c.err.Error() != c.whole || fault.Plain(c.err) != c.plain {
			t.Errorf("%q, plain %q", c.err.Error(), fault.Plain(c.err))
		}
	}
	if !errors.Is(inner, fs.ErrNotExist) {
		t.Error("what it wraps is lost")
	}
}
