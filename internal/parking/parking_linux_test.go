package parking

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mitogend/integration/poll"
	"mitogend/internal/pty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reader counts the bytes of a file.
type reader struct {
	f       *os.File
	raw     syscall.RawConn
	place   Place
	bytes   atomic.Int64
	readers atomic.Int32 // goroutines
	ended   chan error

	// mu protects over and the file's read deadline.
	mu   sync.Mutex
	over bool
}

func begin(t *testing.T, f *os.File) *reader {
	t.Helper()
	r := &reader{f: f, ended: make(chan error, 1)}
	var err error
	if r.raw, err = f.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.place.Begin(r)
		r.Resume()
	}()
	t.Cleanup(func() {
		r.end()
		_ = f.Close()
		<-r.ended
		poll.Until(t, "it is not looked at", func() bool { return !known(&r.place) })
	})
	return r
}

func known(p *Place) bool {
	lot.mu.Lock()
	defer lot.mu.Unlock()
	_, awake := lot.awake[p]
	return awake || p.parked
}

func (r *reader) Resume() {
	if r.readers.Add(1) > 1 {
		r.ended <- errors.New("two goroutines read one file")
	}
	buf := make([]byte, 100)
	for {
		n, err := r.f.Read(buf)
		r.bytes.Add(int64(n))
		if n > 0 {
			r.place.Active()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && r.arm(time.Time{}) {
			r.readers.Add(-1)
			if r.place.Park(r.raw) && (!r.isOver() || !r.place.Unpark()) {
				return
			}
			r.readers.Add(1)
			continue
		}
		if err != nil {
			r.place.End()
			r.ended <- err
			return
		}
	}
}

var past = time.Unix(1, 0)

func (r *reader) Nudge() { r.arm(past) }

// arm is false for a reader that is to end.
func (r *reader) arm(deadline time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		_ = r.f.SetReadDeadline(deadline)
	}
	return !r.over
}

func (r *reader) isOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over
}

func (r *reader) end() {
	r.mu.Lock()
	r.over = true
	_ = r.f.SetReadDeadline(past)
	r.mu.Unlock()
	if r.place.Unpark() {
		go r.Resume()
	}
}

// parked waits until the reader has no goroutine.
func (r *reader) parked(t *testing.T) {
	t.Helper()
	poll.Until(t, "it is parked", r.place.Parked)
}

func (r *reader) has(t *testing.T, n int64) {
	t.Helper()
	poll.Until(t, "it has read what was written", func() bool { return r.bytes.Load() == n })
}

// pairs are the kinds of files that a reader may have, with their other sides.
var pairs = map[string]func(t *testing.T) (ours, theirs *os.File){
	"pipe": func(t *testing.T) (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	},
	"socketpair": func(t *testing.T) (*os.File, *os.File) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	},
	"pty": func(t *testing.T) (*os.File, *os.File) {
		master, slave, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		var files [2]*os.File
		for i, fd := range []int{master, slave} {
			if err := syscall.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			files[i] = os.NewFile(uintptr(fd), "pty")
		}
		return files[0], files[1]
	},
}

func TestPark(t *testing.T) {
	for name, open := range pairs {
		t.Run(name, func(t *testing.T) {
			ours, theirs := open(t)
			r := begin(t, ours)
			for i := int64(1); i <= 2; i++ {
				r.parked(t)
				if _, err := theirs.WriteString("text"); err != nil {
					t.Fatal(err)
				}
				r.has(t, 4*i)
			}
			r.parked(t)
			_ = theirs.Close()
			// The end is seen as by any reader.
			if err := <-r.ended; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) {
				t.Error(err)
			}
			r.ended <- nil
		})
	}
}

// A parked reader that is ended is resumed once, by who ends it or by what comes.
func TestUnpark(t *testing.T) {
	for range 20 {
		ours, theirs := pairs["socketpair"](t)
		r := begin(t, ours)
		// As if nothing had come for long.
		r.place.active.Store(false)
		r.Nudge()
		r.parked(t)
		go func() { _, _ = theirs.WriteString("text") }()
		go r.end()
		if err := <-r.ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		r.ended <- nil
		if r.place.Unpark() {
			t.Error("it is still parked")
		}
		_ = theirs.Close()
	}
}

// Many readers park and are woken, more than one look at the set gives, and no byte is lost.
func TestManyReaders(t *testing.T) {
	const n = 300
	readers, others := make([]*reader, n), make([]*os.File, n)
	for i := range n {
		ours, theirs := pairs["socketpair"](t)
		readers[i], others[i] = begin(t, ours), theirs
	}
	for round := int64(1); round <= 2; round++ {
		for _, r := range readers {
			r.parked(t)
		}
		for _, f := range others {
			if _, err := f.WriteString("text"); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range readers {
			r.has(t, 4*round)
		}
	}
	for _, f := range others {
		_ = f.Close()
	}
}

// A reader whose file was closed while it was parked does not take the place of another one with the same descriptor.
func TestSameDescriptor(t *testing.T) {
	ours, theirs := pairs["socketpair"](t)
	old := begin(t, ours)
	old.parked(t)
	fd := int(old.place.fd)
	_ = ours.Close()
	_ = theirs.Close()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The numbers are the two lowest that are free.
	if fds[1] == fd {
		fds[0], fds[1] = fds[1], fds[0]
	} else if fds[0] != fd {
		if err := unix.Dup3(fds[0], fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Close(fds[0])
	}
	others := os.NewFile(uintptr(fds[1]), "others")
	r := begin(t, os.NewFile(uintptr(fd), "the same"))
	r.parked(t)
	old.end()
	if _, err := others.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	r.has(t, 4)
	_ = others.Close()
}

// A file that is closed, or that no epoll set takes, is not parked.
func TestNoPark(t *testing.T) {
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{f: f}
	r.place.Begin(r)
	defer r.place.End()
	if r.place.Park(raw) {
		t.Error("a file on a disk is parked")
	}
	_ = f.Close()
	if r.place.Park(raw) || r.place.Unpark() {
		t.Error("a closed file is parked")
	}
}
