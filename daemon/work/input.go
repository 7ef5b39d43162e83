package work

import (
	"errors"
	"io"
	"os"
	"sync"
)

// Input gives each of many readers the whole of one source, at its own pace: what was read lies in a file that has no
// name. It is safe for concurrent use.
type Input struct {
	// Constant after NewInput.
	src  io.Reader
	fail func(error)
	once sync.Once     // begins to read src
	done chan struct{} // closed when nothing reads src any more

	// mu protects the following. No I/O is done under it.
	mu      sync.Mutex
	changed *sync.Cond
	file    *os.File
	size    int64
	most    int64 // how far the fastest has read
	ended   bool
	closed  bool
}

// inputAhead is how many bytes of a source are read that nobody has asked for.
const inputAhead = 1 << 20

// NewInput makes an input. src is read once a reader reads. If src cannot be read, or what was read cannot be kept,
// fail is told once. The readers then wait until they are closed, since nobody may take what came before for all of
// it.
func NewInput(src io.Reader, fail func(error)) *Input {
	in := &Input{src: src, fail: fail, done: make(chan struct{})}
	in.changed = sync.NewCond(&in.mu)
	return in
}

// Reader reads from the beginning. It is for one goroutine; Close may be called by others, and ends a read that waits
// with os.ErrClosed.
func (in *Input) Reader() io.ReadCloser { return &inputReader{in: in} }

// Close gives up the file, once src has ended or fails; it waits for that. Readers end with os.ErrClosed.
func (in *Input) Close() {
	in.mu.Lock()
	in.closed = true
	in.changed.Broadcast()
	in.mu.Unlock()
	in.once.Do(func() { close(in.done) })
	<-in.done
	if in.file != nil {
		_ = in.file.Close()
	}
}

// fill copies src into the file. A failure is no end.
func (in *Input) fill() {
	defer close(in.done)
	file, err := Unnamed("mitogend-stdin-")
	in.mu.Lock()
	in.file = file
	in.mu.Unlock()
	buf := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = in.src.Read(buf)
		if _, werr := file.Write(buf[:n]); werr != nil {
			n, err = 0, werr
		}
		in.mu.Lock()
		in.size += int64(n)
		in.ended = err == io.EOF
		in.changed.Broadcast()
		for in.size-in.most > inputAhead && !in.closed {
			in.changed.Wait()
		}
		if in.closed && err == nil {
			err = io.EOF // nobody wants it
		}
		in.mu.Unlock()
	}
	if err != io.EOF {
		in.fail(err)
	}
}

type inputReader struct {
	in     *Input
	at     int64
	closed bool // guarded by in.mu
}

func (r *inputReader) Read(p []byte) (int, error) {
	in := r.in
	in.once.Do(func() { go in.fill() })
	in.mu.Lock()
	for !in.ended && !r.closed && !in.closed && r.at >= in.size {
		in.changed.Wait()
	}
	file, size, closed := in.file, in.size, r.closed || in.closed
	in.mu.Unlock()
	switch {
	case closed:
		return 0, os.ErrClosed
	case r.at >= size:
		return 0, io.EOF
	}
	n, err := file.ReadAt(p[:min(int64(len(p)), size-r.at)], r.at)
	r.at += int64(n)
	in.mu.Lock()
	if r.at > in.most {
		in.most = r.at
		in.changed.Broadcast()
	}
	in.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (r *inputReader) Close() error {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.closed = true
	r.in.changed.Broadcast()
	return nil
}

// Unnamed makes a temporary file that is gone with this process, however that ends.
func Unnamed(prefix string) (*os.File, error) {
	f, err := os.CreateTemp("", prefix)
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}
