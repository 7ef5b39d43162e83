package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/pyproto"
)

// The kinds of errors.
const (
	KindCall      = "call"      // Python raised
	KindConnect   = "connect"   // the target could not be reached or started
	KindLost      = "lost"      // the connection broke, or the child has no such receiver
	KindTimeout   = "timeout"   // the request's own timeout passed
	KindCancelled = "cancelled" // by the client
	KindUsage     = "usage"     // the request is wrong
	KindUnknown   = "unknown"   // there is no such child or stream on this connection
	KindOverflow  = "overflow"  // a queue was full and something was dropped
	KindShutdown  = "shutdown"  // the daemon is stopping
	KindInternal  = "internal"
)

// Error is the error of a response. Kind and Message are always there.
type Error struct {
	Kind    string `codec:"kind"`
	Message string `codec:"message"`

	// Of KindCall: the whole text as Python sent it, and its parts.
	Type      string `codec:"type,omitempty"`
	Traceback string `codec:"traceback,omitempty"`
	Text      string `codec:"text,omitempty"`

	// Of KindLost: the function may have run.
	Lost bool `codec:"lost,omitempty"`

	// Of KindConnect and KindLost.
	Target string `codec:"target,omitempty"`
	// Of KindConnect: which hop, from 0, of how many, and what bootstrap.Error has.
	Hop      int      `codec:"hop,omitempty"`
	Hops     int      `codec:"hops,omitempty"`
	Label    string   `codec:"label,omitempty"`
	Step     string   `codec:"step,omitempty"`
	Reason   string   `codec:"reason,omitempty"`
	Hint     string   `codec:"hint,omitempty"`
	Output   []string `codec:"output,omitempty"`
	Status   string   `codec:"status,omitempty"`
	TimedOut bool     `codec:"timed_out,omitempty"`
}

// Error gives the message.
func (e *Error) Error() string { return e.Message }

// Errorf makes an error of a kind.
func Errorf(kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// TimeoutError is the cause of a context that a request's timeout has ended.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string { return fmt.Sprintf("not done after %v", e.After) }

// FromError gives what is sent of an error.
func FromError(err error) *Error {
	var own *Error
	var call *pyproto.CallError
	var hop *daemon.HopError
	var boot *bootstrap.Error
	var dead *daemon.DeadError
	var timeout *TimeoutError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &call):
		return &Error{Kind: KindCall, Message: call.Message(), Type: call.Type(), Traceback: call.Traceback(), Text: call.Text}
	case errors.As(err, &timeout):
		return Errorf(KindTimeout, "%v", timeout)
	case errors.As(err, &hop):
		e := connectError(hop.Err)
		e.Message, e.Target, e.Hop, e.Hops = hop.Error(), hop.Target, hop.Hop, hop.Hops
		return e
	case errors.As(err, &boot):
		return connectError(boot)
	case errors.Is(err, daemon.ErrOverflow):
		return Errorf(KindOverflow, "%v", err)
	case errors.Is(err, daemon.ErrShutdown):
		return Errorf(KindShutdown, "the daemon is stopping")
	case errors.As(err, &dead):
		return &Error{Kind: KindLost, Message: dead.Error(), Target: dead.Target, Reason: dead.Reason, Lost: dead.Lost}
	case errors.Is(err, context.Canceled):
		return Errorf(KindCancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Errorf(KindTimeout, "%v", err)
	}
	return Errorf(KindInternal, "%v", err)
}

func connectError(err error) *Error {
	e := Errorf(KindConnect, "%v", err)
	var boot *bootstrap.Error
	if errors.As(err, &boot) {
		e.Label, e.Step, e.Reason, e.Hint = boot.Label, string(boot.Step), boot.Reason, boot.Hint
		e.Output, e.Status, e.TimedOut = boot.Output, boot.Status, boot.TimedOut
	} else {
		e.Reason = err.Error()
	}
	return e
}

// Go gives the error that package daemon would have given in this process.
func (e *Error) Go() error {
	switch e.Kind {
	case KindCall:
		return &pyproto.CallError{Text: e.Text}
	case KindConnect:
		var err error = &bootstrap.Error{
			Label: e.Label, Step: bootstrap.Step(e.Step), Reason: e.Reason, Hint: e.Hint, Output: e.Output,
			Status: e.Status, TimedOut: e.TimedOut,
		}
		if e.Step == "" {
			err = errors.New(e.Reason)
		}
		if e.Hops == 0 {
			return err
		}
		return &daemon.HopError{Target: e.Target, Hop: e.Hop, Hops: e.Hops, Err: err}
	case KindLost:
		return &daemon.DeadError{Target: e.Target, Reason: e.Reason, Lost: e.Lost}
	case KindShutdown:
		return daemon.ErrShutdown
	case KindCancelled:
		return context.Canceled
	case KindTimeout:
		return context.DeadlineExceeded
	}
	return e
}
