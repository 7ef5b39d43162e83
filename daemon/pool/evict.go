package pool

import (
	"context"
	"errors"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// A connection that nobody has used for this long goes before one that was just made.
	unusedFor = time.Minute
	// tellEvery is how often the log says that targets are connected again for want of connections.
	tellEvery = 10 * time.Minute
	// shedding is how many connections are closed at once when descriptors run out.
	shedding = 8
)

// DefaultMax is the default of Options.Max: as many as the limit of open files and the memory of this machine allow.
func DefaultMax() int {
	n := uint64(500)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = min(max(n, uint64(info.Totalram)*uint64(info.Unit)>>24), 10000) // 16 MB for each
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		n = max(min(n, files.Max/8), 10)
	}
	return int(n)
}

// trim closes what nobody uses until the limit is kept. A connection is being made: again is how long ago its target
// was last used, if that one's connection was closed here, or 0. mu is held.
func (p *Pool) trim(again time.Duration) {
	for len(p.all) > p.opt.Max {
		c := p.victim(again)
		if c == nil {
			return
		}
		p.evicted(c)
		p.close(c)
	}
}

// victim is the connection to be closed, nil if all are used. If those went first that were unused for longest, a
// round over more targets than there may be connections would find each one closed just before it is needed. So the
// newest one goes that was not asked for again. An old one goes only if it was unused for far longer than the one
// that takes its place. mu is held.
func (p *Pool) victim(again time.Duration) *Conn {
	var once, oldest *Conn
	for c := range p.all {
		if c.refs > 0 || c.child == nil {
			continue
		}
		if oldest == nil || c.lastUsed.Before(oldest.lastUsed) {
			oldest = c
		}
		if !c.joined && (once == nil || c.lastUsed.After(once.lastUsed)) {
			once = c
		}
	}
	limit := unusedFor
	if again > 0 {
		limit = 2 * again
	}
	if once != nil && time.Since(oldest.lastUsed) <= limit {
		return once
	}
	return oldest
}

// evicted remembers when a connection was last used that is closed for want of room. mu is held.
func (p *Pool) evicted(c *Conn) {
	if len(p.ghosts) >= 4*p.opt.Max {
		for key, used := range p.ghosts {
			if time.Since(used) > p.opt.Idle {
				delete(p.ghosts, key)
			}
		}
	}
	if len(p.ghosts) < 4*p.opt.Max {
		p.ghosts[c.key] = c.lastUsed
	}
}

// again tells how long ago a target was used whose connection was closed for want of room, 0 if there was none, and
// whether the log is to say so. mu is held.
func (p *Pool) again(key string) (ago time.Duration, tell bool) {
	used, ok := p.ghosts[key]
	if !ok {
		return 0, false
	}
	delete(p.ghosts, key)
	ago = time.Since(used)
	if tell = ago < p.opt.Idle && time.Since(p.told) > tellEvery; tell {
		p.told = time.Now()
	}
	return ago, tell
}

// shed closes connections that nobody uses where descriptors have run out, and waits until they are gone. It tells
// whether there were any.
func (p *Pool) shed(ctx context.Context, why error) bool {
	if !errors.Is(why, syscall.EMFILE) && !errors.Is(why, syscall.ENFILE) {
		return false
	}
	var closed []*Conn
	p.mu.Lock()
	for range shedding {
		c := p.victim(0)
		if c == nil {
			break
		}
		p.evicted(c)
		p.close(c)
		closed = append(closed, c)
	}
	max := len(p.all)
	p.mu.Unlock()
	for _, c := range closed {
		select {
		case <-c.child.Done():
		case <-ctx.Done():
		}
	}
	if len(closed) > 0 {
		p.log.Warn("there are no descriptors left: connections that nobody uses are closed; "+
			"lower max_connections, or raise the limit of open files",
			zap.Int("closed", len(closed)), zap.Int("connections", max))
	}
	return len(closed) > 0
}
