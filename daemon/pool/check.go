package pool

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"mitogend/importer"
)

// mark tells a module from what else is served under its name; zero is for none. It keeps nothing of the module in memory.
type mark [16]byte

// markOf looks a module up: it reads directories, files' times and what has changed.
func markOf(im *importer.Importer, name string, v importer.Version) mark {
	m, err := im.Module(context.Background(), name, v)
	if err != nil {
		return mark{}
	}
	return m.Mark()
}

// check is one look at what an importer serves to a version, for all connections that are asked for within checkTime. Each name is
// looked up once. It is safe for concurrent use.
type check struct {
	im      *importer.Importer
	version importer.Version
	began   time.Time
	names   sync.Map // to *checked
	whole   sync.Map // contents to *looked
}

// looked is what was found of all that connections of the same contents were sent.
type looked struct {
	once    sync.Once
	changed bool
}

// changed tells whether something is not any more what was sent. sent gives that, if nobody has looked yet.
func (k *check) changed(c contents, sent func() map[string]mark) bool {
	v, _ := k.whole.LoadOrStore(c, &looked{})
	l := v.(*looked)
	l.once.Do(func() {
		for name, m := range sent() {
			if k.mark(name) != m {
				l.changed = true
				return
			}
		}
	})
	return l.changed
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

type checked struct {
	once sync.Once
	mark mark
}

// checkTime is how long a check counts.
const checkTime = 100 * time.Millisecond

func (k *check) mark(name string) mark {
	v, _ := k.names.LoadOrStore(name, &checked{})
	c := v.(*checked)
	c.once.Do(func() { c.mark = markOf(k.im, name, k.version) })
	return c.mark
}

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
		k = &check{im: im, version: v, began: now}
		p.checks[key] = k
	}
	return k
}
