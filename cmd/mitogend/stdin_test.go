package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

func TestSharedInput(t *testing.T) {
	data := make([]byte, 3_000_000)
	rand.New(rand.NewSource(1)).Read(data)
	r, w := io.Pipe()
	never := func(err error) { t.Error(err) }
	s := newSharedInput(r, never)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			var in io.Reader = s.reader()
			if i == 1 {
				in = iotest.HalfReader(in)
			}
			if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d: %v", len(got), len(data), err)
			}
		})
	}
	gone := s.reader()
	wg.Go(func() {
		if _, err := io.ReadAll(gone); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	_, _ = w.Write(data[:1000])
	_ = gone.Close()
	_, _ = w.Write(data[1000:])
	_ = w.Close()
	wg.Wait()
	// Who comes late gets all of it, too.
	if got, err := io.ReadAll(s.reader()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	// What nobody reads stays where it is.
	endless := &counter{}
	_, _ = newSharedInput(endless, never).reader().Read(make([]byte, 1))
	if n := endless.n.Load(); n > 2*ahead {
		t.Errorf("%d bytes were read for one", n)
	}
	// A failure is told, and is no end to those who read.
	failed := make(chan error, 1)
	in := newSharedInput(iotest.TimeoutReader(bytes.NewReader(data)), func(err error) { failed <- err }).reader()
	wg.Go(func() {
		if _, err := io.ReadAll(in); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	if err := <-failed; !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
	_ = in.Close()
	wg.Wait()
}

// counter is endless, and counts what is read of it.
type counter struct{ n atomic.Int64 }

func (c *counter) Read(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
