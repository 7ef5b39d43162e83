package daemon

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawLimit bounds the bytes of one raw call, since the runtime cannot preempt it.
const rawLimit = 256 << 10

// largePipe is the size of a pipe once much has come through it. The pipes of an ordinary user share a limit.
const largePipe = 256 << 10

// growPipe makes a pipe large; other files stay as they are.
func growPipe(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, largePipe) })
}

// rawRead and rawWrite are for descriptors that do not block. The Go runtime is not told of these calls, and so does
// not wake its monitor thread for each: half of what a small call costs here.
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
