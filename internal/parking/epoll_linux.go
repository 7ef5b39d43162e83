package parking

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waits has the parked readers in an epoll set, by their descriptors. It is nested in that of Go's poller, so that the
// goroutine which waits for all of them needs no thread. It lasts as long as there are readers.
type waits struct {
	set     *os.File
	fd      int
	places  []*Place
	waiting int
}

// Park has the reader resumed once its file is readable. If it is true, the caller's goroutine has to end without using
// anything that the reader uses: Resume may be running. False: it is to read on, and is not nudged again, since the file
// is closed or the system has no room.
func (p *Place) Park(file syscall.RawConn) (parked bool) {
	_ = file.Control(func(fd uintptr) {
		lot.mu.Lock()
		defer lot.mu.Unlock()
		if parked = lot.waits.add(int32(fd), p); parked {
			p.parked, p.fd = true, int32(fd)
			delete(lot.awake, p)
		}
	})
	if !parked {
		p.End()
	}
	return parked
}

// add is false if the system refuses it. lot.mu is held, as in remove.
func (w *waits) add(fd int32, p *Place) bool {
	if w.set == nil && !w.open() {
		return false
	}
	if unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: fd}) != nil {
		return false
	}
	for int(fd) >= len(w.places) {
		w.places = append(w.places, nil)
	}
	w.places[fd] = p
	w.waiting++
	return true
}

func (w *waits) open() bool {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	_ = unix.SetNonblock(fd, true)
	set := os.NewFile(uintptr(fd), "parked readers")
	if set.SetReadDeadline(time.Time{}) != nil { // Go's poller has no room for it
		_ = set.Close()
		return false
	}
	w.set, w.fd = set, fd
	go watch(set)
	return true
}

func (w *waits) remove(p *Place) {
	w.waiting--
	if w.places[p.fd] == p { // else its file was closed, and the number is another's
		_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, int(p.fd), nil)
		w.places[p.fd] = nil
	}
}

// closeUnused ends watch if nobody waits.
func (w *waits) closeUnused() {
	if w.waiting == 0 && w.set != nil {
		_ = w.set.SetReadDeadline(time.Unix(1, 0))
		*w = waits{}
	}
}

// watch resumes parked readers whose files have become readable, until the set has no more. Then it closes the set.
func watch(set *os.File) {
	defer set.Close()
	raw, err := set.SyscallConn()
	if err != nil {
		return
	}
	var events [64]unix.EpollEvent
	for {
		n := 0
		if raw.Read(func(fd uintptr) bool {
			for n, err = unix.EpollWait(int(fd), events[:], 0); err == unix.EINTR; {
				n, err = unix.EpollWait(int(fd), events[:], 0)
			}
			return n > 0
		}) != nil {
			return
		}
		for _, e := range events[:n] {
			wake(e.Fd)
		}
	}
}

// wake resumes the reader of a descriptor. It may be another one than the event was about, with the same number: that
// one finds nothing to read.
func wake(fd int32) {
	lot.mu.Lock()
	var p *Place
	if int(fd) < len(lot.waits.places) {
		p = lot.waits.places[fd]
	}
	awake := p != nil && p.leave()
	lot.mu.Unlock()
	if awake {
		go p.reader.Resume()
	}
}
