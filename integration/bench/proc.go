package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func seconds(tv syscall.Timeval) float64 { return float64(tv.Sec) + float64(tv.Usec)/1e6 }

func rusage(who int) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(who, &r); err != nil {
		panic(err) // the only errors are EFAULT and EINVAL
	}
	return seconds(r.Utime) + seconds(r.Stime)
}

// cpuSelf is this process' CPU time, cpuChildren that of its descendants that were waited for; both in seconds.
func cpuSelf() float64     { return rusage(syscall.RUSAGE_SELF) }
func cpuChildren() float64 { return rusage(syscall.RUSAGE_CHILDREN) }

// statusBytes reads one of the "kB" lines of /proc/PID/status; pid 0 is this process.
func statusBytes(pid int, key string) (float64, error) {
	name := "/proc/self/status"
	if pid != 0 {
		name = fmt.Sprintf("/proc/%d/status", pid)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no %s", name, key)
}

// resetPeak sets VmHWM to the current resident size (Linux 4.0 and later).
func resetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func descriptors() (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	return len(entries), err
}

// children lists the pids of this process' direct children, zombies included.
func children() ([]int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, t := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, s := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// waitNoChildren waits until everything that this process started was reaped, so that cpuChildren counts it.
func waitNoChildren(timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(2 * time.Millisecond) {
		pids, err := children()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d children did not leave in %v", len(pids), timeout)
		}
	}
}

// cpuTimes gives the machine's CPU time so far, busy and in all, in ticks (proc_stat(5)).
func cpuTimes() (busy, all float64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, err
		}
		if i >= 8 { // guest time is in user time already
			break
		}
		all += v
		if i != 3 && i != 4 { // idle, iowait
			busy += v
		}
	}
	return busy, all, nil
}

// waitCalm waits until less than 4 % of the machine was in use for a second, and gives the share when it gave up.
func waitCalm(ctx context.Context, limit time.Duration) (share float64, err error) {
	deadline := time.Now().Add(limit)
	for {
		busy, all, err := cpuTimes()
		if err != nil {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return share, ctx.Err()
		case <-time.After(time.Second):
		}
		busy2, all2, err := cpuTimes()
		if err != nil {
			return 0, err
		}
		if share = (busy2 - busy) / max(all2-all, 1); share < 0.04 {
			return share, nil
		}
		if time.Now().After(deadline) {
			return share, fmt.Errorf("no calm in %v", limit)
		}
	}
}
