package daemon

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"mitogend/bootstrap"
	"mitogend/pyproto"
)

// These constants bound what one peer can make the daemon keep. docs/security.md has them as a table, with what
// happens at each: the peer's own stream suffers. Options.MaxMessage, MaxPending and StallTimeout bound most of the
// rest.
const (
	// messageCost is counted for each message that waits, beside its bytes: empty messages are not free. channel.py
	// counts the same.
	messageCost = 64
	// minAnswers is the least bound of the daemon's own messages that wait for a peer; a larger MaxPending takes its
	// place.
	minAnswers = 1 << 20
	// maxRoutes are the contexts behind one stream.
	maxRoutes = 10000
	// maxDepth is how many children may be behind each other where code in children starts them.
	maxDepth = 100
	// maxBlocks is how many blocks of ids (ALLOCATE_ID) a stream may have beyond those that its routes have used.
	maxBlocks = 1000
	// maxIDs is how many ids the connections of one name get, one after another, and idsPerSecond what is added to it:
	// whoever ends his connection again and again does not use up the ids of all.
	maxIDs       = 1 << 22
	idsPerSecond = 100
	// maxAccounts are the names that are remembered for it.
	maxAccounts = 100000
	// maxDetached are the processes of ended connections of one name that have detached (DETACHING) and still run.
	maxDetached = 100
	// maxConnecting is how many CONNECTs of one stream may be under way, and how many forks may be waited for.
	maxConnecting = 256
	// maxQuestion is the largest CONNECT, GET_RESOURCE or GET_MODULE.
	maxQuestion = 64 << 10
	// maxReason is how much a child is told of why there is no child behind it.
	maxReason = 16 << 10
	// maxReport is the largest report about a launch, in full. An honest one has at most forty lines of 403 characters.
	maxReport = 1 << 20
	// maxQuestions and maxQuestionBytes bound what waits in a resourceQueue. Of one context maxQuestions and
	// maxParkedBytes may be parked there, and of all of them four and sixteen times that.
	maxQuestions     = 1000
	maxQuestionBytes = 1 << 20
	maxParkedBytes   = 256 << 10
	// maxEarly and maxEarlyBytes bound the modules that a child may ask for before its connect is done.
	maxEarly      = 1000
	maxEarlyBytes = 1 << 20
	// maxArrival is the same for one context that a stock child is connecting; all that it connects share the others.
	maxArrival = 100
	// maxChildName is how much is kept of a name that code in a child gives to a child.
	maxChildName = 1000
	// MaxLogText is how much is kept of the text of a log record.
	MaxLogText = 64 << 10
	// A stream's log records may come as a burst of so many bytes, and then at so many bytes a second, which fills no
	// disk for days.
	logBurst = 4 << 20
	logRate  = 64 << 10
	// maxOutput is how much of a program's output waits for its writer: the child's window (program.py), and what is
	// left in the program's pipes when it ends.
	maxOutput = 4 << 20
	// maxLost is how many handles of contexts that read nothing one stream may have told that a reply is lost.
	maxLost = 5000
	// warnEvery is how often a stream may cause a line of one kind in the log.
	warnEvery = time.Minute
)

// A pickle can name one text or list at thousands of places, so that what is done at each of them costs far more than
// it took to send. These bound what a value comes to in full before anything is done with it.
var (
	questionLimits = pyproto.Limits{Bytes: maxQuestion, Values: 10000, Depth: 20, Digits: 100}
	reportLimits   = pyproto.Limits{Bytes: maxReport, Values: 10000, Depth: 20, Digits: 100}
)

// within is the result, or an error if it comes to more than the limits.
func (r *Result) within(name string, limits pyproto.Limits) *Result {
	if r.err != nil {
		return r
	}
	if _, err := limits.Extent(r.value); err != nil {
		return &Result{err: errorf("%s: the result cannot be read: it has %w", name, err)}
	}
	return r
}

// warnings are the lines that a stream has caused in the log, by kind. There are few kinds.
type warnings struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[string]*warning
}

type warning struct {
	last time.Time
	more int64 // how many were not logged since
}

// warn logs what a peer has done: at once the first time, then once a minute with a count.
func (s *stream) warn(kind, text string, fields ...zap.Field) {
	now := time.Now()
	s.warnings.mu.Lock()
	w := s.warnings.m[kind]
	if w == nil {
		if s.warnings.m == nil {
			s.warnings.m = map[string]*warning{}
		}
		w = &warning{}
		s.warnings.m[kind] = w
	} else if now.Sub(w.last) < warnEvery {
		w.more++
		s.warnings.mu.Unlock()
		return
	}
	more := w.more
	w.last, w.more = now, 0
	s.warnings.mu.Unlock()
	fields = append(fields, zap.String("stream", s.name))
	if more > 0 {
		fields = append(fields, zap.Int64("since_the_last_line", more))
	}
	s.d.log.Warn(text, fields...)
}

// boundText is what the log says at each bound.
const boundText = "a bound was reached"

