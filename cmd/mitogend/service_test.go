package main

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
)

// A lingering listener takes no more clients. Who serves those that are there learns of it at the end only.
func TestLingering(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := &lingering{Listener: ln, closed: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			_ = nc.Close()
		}
	}()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.Close()
	l.linger()
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a client was taken")
	}
	select {
	case err := <-ended:
		t.Fatal("it has ended too early: ", err)
	default:
	}
	_ = l.Close()
	_ = l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
