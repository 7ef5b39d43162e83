package importer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The model: one responder, stepped by a scheduler in place of work, and a child that keeps the rules of the protocol. Random
// events in random order: threads of the child import modules, its own children ask through it, calls push closures ahead,
// modules are forwarded, records arrive late, the stream is lost. Checked at every step and at the end:
//
//   - no module is sent twice, unless the child has asked twice;
//   - a module comes after its package, unless that is what was asked for and ends the same answer;
//   - what an asked-for module needs has been sent before it;
//   - what exists is not refused, and what does not exist is not sent;
//   - every request ends, and so does every push;
//   - no lock is held while the sink is called, which may block.

// world is a path with modules that import each other at random.
type world struct {
	im    *Importer
	names []string // the modules there are
	all   []string // and some that are not
	needs map[string][]string
}

func newWorld(t testing.TB, rng *rand.Rand) *world {
	files := map[string]string{}
	names := []string{}
	for p := range 2 + rng.IntN(3) {
		pkg := fmt.Sprintf("p%d", p)
		names = append(names, pkg)
		for m := range 1 + rng.IntN(4) {
			names = append(names, fmt.Sprintf("%s.m%d", pkg, m))
		}
		if rng.IntN(2) == 0 {
			names = append(names, pkg+".sub", pkg+".sub.leaf")
		}
	}
	all := append(slices.Clone(names), "absent", "p0.absent", "os", "a b")
	for _, name := range names {
		var src strings.Builder
		for range rng.IntN(4) {
			fmt.Fprintf(&src, "import %s\n", all[rng.IntN(len(all)-1)])
		}
		file := strings.ReplaceAll(name, ".", "/")
		if !strings.Contains(name, ".") || strings.HasSuffix(name, ".sub") {
			file += "/__init__"
		}
		files[file+".py"] = src.String()
	}
	w := &world{im: newImporter(t, Options{Path: []string{tree(t, files)}}), names: names, all: all, needs: map[string][]string{}}
	for _, name := range names {
		w.needs[name] = w.im.Closure(py3, name)
	}
	return w
}

// model is one run.
type model struct {
	*world
	rng  *rand.Rand
	r    *Responder
	rude bool // the child asks again for what it has

	stream   []string // names on their way to the child, "-name" for refusals
	batch    []string // what the current job has sent
	job      *job
	sent     map[string]int
	asked    map[string]int // by the child, over the whole run
	answered map[string]bool
	waiting  map[string]bool
	pushes   []*job
	lost     bool
	faults   []string
}

