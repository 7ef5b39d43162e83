//go:build !linux

package pty

import (
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func open() (master, slave int, err error) {
	m, s, err := pty.Open()
	if err != nil {
		return -1, -1, err
	}
	defer m.Close()
	defer s.Close()
	if master, err = unix.FcntlInt(m.Fd(), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return -1, -1, err
	}
	if slave, err = unix.FcntlInt(s.Fd(), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		_ = unix.Close(master)
		return -1, -1, err
	}
	return master, slave, nil
}
