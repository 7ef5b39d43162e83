package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mitogend/pyproto"
)

// watchSilence asks the child for a sign of life each time that the limit has passed, and ends it when none comes in
// as much time again. That finds a link that has gone silent without a FIN, and a host that has stopped.
func (c *Child) watchSilence(limit time.Duration) {
	defer c.d.wg.Done()
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-c.closed:
			return
		}
		if !c.alive(limit) {
			break
		}
		t.Reset(limit)
	}
	reason := fmt.Sprintf("no sign of life for %v (silence_timeout)", limit)
	if c.via == nil {
		c.stream.fail(errors.New(reason))
		return
	}
	// The hop ends it, and reports that it is gone.
	c.mu.Lock()
	c.reason = reason
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.d.ctx, closeTime)
	defer cancel()
	_ = c.endBehind(ctx, reason)
}

// alive waits for the answer to a ping.
func (c *Child) alive(limit time.Duration) bool {
	w := waiters.Get().(*waiter)
	handle := c.d.handles.add(handler{fn: w.deliver, respondent: c.id, once: true})
	before := c.stream.bytesIn.Load()
	if err := c.d.post(c.id, pyproto.Ping, handle, nil); err != nil {
		if c.d.handles.remove(handle) {
			waiters.Put(w)
		}
		return true // it is being taken down
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-w.reply:
		waiters.Put(w)
		return true
	case <-c.closed:
	case <-t.C:
	}
	if c.d.handles.remove(handle) {
		waiters.Put(w)
	} else {
		return true // it comes just now
	}
	// Anything else that came over the child's own link is as good: the answer may wait behind a long message.
	return c.gone() != nil || c.via == nil && c.stream.bytesIn.Load() != before
}

// drainTime is how long a stream is read after its program has ended. By then the pipe has all that the program
// wrote.
const drainTime = time.Second

// drain ends the stream of a program that has ended, a while later. A process that the program left behind may hold the
// other end open, and then no end of file ever comes.
func (s *stream) drain() {
	if !isClosed(s.ended) {
		time.AfterFunc(drainTime, func() { s.fail(errEOF) })
	}
}
