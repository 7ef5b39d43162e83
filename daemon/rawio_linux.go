package daemon

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawLimit bounds what one raw call copies, since the runtime can not preempt it.
const rawLimit = 256 << 10

// largePipe is what a pipe holds once much has come through it: those of an ordinary user share a limit.
const largePipe = 256 << 10

// growPipe makes room in a pipe; other files stay as they are.
func growPipe(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, largePipe) })
}

// rawRead and rawWrite are for descriptors that do not block: the runtime is not told of them, which spares it waking its
// monitor thread for each, half of what a small call costs here.
func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(min(len(b), rawLimit)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(min(len(b), rawLimit)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
