package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/integration/poll"
	"mitogend/pyproto"
)

const soakModule = `
import sys

def add(a, b):
    return a + b

def fail(n):
    raise ValueError('soak %d' % n)

def say(text, n):
    sys.stdout.write(text * n)
    return n

def echo(channel):
    n = 0
    for value in channel:
        channel.send(value)
        n += 1
    return n

def blob(n):
    return b'x' * n
`

// soakTime is how long the soak test goes on: a few seconds, or what MITOGEND_SOAK says (15m).
func soakTime(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("MITOGEND_SOAK")
	if text == "" {
		return 8 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	soakClients  = 20
	soakChildren = 50
)

// soak is the state that all clients share.
type soak struct {
	t    *testing.T
	d    *Daemon
	lib  string
	dirs []string
	end  time.Time

	calls, values, raised, lost, cancelled, killed, died, streams, programs atomic.Int64
}

// Twenty clients do everything at random against fifty children, which are killed at random. No answer is wrong, every request ends
// once, and afterwards the daemon is as small as before.
func TestSoak(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := &soak{t: t, d: Serve(t, "--log-level", "warn"), lib: t.TempDir()}
	Write(t, s.lib, "soak.py", soakModule)
	for range soakChildren {
		s.dirs = append(s.dirs, t.TempDir())
	}
	s.warmUp()
	before := s.d.Stats(t)
	s.end = time.Now().Add(soakTime(t))
	var wg sync.WaitGroup
	for i := range soakClients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(s.end) {
				s.session(rnd)
			}
		})
	}
	wg.Go(func() { s.kill(rand.New(rand.NewPCG(seed, 1000))) })
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Until(s.end) + commandTime):
		ps := s.d.Run(t, s.lib, "ps")
		s.d.Signal(syscall.SIGQUIT)
		s.d.Wait()
		t.Fatalf("a request has never ended\n%v\n%s", ps, s.d.Log)
	}
	t.Logf("%d calls: %d values, %d raised, %d lost, %d cancelled; %d programs, %d channels; %d children killed, %d clients died",
		s.calls.Load(), s.values.Load(), s.raised.Load(), s.lost.Load(), s.cancelled.Load(), s.programs.Load(), s.streams.Load(),
		s.killed.Load(), s.died.Load())
	if sum := s.values.Load() + s.raised.Load() + s.lost.Load() + s.cancelled.Load(); sum != s.calls.Load() {
		t.Errorf("%d calls have ended %d times", s.calls.Load(), sum)
	}
	s.backToStart(before)
}

// warmUp fills the daemon's memory pools.
func (s *soak) warmUp() {
	var wg sync.WaitGroup
	for i := range soakChildren {
		wg.Go(func() {
			c := s.client()
			defer func() { _ = c.Shutdown(context.Background()) }()
			child, err := c.Connect(context.Background(), "local:", daemon.ConnectOptions{Dir: s.dirs[i]})
			if err != nil {
				s.t.Error(err)
				return
			}
			if err := child.Call(context.Background(), "soak:blob", 1<<20).Err(); err != nil {
				s.t.Error(err)
			}
		})
	}
	wg.Wait()
	s.empty()
}

// empty closes all connections and waits until nothing is left.
func (s *soak) empty() {
	c := s.client()
	if _, err := c.End(context.Background(), wire.Close{All: true}); err != nil {
		s.t.Error(err)
	}
	_ = c.Shutdown(context.Background())
	poll.Until(s.t, "nothing is left", func() bool {
		st := s.d.Stats(s.t)
		return st.Connections == 0 && st.Clients == 1 && st.Active == 0 && st.Streams == 0 && st.Contexts == 0 && st.Goroutines < 20
	})
}

func (s *soak) client() *client.Client {
	c, err := client.Dial(context.Background(), s.d.Socket, client.Options{
		Source: &importer.Options{Path: []string{s.lib}}, Env: s.d.Env(),
	})
	if err != nil {
		s.t.Error(err)
		panic(err)
	}
	return c
}

