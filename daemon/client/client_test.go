package client

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"mitogend/daemon/internal/link"
	"mitogend/daemon/wire"
	"mitogend/importer"
)

// stub is a daemon that answers only what answer is true for.
func stub(t *testing.T, answer func(*wire.Message) bool) *Client {
	return stubThat(t, func(m *wire.Message, reply func(*wire.Message, any)) {
		if answer(m) {
			reply(m, nil)
		}
	})
}

// stubThat is a daemon that does what take does with each message.
func stubThat(t *testing.T, take func(m *wire.Message, reply func(*wire.Message, any))) *Client {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		r := wire.NewReader(nc, 1<<20)
		for {
			data, err := r.Next()
			if err != nil {
				return
			}
			m, err := wire.Parse(data)
			if err != nil {
				continue
			}
			take(m, func(to *wire.Message, result any) {
				if msg, err := wire.NewResponse(to.ID, nil, result); err == nil {
					_, _ = nc.Write(msg)
				}
			})
		}
	}()
	c, err := Dial(t.Context(), path, Options{Env: []string{"A=1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Shutdown(context.Background()) })
	return c
}

// Standard input, a close and a ping go through while as many reads wait as there are streams: what they wait for may depend on it.
func TestStreamsWaitForNoPlace(t *testing.T) {
	const streams = 4 * link.MaxPending // more of each kind than have a place
	reads := make(chan bool, streams)
	c := stub(t, func(m *wire.Message) bool {
		if m.Method == "read" {
			reads <- true
		}
		return m.Method != "read"
	})
	for i := range streams {
		s := stream{c: c, ctx: t.Context(), id: uint32(i + 1)}
		switch i % 3 {
		case 0:
			go s.read(make(chan answer, 1))
		case 1:
			go func() { _, _ = (&Channel{reader: reader{s: s}}).Recv(t.Context()) }()
		case 2:
			go func() { _, _, _ = (&Events{reader{s: s}}).Next(t.Context()) }()
		}
	}
	for range streams {
		select {
		case <-reads:
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d reads were sent", len(reads), streams)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ch := &Channel{reader: reader{s: stream{c: c, ctx: ctx, id: 1}}}
	if err := ch.CloseSend(ctx); err != nil {
		t.Error(err)
	}
	if !c.answers(ctx) {
		t.Error("the daemon does not answer")
	}
	if err := c.Do(ctx, "stats", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestNoModules: modules of this process's memory are refused, and not left out.
func TestNoModules(t *testing.T) {
	source := &importer.Options{Modules: []importer.Tree{{FS: fstest.MapFS{}}}}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "s"), Options{Source: source}); err != errModules {
		t.Error(err)
	}
}
