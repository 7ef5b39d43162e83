package bytecode

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/blake2b"

	"mitogend/internal/slogzap"
	"mitogend/pyproto/printable"
)

const (
	// DefaultMaxMemory bounds the code that a store keeps in memory.
	DefaultMaxMemory = 32 << 20
	// IdleTime is how long a compiler waits for more to do.
	IdleTime = 5 * time.Second
	// maxSource bounds a source that is compiled or kept: far beyond what is imported.
	maxSource = 4 << 20
	// maxQueue bounds the sources that wait for one compiler, and maxBad those that are not tried again.
	maxQueue, maxBad = 5000, 1000
	// maxWaiting bounds the bytes of all sources that wait: they stay in memory, also when the importer would forget
	// them.
	maxWaiting = 64 << 20
	// maxCrashes is how many compilers of one kind may end on a source, one after the other, before no more are
	// started.
	maxCrashes = 3
	// restTime is how long none is started after that, or after no interpreter has fitted.
	restTime = 10 * time.Minute
	// maxPythons bounds the kinds of Python that are compiled for.
	maxPythons = 64
	// entryCost is what an entry in memory takes beside its code.
	entryCost = 300
)

// Options of a store.
type Options struct {
	// Dir keeps code and sources for the next process; nil for none. The store closes it.
	Dir *Dir
	// Compilers are interpreters besides those that are offered and those on PATH: files, or patterns as of
	// filepath.Glob.
	Compilers []string
	// MaxMemory bounds the code kept in memory, in bytes; 0 means DefaultMaxMemory.
	MaxMemory int64
	// Logger may be nil.
	Logger *slog.Logger
}

// Python is what code is for.
type Python struct {
	Magic        uint16 // of its bytecode; 0 takes none
	Major, Minor int
}

// Source is what is to be compiled.
type Source struct {
	// Hash tells it from all others.
	Hash [32]byte
	// Size is that of the text, in bytes.
	Size int
	// File is what code objects say that they come from. It may be empty in 3.x, where whoever loads the code
	// corrects that.
	File string
	// Name is what the log calls it; File if it is empty.
	Name string
	// Text gives the source; it is called from another goroutine, later.
	Text func() ([]byte, error)
}

// Store has code for sources. It is safe for concurrent use.
type Store struct {
	// Constant after New.
	opt  Options
	log  *zap.Logger
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	// mu protects the following; nothing is locked and no I/O done under it.
	mu      sync.Mutex
	entries map[key]*list.Element // of *entry
	order   *list.List            // most recently used first
	bytes   int64
	pending map[key]bool // in a queue, or being compiled or kept
	bad     map[key]bool // on which a compiler ended
	waiting int64        // bytes of the sources in queues
	saving  []saving
	saves   bool // a goroutine does
	workers map[Python]*worker
	offered map[uint16][]string
	settled chan struct{} // closed when nothing is pending; nil when nobody waits for that
	closed  bool
}

type entry struct {
	k    key
	code []byte // after the magic number; empty where the source is to be sent as it is
}

// worker is the compiler for one Python. Its fields are the store's, under Store.mu.
type worker struct {
	python  Python
	queue   []*job
	running bool
	wake    chan struct{} // one token: there may be jobs
	crashes int           // one after the other
	// until is when it may be tried again: no interpreter has fitted, or they have crashed. Another offer changes
	// that, too.
	until time.Time
}

type job struct {
	k      key
	source Source
}

