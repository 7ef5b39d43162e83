package daemon

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"mitogend/bootstrap"
	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// A hop gets the answers for the child that it launches, in parts, each once and in their order, and nothing else.
func TestSupplyPart(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Shutdown(context.Background()) }()
	data := bytes.Repeat([]byte("0123456789"), supplyPart/10+1)
	packed, renewed := 0, 0
	supply := &bootstrap.Supply{Offers: func(context.Context) ([]bootstrap.Offer, error) {
		return []bootstrap.Offer{{Hash: "abc", Pack: func(context.Context, string) ([]byte, error) { packed++; return data, nil }}}, nil
	}}
	c := &Child{d: d}
	const id, size, send = "1234", "MITOSIZE abc tar", "MITOSEND abc tar"
	c.supplying.store(pyproto.ContextID(1234), &supplying{supply: supply, renew: func() { renewed++ }})
	ask := func(args ...string) []byte {
		t.Helper()
		v, err := c.part(args)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.([]byte)) > supplyPart {
			t.Errorf("%d bytes at once", len(v.([]byte)))
		}
		return v.([]byte)
	}
	// A question that is refused gives the launch no more time.
	refused := func(list ...[]string) {
		t.Helper()
		before := renewed
		for _, args := range list {
			if v, err := c.part(args); err == nil {
				t.Errorf("%q: %v", args, v)
			}
		}
		if renewed != before {
			t.Error("it has more time for what is no question")
		}
	}
	none := "MITONOPY tried python3=127"
	refused([]string{id, send, "0"}, []string{id, size, "0"}, []string{"7", none, "0"}, []string{"x", none, "0"}, []string{"-1", none, "0"}, []string{id, "", "0"},
		[]string{id, none, "x"}, []string{id, none, "-1"}, []string{id, none, "1"})
	if script := ask(id, none, "0"); !bytes.HasSuffix(script, []byte("\n.\n")) {
		t.Errorf("the script ends with %q", script[max(0, len(script)-20):])
	}
	refused([]string{id, none, "0"}, []string{id, send, "0"})
	if n := ask(id, size, "0"); string(n) != "1048580\n" {
		t.Errorf("size %q", n)
	}
	refused([]string{id, size, "0"}, []string{id, size, "8"}, []string{id, send, "1048576"})
	got := bytes.Clone(ask(id, send, "0"))
	refused([]string{id, send, "0"}, []string{id, send, "1048575"}, []string{id, send, "1048580"})
	if got = append(got, ask(id, send, "1048576")...); !bytes.Equal(got, data) || packed != 2 {
		t.Errorf("%d bytes of %d, packed %d times", len(got), len(data), packed)
	}
	refused([]string{id, send, "0"}, []string{id, send, "1048576"}, []string{id, send, "1048580"}, []string{id, none, "0"})
}

// Only the launcher asks for what is sent to the target that it launches: not a process behind it, nor a program, nor a
// child of it, though each may read what the launcher's child may read.
func TestSupplyIsTheLaunchers(t *testing.T) {
	d := newDaemon(t, Options{})
	hop := newPeer(t, d)
	child := hop.behind()
	supply := &bootstrap.Supply{Offers: func(context.Context) ([]bootstrap.Offer, error) { return nil, nil }}
	launch := &supplying{supply: supply, renew: func() {}}
	hop.c.supplying.store(pyproto.ContextID(1234), launch)
	process := hop.block(child.id)
	program := d.allocate(1)
	hop.c.stream.ids.give(program)
	d.programs.Store(program, hop.c)
	for _, id := range []pyproto.ContextID{process, program} {
		hop.send(pyproto.Header{Src: hop.id, Auth: hop.id, Handle: pyproto.AddRoute}, fmt.Sprint(id))
		poll.Until(t, "the route is there", func() bool { return d.streamOf(id) == hop.c.stream })
	}
	question := pickle(t, pyproto.Tuple{"python", "1234", "MITONOPY tried python3=127", "0"})
	for i, id := range []pyproto.ContextID{process, program, child.id, hop.id} {
		handle := pyproto.Handle(2000 + i)
		hop.send(pyproto.Header{Src: id, Auth: id, Handle: pyproto.GetResource, ReplyTo: handle}, question)
		m := hop.answer(handle)
		launch.mu.Lock()
		asked := launch.asked
		launch.mu.Unlock()
		if own := id == hop.id; m.Dst != id || own != (asked == 1) {
			t.Errorf("%d: %+v %.100q, %d questions count", i, m.Header, m.Payload, asked)
		}
	}
}
