package control_test

import (
	"testing"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/work"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// Text with lone surrogates, as Python makes of names that are no UTF-8, goes both ways, and the outcomes of other
// targets with it.
func TestLoneSurrogates(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	const name = "caf\xed\xb3\xa9"
	py := pythons.Any(t)
	m := &client.Many{Plan: work.Plan{Parallel: 2, MaxFail: work.NoLimit}, Places: places(t, py, 2)}
	got := 0
	if err := c.CallMany(t.Context(), m, &client.ManyCalls{Function: "mod:echo", Args: []any{name}}, func(o *client.Outcome) {
		if got++; o.Value != name || o.Err != nil {
			t.Errorf("%+v", o)
		}
	}); err != nil || got != 2 {
		t.Error(got, err)
	}
	child, err := c.Open(t.Context(), "x", m.Places[0].Hops, daemon.ConnectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := child.Call(t.Context(), "mod:echo", pyproto.Kwargs{{Name: "v", Value: []any{name}}}).Value(); err != nil || v.([]any)[0] != name {
		t.Errorf("%q, %v", v, err)
	}
}
