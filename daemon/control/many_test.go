package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// places are so many targets of one interpreter, each with a connection of its own.
func places(t *testing.T, py pythons.Python, n int) (out []client.Place) {
	t.Helper()
	for i := range n {
		hops, err := bootstrap.ParseTarget(fmt.Sprintf("exec:env%%20N=%d?python=%s", i, py.Path))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, client.Place{Name: fmt.Sprint("place", i), Hops: hops})
	}
	return out
}

// noPlace is a target that cannot be connected. Each interpreter has its own, since the pauses before a failed target
// is tried again grow.
func noPlace(py pythons.Python) []bootstrap.Hop {
	return []bootstrap.Hop{{Method: "exec", Spec: "false " + py.Version}}
}

func TestCallMany(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.dial(t, client.Options{})
		m := &client.Many{
			Plan: work.Plan{Parallel: 3, MaxFail: work.NoLimit}, Places: places(t, py, 6),
		}
		call := &client.ManyCalls{Function: "mod:say", Args: []any{"hello", pyproto.Kwargs{{Name: "times", Value: 2}}}}
		printed, begun := map[int]string{}, 0
		call.Output = func(target int, data []byte) { printed[target] += string(data) }
		m.Begun = func(n int) { begun = n }
		values := map[int]any{}
		if err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
			if o.Err != nil || o.State != work.Done || fmt.Sprint(o.Python) != py.Version[:1] || o.Took <= 0 || values[o.Target] != nil {
				t.Errorf("%+v", o)
			}
			values[o.Target] = o.Value
		}); err != nil {
			t.Fatal(err)
		}
		for i := range m.Places {
			if values[i] != int64(2) || strings.Count(printed[i], "hello") != 2 {
				t.Errorf("target %d: %v, printed %q", i, values[i], printed[i])
			}
		}
		if begun != len(m.Places) {
			t.Errorf("%d have begun", begun)
		}
		// Python raises, a target cannot be connected, a function does not exist.
		call.Function, call.Args, call.Output = "mod:fail", []any{"why"}, nil
		m.Places[4].Hops = noPlace(py)
		states := make([]work.State, len(m.Places))
		if err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
			states[o.Target] = o.State
			var raised *pyproto.CallError
			var hop *daemon.HopError
			if o.Target == 4 && (!errors.As(o.Err, &hop) || hop.Target != "place4") || o.Target != 4 && (!errors.As(o.Err, &raised) || raised.Message() != "why") {
				t.Errorf("%+v", o)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if want := []work.State{work.Failed, work.Failed, work.Failed, work.Failed, work.NotReached, work.Failed}; !slices.Equal(states, want) {
			t.Error(states)
		}
	})
}

// More results than may wait all come, though they are taken slowly; so do large ones.
func TestCallManyLarge(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	m := &client.Many{Plan: work.Plan{Parallel: 4, MaxFail: work.NoLimit}, Places: places(t, pythons.Any(t), 4)}
	call := &client.ManyCalls{Function: "mod:echo", Args: []any{data}}
	for range 3 {
		m.Places = append(m.Places, m.Places[:4]...)
	}
	count := 0
	if err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
		time.Sleep(5 * time.Millisecond)
		if got, ok := o.Value.([]byte); !ok || !bytes.Equal(got, data) {
			t.Errorf("target %d: %v", o.Target, o.Err)
		}
		count++
	}); err != nil || count != len(m.Places) {
		t.Error(count, err)
	}
}

// The end of the context gives up what runs, and lets no more begin. Stop does only the latter.
func TestCallManyGivenUp(t *testing.T) {
	b := newBed(t, nil)
	py := pythons.Any(t)
	for _, cancelled := range []bool{true, false} {
		c := b.dial(t, client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop := make(chan struct{})
		m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, py, 5), Stop: stop}
		call := &client.ManyCalls{Function: "time:sleep", Args: []any{0.3}}
		if cancelled {
			call.Args = []any{60}
		}
		end := sync.OnceFunc(cancel)
		if !cancelled {
			end = sync.OnceFunc(func() { close(stop) })
		}
		m.Begun = func(n int) {
			if n == 2 {
				end()
			}
		}
		count := 0
		err := c.CallMany(ctx, m, call, func(o *client.Outcome) {
			if count++; cancelled != errors.Is(o.Err, context.Canceled) || !cancelled && o.State != work.Done {
				t.Errorf("cancelled: %v; %+v", cancelled, o)
			}
		})
		if err != nil || count != 2 {
			t.Errorf("cancelled: %v; %d outcomes, %v", cancelled, count, err)
		}
	}
}

