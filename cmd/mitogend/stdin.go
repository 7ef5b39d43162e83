package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// sharedInput gives each of several targets the whole of stdin, at its own pace: what was read lies in a file that has no name.
type sharedInput struct {
	src  io.Reader
	fail func(error) // told once when stdin can not be read, or kept
	once sync.Once

	mu      sync.Mutex // guards the following
	changed *sync.Cond
	file    *os.File
	size    int64
	most    int64 // how far the fastest has read
	ended   bool
}

// ahead is how many bytes of stdin are read that nobody has asked for.
const ahead = 1 << 20

func newSharedInput(src io.Reader, fail func(error)) *sharedInput {
	s := &sharedInput{src: src, fail: fail}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// reader reads from the beginning. Close lets a read that waits go on.
func (s *sharedInput) reader() io.ReadCloser { return &inputReader{s: s} }

// fill copies src into the file, from the first read on. A failure is no end: nobody may take what came before for all of it.
func (s *sharedInput) fill() {
	file, err := unnamed("mitogend-stdin-")
	s.mu.Lock()
	s.file = file
	s.mu.Unlock()
	buf := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = s.src.Read(buf)
		if _, werr := file.Write(buf[:n]); werr != nil {
			n, err = 0, werr
		}
		s.mu.Lock()
		s.size += int64(n)
		s.ended = err == io.EOF
		s.changed.Broadcast()
		for s.size-s.most > ahead {
			s.changed.Wait()
		}
		s.mu.Unlock()
	}
	if err != io.EOF {
		s.fail(err)
	}
}

type inputReader struct {
	s      *sharedInput
	at     int64
	closed bool // guarded by s.mu
}

func (r *inputReader) Read(p []byte) (int, error) {
	s := r.s
	s.once.Do(func() { go s.fill() })
	s.mu.Lock()
	for !s.ended && !r.closed && r.at >= s.size {
		s.changed.Wait()
	}
	file, size, closed := s.file, s.size, r.closed
	s.mu.Unlock()
	switch {
	case closed:
		return 0, os.ErrClosed
	case r.at >= size:
		return 0, io.EOF
	}
	n, rerr := file.ReadAt(p[:min(int64(len(p)), size-r.at)], r.at)
	r.at += int64(n)
	s.mu.Lock()
	if r.at > s.most {
		s.most = r.at
		s.changed.Broadcast()
	}
	s.mu.Unlock()
	if errors.Is(rerr, io.EOF) {
		rerr = nil
	}
	return n, rerr
}

func (r *inputReader) Close() error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.closed = true
	r.s.changed.Broadcast()
	return nil
}

// stdin gives a function that gives each target what its program reads, nil for /dev/null, and ends it. One target has
// stdin itself; several have all of it each, unless it is a terminal.
func (fl *fleet) stdin() func() (io.Reader, func()) {
	nothing := func() (io.Reader, func()) { return nil, func() {} }
	switch one := len(fl.targets) == 1; {
	// A background job that reads the terminal would be stopped.
	case background(os.Stdin), !one && term.IsTerminal(int(os.Stdin.Fd())):
		return nothing
	case one:
		return func() (io.Reader, func()) { return os.Stdin, func() {} }
	}
	shared := newSharedInput(os.Stdin, func(err error) {
		fl.app.stop(commandError{fmt.Errorf("stdin: %w; what runs is ended, since it would not get all of it", err), statusRaised})
	})
	return func() (io.Reader, func()) {
		r := shared.reader()
		return r, func() { _ = r.Close() }
	}
}
