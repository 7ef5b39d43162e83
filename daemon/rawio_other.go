//go:build !linux

package daemon

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func growPipe(syscall.RawConn) {}

func rawRead(fd int, b []byte) (int, error)  { return unix.Read(fd, b) }
func rawWrite(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