// The client holds a generator's child until it gives it back. Only then does one more begin.
func TestCallManyGenerators(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	one := places(t, pythons.Any(t), 1)
	m := &client.Many{Plan: work.Plan{Parallel: 1, MaxFail: work.NoLimit}, Places: []client.Place{one[0], one[0], one[0]}}
	call := &client.ManyCalls{Function: "itertools:repeat", Args: []any{int64(7), int64(2)}, Convert: daemon.ConvertResult | daemon.ConvertLines}
	held, begun := 0, 0
	m.Begun = func(n int) {
		if begun = n; begun > held+1 {
			t.Errorf("%d have begun, and %d are given back", begun, held)
		}
	}
	if err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
		if o.Child == nil {
			t.Fatalf("%+v", o)
		}
		number, _ := o.Value.(*pyproto.Dict).At(0)
		_, value := o.Value.(*pyproto.Dict).At(0)
		got, err := o.Child.Call(t.Context(), "mitogen.plain:more", value, int64(1000)).Value()
		if err != nil || fmt.Sprint(got) != "[[7 7] false]" {
			t.Errorf("%v: %v, %v", number, got, err)
		}
		held++
		if err := o.Child.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}); err != nil || held != 3 || begun != 3 {
		t.Error(held, begun, err)
	}
	// A client that is gone without giving it back leaves nothing running.
	gone := b.dial(t, client.Options{})
	if err := gone.CallMany(t.Context(), m, call, func(*client.Outcome) { go func() { _ = gone.Shutdown(context.Background()) }() }); !errors.Is(err, client.ErrDisconnected) {
		t.Error(err)
	}
	poll.Until(t, "nothing is under way", func() bool { return b.Stats().Active == 0 && b.Stats().Streams == 0 })
}

// What ends the work on a generator's target leaves the child to the client, who was told that it holds it.
func TestGeneratorGivenUp(t *testing.T) {
	b := newBed(t, nil)
	c := b.raw(t)
	p := &wire.CallMany{Many: wire.Many{Targets: []string{"local:"}}}
	p.Function, p.Args.V, p.Convert, p.Read = "itertools:repeat", []any{int64(7), int64(2)}, []string{"result", "lines"}, true
	c.send(t, 1, "call_many", p)
	var got wire.Items
	var child uint32
	for id := uint32(2); ; id++ {
		m, e := c.reply(t)
		if e != nil {
			t.Fatal(e)
		}
		if err := wire.Unmarshal(m.Result, &got); err != nil {
			t.Fatal(err)
		}
		for _, item := range got.Items {
			child = item.Child
			c.send(t, 100, "write", &wire.Write{Stream: got.Stream, Cancel: true})
			if _, e := c.reply(t); e != nil {
				t.Fatal(e)
			}
		}
		if got.End {
			break
		}
		c.send(t, id, "read", &wire.Read{Stream: got.Stream})
	}
	leases := func() int { return b.List().Contexts[0].Leases }
	if child == 0 || leases() != 1 {
		t.Fatalf("child %d has %d leases", child, leases())
	}
	c.send(t, 101, "connect", map[string]any{"target": "local:"})
	if _, e := c.reply(t); e != nil {
		t.Fatal(e)
	}
	for id, want := range []int{1, 0} {
		if leases() != 1 {
			t.Errorf("%d leases", leases())
		}
		c.send(t, uint32(200+id), "close", &wire.Close{Child: child})
		if _, e := c.reply(t); e != nil || leases() != want {
			t.Errorf("%v, %d leases", e, leases())
		}
	}
	// The child is the client's until the very end.
	c.send(t, 300, "close", &wire.Close{Child: child})
	if _, e := c.reply(t); e == nil || e.Kind != wire.KindUnknown {
		t.Error(e)
	}
}

