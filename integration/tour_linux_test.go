package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/machine"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// The tour of examples/ does its twelve tasks on twenty ssh hosts, two of the tasks with a user at a terminal.
func TestInsideTour(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	if _, err := exec.LookPath("top"); err != nil {
		pythons.Missing(t, "top is not installed")
	}
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(bin, "mitogend")); err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprintf("%s=tour-%d", marker, os.Getpid())
	tmp := socketDir(t) // its daemon's socket is below
	cmd := exec.Command("../examples/tour.sh")
	cmd.Env = append(environ(), mark, "TMPDIR="+tmp, "PATH="+bin+":"+os.Getenv("PATH"), "TERM=xterm", "HOME="+t.TempDir())
	term := onTerminal(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(term.screen())
		}
	})
	for task := range 11 { // each has its own time
		term.expect(fmt.Sprintf("== %d. ", task+1))
	}
	// Python's prompt, and top's screens.
	term.expect("web01 >>> ")
	term.send("import platform; print('typed', platform.python_version_tuple()[0])\r")
	term.expectAfter("typed 3", "web01 >>> ")
	term.send("\x04")
	term.expect("PID") // of top behind two hops
	term.send("q")
	term.expect("$ mitogend top")
	shown := strings.LastIndex(term.screen(), "$ mitogend top")
	// The screen has room for the first 19 of 42; which hosts these are, the connects decide.
	poll.Until(t, "top shows a host", func() bool { return strings.Contains(term.screen()[shown:], "web") })
	term.send("q")
	if status := term.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	screen := strings.ReplaceAll(escapes.ReplaceAllString(term.screen(), ""), "\r\n", "\n")
	twenty := "--- web[01-20] (20)\n"
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	for task, want := range map[string]string{
		"uptime":       "web20| ",
		"gathered":     twenty + string(release),
		"a file out":   twenty + "port = 8080\n",
		"a tree out":   twenty + "./index.html\n./css/main.css\n",
		"a log back":   "started on web01\nstarted on web02\n",
		"restart":      "failed: web03 web06, ",
		"stops":        " not begun: more than --max-fail 1 have failed\n(status 1)\n",
		"again":        "(14)\nrestarted\n",
		"facts":        "\nweb20   Linux   ",
		"uname":        twenty + "\"Linux\"\n",
		"program":      "--- web[03,06,09,12,15,18] (6)\n3 words for north, weight 0\n",
		"repl":         "typed 3",
		"through hops": "exec -t -H inner -- top\n",
		"names":        "closed ",
	} {
		if !strings.Contains(screen, want) {
			t.Errorf("%s: there is no %q", task, want)
		}
	}
	NothingLeft(t, mark)
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}
