// Package dial calls functions by a running daemon (mitogend serve), and brings nothing of the daemon into the program:
// of packages that are not Go's own, a codec for MessagePack and golang.org/x/sys. Package daemon/client also
// connects, runs programs and opens channels, and is larger.
//
//	c, err := dial.Default(ctx)
//	defer c.Close()
//	version, err := dial.Call[string](ctx, c, "ssh:web1+sudo:root", "platform:python_version")
//
// The daemon connects targets, by its own environment and inventory, and keeps the connections. Modules are those of
// its own path.
package dial

import (
	"context"
	"errors"
	"path/filepath"

	"mitogend/daemon/internal/link"
	"mitogend/daemon/socket"
	"mitogend/daemon/wire"
	"mitogend/pyproto"
)

// ErrDisconnected: the connection with the daemon is gone. What was under way may have run.
var ErrDisconnected = link.ErrDisconnected

// ErrOtherUser: the daemon is another user's, and is told nothing.
var ErrOtherUser = link.ErrOtherUser

// Error is what the daemon says of a request that has failed. Where Python has raised, Call gives a *pyproto.CallError
// instead, and Do an Error of kind call. Its Kind is one of those of docs/control.md.
type Error = wire.Error

// Conn is a connection with a running daemon. It is safe for concurrent use.
type Conn struct{ link *link.Link }

// Default connects with the daemon of this user that mitogend serve has started without --listen. The error tells apart
// that there is none: os.ErrNotExist, or syscall.ECONNREFUSED.
func Default(ctx context.Context) (*Conn, error) {
	dir, err := socket.DefaultDir()
	if err != nil {
		return nil, err
	}
	return Dial(ctx, filepath.Join(dir, socket.ControlName))
}

// Dial connects with the daemon that serves a socket.
func Dial(ctx context.Context, path string) (*Conn, error) {
	l, err := link.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Conn{l}, nil
}

// Close ends the connection. What is under way is given up.
func (c *Conn) Close() { c.link.Close() }

// Do makes a request of the control protocol (docs/control.md) and decodes its result into *result, unless that is nil.
// Package daemon/wire has the types of both, of "list" wire.List. When ctx ends, the request is cancelled, and what it has
// made is closed; but what a "read" has taken meanwhile is lost.
func (c *Conn) Do(ctx context.Context, method string, params, result any) error {
	return c.link.Do(ctx, method, params, result)
}

// Call runs MODULE:FUNCTION on a target and gives what it returns; package pyproto has the table of types. A last
// argument of type pyproto.Kwargs gives keyword arguments.
func (c *Conn) Call(ctx context.Context, target, fn string, args ...any) (any, error) {
	p := &wire.Call{Function: fn, Exact: true}
	p.Target.Target = target
	if n := len(args); n > 0 {
		if kwargs, ok := args[n-1].(pyproto.Kwargs); ok {
			p.Kwargs.V, args = kwargs, args[:n-1]
		}
	}
	p.Args.V = args
	var v wire.Value
	err := c.Do(ctx, "call", p, &v)
	var e *Error
	if errors.As(err, &e) && e.Kind == wire.KindCall {
		return nil, &pyproto.CallError{Text: e.Text}
	}
	return v.V, err
}

// Call is [Conn.Call] for a result that becomes a T, by the rules of pyproto.Assign.
func Call[T any](ctx context.Context, c *Conn, target, fn string, args ...any) (T, error) {
	var v T
	result, err := c.Call(ctx, target, fn, args...)
	if err == nil {
		err = pyproto.Assign(&v, result)
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}
