package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPool(t *testing.T, opt Options) *Pool {
	t.Helper()
	var p *Pool
	d, err := daemon.New(daemon.Options{OnEvent: func(e daemon.Event) { p.Event(&e) }})
	if err != nil {
		t.Fatal(err)
	}
	if p, err = New(d, opt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Shutdown(context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := d.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.sources) > 0 && len(p.all) == 0 {
			t.Errorf("%d importers are left", len(p.sources))
		}
	})
	return p
}

func ask(t *testing.T, target string, change ...func(*Request)) Request {
	t.Helper()
	hops, err := bootstrap.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Target: target, Hops: hops}
	for _, c := range change {
		c(&r)
	}
	return r
}

func (p *Pool) must(t *testing.T, r Request) *Lease {
	t.Helper()
	l, err := p.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// counting makes an interpreter that counts its starts, and the function that tells them.
func counting(t *testing.T, more string) (target string, starts func() int) {
	t.Helper()
	real, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, path := filepath.Join(dir, "starts"), filepath.Join(dir, "python")
	text := fmt.Sprintf("#!/bin/sh\necho >>%s\n%s\nexec %s \"$@\"\n", log, more, real)
	pythons.Program(t, path, text)
	return "local:?python=" + path, func() int {
		data, _ := os.ReadFile(log)
		return len(data)
	}
}

func TestConnectIsJoined(t *testing.T) {
	p := newPool(t, Options{})
	target, starts := counting(t, "sleep 0.1")
	var wg sync.WaitGroup
	ids := make(chan any, 20)
	for range 20 {
		wg.Go(func() {
			l := p.must(t, ask(t, target))
			ids <- l.Child().ID()
			l.Release()
			l.Release() // is no second time
		})
	}
	wg.Wait()
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("contexts %v and %v", first, id)
		}
	}
	if n := starts(); n != 1 {
		t.Errorf("%d starts", n)
	}
	if i := p.List(); len(i) != 1 || i[0].Leases != 0 {
		t.Errorf("%+v", i)
	}
}

func TestKeys(t *testing.T) {
	base := ask(t, "ssh:web+sudo:root?password_env=X", func(r *Request) { r.Env = []string{"A=1", "PATH=/bin"}; r.Dir = "/a" })
	local := ask(t, "local:", func(r *Request) { r.Env = []string{"A=1"}; r.Dir = "/a" })
	for name, c := range map[string]struct {
		of     Request
		change func(*Request)
		same   bool
	}{
		"the same":                         {base, func(*Request) {}, true},
		"another python":                   {base, func(r *Request) { r.Python = []string{"python3"} }, false},
		"prefer here":                      {base, func(r *Request) { r.PreferHere = true }, false},
		"a password":                       {base, func(r *Request) { r.Passwords = map[int]string{1: "x"} }, false},
		"no bytecode":                      {base, func(r *Request) { r.Bytecode = daemon.BytecodeNever }, false},
		"bytecode as without a word of it": {base, func(r *Request) { r.Bytecode = daemon.BytecodeAuto }, true},
		"the name":                         {base, func(r *Request) { r.Name = "n" }, true},
		"the timeout":                      {base, func(r *Request) { r.Timeout = time.Second }, true},
		"ssh, another directory":           {base, func(r *Request) { r.Dir = "/b" }, true},
		"ssh, another variable":            {base, func(r *Request) { r.Env = []string{"A=2", "PATH=/bin"} }, true},
		"ssh, another agent":               {base, func(r *Request) { r.Env = append(r.Env, "SSH_AUTH_SOCK=/x") }, true},
		"ssh, another PATH":                {base, func(r *Request) { r.Env = []string{"A=1", "PATH=/usr/bin"} }, false},
		"local, another directory":         {local, func(r *Request) { r.Dir = "/b" }, false},
		"local, another variable":          {local, func(r *Request) { r.Env = []string{"A=2"} }, false},
		"local, variables reordered":       {local, func(r *Request) { r.Env = []string{"SHLVL=3", "A=1"} }, true},
		"a password instead of its source": {base, func(r *Request) { r.Passwords = map[int]string{0: "x"} }, false},
	} {
		other := c.of
		c.change(&other)
		if (c.of.key("s") == other.key("s")) != c.same {
			t.Errorf("%s: the same is %t", name, !c.same)
		}
	}
	with := base
	with.Passwords = map[int]string{1: "hunter2"}
	if k := with.key(""); strings.Contains(k, "hunter2") || strings.Contains(k, "password_env") {
		t.Errorf("the key is %s", k)
	}
}

