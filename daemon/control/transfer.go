package control

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/pool"
	"mitogend/daemon/transfer"
	"mitogend/daemon/wire"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// progressTime is how often an item of progress may be added.
const progressTime = 100 * time.Millisecond

// remote is a child whose programs are counted and listed as those of run are.
type remote struct {
	daemon.Remote
	l    *pool.Lease
	s    *Server
	told *wire.Run
}

// Run implements daemon.Remote.
func (r *remote) Run(ctx context.Context, o daemon.RunOptions) (daemon.ExitStatus, error) {
	o.Title = r.told.Title
	return r.s.program(ctx, r.l, r.told, o)
}

func (c *call) put(p *wire.Transfer) (any, error) {
	return c.transfer("put", p, p.Sources, func(ctx context.Context, r daemon.Remote, o transfer.Options, total func(int64)) (*transfer.Result, error) {
		source, err := transfer.NewSource(p.Sources, o)
		if err != nil {
			return nil, err
		}
		source.Once()
		total(source.Bytes)
		return transfer.Put(ctx, r, source, p.Dest, o)
	})
}

func (c *call) get(p *wire.Transfer) (any, error) {
	return c.transfer("get", p, []string{p.Dest}, func(ctx context.Context, r daemon.Remote, o transfer.Options, _ func(int64)) (*transfer.Result, error) {
		return transfer.Get(ctx, r, p.Sources, p.Dest, o)
	})
}

// transfer copies files in a stream of its own. here are the names on this machine.
func (c *call) transfer(
	verb string, p *wire.Transfer, here []string,
	do func(ctx context.Context, r daemon.Remote, o transfer.Options, total func(int64)) (*transfer.Result, error),
) (any, error) {
	if err := checkTransfer(p, here); err != nil {
		return nil, err
	}
	s, err := c.newStream(p.RequestTimeout(), true)
	if err != nil {
		return nil, err
	}
	c.begun() // they run side by side
	copyFiles := func(l *pool.Lease) error {
		told := &wire.Run{Common: p.Common, Path: daemon.PathTransfer, Title: printable.Line(verb + " " + printable.Short(p.Sources[0]) + " " + printable.Short(p.Dest))}
		var moved, total, kept atomic.Int64
		defer func() { c.names.Add(-kept.Load()) }()
		o := transfer.Options{
			Owner: p.Owner, HardLinks: p.HardLinks, Xattrs: p.Xattrs, Sync: p.Sync, Checksum: p.Checksum, Delete: p.Delete, DryRun: p.DryRun, Into: p.Into,
			Keep: func(n int) bool {
				kept.Add(int64(n))
				return c.names.Add(int64(n)) <= maxTransferNames && s.ctx.Err() == nil
			},
		}
		if p.Progress {
			o.OnBytes = func(n int64) { s.progress(moved.Add(n), total.Load()) }
		}
		if p.Files {
			// A client that does not read holds up the transfer. If the stream is given up, the transfer ends anyway.
			o.OnFile = func(action, path string) { _ = s.put(wire.Item{Kind: action, Data: []byte(path)}) }
		}
		r, err := do(s.ctx, &remote{Remote: l.Child(), l: l, s: c.s, told: told}, o, total.Store)
		if cause := context.Cause(s.ctx); err != nil && cause != nil {
			err = cutOff(s.ctx, l, cause)
		}
		var incomplete *transfer.Error
		switch {
		case errors.Is(err, transfer.ErrTooMany):
			err = wire.Errorf(wire.KindOverflow, "%v", err)
		case err != nil && r == nil && context.Cause(s.ctx) == nil:
			e := wire.Wrap(wire.KindUsage, err) // nothing was begun
			e.Message, e.Reason = printable.Lines(e.Message), printable.Lines(e.Reason)
			err = e
		}
		if err == nil || errors.As(err, &incomplete) {
			err = s.result(transferred(r), false, func() {})
		}
		return err
	}
	c.work(s, func() error {
		if err := c.enterTransfer(s.ctx); err != nil {
			return err
		}
		defer func() { <-c.transfers }()
		return c.onTarget(s.ctx, s, &p.Target, p.Log, p.Import, copyFiles)
	})
	return c.answer(s, p.Read)
}

// enterTransfer waits for a token. A transfer that waits when the daemon is told to stop does not begin.
func (c *conn) enterTransfer(ctx context.Context) error {
	select {
	case c.transfers <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.transfers <- struct{}{}:
		if c.s.taking.Err() == nil {
			return nil
		}
		<-c.transfers
		return daemon.ErrShutdown
	case <-c.s.taking.Done():
		return daemon.ErrShutdown
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func checkTransfer(p *wire.Transfer, here []string) error {
	switch {
	case len(p.Sources) == 0 || p.Dest == "":
		return wire.Errorf(wire.KindUsage, "sources says what to copy, and dest where to: one is missing")
	case p.Sync && len(p.Sources) > 1:
		return wire.Errorf(wire.KindUsage, "sync takes one source, not %d", len(p.Sources))
	case p.Sync && p.Into:
		return wire.Errorf(wire.KindUsage, "sync makes dest what the source is: it does not take into")
	case !p.Sync && (p.Checksum || p.Delete || p.DryRun || p.Files):
		return wire.Errorf(wire.KindUsage, "checksum, delete, dry_run and files need sync")
	}
	for _, name := range here {
		if !filepath.IsAbs(name) {
			return wire.Errorf(wire.KindUsage, "%s is not absolute: the daemon's working directory is not yours", printable.Line(printable.Short(name)))
		}
	}
	return nil
}

// transferred is a result as it is sent.
func transferred(r *transfer.Result) any {
	list := make([]any, len(r.Errors))
	for i, text := range r.Errors {
		list[i] = printable.Line(text)
	}
	return pyproto.DictOf(
		"files", int64(r.Files), "bytes", r.Bytes, "sent", r.Sent, "same", int64(r.Same), "deleted", int64(r.Deleted), "errors", list)
}

// progress says how far a transfer is. It replaces what the client has not read of earlier progress, and never
// blocks.
func (s *stream) progress(done, total int64) {
	item := wire.Item{Kind: wire.ItemProgress, Count: done, Total: total}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.items)
	switch {
	case s.ended:
	case n > 0 && s.items[n-1].Kind == wire.ItemProgress:
		s.items[n-1].Count = max(done, s.items[n-1].Count)
	case time.Since(s.progressed) >= progressTime && s.bytes+item.Size() <= s.max:
		s.progressed = time.Now()
		s.add(item)
	}
}
