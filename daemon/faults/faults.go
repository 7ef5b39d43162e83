// Package faults makes of errors of package daemon what goes over the control socket, and errors again of that. It is
// apart from package wire so that clients can do without the daemon.
package faults

import (
	"context"
	"errors"
	"os"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/wire"
	"mitogend/pyproto"
)

// FromError gives what is sent of an error.
func FromError(err error) *wire.Error {
	var own *wire.Error
	var call *pyproto.CallError
	var hop *daemon.HopError
	var boot *bootstrap.Error
	var dead *daemon.DeadError
	var timeout *wire.TimeoutError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &call):
		return &wire.Error{Kind: wire.KindCall, Message: call.Message(), Type: call.Type(), Traceback: call.Traceback(), Text: call.Text}
	case errors.As(err, &timeout):
		return wire.Errorf(wire.KindTimeout, "%v", timeout)
	case errors.As(err, &hop):
		e := connectError(hop.Err)
		e.Message, e.Target, e.Hop, e.Hops = hop.Error(), hop.Target, hop.Hop, hop.Hops
		return e
	case errors.As(err, &boot):
		return connectError(boot)
	case errors.Is(err, daemon.ErrOverflow):
		return wire.Wrap(wire.KindOverflow, err)
	case errors.Is(err, daemon.ErrShutdown):
		e := wire.Errorf(wire.KindShutdown, "the daemon is stopping")
		if errors.As(err, &dead) {
			e.Target, e.Lost = dead.Target, dead.Lost
		}
		return e
	case errors.As(err, &dead):
		return &wire.Error{Kind: wire.KindLost, Message: dead.Error(), Target: dead.Target, Reason: dead.Reason, Lost: dead.Lost}
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.KindCancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return wire.Errorf(wire.KindTimeout, "%v", err)
	}
	return wire.Wrap(wire.KindInternal, err)
}

func connectError(err error) *wire.Error {
	e := wire.Errorf(wire.KindConnect, "%v", err)
	var boot *bootstrap.Error
	if errors.As(err, &boot) {
		e.Label, e.Step, e.Reason, e.Hint = boot.Label, string(boot.Step), boot.Reason, boot.Hint
		e.Output, e.Status, e.TimedOut = boot.Output, boot.Status, boot.TimedOut
	} else {
		e.Reason = err.Error()
	}
	return e
}

// ToError gives the error that package daemon would have given in this process.
func ToError(e *wire.Error) error {
	switch e.Kind {
	case wire.KindCall:
		return &pyproto.CallError{Text: e.Text}
	case wire.KindConnect:
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
	case wire.KindLost:
		return &daemon.DeadError{Target: e.Target, Reason: e.Reason, Lost: e.Lost}
	case wire.KindShutdown:
		if e.Lost {
			return CutOff(e.Target)
		}
		return daemon.ErrShutdown
	case wire.KindCancelled:
		return context.Canceled
	case wire.KindTimeout:
		return context.DeadlineExceeded
	}
	return e
}

// cutOff is an error of work that ran when the daemon stopped: both daemon.ErrShutdown and a daemon.DeadError.
type cutOff struct{ dead *daemon.DeadError }

// CutOff is the error of what was sent to a target and may have run there when the daemon stopped.
func CutOff(target string) error {
	return cutOff{&daemon.DeadError{Target: target, Reason: "the daemon has stopped", Lost: true}}
}

func (e cutOff) Error() string { return e.dead.Error() }

// Plain is for fault.Plain.
func (e cutOff) Plain() string { return e.dead.Plain() }

func (e cutOff) Unwrap() []error { return []error{e.dead, daemon.ErrShutdown} }
