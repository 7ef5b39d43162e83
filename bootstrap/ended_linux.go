package bootstrap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// endedChild gives a child of this process, ours or not, that has ended and is not reaped; 0 if there is none, -1 where the system does
// not tell which.
func endedChild() int {
	// As siginfo_t begins; the rest is aligned as a pointer is.
	var info struct {
		signo, errno, code int32
		rest               struct {
			_   [0]uintptr
			pid int32
		}
		_ [128]byte
	}
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch err {
		case unix.EINTR:
			continue
		case nil:
			return int(info.rest.pid)
		case unix.ECHILD:
			return 0
		}
		return -1
	}
}
