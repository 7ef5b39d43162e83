package bootstrap

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// reaper collects the exit statuses of all started programs of this Go process. One goroutine for all of them, woken
// by SIGCHLD, takes the place of a thread that is blocked in wait4, or of a pidfd, for each. It reaps our own pids only, so
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

// startReaped runs fork and registers the process. fork holds no lock: a program on a slow disk must not keep others from
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

// lookTime is the least time between two looks at all children for want of one that is known to have ended.
const lookTime = time.Second

// reapLoop ends when no child is left. A signal that comes while it does not run waits in the channel.
func reapLoop() {
	var looked time.Time
	var again <-chan time.Time
	for done := false; !done; {
		all := false
		select {
		case <-reaper.signals:
		case <-again:
			again, all = nil, true
		}
		reaper.mu.Lock()
		found := reapEnded()
		if !found && !all && again == nil {
			// The one that the signal is about is reaped already, or somebody else has done that.
			if wait := lookTime - time.Since(looked); wait > 0 {
				again = time.After(wait)
			} else {
				all = true
			}
		}
		if all {
			reapAll()
			looked = time.Now()
		}
		reaper.running = len(reaper.procs) > 0
		done = !reaper.running
		reaper.mu.Unlock()
	}
}

// reapEnded asks the system which child has ended, so that the end of one costs the same however many there are, and tells whether
// there was one. Where one that is not ours has, and is not reaped yet, it hides others: then each is asked for. reaper.mu is held.
func reapEnded() (found bool) {
	for {
		pid := endedChild()
		if pid == 0 {
			return found
		}
		found = true
		if p := reaper.procs[pid]; p == nil || !p.reap() {
			reapAll()
			return true
		}
		delete(reaper.procs, pid)
	}
}

// reapAll asks for each child. reaper.mu is held.
func reapAll() {
	for pid, p := range reaper.procs {
		if p.reap() {
			delete(reaper.procs, pid)
		}
	}
}
