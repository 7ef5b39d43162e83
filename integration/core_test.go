package integration

import (
	"strings"
	"syscall"
	"testing"
)

// TestNoCore: a crash leaves no core, wherever the kernel would put it, and started programs have the user's own limit.
func TestNoCore(t *testing.T) {
	p := AnyPython(t)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max == 0 {
		t.Skip("the limit of core files is 0 already")
	}
	before := limit
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	d := PrepareDaemon(t)
	d.cmd.Env = append(d.cmd.Env, "GOTRACEBACK=crash")
	d.Start()
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &before)
	dir := t.TempDir()
	Write(t, dir, "limits.py", "import ctypes, resource\n"+
		"def get(): return resource.getrlimit(resource.RLIMIT_CORE) == (resource.RLIM_INFINITY,) * 2, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n")
	want := "[true,1]\n"
	if limit.Max != ^uint64(0) {
		want = "[false,1]\n"
	}
	d.Run(t, dir, "call", "-H", p.Target(), "limits:get").Want(t, 0, want, "")
	d.Signal(syscall.SIGABRT)
	<-d.done
	status := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGABRT || status.CoreDump() {
		t.Errorf("the daemon has ended so: %v, core %v", d.cmd.ProcessState, status.CoreDump())
	}
	if !strings.Contains(d.Log.String(), "SIGABRT") {
		t.Errorf("no crash: %s", shorten(d.Log.String()))
	}
}
