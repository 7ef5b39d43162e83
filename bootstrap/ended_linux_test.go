package bootstrap

import (
	"os/exec"
	"testing"
	"time"
)

// A process that has ended, and that nobody has waited for, is as one that the system is about to end.
func TestExiting(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{PID: cmd.Process.Pid}
	if p.Exiting() {
		t.Error("it runs, and is taken for one that ends")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !p.Exiting(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is dead, and not taken for one that ends")
		}
	}
	_ = cmd.Wait()
	if p.Exiting() {
		t.Error("it is gone, and taken for one that ends")
	}
}
