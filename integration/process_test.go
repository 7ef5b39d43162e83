package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"mitogend/daemon/client"
	"mitogend/integration/poll"
)

// inShell runs a shell script, in which "$@" is mitogend that uses the daemon.
func inShell(t *testing.T, d *Daemon, dir, script string, args ...string) Result {
	t.Helper()
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", binary}, args...)...)
	cmd.Dir, cmd.Env = dir, d.Env()
	return runCommand(t, cmd)
}

// Where the working directory of a command is gone, nothing on this machine runs in the daemon's.
func TestWorkingDirectoryThatIsGone(t *testing.T) {
	dir := t.TempDir()
	d := Serve(t)
	local := AnyPython(t).Target()
	for _, target := range []string{local, local + "," + local} {
		r := inShell(t, d, dir, `mkdir x; cd x; rmdir ../x; exec "$@"`, "call", "-H", target, "os:getcwd")
		r.Want(t, 3, "", "the working directory")
		if !strings.Contains(r.Stderr, "--daemon none") {
			t.Error(r)
		}
	}
	if r := inShell(t, d, dir, `mkdir x; cd x; rmdir ../x; exec "$@"`, "ps"); r.Status != 0 {
		t.Error(r)
	}
}

// A program's input that cannot be read is not at its end, on one target as on several.
func TestInputThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	d := Serve(t)
	local := AnyPython(t).Target()
	for _, target := range []string{local, local + "," + local} {
		for _, socket := range []string{d.Socket, "none"} {
			in, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			binary, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(binary, "exec", "-H", target, "--daemon", socket, "--", "sh", "-c", "cat; echo got-eof")
			cmd.Dir, cmd.Env, cmd.Stdin = dir, d.Env(), in
			r := runCommand(t, cmd)
			_ = in.Close()
			r.Want(t, 1, "", "stdin: is a directory")
		}
	}
}

// Processes have the limit of open files that the daemon was started with, and not the one that it has given itself.
func TestLimitOfOpenFiles(t *testing.T) {
	dir := t.TempDir()
	d := PrepareDaemon(t)
	d.cmd.Args = append([]string{"sh", "-c", `ulimit -S -n 300; exec "$@"`, "sh", d.cmd.Path}, d.cmd.Args[1:]...)
	d.cmd.Path = "/bin/sh"
	d.Start()
	d.Run(t, dir, "exec", "-H", AnyPython(t).Target(), "--", "sh", "-c", "ulimit -S -n").Want(t, 0, "300\n", "")
}

// A daemon that serves no more clients is like a target that cannot be reached.
func TestDaemonWithTooManyClients(t *testing.T) {
	dir := t.TempDir()
	d := Serve(t, "--max-clients", "1")
	poll.Until(t, "it serves the only client", func() bool { // the last one has gone
		_, err := d.Dial(t, client.Options{}).Stats(t.Context())
		return err == nil
	})
	local := AnyPython(t).Target()
	for _, target := range []string{local, local + "," + local} {
		r := d.Run(t, dir, "call", "-H", target, "os:getpid")
		r.Want(t, 3, "", "the daemon refuses: there are 1 clients already")
		if strings.Contains(r.Stderr, "client:") || !strings.Contains(r.Stderr, "--daemon none") {
			t.Error(r)
		}
	}
	d.Run(t, dir, "ps").Want(t, 4, "", "mitogend: the daemon refuses: there are 1 clients already\n")
}

// A short command ends before it collects garbage for the first time; GOGC is still the user's.
func TestFirstCollectionIsLate(t *testing.T) {
	if raceEnabled {
		t.Skip("with -race, starting takes three times the memory; `make test` runs this without")
	}
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		more     string
		collects bool
	}{{"GOGC=", false}, {"GOGC=20", true}} {
		cmd := exec.Command(binary, "call", "-q", "--daemon", "none", "-H", AnyPython(t).Target(), "os:getpid")
		cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1", c.more)
		r := runCommand(t, cmd)
		if collects := strings.Contains(r.Stderr, "gc 1 @"); r.Status != 0 || collects != c.collects {
			t.Errorf("%s: %v", c.more, r)
		}
	}
}
