// Package client is a Go client of a running daemon. A *Client is a daemon.Master and a *Child a daemon.Remote, so that code can
// be written for either.
//
// What holds: calls of one goroutine to one child run in the order in which they were made. When ctx ends, a call returns at
// once; its function goes on in the child, but a program is killed. Nothing is sent twice: when the connection with the
// daemon breaks, what was under way fails with an error that wraps ErrDisconnected, and may have run.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/socket"
	"mitogend/daemon/wire"
	"mitogend/importer"
)

// ErrDisconnected: the connection with the daemon is gone.
var ErrDisconnected = errors.New("client: the connection with the daemon is gone")

// ErrOtherUser: the daemon is another user's, and is told nothing.
var ErrOtherUser = errors.New("not your daemon")

// Options say what children that the client connects are served, and where they are started.
type Options struct {
	// Source says what modules are served; nil means what the daemon is configured with. Only Path, Venv, Policy and Main count.
	Source *importer.Options
	// Dir and Env are where connection programs are started; empty means those of this process.
	Dir string
	Env []string
	// Traceparent is a W3C trace context, into which the daemon puts the spans of calls and programs if it exports any.
	Traceparent string
	// Fresh asks for connections that nobody shares.
	Fresh bool
}

// maxPending is how many requests may wait for their answers; others wait before they are sent. What belongs to a stream does not
// count, nor wait: its answer may depend on that of another.
const maxPending = 1000

// Client is a connection with a running daemon. It is safe for concurrent use.
type Client struct {
	nc    net.Conn
	opt   Options
	slots chan struct{}
	ended chan struct{} // closed when the reader has ended

	// envTurn has a token for whoever uses the following, also while an environment is named.
	envTurn   chan struct{}
	env       []string // that the daemon knows
	envNumber uint32   // by this number
	envSpelt  bool     // it knows none by number: it is older, or was told too many

	streams atomic.Int64 // that are being read
	heard   atomic.Int64 // bytes of the daemon

	wmu sync.Mutex // held while a message is written

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	last    uint32
	pending map[uint32]chan *wire.Message
	refused string
	err     error // why the reader has ended
}

var _ daemon.Master = (*Client)(nil)

// Dial connects with the daemon that serves a socket. The error tells apart that nobody does: os.ErrNotExist, or
// syscall.ECONNREFUSED.
func Dial(ctx context.Context, path string, opt Options) (*Client, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if err := checkPeer(nc); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("client: %s: %w", path, err)
	}
	if opt.Dir == "" {
		opt.Dir, _ = os.Getwd() // none: the daemon's
	}
	if opt.Env == nil {
		opt.Env = os.Environ()
	}
	c := &Client{nc: nc, opt: opt, slots: make(chan struct{}, maxPending), ended: make(chan struct{}), envTurn: make(chan struct{}, 1), pending: map[uint32]chan *wire.Message{}}
	go c.readLoop()
	return c, nil
}

// checkPeer makes sure that passwords go to nobody else's daemon.
func checkPeer(nc net.Conn) error {
	peer, err := socket.PeerOf(nc)
	if err == nil && peer.UID != os.Geteuid() {
		err = fmt.Errorf("%w: it is served by user %d, and you are user %d", ErrOtherUser, peer.UID, os.Geteuid())
	}
	return err
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// readLoop gives responses to those who wait.
func (c *Client) readLoop() {
	r := wire.NewReader(counted{c.nc, &c.heard}, 1<<31-1)
	for {
		data, err := r.Next()
		var m *wire.Message
		if err == nil {
			m, err = wire.Parse(data)
		}
		if err != nil {
			c.fail(err)
			return
		}
		switch m.Type {
		case wire.Response:
			c.mu.Lock()
			ch := c.pending[m.ID]
			delete(c.pending, m.ID)
			c.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		case wire.Notification:
			var p struct {
				Message string `codec:"message"`
			}
			if m.Method == "refused" && wire.Unmarshal(m.Params, &p) == nil {
				c.mu.Lock()
				c.refused = p.Message
				c.mu.Unlock()
			}
		}
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.refused != "":
		c.err = fmt.Errorf("client: the daemon refuses: %s", c.refused)
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		c.err = ErrDisconnected
	default:
		c.err = fmt.Errorf("%w: %v", ErrDisconnected, err)
	}
	c.pending = nil
	_ = c.nc.Close()
	close(c.ended)
}

// failure is why the connection is gone.
func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Do makes a request of the control protocol and decodes its result into *result, unless that is nil. An error of the daemon is a
// *wire.Error. When ctx ends, the request is cancelled.
func (c *Client) Do(ctx context.Context, method string, params, result any) error {
	return c.do(ctx, method, params, result, nil)
}

// do is Do. late, if not nil, gets an answer that comes after ctx has ended.
func (c *Client) do(ctx context.Context, method string, params, result any, late func(*wire.Message)) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return c.request(ctx, method, params, result, late)
}

