package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/internal/fault"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// The kinds of errors, as --json names them.
const (
	kindCall    = "call"    // Python has raised, or a program has ended with another status than 0
	kindConnect = "connect" // the target could not be reached or started
	kindLost    = "lost"    // the connection broke
	kindTimeout = "timeout" // --timeout has passed

	// Kinds for targets without an outcome.
	kindInterrupted = "interrupted" // it may have run
	kindNotBegun    = "not_begun"
)

// failure is what went wrong on a target, as --json shows it.
type failure struct {
	Kind      string `json:"kind"`
	Type      string `json:"type"`
	Message   string `json:"message"`
	Traceback string `json:"traceback"`
}

// notPlain is what a child raises if it cannot make a plain value of a result.
const notPlain = "mitogen.convert.NotPlain"

// timeoutError is the cause of a context that --timeout has ended.
type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("not done after %v (--timeout)", e.after) }

// explain says what an error of the daemon means for the user. ctx is the context of the work on the target.
func explain(ctx context.Context, err error) *failure {
	var hop *daemon.HopError
	var dead *daemon.DeadError
	var call *pyproto.CallError
	var refused *pyproto.GlobalError
	var timeout timeoutError
	switch {
	case errors.As(context.Cause(ctx), &timeout):
		return &failure{Kind: kindTimeout, Message: timeout.Error()}
	case errors.As(err, &hop):
		return &failure{Kind: kindConnect, Message: connectText(hop)}
	case errors.As(err, &call) && call.Type() == notPlain:
		return &failure{Kind: kindCall, Message: "it returned " + call.Message() + ", which cannot be shown; --repr shows its repr()"}
	case errors.As(err, &call):
		return &failure{Kind: kindCall, Type: call.Type(), Message: call.Message(), Traceback: call.Traceback()}
	case errors.As(err, &refused):
		return &failure{Kind: kindCall, Message: "it returned a value of type " + refused.Module + "." + refused.Name +
			"; only None, bool, int, float, str, bytes, list, tuple and dict can be sent"}
	case errors.As(err, &dead):
		return &failure{Kind: kindLost, Message: dead.Reason}
	case errors.Is(err, daemon.ErrShutdown), errors.Is(err, client.ErrDisconnected):
		return &failure{Kind: kindLost, Message: "the daemon has stopped"}
	}
	return &failure{Kind: kindCall, Message: fault.Plain(bootstrap.Plain(err))}
}

// connectText names the hop if there are several.
func connectText(e *daemon.HopError) string {
	text := bootstrap.Plain(e.Err).Error()
	if e.Hops > 1 {
		return several(e.Hops, "hop") + ", failed at " + text
	}
	return text
}

// plain drops the name of the package that made an error: the user has called none.
func plain(err error) error { return errors.New(fault.Plain(err)) }

// cause drops operation and path from a file's error. The message names the file already.
func cause(err error) error {
	var path *fs.PathError
	var sys *os.SyscallError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &sys):
		return sys.Err
	}
	return err
}

// String gives one line, or more if the exception's own text has more.
func (f *failure) String() string {
	if f.Type != "" && f.Message != "" {
		return shortType(f.Type) + ": " + f.Message
	}
	return shortType(f.Type) + f.Message
}

// stack gives the traceback as Python prints it. It is empty if there is none.
func (f *failure) stack() string {
	if f.Traceback == "" {
		return ""
	}
	frames, causes, chained := strings.Cut(strings.TrimRight(f.Traceback, "\n"), "\nCaused by: ")
	text := "Traceback (most recent call last):\n" + frames + "\n" + f.String() + "\n"
	if chained {
		text += "Caused by: " + causes + "\n"
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, ownPrefix) {
			b.WriteString(printable.Indent) // the child has said it, not we
		}
		b.WriteString(printable.Lines(line) + "\n")
	}
	return b.String()
}

// shortType drops the modules that Python does not show either.
func shortType(name string) string {
	for _, module := range []string{"builtins.", "exceptions."} {
		if short, ok := strings.CutPrefix(name, module); ok {
			return short
		}
	}
	return name
}

// status gives the exit status of a failure.
func (f *failure) status() int {
	switch f.Kind {
	case kindConnect:
		return statusConnect
	case kindLost, kindTimeout:
		return statusLost
	}
	return statusRaised
}
