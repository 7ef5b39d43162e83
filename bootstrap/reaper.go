package bootstrap

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// reaper collects the exit statuses of all started programs of this Go process. One goroutine for all of them, woken
// by SIGCHLD, takes the place of a thread that is blocked in wait4, or of a pidfd, for each. It asks for our own pids only, so
// that os/exec and other users of wait4 in the same process keep theirs.
//
// It is state of the operating system's process, as its children are; two daemons in one process share it without meeting.
var reaper struct {
	// mu protects the following. Held across wait4 with WNOHANG, never across anything that blocks.
	// Order: reaper.mu, then Process.mu.
	mu      sync.Mutex
	procs   map[int]*Process
	signals chan os.Signal // made with the first child; it stays, since signal.Stop costs more than a child
	running bool           // whether reapLoop runs
}

// startReaped runs fork and registers the process. No lock is held meanwhile: a program on a slow disk must not keep others from
// being started and reaped.
func startReaped(p *Process, fork func() (int, error)) error {
	pid, err := fork()
	if err != nil {
		return err
	}
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	p.PID = pid
	if reaper.procs == nil {
		reaper.procs = map[int]*Process{}
	}
	reaper.procs[pid] = p
	if reaper.signals == nil {
		reaper.signals = make(chan os.Signal, 1)
		signal.Notify(reaper.signals, syscall.SIGCHLD)
	}
	// It may have ended before it was in the table, or before Notify.
	if p.reap() {
		delete(reaper.procs, pid)
		return nil
	}
	if !reaper.running {
		reaper.running = true
		go reapLoop()
	}
	return nil
}

// reapLoop ends when no child is left. A signal that comes while it does not run waits in the channel.
func reapLoop() {
	for range reaper.signals {
		reaper.mu.Lock()
		for pid, p := range reaper.procs {
			if p.reap() {
				delete(reaper.procs, pid)
			}
		}
		reaper.running = len(reaper.procs) > 0
		done := !reaper.running
		reaper.mu.Unlock()
		if done {
			return
		}
	}
}
