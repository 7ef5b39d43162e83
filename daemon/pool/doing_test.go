package pool

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/poll"
)

// What runs is listed in the order in which it began, and ends by its number.
func TestDoing(t *testing.T) {
	p := newPool(t, Options{})
	ctx := context.Background()
	l, err := p.Get(ctx, ask(t, "local:", func(r *Request) { r.Client = 77 }))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	listed := func() []Doing { return p.List()[0].Doing }
	program := make(chan error, 1)
	go func() {
		_, err := l.Run(ctx, daemon.RunOptions{Path: "sleeps.py", Source: []byte("import time\ntime.sleep(3600)\n"), Stdout: &bytes.Buffer{}})
		program <- err
	}()
	poll.Until(t, "the program is listed", func() bool { return len(listed()) == 1 })
	var calls []*Call
	for range maxListed {
		calls = append(calls, l.Start(ctx, daemon.CallOptions{}, "time:sleep", 3600))
	}
	given, cancel := context.WithCancel(ctx)
	cancel()
	calls[0].Wait(given)
	got := listed()
	if len(got) != maxListed || p.List()[0].Running != maxListed || p.List()[0].Programs != 1 {
		t.Fatalf("%d of %+v", len(got), p.List()[0])
	}
	for i, d := range got {
		kind, what, client := KindCall, "time:sleep", 77
		switch i {
		case 0:
			kind, what = KindProgram, "sleeps.py"
		case 1:
			client = 0 // nobody waits for it
		}
		if d.Kind != kind || d.What != what || d.Client != client || time.Since(d.Since) > time.Hour || i > 0 && d.ID <= got[i-1].ID {
			t.Errorf("%d: %+v", i, d)
		}
	}
	if done, err := p.End(ctx, got[0].ID); !done || err != nil || p.List()[0].Programs != 0 || p.List()[0].Failures != 1 {
		t.Error(done, err, "or the program has not ended yet, or has not failed")
	}
	if err := <-program; err == nil || !strings.Contains(err.Error(), "another request has ended the program") {
		t.Error(err)
	}
	if done, err := p.End(ctx, got[0].ID); done || err != nil {
		t.Error("it ends twice", err)
	}
	if done, err := p.End(ctx, got[2].ID); !done || err != nil {
		t.Error(done, err)
	}
	for _, c := range calls[1:] {
		if c.Wait(ctx).Err() == nil {
			t.Error("a call returned")
		}
	}
	poll.Until(t, "the list is empty", func() bool { l := p.List(); return len(l) == 0 || len(l[0].Doing) == 0 && l[0].Running == 0 })
}