// A daemon that stops says so about the targets that are left.
func TestCallManyWhileStopping(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, pythons.Any(t), 4)}
	call := &client.ManyCalls{Function: "time:sleep", Args: []any{60}}
	var stopping sync.WaitGroup
	stop := sync.OnceFunc(func() { stopping.Go(func() { b.stop(10 * time.Millisecond) }) })
	m.Begun = func(n int) {
		if n == 2 {
			stop()
		}
	}
	count := 0
	err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
		if count++; o.Err == nil {
			t.Errorf("%+v", o)
		}
	})
	if err == nil || count > 2 {
		t.Error(count, err)
	}
	stopping.Wait()
	poll.Until(t, "it has stopped", func() bool { return len(b.Daemon().Children()) == 0 })
}

// While the client does not read, errors are bounded as results are: their texts count.
func TestCallManyErrorsUnread(t *testing.T) {
	b := newBed(t, nil)
	c := b.raw(t)
	const count = 400
	p := &wire.CallMany{Many: wire.Many{Targets: slices.Repeat([]string{"local:"}, count), Parallel: 2}}
	p.Function, p.Args.V = "mod:fail", []any{strings.Repeat("x", 100_000)}
	c.send(t, 1, "call_many", p)
	var got wire.Items
	read := func() {
		t.Helper()
		m, e := c.reply(t)
		if e != nil {
			t.Fatal(e)
		}
		if err := wire.Unmarshal(m.Result, &got); err != nil {
			t.Fatal(err)
		}
	}
	read()
	var failed int64
	same := 0
	poll.Until(t, "nothing more begins", func() bool {
		now := b.Stats().CallsFailed
		if now == failed && now > 2 {
			same++
		} else {
			same = 0
		}
		failed = now
		return same > 50
	})
	outcomes, size := 0, 0
	for id := uint32(2); !got.End; id++ {
		c.send(t, id, "read", &wire.Read{Stream: got.Stream})
		read()
		outcomes += len(got.Items)
		for _, item := range got.Items {
			size = item.Size() // of each; a child cuts long texts
		}
	}
	if waiting := int(failed) * size; outcomes != count || waiting > 3<<19 || size < 4000 {
		t.Errorf("%d outcomes of %d bytes; %d of them waited", outcomes, size, failed)
	}
}

// No more targets begin once the daemon is told to stop. What runs may end, and the plan says why it is not whole.
func TestPlanEndsWhenStopping(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	one := places(t, pythons.Any(t), 1)
	m := &client.Many{Plan: work.Plan{Parallel: 1, MaxFail: work.NoLimit}, Places: slices.Repeat(one, 500)}
	call := &client.ManyCalls{Function: "time:sleep", Args: []any{0.02}}
	stopped := make(chan struct{})
	stop := sync.OnceFunc(func() { b.stop(time.Minute); close(stopped) })
	begun, ended := 0, 0
	m.Begun = func(n int) {
		if begun = n; n >= 2 {
			go stop()
		}
	}
	err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
		if ended++; o.Err != nil {
			t.Errorf("%+v", o)
		}
	})
	if !errors.Is(err, daemon.ErrShutdown) || begun == len(m.Places) || ended != begun {
		t.Errorf("%d have begun, and %d ended: %v", begun, ended, err)
	}
	<-stopped // nothing runs any more, so there is nothing to wait for
}

func TestCallManyRefused(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	for _, change := range []func(*wire.CallMany){
		func(p *wire.CallMany) { p.Target.Target = "local:" },
		func(p *wire.CallMany) { p.Child = 3 },
		func(p *wire.CallMany) { p.Passwords = map[int]string{0: "x"} },
		func(p *wire.CallMany) { p.Chain = "x" },
		func(p *wire.CallMany) { p.Parallel = -1 },
		func(p *wire.CallMany) { p.Batch = -1 },
		func(p *wire.CallMany) { p.Environment = 77 },
		func(p *wire.CallMany) { p.Convert = []string{"what"} },
		func(p *wire.CallMany) { p.Dir = "relative" },
	} {
		p := &wire.CallMany{Many: wire.Many{Targets: []string{"local:"}}}
		p.Function = "os:getpid"
		change(p)
		for _, method := range []string{"call_many", "open_many"} {
			var refused *wire.Error
			if err := c.Do(t.Context(), method, p, nil); !errors.As(err, &refused) || refused.Kind != wire.KindUsage && refused.Kind != wire.KindUnknown {
				t.Errorf("%s %+v: %v", method, p.Call, err)
			}
		}
	}
	// A target that cannot be read fails alone.
	p := &wire.CallMany{Many: wire.Many{Targets: []string{"no such"}}}
	p.Function, p.Read = "os:getpid", true
	var got wire.Items
	if err := c.Do(t.Context(), "call_many", p, &got); err != nil {
		t.Fatal(err)
	}
	for !got.End && len(got.Items) == 0 {
		if err := c.Do(t.Context(), "read", &wire.Read{Stream: got.Stream}, &got); err != nil {
			t.Fatal(err)
		}
	}
	if len(got.Items) != 1 || got.Items[0].Kind != wire.ItemError || got.Items[0].State != wire.StateNotReached || got.Items[0].Error.Kind != wire.KindUsage {
		t.Errorf("%+v", got)
	}
}

