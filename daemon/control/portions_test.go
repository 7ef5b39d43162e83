package control_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/daemon/wire"
	"mitogend/daemon/work"
	"mitogend/integration/pythons"
)

func small(o *control.Options) { o.MaxMessage = 1 << 20 }

// A request that the daemon does not take is refused in words, though the connection ends by it.
func TestRequestTooLarge(t *testing.T) {
	b := newBed(t, small)
	for range 5 {
		c := b.connect(t, "local:")
		err := c.Call(t.Context(), "mod:echo", strings.Repeat("x", 8<<20)).Err()
		var refused *wire.Error
		if !errors.As(err, &refused) || refused.Kind != wire.KindUsage ||
			refused.Plain() != "bad message: larger than the 1114112 bytes that max_message allows" {
			t.Errorf("%T %v", err, err)
		}
	}
}

// What all targets of a program have together may be more than one message holds. The limits are those of one request.
func TestRunManyInPortions(t *testing.T) {
	b := newBed(t, small)
	one := places(t, pythons.Any(t), 1)
	m := &client.Many{Plan: work.Plan{Parallel: 3, Batch: 5, MaxFail: 2}, Places: slices.Repeat(one, 12)}
	begun := 0
	m.Begun = func(n int) { begun = max(begun, n) }
	p := newProgram("import os, sys; sys.stdout.write(sys.stdin.read() + sys.argv[1] + str(len(sys.argv[2]))); sys.exit(int(os.environ['HOW']))")
	input := strings.Repeat("input ", 50_000)
	for _, c := range []struct{ failing, begun int }{{0, 12}, {12, 5}, {1, 12}} {
		begun, p.out, p.errs = 0, map[int]string{}, map[int]string{}
		p.Program.Stdin = strings.NewReader(input)
		p.Args = func(i int) []string { return []string{fmt.Sprint("target", i, " "), strings.Repeat("x", 300_000)} }
		p.Env = func(i int) []string { return []string{fmt.Sprint("HOW=", min(1, max(0, c.failing-i)))} }
		states := map[int]work.State{}
		if err := b.dial(t, client.Options{}).RunMany(t.Context(), m, &p.ManyPrograms, func(o *client.Outcome) {
			if states[o.Target] = o.State; o.Err != nil {
				t.Errorf("%+v", o)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if len(states) != begun || begun < min(c.begun, 3) || begun > c.begun {
			t.Errorf("%d failing: %d have begun, %d have an outcome", c.failing, begun, len(states))
		}
		for i, state := range states {
			if want := fmt.Sprint(input, "target", i, " 300000"); p.out[i] != want || (state == work.Failed) != (i < c.failing) {
				t.Errorf("%d failing, target %d: %v, %.30q %d", c.failing, i, state, strings.TrimPrefix(p.out[i], input), len(p.out[i]))
			}
		}
	}
	// Nothing more begins once that is not wanted, and the input may have no end.
	stop := make(chan struct{})
	close(stop)
	m.Stop, m.MaxFail = stop, work.NoLimit
	in, w := io.Pipe()
	defer w.Close()
	p.Program.Stdin, begun = in, 0
	p.Program.Source = []byte("pass")
	if err := b.dial(t, client.Options{}).RunMany(t.Context(), m, &p.ManyPrograms, func(*client.Outcome) {}); err != nil || begun > 5 {
		t.Error(begun, err)
	}
}
