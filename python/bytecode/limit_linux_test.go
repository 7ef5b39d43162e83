package bytecode

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNice: a compiler is as nice as it should be, or nicer where mitogend itself is.
func TestNice(t *testing.T) {
	for was, want := range map[int]int{0: nice, 19: 19} {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		pid := cmd.Process.Pid
		p, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
		if err != nil {
			t.Fatal(err)
		}
		was, want = max(was, 20-p), max(want, 20-p)
		if err := unix.Setpriority(unix.PRIO_PROCESS, pid, was); err != nil {
			t.Fatal(err)
		}
		if err := limit(pid); err != nil {
			t.Fatal(err)
		}
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, pid); err != nil || 20-p != want {
			t.Errorf("from %d it is made %d, not %d: %v", was, 20-p, want, err)
		}
	}
}