func TestIdleAndLimit(t *testing.T) {
	p := newPool(t, Options{Max: 3})
	var leases []*Lease
	for i := range 5 {
		leases = append(leases, p.must(t, ask(t, "local:", func(r *Request) {
			r.Dir = fmt.Sprintf("/proc/self/task/../../%d", os.Getpid())
			r.Env = append(os.Environ(), fmt.Sprint("N=", i))
		})))
	}
	if n := len(p.List()); n != 5 {
		t.Fatalf("%d connections: those in use are not to be closed", n)
	}
	for _, l := range leases {
		l.Release()
	}
	poll.Until(t, "the limit is kept", func() bool { return len(p.List()) == 3 })
	if err := p.Configure(Options{Max: 3, Idle: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "idle ones are closed", func() bool { return len(p.List()) == 0 })
	// What was closed by hand, or is used, has no time any more.
	if err := p.Configure(Options{Idle: time.Hour}); err != nil {
		t.Fatal(err)
	}
	l := p.must(t, ask(t, "local:"))
	defer l.Release()
	p.must(t, ask(t, "local:", func(r *Request) { r.Dir = "/" })).Release()
	if n, err := p.Close(t.Context(), Match{Idle: true}); err != nil || n != 1 {
		t.Error(n, err)
	}
	if err := p.Configure(Options{Idle: -1}); err != nil || len(p.List()) != 1 {
		t.Error(err, len(p.List()))
	}
	l.Release()
	poll.Until(t, "all are closed", func() bool { return len(p.List()) == 0 && len(p.d.Children()) == 0 })
}

// A new idle time holds for what is unused already, be it longer or shorter.
func TestIdleTimeChanges(t *testing.T) {
	for _, times := range [][2]time.Duration{{50 * time.Millisecond, 500 * time.Millisecond}, {time.Hour, 50 * time.Millisecond}, {time.Hour, -1}} {
		p := newPool(t, Options{Idle: times[0]})
		p.must(t, ask(t, "local:")).Release()
		if err := p.Configure(Options{Idle: times[1]}); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, fmt.Sprint("it is closed after ", times), func() bool { return len(p.List()) == 0 })
	}
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	p := newPool(t, Options{Max: 2})
	get := func(n int) *Lease {
		return p.must(t, ask(t, "local:", func(r *Request) { r.Env = append(os.Environ(), fmt.Sprint("N=", n)) }))
	}
	id := func(l *Lease) any { defer l.Release(); return l.Child().ID() }
	zero, one := id(get(0)), id(get(1))
	if id(get(0)) != zero {
		t.Fatal("not shared")
	}
	id(get(2)) // closes 1
	if id(get(0)) != zero {
		t.Error("the one used last was closed")
	}
	if id(get(1)) == one {
		t.Error("the one used least recently was kept")
	}
}

