package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// stop stops a child's process: its connection stays open, and it takes and gives nothing.
func stop(t *testing.T, c *Child) {
	t.Helper()
	pid := pidOf(t, c)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	poll.Until(t, "it is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") T "))
	})
}

// closeInVain closes a child that nobody can end.
func closeInVain(t *testing.T, c *Child) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close gave %v", err)
	}
	if !isClosed(c.Done()) || slices.Contains(c.d.Children(), c) {
		t.Errorf("%s is still in the tree", c)
	}
}

// A hop that is silent ends with the last child behind it, also when it does not end that child.
func TestSilentHopEnds(t *testing.T) {
	for _, py := range ends(t) {
		for silent := range 2 {
			t.Run(fmt.Sprint(py.Version, " ", silent), func(t *testing.T) {
				t.Parallel()
				env := mark(t)
				closed := make(chan string, 10)
				d := treeDaemon(t, Options{OnEvent: func(e Event) {
					if e.Kind != Connected {
						closed <- fmt.Sprint(e.Kind, " ", e.ID)
					}
				}})
				name := chain(3, []pythons.Python{py})
				c := connect(t, d, name, ConnectOptions{Env: env})
				hops := []*Child{c.Via().Via(), c.Via()}
				stop(t, hops[silent])
				waiting := c.Start(testContext(t), "tree:pid")
				closeInVain(t, c)
				var dead *DeadError
				if err := waiting.Result(testContext(t)).Err(); !errors.As(err, &dead) {
					t.Errorf("a call to it ended with %v", err)
				}
				poll.Until(t, "the hops end", func() bool { return len(marked(env[0])) == 0 && len(d.Children()) == 0 })
				for i, x := range []*Child{c, hops[1], hops[0]} {
					if got, want := <-closed, fmt.Sprint(Closed, " ", x.ID()); got != want {
						t.Errorf("event %d is %s, not %s", i, got, want)
					}
				}
				again := connect(t, d, name, ConnectOptions{Env: env})
				pidOf(t, again)
			})
		}
	}
}

// A hop that does not answer is not shared any more, though others still use it.
func TestSilentHopIsNotShared(t *testing.T) {
	env := mark(t)
	d := treeDaemon(t, Options{})
	d.launchGrace, d.answerTime = 0, 0
	py := pythons.Any(t)
	name := target(py) + "+" + target(py)
	for how, fail := range map[string]func(c *Child){
		"close": func(c *Child) { closeInVain(t, c) },
		"launch": func(c *Child) {
			if _, err := d.Connect(testContext(t), name+"&connect_timeout=2", ConnectOptions{Env: env}); err == nil {
				t.Error("connected behind a hop that is stopped")
			}
		},
	} {
		t.Run(how, func(t *testing.T) {
			user, other := connect(t, d, name, ConnectOptions{Env: env}), connect(t, d, name, ConnectOptions{Env: env})
			hop := user.Via()
			if other.Via() != hop {
				t.Fatal("they do not share a hop")
			}
			stop(t, hop)
			fail(user)
			again := connect(t, d, name, ConnectOptions{Env: env})
			if again.Via() == hop {
				t.Error("the silent hop is shared")
			}
			if err := again.Close(testContext(t)); err != nil {
				t.Error(err)
			}
			for _, c := range []*Child{user, other} {
				if c.gone() == nil {
					closeInVain(t, c)
				}
			}
			poll.Until(t, "the hop ends", func() bool { return len(d.Children()) == 0 })
		})
	}
}

// Which of several hops is silent is not known: after one connect that fails, the next one uses none of them.
func TestSilentFirstHopIsNotShared(t *testing.T) {
	env := mark(t)
	d := treeDaemon(t, Options{})
	d.launchGrace = 0
	py := pythons.Any(t)
	name := target(py) + "+" + target(py) + "+" + target(py)
	user := connect(t, d, name, ConnectOptions{Env: env})
	stop(t, user.Via().Via())
	if _, err := d.Connect(testContext(t), name+"&connect_timeout=2", ConnectOptions{Env: env}); err == nil {
		t.Error("connected behind a hop that is stopped")
	}
	again := connect(t, d, name, ConnectOptions{Env: env})
	if err := again.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	closeInVain(t, user)
	poll.Until(t, "the hops end", func() bool { return len(d.Children()) == 0 })
}

