// Package pty opens pseudoterminals.
//
// On Linux it asks the kernel itself. creack/pty (1.1.24 and before) passes the address of a variable on the stack as an
// integer through two Go functions. If the stack is moved meanwhile, the number of the terminal stays 0: the slave is
// /dev/pts/0 then, which is somebody else's terminal, and the kernel has written into memory that others use. Their
// pull request 215 repairs it; no release has it yet.
package pty

import (
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a pseudoterminal. Both descriptors are blocking and closed on exec; the slave becomes nobody's controlling
// terminal by this.
func Open() (master, slave int, err error) { return open() }

// Files is Open, for those who want files.
func Files() (master, slave *os.File, err error) {
	m, s, err := Open()
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(m), "/dev/ptmx"), os.NewFile(uintptr(s), "tty"), nil
}

// SetSize tells a terminal how large it is.
func SetSize(fd, rows, columns int) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
}
