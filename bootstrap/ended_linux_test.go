package bootstrap

import (
	"os/exec"
	"path/filepath"
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

// TestSlowEnds: a program whose streams have ended long before it has an exit status is waited for.
func TestSlowEnds(t *testing.T) {
	program, err := filepath.Abs("../python/tests/slow_end.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range layouts {
		t.Run(string(s), func(t *testing.T) {
			opts := map[string]any{"stdio": string(s), "python_path": []string{anyPython(t), program}}
			has(t, mustFail(t, build(t, "local", opts), echo, StepConnect), "exit status 3")
		})
	}
}
