package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// TestInventoryOfADirectory: an inventory of the current directory counts, and is named, if nobody else can have written it.
func TestInventoryOfADirectory(t *testing.T) {
	p := AnyPython(t)
	hosts := "all: {hosts: {web1: {mitogend_target: '" + p.Target() + "'}}}\n"
	const using = "mitogend: using the inventory mitogend-hosts.yaml of the current directory\n"
	dir := t.TempDir()
	Write(t, dir, "mitogend-hosts.yaml", hosts)
	call := []string{"call", "-H", "web1", "os:getcwd"}
	if r := Mitogend(t, dir, call...); r.Status != 0 || r.Stderr != using {
		t.Errorf("own: %v", r)
	}
	if r := Mitogend(t, dir, append([]string{"-q"}, call...)...); r.Status != 0 || r.Stderr != "" {
		t.Errorf("own, quiet: %v", r)
	}
	if r := Mitogend(t, dir, "hosts"); r.Status != 0 || r.Stderr != using {
		t.Errorf("hosts: %v", r)
	}
	if r := Mitogend(t, dir, "call", "-H", p.Target(), "os:getcwd"); r.Status != 0 || r.Stderr != "" {
		t.Errorf("not needed: %v", r)
	}
	refused := func(what, dir, why string) {
		t.Helper()
		r := Mitogend(t, dir, "hosts")
		if r.Status != 2 || !strings.Contains(r.Stderr, "mitogend-hosts.yaml of the current directory is not used: ") ||
			!strings.Contains(r.Stderr, why) || !strings.Contains(r.Stderr, "-i mitogend-hosts.yaml uses it") || !strings.Contains(r.Stderr, "there is no inventory") {
			t.Errorf("%s: %v", what, r)
		}
		if r := Mitogend(t, dir, "hosts", "-i", "mitogend-hosts.yaml"); r.Status != 0 || r.Stderr != "" {
			t.Errorf("%s, named: %v", what, r)
		}
	}
	mode := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "mitogend-hosts.yaml")
	mode(file, 0o666)
	refused("writable file", dir, "others may write to")
	mode(file, 0o600)
	mode(dir, 0o777)
	refused("writable directory", dir, "others may write to the directory")
	mode(dir, os.ModeSticky|0o777)
	refused("sticky directory", dir, "others may write to the directory")
	mode(dir, 0o777)
	below := filepath.Join(dir, "below")
	Write(t, below, "mitogend-hosts.yaml", hosts)
	refused("below a writable directory", below, "others may write to the directory "+dir)
	mode(dir, 0o755)
	Write(t, dir, "group_vars/all.yaml", "ansible_port: 22\n")
	mode(filepath.Join(dir, "group_vars"), 0o777)
	if r := Mitogend(t, dir, "hosts"); r.Status == 0 || !strings.Contains(r.Stderr, "group_vars") {
		t.Errorf("writable group_vars: %v", r)
	}
	if os.Geteuid() != 0 {
		return
	}
	mode(filepath.Join(dir, "group_vars"), 0o755)
	if err := os.Chown(file, 54321, -1); err != nil {
		t.Fatal(err)
	}
	refused("another's file", dir, "belongs to user 54321")
}

// TestModulesOfADirectory: modules of a directory that was not named are served if nobody else can have put them there.
func TestModulesOfADirectory(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	Write(t, dir, "planted.py", "def f(): return 1\n")
	Write(t, dir, "script.py", "import planted\nprint(planted.f())\n")
	Mitogend(t, dir, "call", "-H", p.Target(), "planted:f").Want(t, 0, "1\n", "")
	for _, mode := range []os.FileMode{0o777, os.ModeSticky | 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			args []string
			say  string
		}{
			{[]string{"call", "-H", p.Target(), "planted:f"}, "-I . serves them"},
			{[]string{"modules", "planted"}, "-I . serves them"},
			{[]string{"run", "-H", p.Target(), dir + "/script.py"}, "-I " + dir + " serves them"},
		} {
			r := Mitogend(t, dir, c.args...)
			if r.Status == 0 || !strings.Contains(r.Stderr, "are not served: others may write to the directory "+dir) || !strings.Contains(r.Stderr, c.say) {
				t.Errorf("%v: %v", c.args, r)
			}
		}
		Mitogend(t, dir, "call", "-I", ".", "-H", p.Target(), "planted:f").Want(t, 0, "1\n", "")
		Mitogend(t, dir, "run", "-I", dir, "-H", p.Target(), "script.py").Want(t, 0, "1\n", "")
	}
}