// A round over one target more than there may be connections finds most of them there, and the log says that there
// are too few.
func TestRoundOverTooMany(t *testing.T) {
	logged, logs := observer.New(zap.WarnLevel)
	p := newPool(t, Options{Max: 5, Logger: zap.New(logged)})
	seen := map[any]bool{}
	round := func(first, n int) (connects int) {
		for i := range n {
			l := p.must(t, ask(t, "local:", func(r *Request) { r.Env = append(os.Environ(), fmt.Sprint("N=", first+i)) }))
			if !seen[l.Child().ID()] {
				seen[l.Child().ID()] = true
				connects++
			}
			l.Release()
		}
		return connects
	}
	round(0, 6)
	for i := range 3 {
		if n := round(0, 6); n > 3 {
			t.Errorf("%d connects in round %d", n, i)
		}
	}
	if n := logs.FilterField(zap.Int("max_connections", 5)).Len(); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	// Others take their places once those were not used for long.
	p.mu.Lock()
	for c := range p.all {
		c.lastUsed = c.lastUsed.Add(-2 * unusedFor)
	}
	p.mu.Unlock()
	round(100, 5)
	if n := round(100, 5); n > 0 {
		t.Errorf("%d connects for those that are used now", n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ghosts) > 4*5 {
		t.Errorf("%d ghosts", len(p.ghosts))
	}
}

func TestOutOfDescriptors(t *testing.T) {
	p := newPool(t, Options{})
	if p.shed(t.Context(), fmt.Errorf("x: %w", syscall.EMFILE)) {
		t.Error("there was nothing to close")
	}
	used := p.must(t, ask(t, "local:", func(r *Request) { r.Fresh = true }))
	defer used.Release()
	p.must(t, ask(t, "local:")).Release()
	if p.shed(t.Context(), syscall.ENOENT) || len(p.List()) != 2 {
		t.Error("closed for another reason")
	}
	if !p.shed(t.Context(), fmt.Errorf("x: %w", syscall.EMFILE)) || len(p.List()) != 1 || isDone(used.Child()) {
		t.Error("not the one that nobody uses")
	}
}

func TestFailuresPause(t *testing.T) {
	p := newPool(t, Options{})
	target, starts := counting(t, "exit 1")
	var times []time.Time
	for range 4 {
		_, err := p.Get(t.Context(), ask(t, target))
		var hop *daemon.HopError
		if !errors.As(err, &hop) {
			t.Fatal(err)
		}
		times = append(times, time.Now())
	}
	if n := starts(); n != 4 {
		t.Errorf("%d starts", n)
	}
	for i := 2; i < len(times); i++ {
		// Pauses of 250 ms, 500 ms, 1 s lie between the attempts. On a busy machine the time before one is taken late.
		if pause := times[i].Sub(times[i-1]); pause < firstPause<<(i-1)/2 {
			t.Errorf("attempt %d came after %v", i, pause)
		}
	}
	// A request that does not want to wait says so.
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Get(short, ask(t, target)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// The failure of a fresh connection does not count for others.
	if _, err := p.Get(t.Context(), ask(t, target, func(r *Request) { r.Fresh = true })); errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestLostIsConnectedAgain(t *testing.T) {
	p := newPool(t, Options{})
	l := p.must(t, ask(t, "local:"))
	first := l.Child()
	if err := l.Start(t.Context(), daemon.CallOptions{}, "os:_exit", 1).Wait(t.Context()).Err(); err == nil {
		t.Fatal("no error")
	}
	<-first.Done()
	next := p.must(t, ask(t, "local:"))
	if next.Child() == first {
		t.Error("the lost child was given out")
	}
	l.Release()
	next.Release()
}

func TestBusyConnectionIsNotShared(t *testing.T) {
	p := newPool(t, Options{PerTarget: 2})
	l := p.must(t, ask(t, "local:"))
	ctx, cancel := context.WithCancel(t.Context())
	call := l.Start(ctx, daemon.CallOptions{}, "time:sleep", 1000)
	at := time.Now()
	same := p.must(t, ask(t, "local:"))
	if same.Child() != l.Child() && time.Since(at) < busyAfter {
		t.Error("a call that has just begun makes a connection busy")
	}
	poll.Until(t, "it is busy", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return l.c.busy() })
	other := p.must(t, ask(t, "local:"))
	if other.Child() == l.Child() {
		t.Error("a busy connection is shared although there may be two")
	}
	// The call is given up, and goes on: nobody new gets that child, and it ends with its last lease.
	cancel()
	if err := call.Wait(ctx).Err(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	third := p.must(t, ask(t, "local:"))
	if third.Child() != other.Child() {
		t.Error("a new lease is on the stuck child")
	}
	l.Release()
	select {
	case <-l.Child().Done():
		t.Error("it was closed under another lease")
	default:
	}
	same.Release()
	<-l.Child().Done()
	other.Release()
	third.Release()
	if i := p.List(); len(i) != 1 {
		t.Errorf("%d connections are left", len(i))
	}
}

func TestShutdownGivesUpConnects(t *testing.T) {
	p := newPool(t, Options{})
	target, starts := counting(t, "exec sleep 1000")
	result := make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), ask(t, target))
		result <- err
	}()
	poll.Until(t, "it is being connected", func() bool { return starts() == 1 })
	p.Shutdown(context.Background())
	if err := <-result; err == nil {
		t.Error("no error")
	}
	if _, err := p.Get(context.Background(), ask(t, "local:")); !errors.Is(err, daemon.ErrShutdown) {
		t.Error(err)
	}
}

// Beyond a number of them, refused names are not remembered; modules still are.
func TestRefusedNamesThatAreWatched(t *testing.T) {
	c := &Conn{}
	for i := range 2 * maxRefused {
		if kept := c.keep(fmt.Sprint("m", i), mark{}); kept != (i < maxRefused) {
			t.Fatalf("name %d: kept %v", i, kept)
		}
	}
	if !c.keep("m1", mark{}) || !c.keep("module", mark{1}) || len(c.sent) != maxRefused+1 {
		t.Errorf("%d are kept", len(c.sent))
	}
}

// TestNobodyWaitsForFiles: while what one request is served from is read, others get their connections.
func TestNobodyWaitsForFiles(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{})
	reading, goOn := make(chan struct{}), make(chan struct{})
	p.newImporter = func(opt importer.Options) (*importer.Importer, error) {
		if len(opt.Path) > 0 {
			close(reading)
			<-goOn
		}
		return p.d.NewImporter(opt)
	}
	dir := t.TempDir()
	slow := make(chan error, 1)
	go func() {
		l, err := p.Get(t.Context(), ask(t, "local:", func(r *Request) { r.Source = &importer.Options{Path: []string{dir}} }))
		if err == nil {
			l.Release()
		}
		slow <- err
	}()
	<-reading
	p.must(t, ask(t, "local:")).Release()
	close(goOn)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}