// backToStart compares the daemon's resources with those that it had before.
func (s *soak) backToStart(before *wire.Stats) {
	s.empty()
	var after *wire.Stats
	ok := func() bool {
		after = s.d.Stats(s.t)
		return after.Goroutines <= before.Goroutines+3 && after.Descriptors <= before.Descriptors+2
	}
	poll.Until(s.t, "goroutines and descriptors are as before", ok)
	s.t.Logf("before: %d goroutines, %d descriptors, %d kB resident, %d kB heap; after: %d, %d, %d, %d",
		before.Goroutines, before.Descriptors, before.RSSBytes>>10, before.HeapBytes>>10,
		after.Goroutines, after.Descriptors, after.RSSBytes>>10, after.HeapBytes>>10)
	// The heap of a garbage-collected process varies; a leak of 15 minutes would be far larger.
	if after.RSSBytes > before.RSSBytes+before.RSSBytes/2+64<<20 {
		s.t.Errorf("resident memory grew from %d to %d kB", before.RSSBytes>>10, after.RSSBytes>>10)
	}
}

// session is the life of one client until it leaves or dies.
func (s *soak) session(rnd *rand.Rand) {
	c := s.client()
	ctx, die := context.WithCancel(context.Background())
	defer die()
	var wg sync.WaitGroup
	for range 1 + rnd.IntN(3) {
		seed := rnd.Uint64()
		wg.Go(func() { s.work(ctx, c, rand.New(rand.NewPCG(seed, 0))) })
	}
	if rnd.IntN(4) == 0 {
		// In the middle of any work.
		s.died.Add(1)
		select {
		case <-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond):
		case <-ctx.Done():
		}
		_ = c.Shutdown(context.Background())
	}
	wg.Wait()
	_ = c.Shutdown(context.Background())
}

// work connects to a child and uses it.
func (s *soak) work(ctx context.Context, c *client.Client, rnd *rand.Rand) {
	var out bytes.Buffer
	opt := daemon.ConnectOptions{Dir: s.dirs[rnd.IntN(len(s.dirs))], OnOutput: func(b []byte) { out.Write(b) }}
	child, err := c.Connect(ctx, "local:", opt)
	if err != nil {
		s.check("connect", err)
		return
	}
	for range 1 + rnd.IntN(10) {
		if time.Now().After(s.end) {
			break
		}
		out.Reset()
		switch n := rnd.IntN(100); {
		case n < 40:
			s.add(ctx, child, rnd)
		case n < 50:
			s.fail(ctx, child, rnd)
		case n < 60:
			s.say(ctx, child, rnd, &out)
		case n < 70:
			s.cancel(ctx, child, rnd)
		case n < 85:
			s.run(ctx, child, rnd)
		default:
			s.channel(ctx, child, rnd)
		}
	}
	if err := child.Close(ctx); err != nil {
		s.check("close", err)
	}
}

// check fails the test for an error that neither a killed child nor a dead client explains.
func (s *soak) check(what string, err error) {
	var dead *daemon.DeadError
	var hop *daemon.HopError
	var e *wire.Error
	switch {
	case errors.As(err, &dead), errors.As(err, &hop), errors.Is(err, client.ErrDisconnected), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded):
		s.lostOne(what)
	case errors.As(err, &e) && (e.Kind == wire.KindUnknown || e.Kind == wire.KindLost):
		s.lostOne(what)
	default:
		s.t.Errorf("%s: %v", what, err)
		s.lostOne(what)
	}
}

func (s *soak) lostOne(what string) {
	if what == "call" {
		s.lost.Add(1)
	}
}

func (s *soak) add(ctx context.Context, child *client.Child, rnd *rand.Rand) {
	s.calls.Add(1)
	a, b := rnd.Int64N(1<<40), strings.Repeat("é", rnd.IntN(5000))
	v, err := child.Call(ctx, "soak:add", []any{a}, []any{b}).Value()
	if err != nil {
		s.check("call", err)
		return
	}
	s.values.Add(1)
	if list, ok := v.([]any); !ok || len(list) != 2 || list[0] != a || list[1] != b {
		s.t.Errorf("add gave %.100v", v)
	}
}

func (s *soak) fail(ctx context.Context, child *client.Child, rnd *rand.Rand) {
	s.calls.Add(1)
	n := rnd.IntN(1000)
	err := child.Call(ctx, "soak:fail", n).Err()
	var raised *pyproto.CallError
	if !errors.As(err, &raised) {
		s.check("call", err)
		return
	}
	s.raised.Add(1)
	if raised.Message() != fmt.Sprintf("soak %d", n) {
		s.t.Errorf("fail(%d) raised %q", n, raised.Message())
	}
}

