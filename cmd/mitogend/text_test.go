package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/internal/fault"
	"mitogend/pyproto"
)

func TestExplain(t *testing.T) {
	none := context.Background()
	late, cancel := context.WithTimeoutCause(none, 0, timeoutError{3 * time.Second})
	defer cancel()
	<-late.Done()
	call := &pyproto.CallError{Text: "builtins.KeyError: 'x'\n  File \"m.py\", line 3, in f\n    d['x']\nCaused by: Traceback (most recent call last):\n  File \"m.py\", line 1, in g\nm.Bad: y\n"}
	hop := &daemon.HopError{Target: "t", Hop: 1, Hops: 2, Err: &bootstrap.Error{Label: "sudo root", Step: bootstrap.StepConnect, Reason: "no", Hint: "ask"}}
	for _, c := range []struct {
		ctx    context.Context
		err    error
		kind   string
		status int
		text   string
	}{
		{none, call, kindCall, 1, "KeyError: 'x'"},
		{none, fmt.Errorf("wrapped: %w", call), kindCall, 1, "KeyError: 'x'"},
		{none, &pyproto.CallError{Text: "m.Empty: "}, kindCall, 1, "m.Empty"},
		{none, hop, kindConnect, 3, "2 hops, failed at sudo root: no; try: ask"},
		{late, hop, kindTimeout, 4, "not done after 3s (--timeout)"},
		{late, context.DeadlineExceeded, kindTimeout, 4, "not done after 3s (--timeout)"},
		{none, &daemon.DeadError{Target: "t", Reason: "gone", Lost: true}, kindLost, 4, "gone"},
		{none, &pyproto.GlobalError{Module: "m", Name: "C"}, kindCall, 1, "it returned a value of type m.C; only None, bool, int, float, str, bytes, list, tuple and dict can be sent"},
		{none, fault.Errorf("daemon", "t: too much"), kindCall, 1, "t: too much"},
		{none, faults.ToError(faults.FromError(fault.Errorf("daemon", "t: too much"))), kindCall, 1, "t: too much"},
	} {
		f := explain(c.ctx, c.err)
		if f.Kind != c.kind || f.status() != c.status || f.String() != c.text {
			t.Errorf("%v: %+v %d %q", c.err, f, f.status(), f)
		}
	}
	want := "Traceback (most recent call last):\n  File \"m.py\", line 3, in f\n    d['x']\nKeyError: 'x'\n" +
		"Caused by: Traceback (most recent call last):\n  File \"m.py\", line 1, in g\nm.Bad: y\n"
	if got := explain(none, call).stack(); got != want {
		t.Errorf("got %s", got)
	}
}