// request is do without a place among maxPending.
func (c *Client) request(ctx context.Context, method string, params, result any, late func(*wire.Message)) error {
	a, err := c.begin(method, params)
	if err != nil {
		return err
	}
	return a.wait(ctx, result, late)
}

// asked is a request that was sent.
type asked struct {
	c  *Client
	id uint32
	ch chan *wire.Message
}

// begin sends a request. Those of one goroutine are sent in their order.
func (c *Client) begin(method string, params any) (*asked, error) {
	a := &asked{c: c, ch: make(chan *wire.Message, 1)}
	c.mu.Lock()
	if c.pending == nil {
		c.mu.Unlock()
		return nil, c.failure()
	}
	for c.last++; c.pending[c.last] != nil; c.last++ {
	}
	a.id = c.last
	c.pending[a.id] = a.ch
	c.mu.Unlock()
	msg, err := wire.NewRequest(a.id, method, params)
	if err == nil {
		err = c.write(msg)
	}
	if err != nil {
		c.mu.Lock()
		delete(c.pending, a.id)
		c.mu.Unlock()
		return nil, err
	}
	return a, nil
}

// wait gives the answer, once.
func (a *asked) wait(ctx context.Context, result any, late func(*wire.Message)) error {
	c := a.c
	select {
	case m := <-a.ch:
		return decode(m, result)
	case <-ctx.Done():
		// The answer, if it comes, is dropped: the id stays taken until then.
		if msg, err := wire.NewNotification("cancel", &wire.Cancel{Request: a.id}); err == nil {
			_ = c.write(msg)
		}
		if late != nil {
			go func() {
				select {
				case m := <-a.ch:
					late(m)
				case <-c.ended:
				}
			}()
		}
		return context.Cause(ctx)
	case <-c.ended:
		select {
		case m := <-a.ch:
			return decode(m, result)
		default:
			return c.failure()
		}
	}
}

func decode(m *wire.Message, result any) error {
	if m.Error != nil {
		var e wire.Error
		if err := wire.Unmarshal(m.Error, &e); err != nil {
			return fmt.Errorf("client: the daemon's error can not be read: %w", err)
		}
		return &e
	}
	if result == nil || m.Result == nil {
		return nil
	}
	if err := wire.UnmarshalShared(m.Result, result); err != nil {
		return fmt.Errorf("client: the daemon's answer can not be read: %w", err)
	}
	return nil
}

// write sends one message. Large ones of several goroutines do not mix.
func (c *Client) write(msg []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if _, err := c.nc.Write(msg); err != nil {
		// The daemon may have said why before it hung up.
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-c.ended:
			return c.failure()
		case <-t.C:
			return fmt.Errorf("%w: %v", ErrDisconnected, err)
		}
	}
	return nil
}

// Shutdown ends the connection with the daemon: children are given back, what is under way is given up.
func (c *Client) Shutdown(context.Context) error {
	_ = c.nc.Close()
	<-c.ended
	return nil
}

// toGo gives the error that package daemon would have given.
func toGo(err error) error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e.Go()
	}
	return err
}
