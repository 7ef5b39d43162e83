package unixclient

import (
	"context"
	"os"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/poll"
)

// The server may end while a client is between register and attached.
func TestCloseAllBeforeAttached(t *testing.T) {
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(d, Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := s.register(newClient(t.Context(), s, os.Getpid()), 1<<30+1, w); err != nil {
		t.Fatal(err)
	}
	s.closeAll()
	if err := s.register(newClient(t.Context(), s, os.Getpid()), 1<<30+2, w); err == nil {
		t.Error("a client was taken after the end")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// A child that is gone is nobody's any more, also where a client has got it of another one.
func TestChildOfAnotherIsForgotten(t *testing.T) {
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Shutdown(context.Background()) }()
	s := New(d, Options{})
	child, err := d.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heir := newClient(ctx, s, os.Getpid())
	if !heir.add(child) {
		t.Fatal("it was not taken")
	}
	heir.modules.misses[child.ID()] = 1
	if err := child.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "it is forgotten", func() bool {
		heir.mu.Lock()
		defer heir.mu.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		heir.modules.mu.Lock()
		defer heir.modules.mu.Unlock()
		return len(heir.children) == 0 && len(s.owners) == 0 && len(heir.modules.misses) == 0
	})
	cancel()
	heir.end()
	if heir.add(child) {
		t.Error("a client that has gone takes a child")
	}
}
