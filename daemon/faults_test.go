package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// A frame over the limit must not be read over those that came in the same read and wait in another stream's queue.
func TestSkippedFrameSparesOthers(t *testing.T) {
	for link := range links {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			d := watched(t, Options{MaxMessage: 1 << 20, MaxPending: 64 << 20})
			a, b := newPeerOn(t, d, link), newPeerOn(t, d, link)
			const n, size = 60, 20000
			written := make(chan bool)
			go func() {
				defer close(written)
				var all []byte
				for i := range n + 1 {
					m := pyproto.Message{Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: b.id, Src: a.id, Auth: a.id, Handle: 2000}}
					m.Payload = bytes.Repeat([]byte{byte(i)}, size)
					if i == n {
						m.Payload, m.ReplyTo = bytes.Repeat([]byte("Z"), 3<<20), 9
					}
					all = m.Append(all)
				}
				_, _ = a.f.Write(all)
			}()
			a.wantDead(9, "at most")
			<-written
			for i := range n {
				if m := b.read(); !bytes.Equal(m.Payload, bytes.Repeat([]byte{byte(i)}, size)) {
					t.Fatalf("message %d has other bytes", i)
				}
			}
		})
	}
}

// A sender writes its own frame, and not for as long as others have some.
func TestSenderIsNoWriterForOthers(t *testing.T) {
	d := watched(t, Options{})
	a := newPeer(t, d)
	var read atomic.Int64
	go func() {
		for {
			m, err := pyproto.ReadMessage(a.br, pyproto.DefaultMaxMessage)
			if err != nil {
				return
			}
			read.Add(int64(len(m.Payload)))
		}
	}()
	stop := make(chan bool)
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = d.Send(t.Context(), a.id, 2000, 0, make([]byte, 100<<10))
				}
			}
		})
	}
	eventually(t, "others send", func() bool { return read.Load() > 1<<20 })
	for range 20 {
		before := read.Load()
		if err := d.Send(t.Context(), a.id, 2000, 0, nil); err != nil {
			t.Fatal(err)
		}
		if n := read.Load() - before; n > 64<<20 {
			t.Errorf("meanwhile %d bytes of others were read", n)
		}
	}
	close(stop)
	others.Wait()
}

// failing writes once and then no more; what is written meanwhile waits.
type failing struct {
	n    int
	wait func()
}