func newModel(t testing.TB, w *world, rng *rand.Rand) *model {
	m := &model{world: w, rng: rng, sent: map[string]int{}, asked: map[string]int{}, answered: map[string]bool{}, waiting: map[string]bool{}}
	r, err := NewResponder(w.im, m, ResponderOptions{Version: py3})
	if err != nil {
		t.Fatal(err)
	}
	m.r = r
	return m
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

var errLost = errors.New("the stream is lost")

// LoadModule is the stream.
func (m *model) LoadModule(payload []byte, name string) error {
	m.checkLocks()
	if m.lost {
		return errLost
	}
	exists := slices.Contains(m.names, name)
	if missing(payload) {
		if exists {
			m.fault("%s exists and is refused", name)
		}
		m.stream = append(m.stream, "-"+name)
		return nil
	}
	if !exists {
		m.fault("%s does not exist and is sent", name)
	}
	if m.sent[name]++; m.sent[name] > max(1, m.asked[name]) {
		m.fault("%s is sent %d times and was asked for %d times", name, m.sent[name], m.asked[name])
	}
	if m.job != nil && m.job.asked && m.job.names[0] == name && m.sent[name] == 1 {
		for _, need := range m.needs[name] {
			if m.sent[need] == 0 {
				m.fault("%s is sent before %s, which it needs", name, need)
			}
		}
	}
	m.batch = append(m.batch, name)
	m.stream = append(m.stream, name)
	return nil
}

func (m *model) ForwardModule(_ []byte, target uint32, name string) error {
	m.checkLocks()
	if m.lost {
		return errLost
	}
	if m.sent[name] == 0 {
		m.fault("the child is told to forward %s to %d and does not have it", name, target)
	}
	return nil
}

// checkLocks: nothing else runs, so a lock that cannot be had is held by the caller.
func (m *model) checkLocks() {
	for what, mu := range map[string]*sync.Mutex{"responder": &m.r.mu, "cache": &m.im.cache.mu, "finder": &m.im.finder.mu} {
		if !mu.TryLock() {
			m.fault("the %s's lock is held over a send", what)
			continue
		}
		mu.Unlock()
	}
}

// mutant breaks the code under test between two steps.
type mutant func(m *model)

// step does one random thing.
func (m *model) step() {
	switch m.rng.IntN(10) {
	case 0, 1, 2:
		m.ask(m.all[m.rng.IntN(len(m.all))])
	case 3:
		m.push(0)
	case 4:
		m.push(uint32(7 + m.rng.IntN(2)))
	case 5, 6, 7:
		m.serveOne()
	default:
		m.deliver()
	}
}

// ask is an import in a thread of the child, or a request of a child of its: it asks once, and waits with the others.
func (m *model) ask(name string) {
	if !m.rude && (m.answered[name] || m.waiting[name]) {
		return
	}
	m.asked[name]++
	m.waiting[name] = true
	if err := m.r.Request(name); err != nil && !m.lost {
		m.fault("Request(%s): %v", name, err)
	}
}

func (m *model) push(target uint32) {
	j := &job{names: []string{m.all[m.rng.IntN(len(m.all))]}, platform: Platform{Version: py3}, target: target, done: make(chan error, 1)}
	m.r.mu.Lock()
	m.r.jobs = append(m.r.jobs, j)
	m.r.mu.Unlock()
	m.pushes = append(m.pushes, j)
}

// serveOne does what one round of work does.
func (m *model) serveOne() bool {
	j := m.r.next()
	if j == nil {
		return false
	}
	m.job, m.batch = j, nil
	err := m.r.do(context.Background(), j)
	m.job = nil
	if err != nil && !m.lost {
		m.fault("job %v: %v", j.names, err)
	}
	j.finish(err)
	for i, name := range m.batch {
		parent, _ := parentName(name)
		at := slices.Index(m.batch, parent)
		late := at > i && !(j.asked && parent == j.names[0])
		if parent != "" && (m.sent[parent] == 0 || late) {
			m.fault("%s is sent before its package", name)
		}
	}
	return true
}

// deliver brings the next record to the child, and wakes who waits for it.
func (m *model) deliver() bool {
	if len(m.stream) == 0 {
		return false
	}
	name, refused := strings.CutPrefix(m.stream[0], "-")
	m.stream = m.stream[1:]
	if refused && m.answered[name] && slices.Contains(m.names, name) {
		m.fault("%s is refused after it was sent", name)
	}
	m.answered[name] = true
	delete(m.waiting, name)
	return true
}

// finish lets everything that is under way end, and checks that it does.
func (m *model) finish() {
	for m.serveOne() || m.deliver() {
	}
	if m.lost {
		return
	}
	for name := range m.waiting {
		if !m.rude || m.sent[name] == 0 {
			m.fault("the request for %s was never answered", name)
		}
	}
	for _, j := range m.pushes {
		select {
		case <-j.done:
		default:
			m.fault("the push of %v never ended", j.names)
			continue
		}
		for _, name := range m.needs[j.names[0]] {
			if m.sent[name] == 0 {
				m.fault("the push of %v has left out %s", j.names, name)
			}
		}
	}
}

func (m *model) run(rude bool, break_ mutant) []string {
	m.rude = rude
	steps := 5 + m.rng.IntN(60)
	loseAt := -1
	if m.rng.IntN(5) == 0 {
		loseAt = m.rng.IntN(steps)
	}
	for i := range steps {
		if i == loseAt {
			m.lost = true
		}
		if break_ != nil {
			break_(m)
		}
		m.step()
	}
	m.finish()
	return m.faults
}

// seed gives the seed of a random test: $MITOGEND_SEED to repeat a run.
func seed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("MITOGEND_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return uint64(time.Now().UnixNano())
}

func TestModel(t *testing.T) {
	start := seed(t)
	t.Logf("MITOGEND_SEED=%d repeats this", start)
	worlds, runs := 20, 250
	if testing.Short() {
		runs = 50
	}
	for w := range worlds {
		rng := rand.New(rand.NewPCG(start, uint64(w)))
		world := newWorld(t, rng)
		for i := range runs {
			m := newModel(t, world, rng)
			if faults := m.run(i%4 == 3, nil); len(faults) > 0 {
				t.Fatalf("MITOGEND_SEED=%d, world %d, run %d:\n%s", start, w, i, strings.Join(faults, "\n"))
			}
		}
	}
}

// The check catches what it is there for: each mutant breaks one promise, and is found out.
func TestModelCatchesMutants(t *testing.T) {
	start := seed(t)
	pick := func(m *model) string { return m.names[m.rng.IntN(len(m.names))] }
	for name, mut := range map[string]struct {
		break_ mutant
		fault  string
	}{
		"sends twice": {func(m *model) { delete(m.r.sent, pick(m)) }, "times"},
		"drops the event": {func(m *model) {
			if n := len(m.r.jobs); n > 0 && m.rng.IntN(4) == 0 {
				i := m.rng.IntN(n)
				m.r.jobs = slices.Delete(slices.Clone(m.r.jobs), i, i+1)
			}
		}, "never"},
		"answers nothing": {func(m *model) {
			// Takes every duplicate, and what is not there, for answered: Mitogen's own trap.
			for _, name := range m.all {
				if !slices.Contains(m.names, name) {
					put(&m.r.sent, name, &sentModule{})
				}
			}
		}, "never answered"},
		"forgets the queue":         {func(m *model) { put(&m.r.pending, pick(m), true) }, "never answered"},
		"believes it sent packages": {func(m *model) { put(&m.r.sent, "p0", &sentModule{}) }, "before"},
		"skips what is needed":      {func(m *model) { m.r.opt.Local = []string{pick(m)} }, "left out"},
		"refuses what exists":       {func(m *model) { m.r.opt.Policy.Deny = []string{pick(m)} }, "is refused"},
		"holds the lock": {func(m *model) {
			m.r.sink = lockedSink{m}
		}, "lock is held"},
		"reorders the stream": {func(m *model) { m.r.sink = &swappingSink{model: m} }, "before"},
	} {
		t.Run(name, func(t *testing.T) {
			world := newWorld(t, rand.New(rand.NewPCG(start, 1)))
			for i := range uint64(2000) {
				m := newModel(t, world, rand.New(rand.NewPCG(start, i)))
				if faults := m.run(false, mut.break_); len(faults) > 0 {
					if strings.Contains(strings.Join(faults, "\n"), mut.fault) {
						return
					}
				}
			}
			t.Errorf("MITOGEND_SEED=%d: 2000 runs, and nobody noticed", start)
		})
	}
}

// lockedSink sends with the responder's lock held.
type lockedSink struct{ m *model }

func (s lockedSink) LoadModule(payload []byte, name string) error {
	s.m.r.mu.Lock()
	defer s.m.r.mu.Unlock()
	return s.m.LoadModule(payload, name)
}

func (s lockedSink) ForwardModule(payload []byte, target uint32, name string) error {
	return s.m.ForwardModule(payload, target, name)
}

// swappingSink sends each record behind the one that follows it.
type swappingSink struct {
	*model
	held func() error
}

func (s *swappingSink) LoadModule(payload []byte, name string) error {
	was := s.held
	s.held = func() error { return s.model.LoadModule(payload, name) }
	if was == nil {
		return nil
	}
	next := s.held
	s.held = was
	return next()
}

// The same promises with the real goroutines: many streams on one importer, each child with threads that import and calls that
// push, some streams lost on the way.
func TestManyStreams(t *testing.T) {
	start := seed(t)
	t.Logf("MITOGEND_SEED=%d repeats the choices, not the interleaving", start)
	world := newWorld(t, rand.New(rand.NewPCG(start, 0)))
	var wg sync.WaitGroup
	for n := range uint64(50) {
		wg.Go(func() {
			c := newChild(t, world, rand.New(rand.NewPCG(start, n)))
			c.live()
		})
	}
	wg.Wait()
	if want := int64(len(world.names)); world.im.cache.builds != want {
		t.Errorf("%d builds for %d modules", world.im.cache.builds, want)
	}
}

// child is a conforming child with threads of its own.
type child struct {
	*world
	t       *testing.T
	r       *Responder
	rng     *rand.Rand
	loseAt  int
	mu      sync.Mutex
	got     map[string]bool // true: sent, false: refused
	waiting map[string]chan struct{}
	count   int
}

func newChild(t *testing.T, w *world, rng *rand.Rand) *child {
	c := &child{world: w, t: t, rng: rng, loseAt: -1, got: map[string]bool{}, waiting: map[string]chan struct{}{}}
	if rng.IntN(4) == 0 {
		c.loseAt = rng.IntN(10)
	}
	r, err := NewResponder(w.im, c, ResponderOptions{Version: py3})
	if err != nil {
		t.Error(err)
	}
	c.r = r
	return c
}

func (c *child) LoadModule(payload []byte, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count++; c.count > c.loseAt && c.loseAt >= 0 {
		return errLost
	}
	if c.got[name] {
		c.t.Errorf("%s arrives twice", name)
	}
	c.got[name] = !missing(payload)
	if event := c.waiting[name]; event != nil {
		close(event)
		delete(c.waiting, name)
	}
	return nil
}

func (c *child) ForwardModule([]byte, uint32, string) error { return nil }

// importModule is what a thread of a child does.
func (c *child) importModule(name string, lost <-chan struct{}) {
	c.mu.Lock()
	if _, ok := c.got[name]; ok {
		c.mu.Unlock()
		return
	}
	event := c.waiting[name]
	mine := event == nil
	if mine {
		event = make(chan struct{})
		c.waiting[name] = event
	}
	c.mu.Unlock()
	if mine {
		if err := c.r.Request(name); err != nil && !errors.Is(err, ErrClosed) {
			c.t.Error(err)
		}
	}
	select {
	case <-event:
	case <-lost:
	}
}

func (c *child) live() {
	lost := make(chan struct{})
	var work sync.WaitGroup
	c.r.Start(context.Background(), inGroup(&work), func(err error) {
		if !errors.Is(err, errLost) {
			c.t.Error(err)
		}
		close(lost)
	})
	var threads sync.WaitGroup
	for range 4 {
		rng := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
		threads.Go(func() {
			for range 20 {
				name := c.all[rng.IntN(len(c.all))]
				if rng.IntN(3) > 0 {
					c.importModule(name, lost)
				} else if err := c.r.Push(context.Background(), name); err != nil && !errors.Is(err, ErrClosed) {
					c.t.Error(err)
				}
			}
		})
	}
	threads.Wait()
	c.r.Close()
	work.Wait()
	for name, sent := range c.got {
		if exists := slices.Contains(c.names, name); exists != sent {
			c.t.Errorf("%s: exists %v, sent %v", name, exists, sent)
		}
	}
}
