package main

import (
	"strings"
	"testing"

	"mitogend/daemon/wire"
)

func TestEventTextOfCalls(t *testing.T) {
	for _, c := range []struct {
		e    wire.Event
		want string
	}{
		{wire.Event{Function: "m:f", OK: true}, "m:f ok, "},
		{wire.Event{Function: "m:f", Text: "no"}, "m:f failed after 0.0 ms: no"},
		{wire.Event{What: "run", Function: "p.py", OK: true}, "run p.py ok, "},
		{wire.Event{What: "run", Function: "p.py", OK: true, Code: 3}, "run p.py ended with status 3, "},
		{wire.Event{What: "exec", Function: "sleep", OK: true, Signal: 9}, "exec sleep ended by signal 9 after "},
		{wire.Event{What: "copy", OK: true}, "copy ok, "},
	} {
		c.e.Kind = wire.EventCall
		if got := eventText(&c.e); !strings.Contains(got, " - "+c.want) {
			t.Errorf("%+v: %q", c.e, got)
		}
	}
}

func TestLeftStatus(t *testing.T) {
	if out := leftOutcome(); out.OK || out.program() != 255 || !out.silent {
		t.Errorf("%+v", out)
	}
}
