//go:build !linux

package daemon

import "golang.org/x/sys/unix"

func rawRead(fd int, b []byte) (int, error)  { return unix.Read(fd, b) }
func rawWrite(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
