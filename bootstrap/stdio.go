package bootstrap

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// stdio is one layout's descriptors: ours as files of Go's poller, and the numbers of the child's, which are closed once it
// has them.
type stdio struct {
	r, w  *os.File // data; the same file unless the layout has two pipes
	err   *os.File // stderr pipe or terminal; nil when everything is on the terminal
	child [3]int   // stdin, stdout, stderr of the child; the same number may stand twice
	tty   int      // index in child of the controlling terminal, or -1
}

// open makes the descriptors. On an error nothing stays open.
func (s Stdio) open() (_ *stdio, err error) {
	d := &stdio{child: [3]int{-1, -1, -1}, tty: -1}
	defer func() {
		if err != nil {
			d.closeChild()
			d.closeOurs()
		}
	}()
	switch s {
	case PTY:
		err = d.openTTY(0)
		d.child = [3]int{d.child[0], d.child[0], d.child[0]}
		d.r, d.w, d.err = d.err, d.err, nil
		return d, err
	case Socketpair, Hybrid:
		ours, theirs, err := socketpair()
		if err != nil {
			return nil, err
		}
		d.child[0], d.child[1] = theirs, theirs
		d.r = os.NewFile(uintptr(ours), "child")
		d.w = d.r
	case Pipes, HybridPipes:
		in, w, err := pipe()
		if err != nil {
			return nil, err
		}
		d.child[0], d.w = in, pollable(w)
		r, out, err := pipe()
		if err != nil {
			return nil, err
		}
		d.child[1], d.r = out, pollable(r)
	}
	if s == Hybrid || s == HybridPipes {
		return d, d.openTTY(2)
	}
	r, e, err := pipe()
	if err != nil {
		return nil, err
	}
	d.child[2], d.err = e, pollable(r)
	return d, nil
}

// openTTY puts a terminal's slave at index i of the child's descriptors and its master at d.err.
func (d *stdio) openTTY(i int) error {
	master, slave, err := openPTY()
	if err != nil {
		return err
	}
	d.err, d.child[i], d.tty = master, slave, i
	return nil
}

func (d *stdio) closeChild() {
	for i, fd := range d.child {
		if fd >= 0 && (i == 0 || fd != d.child[i-1]) {
			_ = unix.Close(fd)
		}
	}
	d.child = [3]int{-1, -1, -1}
}

func (d *stdio) closeOurs() {
	d.closeData()
	if d.err != nil {
		_ = d.err.Close()
	}
}

func (d *stdio) closeData() {
	if d.r != nil {
		_ = d.r.Close()
	}
	if d.w != nil && d.w != d.r {
		_ = d.w.Close()
	}
}

// socketpair gives a connected pair: ours non-blocking, theirs blocking, both closed on exec.
func socketpair() (ours, theirs int, err error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	return fds[0], fds[1], nil
}

// pipe is os.Pipe without the files: those would make the child's end non-blocking, which Python's stdio cannot bear.
func pipe() (r, w int, err error) {
	var p [2]int
	syscall.ForkLock.RLock()
	err = unix.Pipe(p[:])
	if err == nil {
		unix.CloseOnExec(p[0])
		unix.CloseOnExec(p[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, -1, os.NewSyscallError("pipe", err)
	}
	return p[0], p[1], nil
}

// pollable makes a file of a descriptor that waits in Go's poller, with deadlines and without a thread.
func pollable(fd int) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "child")
}

// IsEOF reports whether a read or write error means that the other end is gone: end of file, a broken pipe, a reset socket, or
// EIO, which is how Linux reports a terminal whose last user has closed it.
func IsEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EIO)
}
