package main

import (
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// background tells whether f is this process's terminal while another job has it.
func background(f *os.File) bool {
	if !term.IsTerminal(int(f.Fd())) {
		return false
	}
	front, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && front != unix.Getpgrp()
}
