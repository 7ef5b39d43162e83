package main

import (
	"errors"
	"io"
	"os"
	"sync"
)

// sharedInput gives each of several targets the whole of stdin, at its own pace: what was read lies in a file that has no name.
type sharedInput struct {
	src  io.Reader
	once sync.Once

	mu      sync.Mutex // guards the following
	changed *sync.Cond
	file    *os.File
	size    int64
	most    int64 // how far the fastest has read
	err     error // io.EOF at the end
}

// ahead is how many bytes of stdin are read that nobody has asked for.
const ahead = 1 << 20

func newSharedInput(src io.Reader) *sharedInput {
	s := &sharedInput{src: src}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// reader reads from the beginning. Close lets a read that waits go on.
func (s *sharedInput) reader() io.ReadCloser { return &inputReader{s: s} }

// fill copies src into the file, from the first read on.
func (s *sharedInput) fill() {
	file, err := os.CreateTemp("", "mitogend-stdin-")
	if err == nil {
		err = os.Remove(file.Name())
	}
	s.mu.Lock()
	s.file, s.err = file, err
	s.changed.Broadcast()
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
		s.err = err
		s.changed.Broadcast()
		for s.size-s.most > ahead {
			s.changed.Wait()
		}
		s.mu.Unlock()
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
	for s.err == nil && !r.closed && r.at >= s.size {
		s.changed.Wait()
	}
	file, size, err, closed := s.file, s.size, s.err, r.closed
	s.mu.Unlock()
	switch {
	case closed:
		return 0, os.ErrClosed
	case r.at >= size:
		return 0, err
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
