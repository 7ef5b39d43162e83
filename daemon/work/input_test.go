package work

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

func TestInput(t *testing.T) {
	data := make([]byte, 3_000_000)
	rand.New(rand.NewSource(1)).Read(data)
	r, w := io.Pipe()
	never := func(err error) { t.Error(err) }
	s := NewInput(r, never)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			var in io.Reader = s.Reader()
			if i == 1 {
				in = iotest.HalfReader(in)
			}
			if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d: %v", len(got), len(data), err)
			}
		})
	}
	gone := s.Reader()
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
	// A late reader gets all of it, too.
	if got, err := io.ReadAll(s.Reader()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	// What nobody reads stays where it is.
	endless := &counter{}
	_, _ = NewInput(endless, never).Reader().Read(make([]byte, 1))
	if n := endless.n.Load(); n > 2*inputAhead {
		t.Errorf("%d bytes were read for one", n)
	}
	// A failure is told, and is no end to those who read.
	failed := make(chan error, 1)
	in := NewInput(iotest.TimeoutReader(bytes.NewReader(data)), func(err error) { failed <- err }).Reader()
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

// The end of an input ends its readers, whether they wait or src is ahead of them.
func TestInputClose(t *testing.T) {
	NewInput(nil, nil).Close() // nobody has read
	never := func(err error) { t.Error(err) }
	ahead := NewInput(&counter{}, never)
	slow := ahead.Reader()
	if _, err := slow.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	ahead.Close()
	if _, err := slow.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	src, w := io.Pipe()
	in := NewInput(src, never)
	ended := make(chan error)
	r := in.Reader()
	go func() {
		_, err := io.ReadAll(r)
		ended <- err
	}()
	_, _ = w.Write([]byte("some"))
	closed := make(chan struct{})
	go func() { in.Close(); close(closed) }()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	_ = w.Close() // only now does nothing read src any more
	<-closed
}
