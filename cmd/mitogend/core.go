package main

import "golang.org/x/sys/unix"

// noCore keeps the kernel from writing this process's memory, which has passwords in it, to a file when it crashes. It also keeps
// other processes of the user, children of ours among them, from reading it in /proc. Unlike RLIMIT_CORE it holds for handlers
// that core_pattern pipes to as well, and ends with exec: what is started has what it would have had without us.
func noCore() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