// A client may have so many at once. More are refused while those run, and not after that.
func TestCallManyAtOnce(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	p := &wire.CallMany{Many: wire.Many{Targets: slices.Repeat([]string{"local:"}, 12000), Parallel: 1 << 30}}
	p.Function, p.Args.V = "time:sleep", []any{60}
	var got wire.Items
	if err := c.Do(t.Context(), "call_many", p, &got); err != nil {
		t.Fatal(err)
	}
	var refused *wire.Error
	if err := c.Do(t.Context(), "call_many", p, nil); !errors.As(err, &refused) || refused.Kind != wire.KindOverflow {
		t.Error(err)
	}
	if err := c.Do(t.Context(), "close", &wire.Close{Stream: got.Stream}, nil); err != nil {
		t.Error(err)
	}
	p.Targets = nil
	if err := c.Do(t.Context(), "call_many", p, nil); err != nil {
		t.Error(err)
	}
}

// program runs a script on many targets and collects the output.
type program struct {
	client.ManyPrograms
	out, errs map[int]string
}

func newProgram(source string, args ...string) *program {
	p := &program{out: map[int]string{}, errs: map[int]string{}}
	p.Program = daemon.RunOptions{Path: "x.py", Source: []byte(source), Args: args}
	p.Stdout = func(target int, data []byte) { p.out[target] += string(data) }
	p.Stderr = func(target int, data []byte) { p.errs[target] += string(data) }
	return p
}

func TestRunMany(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.dial(t, client.Options{})
		m := &client.Many{Plan: work.Plan{Parallel: 3, MaxFail: work.NoLimit}, Places: places(t, py, 6)}
		p := newProgram(`
import os, signal, sys
me = os.environ['ME']
sys.stdout.write(sys.stdin.read().upper() + me + ' ' + ' '.join(sys.argv[1:]))
sys.stderr.write('err' + me)
sys.stderr.flush()
sys.stdout.flush()
if me == '1': sys.exit(5)
if me == '2': os.kill(os.getpid(), signal.SIGTERM)
`, "all")
		p.Program.Stdin = strings.NewReader("input ")
		p.Program.Env = []string{"ME=all"}
		p.Env = func(target int) []string { return []string{fmt.Sprint("ME=", target)} }
		p.Args = func(target int) []string {
			if target == 3 {
				return []string{"own", "args"}
			}
			return nil
		}
		m.Places[4].Hops = noPlace(py)
		outcomes := make([]*client.Outcome, len(m.Places))
		if err := c.RunMany(t.Context(), m, &p.ManyPrograms, func(o *client.Outcome) { outcomes[o.Target] = o }); err != nil {
			t.Fatal(err)
		}
		for i, o := range outcomes {
			var hop *daemon.HopError
			if i == 4 {
				if o.State != work.NotReached || !errors.As(o.Err, &hop) {
					t.Errorf("%+v", o)
				}
				continue
			}
			want, args, state := daemon.ExitStatus{}, "all", work.Done
			switch i {
			case 1:
				want, state = daemon.ExitStatus{Code: 5}, work.Failed
			case 2:
				want, state = daemon.ExitStatus{Signal: 15}, work.Failed
			case 3:
				args = "own args"
			}
			if o.Err != nil || o.Status != want || o.State != state || p.out[i] != fmt.Sprint("INPUT ", i, " ", args) || p.errs[i] != fmt.Sprint("err", i) {
				t.Errorf("target %d: %+v, %q, %q", i, o, p.out[i], p.errs[i])
			}
		}
	})
}

