package daemon

import (
	"errors"
	"fmt"

	"mitogend/pyproto/printable"
)

// ErrShutdown is the error of everything that is asked of a daemon that was shut down.
var ErrShutdown = errors.New("daemon: shut down")

// ErrNobodyReads is the cause with which a context ends when nobody reads what a program prints any more: it is told by SIGTERM
// and not by SIGINT, of which it would write a traceback.
var ErrNobodyReads = errors.New("daemon: nobody reads the output")

// DeadError is a message that could not be delivered, or a reply that will not come; Reason is the wire's.
type DeadError struct {
	Target string
	Reason string
	// Lost: the connection broke, so the function may have run.
	Lost  bool
	cause error
}

// Unwrap gives ErrShutdown where that is why.
func (e *DeadError) Unwrap() error { return e.cause }

func (e *DeadError) Error() string {
	return fmt.Sprintf("daemon: %s: %s", printable.Line(e.Target), printable.Line(e.Reason))
}

// HopError is a connect that failed at one hop of a target.
type HopError struct {
	Target string
	Hop    int // from 0
	Hops   int
	Err    error
}

func (e *HopError) Error() string {
	if e.Hops == 1 {
		return fmt.Sprintf("%s: %v", printable.Line(e.Target), e.Err)
	}
	return fmt.Sprintf("%s: hop %d of %d: %v", printable.Line(e.Target), e.Hop+1, e.Hops, e.Err)
}

// Unwrap gives the cause.
func (e *HopError) Unwrap() error { return e.Err }