// reached counts and logs that a peer is at a bound. The error is for the one who asked.
func (s *stream) reached(bound string, limit int) error {
	s.d.bounded.Add(1)
	s.warn(bound, boundText, zap.String("bound", bound), zap.Int("limit", limit))
	return fmt.Errorf("%s: at most %d", bound, limit)
}

// Reached says that a context's connection is at a bound of what another package keeps for it.
func (d *Daemon) Reached(id pyproto.ContextID, bound string, limit int) {
	if s := d.streamOf(id); s != nil {
		_ = s.reached(bound, limit)
	}
}

// Reached is [Daemon.Reached] for the child's connection.
func (c *Child) Reached(bound string, limit int) { _ = c.stream.reached(bound, limit) }

// Bounded counts how often a peer has come to a bound.
func (d *Daemon) Bounded() int64 { return d.bounded.Load() }

// maxAnswers is how many bytes of the daemon's own messages may wait for a peer.
func (d *Daemon) maxAnswers() int { return max(d.opt.MaxPending, minAnswers) }

// unreadAnswers names the bound of the frames that own marks.
const unreadAnswers = "bytes of answers that are not read"

// own marks a frame as the daemon's own: an answer, or news. It waits for no room. While more than maxAnswers wait,
// the peer is not read (breathe). Twice as much disconnects it; that much comes when others end in masses and the
// peer has to be told.
func own(f frame) frame {
	f.own = f.size() + messageCost
	return f
}

// idAccounts has what the connections of each name were given, if anything. Our own side gives the names.
type idAccounts struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[string]*idAccount
}

type idAccount struct {
	since time.Time
	taken atomic.Int64
}

// most is how many ids there are for it so far.
func (a *idAccount) most(now time.Time) int64 {
	return maxIDs + int64(now.Sub(a.since)/time.Second)*idsPerSecond
}

func (a *idAccounts) of(name string) *idAccount {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.m[name]
	if one == nil {
		if a.m == nil || len(a.m) >= maxAccounts {
			a.m = map[string]*idAccount{}
		}
		one = &idAccount{since: time.Now()}
		a.m[name] = one
	}
	return one
}

// detached has the processes of ended connections that may live on, by the connection's name: ssh, say, may wait for
// ever for what has asked for it.
type detached struct {
	// mu protects m. Nothing is locked under it.
	mu sync.Mutex
	m  map[string][]*bootstrap.Process
}

// add remembers a process, unless there are as many as there may be.
func (t *detached) add(name string, p *bootstrap.Process) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.m[name], p) {
		return true // it says so again
	}
	gone := func(p *bootstrap.Process) bool {
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	}
	for other, list := range t.m {
		if list = slices.DeleteFunc(list, gone); len(list) == 0 {
			delete(t.m, other)
		} else {
			t.m[other] = list
		}
	}
	if len(t.m[name]) >= maxDetached {
		return false
	}
	if t.m == nil {
		t.m = map[string][]*bootstrap.Process{}
	}
	t.m[name] = append(t.m[name], p)
	return true
}

// takeIDs counts ids that are about to be given to a context behind s.
func (s *stream) takeIDs(n int64) error {
	account := s.d.accounts.of(s.name)
	if account.taken.Add(n) > account.most(time.Now()) {
		account.taken.Add(-n)
		return s.reached("context ids for the connections of one name; more come with time", maxIDs)
	}
	return nil
}

// takeBlock counts a block of ids.
func (s *stream) takeBlock() error {
	if s.blocks.Load() >= maxBlocks+s.ids.used()/idBlock {
		return s.reached("blocks of context ids that are not used", maxBlocks)
	}
	if err := s.takeIDs(idBlock); err != nil {
		return err
	}
	s.blocks.Add(1)
	return nil
}

// takeRoute counts a context behind s.
func (s *stream) takeRoute() error {
	if s.routes.Add(1) > maxRoutes {
		s.routes.Add(-1)
		return s.reached("contexts behind one connection", maxRoutes)
	}
	return nil
}

// unrouted counts the children behind s whose route nobody has announced.
func (d *Daemon) unrouted(s *stream) (n int) {
	s.eachChild(func(c *Child) {
		if d.streamOf(c.id) == nil {
			n++
		}
	})
	return n
}

// LogLimit keeps one child's log records from filling a disk. The zero value is ready. It is safe for concurrent use.
type LogLimit struct {
	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	limit   *rate.Limiter
	dropped int
	told    time.Time
}

// logTell is how often the log says that records are dropped.
const logTell = 10 * time.Second

// Take counts a record of n bytes. It is to be dropped unless ok. Where say is true, a line in the log is due: so
// many were dropped.
func (l *LogLimit) Take(n int) (ok, say bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit == nil {
		l.limit = rate.NewLimiter(logRate, logBurst)
	}
	now := time.Now()
	// messageCost stands for the record's other fields in a file, and for the end of a long one.
	ok = l.limit.AllowN(now, min(n, MaxLogText)+4*messageCost)
	if !ok {
		l.dropped++
	}
	if l.dropped > 0 && now.Sub(l.told) >= logTell {
		say, dropped = true, l.dropped
		l.told, l.dropped = now, 0
	}
	return ok, say, dropped
}