// New makes a store. Nothing is started before there is something to compile or to keep.
func New(opt Options) *Store {
	if opt.MaxMemory <= 0 {
		opt.MaxMemory = DefaultMaxMemory
	}
	s := &Store{opt: opt, log: slogzap.Zap(opt.Logger), entries: map[key]*list.Element{}, order: list.New(), pending: map[key]bool{}, bad: map[key]bool{},
		workers: map[Python]*worker{}, offered: map[uint16][]string{}}
	// Compilers are started in another directory.
	s.opt.Compilers = slices.Clone(opt.Compilers)
	for i, pattern := range s.opt.Compilers {
		if abs, err := filepath.Abs(pattern); err == nil {
			s.opt.Compilers[i] = abs
		}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends the compilers, and waits until they are reaped. What they have not done is left undone.
func (s *Store) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	if !closed && s.opt.Dir != nil {
		_ = s.opt.Dir.Close()
	}
}

// Settle waits until all that waits is compiled and kept, or d has passed. So a process that works for a moment leaves
// something to the next.
func (s *Store) Settle(d time.Duration) {
	s.mu.Lock()
	if len(s.pending) == 0 {
		s.mu.Unlock()
		return
	}
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	settled := s.settled
	s.mu.Unlock()
	select {
	case <-settled:
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// maxOffered is how many interpreters of one magic number are remembered.
const maxOffered = 8

// Offer tells of an interpreter that runs here: its file and its magic number. Whether it may compile is judged when
// it is needed: it must say the magic number itself, and be the user's or root's.
func (s *Store) Offer(interpreter string, magic uint16) {
	if magic == 0 || !filepath.IsAbs(interpreter) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if list := s.offered[magic]; len(list) < maxOffered && !slices.Contains(list, interpreter) {
		s.offered[magic] = append(list, interpreter)
		for p, w := range s.workers {
			if p.Magic == magic {
				w.until = time.Time{}
			}
		}
	}
}

func keyOf(p Python, src Source) key {
	return blake2b.Sum256(fmt.Appendf(nil, "%s%x %x %s", mark, p.Magic, src.Hash, src.File))
}

// Code gives the code of a source, for that Python, as zlib of what follows the header in a .pyc; nil if there is
// none yet. Then it is made for the next who asks, if there is an interpreter for it.
func (s *Store) Code(p Python, src Source) []byte {
	k, code, known := s.find(p, src)
	if !known {
		s.enqueue(p, &job{k, src})
	}
	return code
}

// Ahead reads what the directory has of the code that will be asked for soon. Nothing is made.
func (s *Store) Ahead(p Python, src Source) { s.find(p, src) }

// find gives what there is of a source's code; not known means that it can be made.
func (s *Store) find(p Python, src Source) (k key, code []byte, known bool) {
	if p.Magic == 0 || src.Size == 0 || src.Size > maxSource {
		return k, nil, true
	}
	k = keyOf(p, src)
	s.mu.Lock()
	if e := s.entries[k]; e != nil {
		s.order.MoveToFront(e)
		s.mu.Unlock()
		return k, e.Value.(*entry).code, true
	}
	known = s.pending[k] || s.bad[k] || s.closed
	s.mu.Unlock()
	if !known && s.opt.Dir != nil {
		if code, known = s.opt.Dir.get(k); known {
			code = s.keep(k, code)
		}
	}
	return k, code, known
}

// keep keeps an entry in memory, and gives its code: nil where the source is to be sent as it is.
func (s *Store) keep(k key, code []byte) []byte {
	if len(code) == 0 {
		code = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[k] != nil {
		return code
	}
	s.entries[k] = s.order.PushFront(&entry{k, code})
	s.bytes += entryCost + int64(len(code))
	for s.bytes > s.opt.MaxMemory {
		e := s.order.Remove(s.order.Back()).(*entry)
		delete(s.entries, e.k)
		s.bytes -= entryCost + int64(len(e.code))
	}
	return code
}

func (s *Store) enqueue(p Python, j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.workers[p]
	if w == nil {
		if len(s.workers) >= maxPythons && !s.makeRoom() {
			return
		}
		w = &worker{python: p, wake: make(chan struct{}, 1)}
		s.workers[p] = w
	}
	if s.closed || s.pending[j.k] || s.entries[j.k] != nil || time.Now().Before(w.until) ||
		len(w.queue) >= maxQueue || s.waiting+int64(j.source.Size) > maxWaiting {
		return
	}
	s.pending[j.k] = true
	s.waiting += int64(j.source.Size)
	w.queue = append(w.queue, j)
	if !w.running {
		w.running = true
		s.wg.Add(1)
		go s.work(w)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// makeRoom forgets a kind of Python that has no work: children may have lied about theirs. It gives false if there is
// none. Store.mu is held.
func (s *Store) makeRoom() bool {
	for p, w := range s.workers {
		if !w.running && !time.Now().Before(w.until) {
			delete(s.workers, p)
			return true
		}
	}
	return false
}

// next gives the oldest job; nil with the end of work when there was none for IdleTime.
func (s *Store) next(w *worker) *job {
	idle := time.NewTimer(IdleTime)
	defer idle.Stop()
	for over := false; ; {
		s.mu.Lock()
		if len(w.queue) > 0 && s.ctx.Err() == nil {
			j := w.queue[0]
			w.queue = w.queue[1:]
			s.waiting -= int64(j.source.Size)
			s.mu.Unlock()
			return j
		}
		if over || s.ctx.Err() != nil {
			s.drop(w)
			w.running = false
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-w.wake:
		case <-idle.C:
			over = true
		case <-s.ctx.Done():
		}
	}
}

// forget ends a job, whatever came of it. Store.mu is held.
func (s *Store) forget(k key) {
	delete(s.pending, k)
	if len(s.pending) == 0 && s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}

// drop forgets what waits. Store.mu is held.
func (s *Store) drop(w *worker) {
	for _, j := range w.queue {
		s.forget(j.k)
		s.waiting -= int64(j.source.Size)
	}
	w.queue = nil
}

// rest stops compiling for that Python for restTime. Store.mu is held.
func (s *Store) rest(w *worker) {
	w.until, w.crashes = time.Now().Add(restTime), 0
	s.drop(w)
}

// work compiles what is in a queue.
func (s *Store) work(w *worker) {
	defer s.wg.Done()
	var c *compiler
	defer func() {
		if c != nil {
			c.end()
		}
	}()
	for j := s.next(w); j != nil; j = s.next(w) {
		var code []byte
		err := errNone
		// One that was there already may have ended for other reasons than this source.
		for used := true; used && err != nil; {
			if c != nil && (err != errNone || c.worn()) {
				c.end()
				c = nil
			}
			if used = c != nil; !used {
				if c = s.compilerFor(w.python); c == nil {
					s.mu.Lock()
					s.forget(j.k)
					s.rest(w)
					w.running = false
					s.mu.Unlock()
					return
				}
			}
			code, err = j.compile(c)
		}
		if err == nil {
			s.keep(j.k, code)
			if s.opt.Dir != nil {
				if err := s.opt.Dir.put(j.k, code); err != nil {
					s.log.Debug("code is not kept for the next time", zap.Error(err))
				}
			}
		} else {
			c.end()
			c = nil
		}
		s.done(w, j, err)
	}
}

// errNone: it was not tried yet.
var errNone = errors.New("bytecode: not compiled")

func (j *job) compile(c *compiler) ([]byte, error) {
	text, err := j.source.Text()
	if err != nil || len(text) > maxSource {
		return nil, nil // it is sent as it is, whatever is wrong with it
	}
	return c.compile(j.source.File, text)
}

// done notes how it went.
func (s *Store) done(w *worker, j *job, err error) {
	over := s.ctx.Err() != nil
	if err != nil && !over {
		s.log.Info("a compiler ended on a source, which is served as it is",
			zap.String("file", printable.Line(cmp.Or(j.source.Name, j.source.File))), zap.Error(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(j.k)
	if err == nil {
		w.crashes = 0
	}
	if err == nil || over {
		return
	}
	if len(s.bad) < maxBad {
		s.bad[j.k] = true
	}
	if w.crashes++; w.crashes >= maxCrashes {
		s.rest(w)
	}
}

// compilerFor starts the first interpreter that has the magic number; nil for none.
func (s *Store) compilerFor(p Python) *compiler {
	for _, path := range s.candidates(p) {
		c, err := startCompiler(s.ctx, path, p.Major)
		if s.ctx.Err() != nil {
			if err == nil {
				c.end()
			}
			return nil
		}
		if err == nil && c.magic != p.Magic {
			c.end()
			err = fmt.Errorf("its magic number is %x, not %x", c.magic, p.Magic)
		}
		if err == nil {
			s.log.Debug("compiling with", zap.String("interpreter", path))
			return c
		}
		s.log.Debug("not compiling with", zap.String("interpreter", path), zap.Error(err))
	}
	return nil
}

// candidates are interpreters that may have the magic number, the likeliest first.
func (s *Store) candidates(p Python) (list []string) {
	add := func(paths ...string) {
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 &&
				!slices.Contains(list, path) {
				list = append(list, path)
			}
		}
	}
	s.mu.Lock()
	offered := slices.Clone(s.offered[p.Magic])
	s.mu.Unlock()
	add(offered...)
	for _, pattern := range s.opt.Compilers {
		found, _ := filepath.Glob(pattern)
		add(found...)
	}
	for _, name := range []string{fmt.Sprintf("python%d.%d", p.Major, p.Minor), fmt.Sprintf("python%d", p.Major),
		"python"} {
		if path, err := exec.LookPath(name); err == nil && filepath.IsAbs(path) {
			add(path)
		}
	}
	return list
}
