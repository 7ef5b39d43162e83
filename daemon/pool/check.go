package pool

import (
	"hash/maphash"
	"sync"
	"time"

	"mitogend/importer"
)

// mark tells a module from others that are served under its name; zero stands for none. It keeps nothing of the
// module in memory.
type mark [16]byte

// markOf looks a module up: it reads directories, files' times and what has changed.
func markOf(look importer.Look, name string) mark {
	m, _ := look.Mark(name)
	return m
}

// check is one look at what an importer serves to a version, for all connections that are asked for within checkTime.
// Each name is looked up once. It is safe for concurrent use.
type check struct {
	im      *importer.Importer
	version importer.Version
	began   time.Time

	// mu protects the following. It is held while directories and files are looked at: others wait, since they need
	// most of the answers.
	mu    sync.Mutex
	names map[string]mark
	whole map[contents]bool // whether something of these contents has changed
}

// changed tells whether something differs from what was sent. sent gives that, if nobody has looked yet.
func (k *check) changed(c contents, sent func() map[string]mark) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed, known := k.whole[c]
	if !known {
		changed = k.look(sent())
		k.whole[c] = changed
	}
	return changed
}

func (k *check) look(sent map[string]mark) (changed bool) {
	if k.names == nil {
		k.names = make(map[string]mark, len(sent))
	}
	// It is not kept: it holds sources that the importer's cache may have dropped.
	look := k.im.Look(k.version)
	for name, m := range sent {
		now, known := k.names[name]
		if !known {
			now = markOf(look, name)
			k.names[name] = now
		}
		if now != m {
			return true
		}
	}
	return false
}

// contents stand for all that a connection was sent: most have been sent the same, and are looked through once.
type contents struct {
	names int
	sum   uint64 // of the hash of each name and mark
}

var contentsSeed = maphash.MakeSeed()

func (c *contents) add(name string, m mark) {
	c.names++
	c.sum += maphash.Comparable(contentsSeed, struct {
		name string
		m    mark
	}{name, m})
}

// checkTime is how long a check counts.
const checkTime = 100 * time.Millisecond

// checkKey is whose check it is.
type checkKey struct {
	im      *importer.Importer
	version importer.Version
}

// check gives one that began no more than checkTime ago, and not before since.
func (p *Pool) check(im *importer.Importer, v importer.Version, since time.Time) *check {
	key := checkKey{im, v}
	now := time.Now()
	p.checkMu.Lock()
	defer p.checkMu.Unlock()
	k := p.checks[key]
	if k == nil || now.Sub(k.began) > checkTime || k.began.Before(since) {
		for old, other := range p.checks {
			if now.Sub(other.began) > checkTime {
				delete(p.checks, old)
			}
		}
		k = &check{im: im, version: v, began: now, whole: map[contents]bool{}}
		p.checks[key] = k
	}
	return k
}