// A hop that had no time to answer is shared as before: the caller has only given up.
func TestHopOfAnImpatientCaller(t *testing.T) {
	env := mark(t)
	d := treeDaemon(t, Options{})
	py := pythons.Any(t)
	name := target(py) + "+" + target(py)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	user, other := connect(t, d, name, ConnectOptions{Env: env}), connect(t, d, name, ConnectOptions{Env: env})
	if err := user.Close(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Close gave %v", err)
	}
	if again := connect(t, d, name, ConnectOptions{Env: env}); again.Via() != other.Via() {
		t.Error("the hop is shared no more")
	}
}

// A child that does not end by Mitogen's own means keeps its hop for no longer.
func TestSilentStockChild(t *testing.T) {
	r := stockRuntime(t)
	env := mark(t)
	d := newDaemon(t, Options{})
	hop := "local:?python=/usr/bin/python3"
	c := connect(t, d, hop+"+"+hop, ConnectOptions{Runtime: r, Env: env})
	before := c.Via()
	stop(t, c)
	closeInVain(t, c)
	poll.Until(t, "the hop ends", func() bool { return isClosed(before.Done()) })
}

// So does a child that gives no sign of life, behind a hop that does not end it.
func TestSilenceBehindASilentHop(t *testing.T) {
	env := mark(t)
	d := treeDaemon(t, Options{})
	py := pythons.Any(t)
	c := connect(t, d, target(py)+"+"+target(py)+"&silence_timeout=3s", ConnectOptions{Env: env})
	stop(t, c.Via())
	<-c.Done()
	poll.Until(t, "the hop ends", func() bool { return len(d.Children()) == 0 && len(marked(env[0])) == 0 })
}

// A child that was forked by one that has started others is told to leave.
func TestCloseForkOfALauncher(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		env := mark(t)
		d := treeDaemon(t, Options{})
		c := connect(t, d, target(py), ConnectOptions{Env: env})
		var wg sync.WaitGroup
		for _, kwargs := range []pyproto.Kwargs{
			{{Name: "how", Value: "local"}, {Name: "python_path", Value: py.Path}},
			{{Name: "how", Value: "fork"}},
		} {
			var made pyproto.Tuple
			if err := c.Call(testContext(t), "tree:make", kwargs).Decode(&made); err != nil {
				t.Fatal(err)
			}
			child := d.child(made[0].(pyproto.Context).ID)
			wg.Go(func() {
				if err := child.Close(testContext(t)); err != nil {
					t.Errorf("%s: %v", child, err)
				}
			})
		}
		wg.Wait()
		if n := len(d.Children()); n != 1 {
			t.Errorf("%d children are in the tree", n)
		}
	})
}

// Those who have sent to a child that is given up hear that it is gone, once, though its route is still there.
func TestGivenUpIsTold(t *testing.T) {
	d := newDaemon(t, Options{})
	hop, asker := newPeer(t, d), newPeer(t, d)
	c := hop.behind()
	asker.sendsAs(asker.id, asker.id, c.id, 1000, 2000, "x")
	hop.answer(1000)
	c.giveUp("it was closed")
	if m := asker.read(); m.Handle != pyproto.DelRoute || string(m.Payload) != fmt.Sprint(c.id) {
		t.Errorf("got %+v %q", m.Header, m.Payload)
	}
	if d.streamOf(c.id) != hop.c.stream {
		t.Error("it has no route any more")
	}
	hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.DelRoute}, fmt.Sprint(c.id))
	poll.Until(t, "the route is gone", func() bool { return d.streamOf(c.id) == nil })
	(&liar{hop, hop.id}).sync()
	asker.sendsAs(asker.id, asker.id, 54321, 1, 1999, "")
	if m := asker.read(); m.Handle != 1999 {
		t.Errorf("got %+v %q", m.Header, m.Payload)
	}
}
