package pty

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func open() (master, slave int, err error) {
	const name = "/dev/ptmx"
	master, err = openPath(name)
	if err != nil {
		return -1, -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if slave, err = peer(master); err != nil {
		_ = unix.Close(master)
		return -1, -1, err
	}
	return master, slave, nil
}

// peer opens the other end.
func peer(master int) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("unlockpt", err)
	}
	// Wherever its file system is mounted.
	for {
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		case unix.EINVAL, unix.ENOTTY, unix.ENOSYS:
			return peerByName(master) // before Linux 4.13
		default:
			return -1, os.NewSyscallError("TIOCGPTPEER", errno)
		}
	}
}

func peerByName(master int) (int, error) {
	n, err := number(master)
	if err != nil {
		return -1, os.NewSyscallError("ptsname", err)
	}
	name := "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
	fd, err := openPath(name)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// number is that of the terminal among those of its file system.
func number(master int) (uint32, error) { return unix.IoctlGetUint32(master, unix.TIOCGPTN) }

const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC

func openPath(name string) (int, error) {
	for {
		fd, err := unix.Open(name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
