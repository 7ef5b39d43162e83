package integration

import (
	"os"
	"strings"
	"testing"
)

// A command has its own output, status, signals, directory and environment; stdin goes to each target.
func TestExec(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		dir := t.TempDir()
		for _, c := range []struct {
			args           []string
			status         int
			stdout, stderr string
		}{
			{[]string{"--", "echo", "a b", "", "$HOME", "*"}, 0, "a b  $HOME *\n", ""},
			{[]string{"echo", "-n", "-x"}, 0, "-x", ""},
			{[]string{"--", "sh", "-c", "echo err >&2; exit 7"}, 7, "", "err\n"},
			{[]string{"--", "cat"}, 0, "input\x00\xff\n", ""},
			{[]string{"--", "sh", "-c", "kill -9 $$"}, 137, "", "ended by signal 9 (killed)"},
			{[]string{"--", "no such command"}, 127, "", "mitogend exec: no such command: No such file or directory\n"},
			{[]string{"--", "/etc/passwd"}, 126, "", "/etc/passwd: Permission denied\n"},
			{[]string{"--", "/"}, 126, "", "/: Permission denied\n"},
			{[]string{"--chdir", "/usr/bin", "--", "pwd"}, 0, "/usr/bin\n", ""},
			{[]string{"--chdir", "/no/where", "--", "pwd"}, 126, "", "--chdir /no/where: No such file or directory\n"},
			{[]string{"--env", "A=b=c", "--env", "E=", "--shell", `echo "$A|$E|$1"`, "x y"}, 0, "b=c||x y\n", ""},
			{[]string{"--env", "A=\xff", "--shell", `printf %s "$A"`}, 0, "\xff", ""},
			{[]string{"--", "echo", "\xff\xfe"}, 0, "\xff\xfe\n", ""},
			{[]string{"--env", "MITOGEND_TARGET=own", "--shell", `echo "$MITOGEND_TARGET"`}, 0, "own\n", ""},
			{[]string{"--shell", `echo "$MITOGEND_TARGET"`}, 0, p.Target() + "\n", ""},
			{[]string{"--", "echo", "{host}", "{other}"}, 0, "localhost {other}\n", ""},
			{[]string{"--env", "A={host}", "--shell", `echo {host} {""host} $A`}, 0, "localhost {host} {host}\n", ""},
			// The command does not ignore signals that Python ignores. Those from 32 on are left out: the C library keeps them.
			{[]string{"--shell", `yes | head -1; m=$(sed -n "s/^SigIgn:.//p" /proc/self/status); echo $((0x$m & 0x7fffffff))`}, 0, "y\n0\n", ""},
		} {
			args := append([]string{"exec", "-H", p.Target()}, c.args...)
			cmd := Command(t, dir, args...)
			cmd.Stdin = strings.NewReader("input\x00\xff\n")
			runCommand(t, cmd).Want(t, c.status, c.stdout, c.stderr)
		}
	})
}

func TestStdinOfSeveral(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	targets := p.Target() + "," + p.Target() + "," + p.Target()
	input := strings.Repeat("0123456789abcde\n", 200_000)
	d := Serve(t)
	for _, env := range [][]string{nil, d.Env()} {
		for _, args := range [][]string{
			{"exec", "-H", targets, "-p", "2", "--", "wc", "-c"},
			{"run", "-H", targets, Write(t, dir, "count.py", "import sys\nprint(len(sys.stdin.read()))\n")},
		} {
			cmd := Command(t, dir, args...)
			cmd.Env = append(cmd.Env, env...)
			cmd.Stdin = strings.NewReader(input)
			line := p.Target() + "| 3200000\n"
			runCommand(t, cmd).Want(t, 0, line+line+line, "")
		}
		// An endless stdin ends when its readers have ended.
		cmd := Command(t, dir, "exec", "-H", targets, "--", "head", "-c", "2")
		cmd.Env = append(cmd.Env, env...)
		endless, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		defer endless.Close()
		cmd.Stdin = endless
		if r := runCommand(t, cmd); r.Status != 0 || strings.Count(r.Stdout, "\x00\x00") != 3 {
			t.Error(r)
		}
		// If stdin cannot be read to its end, the commands are ended.
		cmd = Command(t, dir, "exec", "-H", targets, "--", "cat")
		cmd.Env = append(cmd.Env, env...)
		broken, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer broken.Close()
		cmd.Stdin = broken
		if r := runCommand(t, cmd); r.Status != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "mitogend: stdin: is a directory; what runs is ended, since it would not get all of it\n") {
			t.Error(r)
		}
	}
}
