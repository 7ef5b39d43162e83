package unixclient

import (
	"context"
	"os"
	"testing"
	"time"

	"mitogend/daemon"
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
