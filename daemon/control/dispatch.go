package control

import (
	"context"
	"errors"
	"time"

	"github.com/ugorji/go/codec"
	"go.uber.org/zap"

	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

// method is a method that clients can call.
type method struct {
	// decode reads the parameters. It gives what runs the method, and the order that the request has a turn in (""
	// for none).
	decode func(raw codec.Raw) (run func(*call) (any, error), order string, timeout time.Duration, err error)
	// work: it counts as running work, and is refused while the daemon is stopping.
	work bool
}

// call is one request while it runs.
type call struct {
	*conn
	ctx   context.Context
	turn  *turn  // nil without an order
	order string // that it has its turn in
	later bool   // the work that the request begins passes the turn on
	made  func() // called when the reply was made; may be nil
}

// begun lets the next request of the same order begin; otherwise that begins when this one ends. It may be called
// twice.
func (c *call) begun() {
	if c.turn != nil {
		c.leave(c.order, c.turn)
	}
}

// timed is implemented by all parameters.
type timed interface{ RequestTimeout() time.Duration }

// on makes a method of a function with parameters of type P.
func on[P any, T interface {
	*P
	timed
}](work bool, order func(*P) string, run func(*call, *P) (any, error)) method {
	return method{work: work, decode: func(raw codec.Raw) (func(*call) (any, error), string, time.Duration, error) {
		p := new(P)
		if raw != nil {
			unmarshal := wire.Unmarshal
			if _, data := any(p).(*wire.Write); data {
				unmarshal = wire.UnmarshalShared // the data is most of the message
			}
			if err := unmarshal(raw, p); err != nil {
				return nil, "", 0, wire.Errorf(wire.KindUsage, "bad parameters: %v", err)
			}
		}
		key := ""
		if order != nil {
			key = order(p)
		}
		return func(c *call) (any, error) { return run(c, p) }, key, T(p).RequestTimeout(), nil
	}}
}

// handle begins a request or notification of size bytes. An error ends the connection.
func (c *conn) handle(m *wire.Message, size int) error {
	if m.Type == wire.Response {
		return nil // the daemon asks nothing
	}
	c.s.counts.requests.Add(1)
	refuse := func(err error) {
		if m.Type == wire.Request {
			c.reply(m.ID, err, nil, func() {})
		} else {
			c.log.Info("a notification failed", zap.String("method", m.Method), zap.Error(err))
		}
	}
	def, ok := methods[m.Method]
	if !ok {
		refuse(wire.Errorf(wire.KindUsage, "there is no method %q", printable.Short(m.Method)))
		return nil
	}
	run, order, timeout, err := def.decode(m.Params)
	if err == nil && def.work {
		err = c.s.begin()
	}
	if err != nil {
		refuse(err)
		return nil
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	if err := c.enter(m, size, cancel); err != nil {
		cancel(nil)
		if def.work {
			c.s.end()
		}
		refuse(err)
		return nil
	}
	r := &call{conn: c, ctx: ctx, order: order}
	if order != "" {
		r.turn = c.queue(order)
	}
	go func() {
		defer c.wg.Done()
		result, err := r.do(run, timeout)
		cancel(nil)
		done := func() {
			if !r.later {
				r.begun()
			}
			c.exit(m, size)
			if r.made != nil {
				r.made()
			}
		}
		if m.Type == wire.Request {
			c.reply(m.ID, err, result, done)
		} else {
			if take, ok := result.(late); ok && err == nil {
				_, err = take()
			}
			done()
			if err != nil {
				refuse(err)
			}
		}
		if def.work {
			c.s.end()
		}
	}()
	return nil
}

func (c *call) do(run func(*call) (any, error), timeout time.Duration) (any, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithTimeoutCause(c.ctx, timeout, &wire.TimeoutError{After: timeout})
		defer cancel()
	}
	if c.turn != nil {
		if err := c.turn.wait(c.ctx); err != nil {
			return nil, err
		}
	}
	result, err := run(c)
	return result, caused(c.ctx, err)
}

// caused gives the reason why ctx was cancelled for an error that only says so.
func caused(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// enter counts a request, unless too many are under way.
func (c *conn) enter(m *wire.Message, size int, cancel context.CancelCauseFunc) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.count >= maxRequests:
		return wire.Errorf(wire.KindOverflow, "%d requests of this client are under way", c.count)
	case c.count > 0 && c.bytes+size > maxRequestBytes:
		return wire.Errorf(wire.KindOverflow, "requests of %d bytes of this client are under way", c.bytes)
	}
	if m.Type == wire.Request {
		if c.requests[m.ID] != nil {
			return wire.Errorf(wire.KindUsage, "another request with msgid %d is under way", m.ID)
		}
		c.requests[m.ID] = cancel
	}
	if c.count == 0 {
		c.busy = time.Now()
	}
	c.count++
	c.bytes += size
	c.wg.Add(1)
	return nil
}

func (c *conn) exit(m *wire.Message, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Type == wire.Request {
		delete(c.requests, m.ID)
	}
	c.count--
	c.bytes -= size
}
