package daemon

import (
	"context"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
)

// Remote is a connected interpreter, whether this process has connected it (*Child) or a running daemon
// (*client.Child).
type Remote interface {
	ID() pyproto.ContextID
	Name() string
	Version() importer.Version
	// Call runs a function and waits for what it returns; see Child.Call. Calls of one goroutine run in their order.
	Call(ctx context.Context, fn string, args ...any) *Result
	// CallWith is Call with options. Over a socket, Output and Room have to be nil: the client sets its own.
	CallWith(ctx context.Context, o CallOptions, fn string, args ...any) *Result
	// Notify runs a function and does not ask for its result.
	Notify(ctx context.Context, fn string, args ...any) error
	// Run runs a program; see Child.Run.
	Run(ctx context.Context, o RunOptions) (ExitStatus, error)
	// Close ends the child, or gives it back if others may use it.
	Close(ctx context.Context) error
}

// Master connects interpreters: a *Daemon, or a *client.Client of a running one.
type Master interface {
	// Open connects the interpreter that hops lead to; errors call it name. Over a socket, Importer has to be nil:
	// the client's options say what is served.
	Open(ctx context.Context, name string, hops []bootstrap.Hop, opt ConnectOptions) (Remote, error)
	// Shutdown ends the children, or gives them back.
	Shutdown(ctx context.Context) error
}

var (
	_ Remote = (*Child)(nil)
	_ Master = (*Daemon)(nil)
)

// Open is ConnectHops for users of the interface Master.
func (d *Daemon) Open(ctx context.Context, name string, hops []bootstrap.Hop, opt ConnectOptions) (Remote, error) {
	c, err := d.ConnectHops(ctx, name, hops, opt)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// NewResult makes a result, for other implementations of Remote.
func NewResult(value any, err error) *Result { return &Result{value: value, err: err} }
