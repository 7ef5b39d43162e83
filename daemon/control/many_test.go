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
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// places are so many targets of one interpreter that are no one connection.
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

func TestCallMany(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.dial(t, client.Options{})
		m := &client.Many{
			Plan: work.Plan{Parallel: 3, MaxFail: work.NoLimit}, Places: places(t, py, 6), Function: "mod:say",
			Args: []any{"hello", pyproto.Kwargs{{Name: "times", Value: 2}}},
		}
		printed, begun := map[int]string{}, 0
		m.Output = func(target int, data []byte) { printed[target] += string(data) }
		m.Begun = func(n int) { begun = n }
		values := map[int]any{}
		if err := c.CallMany(t.Context(), m, func(o *client.Outcome) {
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
		// Python raises; a place does not exist; the function is not there.
		m.Function, m.Args, m.Output = "mod:fail", []any{"why"}, nil
		m.Places[4].Hops = []bootstrap.Hop{{Method: "exec", Spec: "false"}}
		states := make([]work.State, len(m.Places))
		if err := c.CallMany(t.Context(), m, func(o *client.Outcome) {
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

// More results than may wait, taken slowly, all come; and large ones.
func TestCallManyLarge(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	m := &client.Many{Plan: work.Plan{Parallel: 4, MaxFail: work.NoLimit}, Places: places(t, pythons.Any(t), 4), Function: "mod:echo", Args: []any{data}}
	for range 3 {
		m.Places = append(m.Places, m.Places[:4]...)
	}
	count := 0
	if err := c.CallMany(t.Context(), m, func(o *client.Outcome) {
		time.Sleep(5 * time.Millisecond)
		if got, ok := o.Value.([]byte); !ok || !bytes.Equal(got, data) {
			t.Errorf("target %d: %v", o.Target, o.Err)
		}
		count++
	}); err != nil || count != len(m.Places) {
		t.Error(count, err)
	}
}

// The end of the context gives up what runs, and lets nothing more begin; Stop only the latter.
func TestCallManyGivenUp(t *testing.T) {
	b := newBed(t, nil)
	py := pythons.Any(t)
	for _, cancelled := range []bool{true, false} {
		c := b.dial(t, client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop := make(chan struct{})
		m := &client.Many{
			Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, py, 5), Function: "time:sleep", Args: []any{0.3}, Stop: stop,
		}
		if cancelled {
			m.Args = []any{60}
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
		err := c.CallMany(ctx, m, func(o *client.Outcome) {
			if count++; cancelled != errors.Is(o.Err, context.Canceled) || !cancelled && o.State != work.Done {
				t.Errorf("cancelled: %v; %+v", cancelled, o)
			}
		})
		if err != nil || count != 2 {
			t.Errorf("cancelled: %v; %d outcomes, %v", cancelled, count, err)
		}
	}
}

// A generator's child is the client's until it gives that back, and one more begins only then.
func TestCallManyGenerators(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	one := places(t, pythons.Any(t), 1)
	m := &client.Many{
		Plan: work.Plan{Parallel: 1, MaxFail: work.NoLimit}, Places: []client.Place{one[0], one[0], one[0]}, Function: "itertools:repeat",
		Args: []any{int64(7), int64(2)}, Convert: daemon.ConvertResult | daemon.ConvertLines,
	}
	held, begun := 0, 0
	m.Begun = func(n int) {
		if begun = n; begun > held+1 {
			t.Errorf("%d have begun, and %d are given back", begun, held)
		}
	}
	if err := c.CallMany(t.Context(), m, func(o *client.Outcome) {
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
	// A client that goes without giving it back leaves nothing running.
	gone := b.dial(t, client.Options{})
	if err := gone.CallMany(t.Context(), m, func(*client.Outcome) { go func() { _ = gone.Shutdown(context.Background()) }() }); !errors.Is(err, client.ErrDisconnected) {
		t.Error(err)
	}
	eventually(t, "nothing is under way", func() bool { return b.Stats().Active == 0 && b.Stats().Streams == 0 })
}

// A daemon that stops says so, of what is left.
func TestCallManyWhileStopping(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, pythons.Any(t), 4), Function: "time:sleep", Args: []any{60}}
	stop := sync.OnceFunc(func() { b.stop(10 * time.Millisecond) })
	m.Begun = func(n int) {
		if n == 2 {
			go stop()
		}
	}
	count := 0
	err := c.CallMany(t.Context(), m, func(o *client.Outcome) {
		if count++; o.Err == nil {
			t.Errorf("%+v", o)
		}
	})
	if err == nil || count > 2 {
		t.Error(count, err)
	}
	eventually(t, "it has stopped", func() bool { return len(b.Daemon().Children()) == 0 })
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
		p := &wire.CallMany{Targets: []string{"local:"}}
		p.Function = "os:getpid"
		change(p)
		var refused *wire.Error
		if err := c.Do(t.Context(), "call_many", p, nil); !errors.As(err, &refused) || refused.Kind != wire.KindUsage && refused.Kind != wire.KindUnknown {
			t.Errorf("%+v: %v", p.Call, err)
		}
	}
	// A target that is none is that target's failure.
	p := &wire.CallMany{Targets: []string{"no such"}}
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

// As many at once as one client may have: more are refused while those run, and not after that.
func TestCallManyAtOnce(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	p := &wire.CallMany{Targets: slices.Repeat([]string{"local:"}, 12000), Parallel: 1 << 30}
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
