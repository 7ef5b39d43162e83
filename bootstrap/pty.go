package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"mitogend/internal/pty"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// openPTY makes a terminal in raw mode without echo: what is written arrives unchanged, and nothing that we send comes back. The
// master is a file of Go's poller, the slave a plain descriptor.
func openPTY() (master *os.File, slave int, err error) {
	m, slave, err := pty.Open()
	if err != nil {
		return nil, -1, explainPTY(err)
	}
	// Some programs refuse or wrap at a terminal of 0 x 0.
	_ = pty.SetSize(slave, 24, 132)
	if _, err := term.MakeRaw(slave); err != nil {
		_ = unix.Close(m)
		_ = unix.Close(slave)
		return nil, -1, fmt.Errorf("raw mode: %w", err)
	}
	return pollable(m), slave, nil
}

// explainPTY says what is wrong with this machine when no terminal can be had.
func explainPTY(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EIO):
		return fmt.Errorf("no terminal can be made: %w; is devpts mounted on /dev/pts, with /dev/ptmx pointing into it?", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no terminal can be made: %w; /dev/ptmx and /dev/pts/ptmx must be open to all (mode 666)", err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("no terminal can be made: %w; all of them are in use (kernel.pty.max)", err)
	}
	return fmt.Errorf("no terminal can be made: %w", err)
}
