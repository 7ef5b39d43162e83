package main

import (
	"io"
	"os"
	"testing"
)

// Once it was given up, nobody waits for a console that is not read, nor do those that wait already.
func TestConsoleThatIsNotRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := newConsole(w, w, func(error) {})
	writing := make(chan struct{})
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.out.together(func(to io.Writer) {
			close(writing)
			_, _ = to.Write(make([]byte, 1<<20))
		})
	}()
	<-writing
	waited := make(chan struct{})
	go func() { defer close(waited); c.complain("before") }()
	c.giveUp()
	c.complain("after")
	c.wipe()
	<-waited
	_ = r.Close()
	<-written
	c.complain("the lock is free again")
	if !c.lock() {
		t.Error("the lock is not free again")
	}
}