func (f *failing) Write(p []byte) (int, error) {
	f.wait()
	if f.n++; f.n > 1 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

// The exit status may be behind the output that a writer fails on: nobody waits for another.
func TestRunFailingWriterFindsTheStatus(t *testing.T) {
	d := newDaemon(t, Options{})
	c := connect(t, d, target(pythons.Any(t)))
	p := &program{c: c, changed: make(chan struct{}, 1), over: make(chan struct{})}
	for _, m := range []string{"oone", "etwo", "othree", "x256"} {
		p.deliver(pyproto.Header{}, []byte(m), false)
	}
	_, err := p.copy(testContext(t), RunOptions{Stdout: &failing{wait: func() {}}, Stderr: &failing{n: 1, wait: func() {}}})
	if err == nil || err.Error() != "full" {
		t.Fatal(err)
	}
	status, err := p.copy(testContext(t), RunOptions{})
	if err != nil || status.Code != 1 {
		t.Errorf("%v, %v", status, err)
	}
}

// A guard whose start was given up is started by the next call.
func TestGuardIsStartedByTheNextCall(t *testing.T) {
	d := routeDaemon(t, Options{})
	c := connect(t, d, target(pythons.Any(t)))
	given, cancel := context.WithCancel(t.Context())
	cancel()
	// Its modules are not there yet, and nobody waits for them.
	if err := c.guard(given, "route"); err == nil && !c.guarded.Load() {
		t.Fatal("it says that the guard was started")
	}
	was := c.guarded.Load()
	if err := c.Call(testContext(t), "route:pid").Err(); err != nil {
		t.Fatal(err)
	}
	if !c.guarded.Load() {
		t.Errorf("there is no guard; after the call that was given up: %v", was)
	}
	var has bool
	if err := c.Call(testContext(t), "route:guarded").Decode(&has); err != nil || !has {
		t.Errorf("the child has a guard: %v, %v", has, err)
	}
}

// slowPython is an interpreter that takes its time.
func slowPython(t testing.TB, dir, until string) string {
	t.Helper()
	path := filepath.Join(dir, "slow-python")
	script := fmt.Sprintf("#!/bin/sh\ntouch %s/started\nwhile [ ! -e %s ]; do sleep 0.05; done\nexec /usr/bin/python3 \"$@\"\n", dir, until)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A connect behind a stock child that was given up leaves no interpreter: it is ended when it comes up.
func TestStockConnectGivenUp(t *testing.T) {
	d := newDaemon(t, Options{})
	r := stockRuntime(t)
	const hop = "local:?python=/usr/bin/python3"
	for _, runtime := range []string{"", "&runtime=embedded"} {
		first := connect(t, d, hop+"+"+hop, ConnectOptions{Runtime: r})
		dir := t.TempDir()
		slow := slowPython(t, dir, dir+"/go")
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := d.Connect(ctx, hop+"+local:?python_path="+slow+runtime, ConnectOptions{Runtime: r})
			failed <- err
		}()
		eventually(t, "the interpreter starts", func() bool { _, err := os.Stat(dir + "/started"); return err == nil })
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		hopStream := first.stream
		announced := hopStream.announced.Load()
		if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it comes up", func() bool { return hopStream.announced.Load() > announced })
		eventually(t, "it is ended", func() bool { return len(d.Routes()) == 2 })
		if err := first.Call(testContext(t), "os:getpid").Err(); err != nil {
			t.Error(err)
		}
		if err := first.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// Behind a stock child a target's arguments are what they are elsewhere.
func TestStockArgumentsAreTyped(t *testing.T) {
	d := newDaemon(t, Options{})
	r := stockRuntime(t)
	for _, option := range []string{"connect_timeout=90", "connect_timeout=1m30s", "debug=no", "unidirectional=off", "python_path=/usr/bin/python3%20-B", "silence_timeout=50"} {
		c := connect(t, d, "local:?python=/usr/bin/python3+local:?python=/usr/bin/python3&"+option, ConnectOptions{Runtime: r})
		if err := c.Call(testContext(t), "os:getpid").Err(); err != nil {
			t.Errorf("%s: %v", option, err)
		}
		if err := c.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	var he *HopError
	_, err := d.Connect(t.Context(), "local:?python=/usr/bin/python3+local:?connect_timeout=soon", ConnectOptions{Runtime: r})
	if !errors.As(err, &he) || he.Hop != 1 || !strings.Contains(err.Error(), "no duration") {
		t.Error(err)
	}
}

// Who waits for a runtime with others has his own context, and whoever came first may give up.
func TestRuntimeIsFoundForAll(t *testing.T) {
	stock := stockRuntime(t)
	dir := t.TempDir()
	slow := filepath.Join(dir, "python3")
	script := fmt.Sprintf("#!/bin/sh\ntouch %s/started\nwhile [ ! -e %s/go ]; do sleep 0.05; done\nexec /usr/bin/python3 \"$@\"\n", dir, dir)
	if err := os.WriteFile(slow, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	d := newDaemon(t, Options{})
	first, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	go func() {
		_, err := d.findRuntime(first, "mitogen", nil)
		errs <- err
	}()
	eventually(t, "it is asked", func() bool { _, err := os.Stat(dir + "/started"); return err == nil })
	second := make(chan *Runtime, 1)
	go func() {
		r, err := d.findRuntime(testContext(t), "mitogen", nil)
		errs <- err
		second <- r
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the first got %v", err)
	}
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	if r := <-second; r.Digest() != stock.Digest() {
		t.Errorf("found %v", r)
	}
}

// The end of its time and its start may come together.
func TestAskRuntimeGivenUp(t *testing.T) {
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		_, err := AskRuntime(ctx, exec.Command("/usr/bin/python3"))
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "no Mitogen") {
			t.Error(err)
		}
		cancel()
	}
}