// TestFilesOfOthers: nothing is written into another user's file, or through his link.
func TestFilesOfOthers(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	trace := func(file string) Result {
		return Mitogend(t, dir, "call", "--trace", file, "-H", p.Target(), "os:getcwd")
	}
	own := Write(t, dir, "own", "old")
	if err := os.Chmod(own, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := trace("own"); r.Status != 0 {
		t.Error(r)
	}
	if info, err := os.Stat(own); err != nil || info.Mode() != 0o600 || info.Size() < 100 {
		t.Errorf("the trace: %v, %v", info, err)
	}
	if r := trace("/dev/stderr"); r.Status != 0 || !strings.Contains(r.Stderr, "CALL_FUNCTION") {
		t.Errorf("a trace on stderr: %v", r)
	}
	// As a shell redirects it: earlier content stays.
	out, err := os.OpenFile(Write(t, dir, "log", "before\n"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := Command(t, dir, "call", "--trace", "/dev/fd/3", "-H", p.Target(), "os:getcwd")
	cmd.ExtraFiles = []*os.File{out}
	if r := runCommand(t, cmd); r.Status != 0 {
		t.Error(r)
	}
	if b, _ := os.ReadFile(dir + "/log"); !strings.HasPrefix(string(b), "before\n") || !strings.Contains(string(b), "CALL_FUNCTION") {
		t.Errorf("a trace on descriptor 3: %.200q", b)
	}
	if os.Geteuid() != 0 {
		pythons.Missing(t, "needs root for what another user has made")
	}
	theirs := Write(t, dir, "theirs", "old")
	if err := os.Chmod(theirs, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(Write(t, dir, "mine", "old"), dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{theirs, dir + "/link"} {
		if err := os.Lchown(path, 54321, 54321); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"theirs", "link"} {
		for _, r := range []Result{trace(name), runCommand(t, Command(t, dir, "serve", "--listen", socketDir(t)+"/s", "--log-file", name)),
			runCommand(t, Command(t, dir, "serve", "--listen", socketDir(t)+"/s", "--trace", name))} {
			if r.Status != 2 || !strings.Contains(r.Stderr, "belongs to user 54321") {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
	for _, name := range []string{"theirs", "mine"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != "old" {
			t.Errorf("%s is %.100q now", name, b)
		}
	}
}

// TestInventoryIsInterrupted: a signal ends the command and the program that lists hosts, even if nothing waits for it.
func TestInventoryIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "program", "#!/bin/sh\necho $PPID >pid\nmv pid started\nexec sleep 1000\n")
	if err := os.Chmod(filepath.Join(dir, "program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"hosts", "-i", "./program"}, {"call", "-i", "./program", "-H", "web1", "os:getpid"}, {"config", "check", "--inventory", "./program"},
		{"serve", "--listen", socketDir(t) + "/s", "--inventory", "./program"},
	} {
		for sig, status := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130} {
			_ = os.Remove(filepath.Join(dir, "started"))
			cmd := Command(t, dir, args...)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				poll.Until(t, "the program runs", func() bool { _, err := os.Stat(filepath.Join(dir, "started")); return err == nil })
				text, _ := os.ReadFile(filepath.Join(dir, "started"))
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				if err != nil {
					t.Error(err)
					return
				}
				_ = syscall.Kill(pid, sig)
			}()
			if r := runCommand(t, cmd); r.Status != status {
				t.Errorf("%v, %v: %v", args, sig, r)
			}
			<-ended
			NothingLeft(t, cmd.Env[len(cmd.Env)-1])
		}
	}
}
