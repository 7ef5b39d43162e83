package link

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"mitogend/daemon/wire"
	"mitogend/integration/poll"
)

// Contexts end requests of which the daemon reads nothing, or a half. It gets whole messages all the same, in their order.
func TestDaemonThatDoesNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	data := bytes.Repeat([]byte{'x'}, 4<<20)
	ctx, cancel := context.WithCancel(t.Context())
	large, small := make(chan error, 1), make(chan error, 1)
	go func() { large <- l.Do(ctx, "write", &wire.Write{Data: data}, nil) }()
	poll.Until(t, "a half is written", func() bool { return len(l.turn) == 1 })
	go func() { small <- l.Do(ctx, "list", nil, nil) }()
	poll.Until(t, "both wait for their answers", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.pending) == 2
	})
	cancel()
	for range 2 {
		select {
		case err = <-large:
		case err = <-small:
		}
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n := len(l.slots); n != 0 {
		t.Errorf("%d places are taken", n)
	}
	last := make(chan error, 1)
	go func() { last <- l.Do(t.Context(), "ping", nil, nil) }()
	r := wire.NewReader(nc, 1<<31-1)
	for seen := map[string]bool{}; !seen["ping"] || !seen["cancel"]; {
		text, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var p wire.Write
		switch {
		case m.Method == "write":
			if err := wire.Unmarshal(m.Params, &p); err != nil || !bytes.Equal(p.Data, data) {
				t.Errorf("%d bytes, %v", len(p.Data), err)
			}
		case !seen["write"] || m.Method == "list":
			t.Errorf("%s was sent", m.Method)
		}
		seen[m.Method] = true
		if m.Type == wire.Request {
			msg, err := wire.NewResponse(m.ID, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Write(msg); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := <-last; err != nil {
		t.Error(err)
	}
	l.Close()
	if err := l.Do(t.Context(), "ping", nil, nil); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}