// Targets that begin late get all of a large input. Nothing of what all print is lost though it is taken slowly, and
// status 1 counts as a failure.
func TestRunManyLarge(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	m := &client.Many{Plan: work.Plan{Parallel: 4, MaxFail: 5}, Places: places(t, pythons.Any(t), 4)}
	for range 2 {
		m.Places = append(m.Places, m.Places[:4]...)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	p := newProgram("import shutil, sys; shutil.copyfileobj(getattr(sys.stdin, 'buffer', sys.stdin), getattr(sys.stdout, 'buffer', sys.stdout)); sys.exit(1)")
	p.Program.Stdin = bytes.NewReader(data)
	sums, pieces := map[int]int{}, 0
	p.Stdout = func(target int, got []byte) {
		if n := sums[target]; !bytes.Equal(got, data[n:n+len(got)]) {
			t.Errorf("target %d: other bytes from %d on", target, n)
		}
		sums[target] += len(got)
		if pieces++; pieces%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	begun, ended := 0, 0
	m.Begun = func(n int) { begun = n }
	if err := c.RunMany(t.Context(), m, &p.ManyPrograms, func(o *client.Outcome) {
		ended++
		if o.Status.Code != 1 || o.State != work.Failed || sums[o.Target] != len(data) {
			t.Errorf("%+v after %d bytes", o, sums[o.Target])
		}
	}); err != nil || ended != begun || begun < 6 || begun > 9 {
		t.Error(begun, ended, err)
	}
}

// Programs that are given up end, and their last words come before their outcome. So do those of programs that run
// out of time.
func TestRunManyGivenUp(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	for _, late := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		m := &client.Many{Plan: work.Plan{Parallel: 2}, Places: places(t, pythons.Any(t), 4)}
		if late {
			m.Timeout = 15 * time.Second
		}
		p := newProgram(`
import sys, time
try:
    sys.stdout.write('begun')
    sys.stdout.flush() # from here on the interrupt may come
    while 1:
        time.sleep(0.01) # before a long one the interrupt would wait for its end
except KeyboardInterrupt:
    sys.stdout.write(' ended')
    sys.stdout.flush()
    raise
`)
		stdout := p.Stdout
		p.Stdout = func(target int, data []byte) {
			stdout(target, data)
			if !late && p.out[0] == "begun" && p.out[1] == "begun" {
				cancel()
			}
		}
		count := 0
		err := c.RunMany(ctx, m, &p.ManyPrograms, func(o *client.Outcome) {
			count++
			if o.State != work.MayHaveRun || late != errors.Is(o.Err, context.DeadlineExceeded) || !late && !errors.Is(o.Err, context.Canceled) || p.out[o.Target] != "begun ended" {
				t.Errorf("late: %v; %+v, %q", late, o, p.out[o.Target])
			}
		})
		if err != nil || count != 2 {
			t.Errorf("late: %v; %d outcomes, %v", late, count, err)
		}
		cancel()
	}
	// A client that is gone leaves nothing running.
	gone := b.dial(t, client.Options{})
	m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: 1}, Places: places(t, pythons.Any(t), 2)}
	p := newProgram("import sys, time; sys.stdout.write('begun'); sys.stdout.flush(); time.sleep(60)")
	p.Program.Stdin = strings.NewReader("never read")
	p.Stdout = func(int, []byte) { go func() { _ = gone.Shutdown(context.Background()) }() }
	if err := gone.RunMany(t.Context(), m, &p.ManyPrograms, func(*client.Outcome) {}); !errors.Is(err, client.ErrDisconnected) {
		t.Error(err)
	}
	poll.Until(t, "nothing is under way", func() bool { return b.Stats().Active == 0 && b.Stats().Streams == 0 })
}

