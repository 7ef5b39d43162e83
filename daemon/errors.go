package daemon

import (
	"errors"
	"fmt"

	"mitogend/bootstrap"
	"mitogend/internal/fault"
	"mitogend/pyproto/printable"
)

// errorf makes an error of this package.
func errorf(format string, args ...any) error { return fault.Errorf("daemon", format, args...) }

// ErrShutdown is the error of all that is asked of a daemon after Shutdown.
var ErrShutdown = errorf("shut down")

// ErrNobodyReads is the cause of a context that ends because nobody reads a program's output any more. The program is
// told by SIGTERM: of SIGINT it would write a traceback.
var ErrNobodyReads = errorf("nobody reads the output")

// DeadError says that a message could not be delivered, or that a reply will not come; Reason is the wire's.
type DeadError struct {
	Target string
	Reason string
	// Lost: the connection broke, so the function may have run.
	Lost  bool
	cause error
}

// Unwrap gives ErrShutdown if that is the cause.
func (e *DeadError) Unwrap() error { return e.cause }

func (e *DeadError) Error() string { return "daemon: " + e.Plain() }

// Plain is for fault.Plain.
func (e *DeadError) Plain() string {
	return fmt.Sprintf("%s: %s", printable.Line(e.Target), printable.Line(e.Reason))
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

// PasswordRefused tells whether the hop was sent a password and has not taken it: one more attempt may lock the account.
func (e *HopError) PasswordRefused() bool {
	var step *bootstrap.Error
	return errors.As(e.Err, &step) && step.PasswordRefused()
}

// Unwrap gives the cause.
func (e *HopError) Unwrap() error { return e.Err }