func (s *soak) say(ctx context.Context, child *client.Child, rnd *rand.Rand, out *bytes.Buffer) {
	s.calls.Add(1)
	text, n := fmt.Sprintf("<%d>", rnd.Uint32()), 1+rnd.IntN(3000)
	if err := child.Call(ctx, "soak:say", text, n).Err(); err != nil {
		s.check("call", err)
		return
	}
	s.values.Add(1)
	if out.String() != strings.Repeat(text, n) {
		s.t.Errorf("say printed %d bytes, %d are right: %.60q", out.Len(), n*len(text), out)
	}
}

// cancel gives up a running call.
func (s *soak) cancel(ctx context.Context, child *client.Child, rnd *rand.Rand) {
	s.calls.Add(1)
	short, stop := context.WithTimeout(ctx, time.Duration(rnd.IntN(20))*time.Millisecond)
	defer stop()
	err := child.Call(short, "time:sleep", 0.02).Err()
	switch {
	case err == nil:
		s.values.Add(1)
	case errors.Is(err, context.DeadlineExceeded):
		s.cancelled.Add(1)
	default:
		s.check("call", err)
	}
}

const soakProgram = `import sys, soak
data = sys.stdin.read()
sys.stdout.write(data[::-1])
sys.exit(soak.add(int(sys.argv[1]), 1))
`

func (s *soak) run(ctx context.Context, child *client.Child, rnd *rand.Rand) {
	s.programs.Add(1)
	in := strings.Repeat("ab", rnd.IntN(100000))
	code := rnd.IntN(50)
	var out, errs bytes.Buffer
	st, err := child.Run(ctx, daemon.RunOptions{
		Path: "p.py", Source: []byte(soakProgram), Args: []string{fmt.Sprint(code)}, Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		s.check("run", err)
		return
	}
	if st.Signal != 0 || strings.Contains(errs.String(), "mitogend:") {
		return // its parent was killed
	}
	if st.Code != code+1 || out.String() != strings.Repeat("ba", len(in)/2) {
		s.t.Errorf("the program ended with %+v, want %d, and %d bytes of %d\n%s", st, code+1, out.Len(), len(in), errs.String())
	}
}

func (s *soak) channel(ctx context.Context, child *client.Child, rnd *rand.Rand) {
	s.streams.Add(1)
	ch, err := child.OpenChannel(ctx, "soak:echo")
	if err != nil {
		s.check("open", err)
		return
	}
	count, size := 1+rnd.IntN(50), rnd.IntN(30000)
	stop := -1 // close it early
	if rnd.IntN(4) == 0 {
		stop = rnd.IntN(count)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range count {
			if err := ch.Send(ctx, []any{i, make([]byte, size)}); err != nil {
				s.check("send", err)
				return
			}
		}
		if err := ch.CloseSend(ctx); err != nil {
			s.check("close send", err)
		}
	})
	for i := 0; ; i++ {
		if i == stop {
			ch.Close()
			return
		}
		v, err := ch.Recv(ctx)
		if err == io.EOF {
			if v, err := ch.Result(); err != nil {
				s.check("channel", err)
			} else if v != int64(count) || i != count {
				s.t.Errorf("the channel gave %v after %d of %d messages", v, i, count)
			}
			return
		}
		if err != nil {
			s.check("receive", err)
			return
		}
		if list, ok := v.([]any); !ok || list[0] != int64(i) || len(list[1].([]byte)) != size {
			s.t.Errorf("message %d is %.60v", i, v)
		}
	}
}

// kill ends children of the daemon at random.
func (s *soak) kill(rnd *rand.Rand) {
	c := s.client()
	defer func() { _ = c.Shutdown(context.Background()) }()
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(50+rnd.IntN(200)) * time.Millisecond) // time between two deaths; nothing waits for it
		list, err := c.List(context.Background())
		if err != nil {
			s.t.Error(err)
			return
		}
		if len(list) == 0 {
			continue
		}
		if x := list[rnd.IntN(len(list))]; x.PID > 1 && isChild(x.PID, s.d.PID()) {
			s.killed.Add(1)
			_ = syscall.Kill(x.PID, syscall.SIGKILL)
		}
	}
}

// isChild checks that a process id does not belong to another process by now.
func isChild(pid, parent int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var ppid int
	_, err = fmt.Sscanf(string(data[bytes.LastIndexByte(data, ')')+2:]), "%c %d", new(rune), &ppid)
	return err == nil && ppid == parent
}