func TestOpenMany(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.dial(t, client.Options{})
		m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, py, 5)}
		m.Places[3].Hops = noPlace(py)
		const each = 100
		got := make([][]any, len(m.Places))
		outcomes := make([]*client.Outcome, len(m.Places))
		ch, err := c.OpenMany(t.Context(), m, &client.ManyCalls{Function: "mod:pump", Args: []any{1000}}, func(target int, v any) {
			got[target] = append(got[target], v)
		}, func(o *client.Outcome) { outcomes[o.Target] = o })
		if err != nil {
			t.Fatal(err)
		}
		// A write for a target that begins late does not hold up the others.
		var wg sync.WaitGroup
		for i := len(m.Places) - 1; i >= 0; i-- {
			wg.Go(func() {
				for n := range each {
					if err := ch.Send(t.Context(), i, n); (err != nil) != (i == 3) {
						t.Errorf("target %d: %v", i, err)
						return
					} else if err != nil {
						break
					}
				}
				if err := ch.CloseSend(t.Context(), i); (err != nil) != (i == 3) {
					t.Errorf("target %d: %v", i, err)
				}
			})
		}
		if err := ch.Wait(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for i, o := range outcomes {
			switch {
			case i == 3 && (o.State != work.NotReached || len(got[i]) > 0), i != 3 && (o.State != work.Done || o.Value != int64(each) || len(got[i]) != each):
				t.Errorf("target %d: %+v, %d messages", i, o, len(got[i]))
				continue
			}
			for n, v := range got[i] {
				if v != int64(1000+n) {
					t.Errorf("target %d: message %d is %v", i, n, v)
				}
			}
		}
		var dead *daemon.DeadError
		if err := ch.Send(t.Context(), 0, 1); err == nil {
			t.Error("something was sent to what has ended")
		} else if errors.As(err, &dead) {
			t.Error(err) // the stream is gone, not the child
		}
	})
}

// Functions that send without end wait while nobody reads, and are given up with the rest.
func TestOpenManyFlood(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	m := &client.Many{Plan: work.Plan{Parallel: 3, MaxFail: work.NoLimit}, Places: places(t, pythons.Any(t), 3)}
	var bytes [3]int
	count := 0
	ch, err := c.OpenMany(ctx, m, &client.ManyCalls{Function: "mod:flood", Args: []any{100_000}}, func(target int, v any) {
		bytes[target] += len(v.([]byte))
		if min(bytes[0], bytes[1], bytes[2]) > 3<<20 {
			cancel()
		}
	}, func(o *client.Outcome) {
		if count++; o.State != work.MayHaveRun {
			t.Errorf("%+v", o)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Wait(); err != nil || count != 3 {
		t.Error(count, err)
	}
}

// A write that such a stream does not take is refused, and changes nothing.
func TestManyWritesRefused(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	two, none, zero := 2, -1, 0
	value := &wire.Value{V: 1}
	local := wire.Many{Targets: []string{"local:"}}
	call := &wire.CallMany{Many: local}
	call.Function, call.Args.V = "time:sleep", []any{60}
	open := &wire.CallMany{Many: local}
	open.Function, open.Args.V = "mod:pump", []any{1}
	run := &wire.RunMany{Many: local}
	run.Script = []byte("import time; time.sleep(60)")
	input := &wire.RunMany{Many: local, Run: run.Run}
	input.Stdin = true
	for _, try := range []struct {
		method string
		params any
		writes []wire.Write
	}{
		{"call_many", call, []wire.Write{{End: true}, {Value: value}, {Data: []byte("x")}, {Target: &zero, Value: value}}},
		{"open_many", open, []wire.Write{{Value: value}, {End: true}, {Target: &zero, Data: []byte("x")}, {Target: &two, Value: value}, {Target: &none, End: true}}},
		{"run_many", run, []wire.Write{{Data: []byte("x")}, {End: true}}},
		{"run_many", input, []wire.Write{{Value: value}, {Target: &zero, Data: []byte("x")}}},
	} {
		var got wire.Items
		if err := c.Do(t.Context(), try.method, try.params, &got); err != nil {
			t.Fatal(err)
		}
		for _, w := range try.writes {
			w.Stream = got.Stream
			var refused *wire.Error
			if err := c.Do(t.Context(), "write", &w, nil); !errors.As(err, &refused) || refused.Kind != wire.KindUsage {
				t.Errorf("%s: %+v: %v", try.method, w, err)
			}
		}
		if err := c.Do(t.Context(), "write", &wire.Write{Stream: got.Stream, Cancel: true}, nil); err != nil {
			t.Error(err)
		}
		outcomes := 0
		for !got.End {
			if err := c.Do(t.Context(), "read", &wire.Read{Stream: got.Stream}, &got); err != nil {
				t.Fatal(err)
			}
			for _, item := range got.Items {
				if outcomes++; item.Kind != wire.ItemError || item.State == "" {
					t.Errorf("%s: %+v", try.method, item)
				}
			}
		}
		if outcomes > 1 {
			t.Errorf("%s: %d outcomes", try.method, outcomes)
		}
	}
}
