package bootstrap

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
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

// exiting is PF_EXITING of the kernel's include/linux/sched.h.
const exiting = 4

// Exiting tells whether the system is ending the process, or has: its descriptors are closed before its exit status is there.
func (p *Process) Exiting() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	// Behind the name, which may have any characters: state ppid pgrp session tty_nr tpgid flags.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&exiting != 0
}
