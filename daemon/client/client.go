// Package client is a Go client of a running daemon. A *Client is a daemon.Master and a *Child a daemon.Remote, so that
// code can be written for either. Package daemon/dial is a small one, which brings nothing of the daemon along.
//
// What holds: calls of one goroutine to one child run in the order in which they were made. When ctx ends, a call
// returns at once; its function goes on in the child. A program is ended then, and Run returns when that has printed its
// last, five seconds later at most. Nothing is sent twice: when the connection with the daemon breaks, what was under way
// fails with an error that wraps ErrDisconnected, and may have run.
package client

import (
	"context"
	"errors"
	"os"
	"sync/atomic"

	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/internal/link"
	"mitogend/daemon/wire"
	"mitogend/importer"
)

// ErrDisconnected: the connection with the daemon is gone.
var ErrDisconnected = link.ErrDisconnected

// ErrOtherUser: the daemon is another user's, and is told nothing.
var ErrOtherUser = link.ErrOtherUser

// RefusedError: the daemon does not serve this client, as when it has too many. Nothing was done.
type RefusedError = link.RefusedError

// errModules: what this process has in its memory is not where the daemon looks modules up.
var errModules = errors.New("client: Options.Source.Modules cannot be used over a socket")

// Options say what children that the client connects are served, and where they are started.
type Options struct {
	// Source says what modules are served; nil means what the daemon is configured with. Of Options, Modules cannot be sent,
	// and Fetch, Virtual, Reserved, the limits and Logger are the daemon's own.
	Source *importer.Options
	// Dir and Env are where connection programs are started; empty means those of this process.
	Dir string
	Env []string
	// Traceparent is a W3C trace context, into which the daemon puts the spans of calls and programs if it exports any.
	Traceparent string
	// Fresh asks for connections that nobody shares.
	Fresh bool
}

// Client is a connection with a running daemon. It is safe for concurrent use.
type Client struct {
	link *link.Link
	opt  Options

	// envTurn has a token for whoever uses the following, also while an environment is named.
	envTurn   chan struct{}
	env       []string // that the daemon knows
	envNumber uint32   // by this number
	envSpelt  bool     // it knows none by number: it is older, or was told too many

	streams atomic.Int64 // that are being read
}

var _ daemon.Master = (*Client)(nil)

// Dial connects with the daemon that serves a socket. The error tells apart that nobody does: os.ErrNotExist, or
// syscall.ECONNREFUSED.
func Dial(ctx context.Context, path string, opt Options) (*Client, error) {
	if opt.Source != nil && len(opt.Source.Modules) > 0 {
		return nil, errModules
	}
	l, err := link.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	if opt.Dir == "" {
		opt.Dir, _ = os.Getwd() // none: it is gone, see startDir
	}
	if opt.Env == nil {
		opt.Env = os.Environ()
	}
	return &Client{link: l, opt: opt, envTurn: make(chan struct{}, 1)}, nil
}

// Do makes a request of the control protocol and decodes its result into *result, unless that is nil. An error of the
// daemon is a *wire.Error. When ctx ends, the request is cancelled, and what it has made is closed; but what a "read" has
// taken meanwhile is lost.
func (c *Client) Do(ctx context.Context, method string, params, result any) error {
	return c.link.Do(ctx, method, params, result)
}

// Shutdown ends the connection with the daemon: children are given back, what is under way is given up.
func (c *Client) Shutdown(context.Context) error {
	c.link.Close()
	return nil
}

// toGo gives the error that package daemon would have given.
func toGo(err error) error {
	var e *wire.Error
	if errors.As(err, &e) {
		return faults.ToError(e)
	}
	return err
}
