package bootstrap

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// The end of our programs is noticed while the process has a child of somebody else's that has ended and is not waited for, and when
// somebody else has collected the status of one of ours.
func TestReaperAmongOthers(t *testing.T) {
	foreign := exec.Command("true")
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Wait() }()
	var ours []*Process
	for range 20 {
		p := &Process{done: make(chan struct{}), detached: true}
		err := startReaped(p, func() (int, error) {
			proc, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 3"}, &os.ProcAttr{})
			if err != nil {
				return 0, err
			}
			defer proc.Release()
			return proc.Pid, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, p)
	}
	// Its status is taken from under the reaper.
	stolen := &Process{done: make(chan struct{}), detached: true}
	cmd := exec.Command("sleep", "0.1")
	if err := startReaped(stolen, func() (int, error) { err := cmd.Start(); return cmd.Process.Pid, err }); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for i, p := range append(ours, stolen) {
		select {
		case <-p.Done():
		case <-time.After(30 * time.Second):
			t.Fatalf("nobody has noticed the end of program %d", i)
		}
		if s := p.ExitStatus(); p != stolen && s != "exit status 3" {
			t.Errorf("program %d: %q", i, s)
		}
	}
}
