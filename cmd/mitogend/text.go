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
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// The kinds of errors, as --json names them.
const (
	kindCall    = "call"    // Python raised, or a program ended with another status than 0
	kindConnect = "connect" // the target could not be reached or started
	kindLost    = "lost"    // the connection broke
	kindTimeout = "timeout" // --timeout passed
)

// failure is what went wrong on a target, as it is shown.
type failure struct {
	Kind      string `json:"kind"`
	Type      string `json:"type"`
	Message   string `json:"message"`
	Traceback string `json:"traceback"`
}

// notPlain is what a child raises for a result of which it makes no plain value.
const notPlain = "mitogen.convert.NotPlain"

// timeoutError is the cause of a context that --timeout has ended.
type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("not done after %v (--timeout)", e.after) }

// explain says what an error of the daemon means for the user. ctx is that of the work on the target.
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
		return &failure{Kind: kindCall, Message: "it returned " + call.Message() + ", which can not be shown; --repr shows its repr()"}
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
	return &failure{Kind: kindCall, Message: strings.TrimPrefix(plain(err).Error(), "daemon: ")}
}

// connectText names the hop where there are several.
func connectText(e *daemon.HopError) string {
	text := plain(e.Err).Error()
	if e.Hops > 1 {
		return several(e.Hops, "hop") + ", failed at " + text
	}
	return text
}

// plain drops the package's name from a connection's error: the user has typed a target, not called a package.
func plain(err error) error {
	var e *bootstrap.Error
	if errors.As(err, &e) {
		return errors.New(strings.TrimPrefix(e.Error(), "bootstrap: "))
	}
	return err
}

// cause drops operation and path from a file's error, where the message names the file already.
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

// String gives one line, or what several lines the exception's own text has.
func (f *failure) String() string {
	if f.Type != "" && f.Message != "" {
		return shortType(f.Type) + ": " + f.Message
	}
	return shortType(f.Type) + f.Message
}

// stack gives the traceback as Python prints it, or "".
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
			b.WriteString(printable.Indent) // it is the child's
		}
		b.WriteString(printable.Lines(line) + "\n")
	}
	return b.String()
}

// shortType drops the module that Python leaves out as well.
func shortType(name string) string {
	for _, module := range []string{"builtins.", "exceptions."} {
		if short, ok := strings.CutPrefix(name, module); ok {
			return short
		}
	}
	return name
}

// status gives the exit status that a failure stands for.
func (f *failure) status() int {
	switch f.Kind {
	case kindConnect:
		return statusConnect
	case kindLost, kindTimeout:
		return statusLost
	}
	return statusRaised
}
