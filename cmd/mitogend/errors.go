package main

import (
	"errors"
	"fmt"
	"syscall"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/wire"
)

// The exit statuses. A program that runs on one target has its own.
const (
	statusOK      = 0
	statusRaised  = 1 // Python has raised, or a program has ended with another status than 0
	statusUsage   = 2
	statusConnect = 3
	statusLost    = 4 // a connection was lost, or --timeout has passed
	statusPipe    = 128 + int(syscall.SIGPIPE)
)

// usageError is a mistake in what the user has typed.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// statusError ends the command with a status. Everything has been said then.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// signalError is the cause of a context that a signal has ended.
type signalError struct{ syscall.Signal }

func (e signalError) Error() string {
	if e.Signal == syscall.SIGINT {
		return "interrupted"
	}
	return e.Signal.String()
}

// errStdoutClosed is the cause of a context that has ended because nobody reads the output any more.
var errStdoutClosed = fmt.Errorf("stdout is closed: %w", daemon.ErrNobodyReads)

// outputError says that stdout takes no more for another reason, such as a full disk.
type outputError struct{ error }

// commandError is a failure of the command as a whole.
type commandError struct {
	error
	status int
}

// report prints what has not been said yet about err, and gives the exit status.
func (a *app) report(err error) int {
	var usage usageError
	var status statusError
	var sig signalError
	var output outputError
	var failed commandError
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &sig):
		a.console.complain("%v", sig)
		return 128 + int(sig.Signal)
	case errors.Is(err, errStdoutClosed):
		return statusPipe
	case errors.As(err, &output):
		a.console.complain("stdout: %v", output.error)
		return statusRaised
	case errors.As(err, &failed):
		a.console.complain("%v", failed.error)
		return failed.status
	case errors.As(err, &usage):
		a.console.complain("%v", usage.error)
		return statusUsage
	}
	// It is Cobra's own error: an unknown command, say.
	a.console.complain("%v", err)
	return statusUsage
}

// daemonError is an error of the running daemon, or of the connection with it.
func daemonError(err error) error {
	var e *wire.Error
	if errors.As(err, &e) && e.Kind == wire.KindUsage {
		return usageError{e}
	}
	if errors.Is(err, client.ErrDisconnected) {
		return commandError{errors.New("the connection with the daemon is gone"), statusLost}
	}
	return commandError{err, statusLost}
}
