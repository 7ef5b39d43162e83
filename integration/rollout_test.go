package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// fleet gives targets of one interpreter that differ in their names, and a file that lists them.
func fleet(t *testing.T, dir string, names ...string) {
	t.Helper()
	p := AnyPython(t)
	text := "all:\n  hosts:\n"
	for _, name := range names {
		target := p.Target()
		if strings.HasPrefix(name, "gone") {
			target = "exec:false"
		}
		text += "    " + name + ": {mitogend_target: '" + target + "'}\n"
	}
	Write(t, dir, "mitogend-hosts.yaml", text)
}

func TestGather(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "web08", "web09", "web10", "db1", "gone1", "gone2")
	r := Mitogend(t, dir, "exec", "-b", "-H", "all", "--", "sh", "-c", `case {target} in db*) echo other >&2; exit 3;; *) echo same; esac`)
	r.Want(t, 3, "--- web[08-10] (3)\nsame\n", "--- db1 (1)\nother\nmitogend: ")
	if !strings.Contains(r.Stderr, "mitogend: 3 ok, 1 failed: db1, 2 not reached: gone") {
		t.Error(r)
	}
	// Without -b, the second of two equal failures has no text of its own.
	r = Mitogend(t, dir, "call", "-H", "web*", "builtins:int", "x")
	if strings.Count(r.Stderr, "ValueError") != 1 || !strings.Contains(r.Stderr, " (2): the same as web") {
		t.Error(r)
	}
}

func TestOutputFiles(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "web1", "gone1")
	script := Write(t, dir, "s.py", "import sys\nprint(sys.argv[1])\nsys.stderr.write('E')\nsys.exit(3)\n")
	for _, flag := range []string{"--json", "-q", "-b"} {
		r := Mitogend(t, dir, "run", "-H", "all", flag, "-o", "out", script, flag)
		if r.Status != 3 || strings.Contains(r.Stdout, "{") != (flag == "--json") || strings.Contains(r.Stdout, "--- ") != (flag == "-b") {
			t.Error(r)
		}
		for name, want := range map[string]string{"web1/stdout": flag + "\n", "web1/stderr": "E", "web1/status": "3\n", "gone1/stdout": "", "gone1/status": "3\nexec false"} {
			got, err := os.ReadFile(filepath.Join(dir, "out", name))
			if err != nil || !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
				t.Errorf("%s: %s has %q, %v", flag, name, got, err)
			}
		}
	}
	Mitogend(t, dir, "call", "-q", "-H", "web1", "-o", "out", "builtins:len", "[1]").Want(t, 0, "", "")
	if got, _ := os.ReadFile(filepath.Join(dir, "out/web1/stdout")); string(got) != "1\n" {
		t.Errorf("%q", got)
	}
	Mitogend(t, dir, "exec", "-o", "mitogend-hosts.yaml", "--", "true").Want(t, 2, "", "mitogend: -o mitogend-hosts.yaml: not a directory\n")
}

// A target that was not begun has nothing of an earlier command, and a command that does not begin leaves everything.
func TestOutputFilesOfAnEarlierCommand(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2", "w3")
	at := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, "out", name))
		if err != nil {
			return "none"
		}
		return string(data)
	}
	Mitogend(t, dir, "exec", "-q", "-o", "out", "-H", "all,local:,local:", "--", "echo", "x").Want(t, 0, "", "")
	Mitogend(t, dir, "exec", "-q", "-o", "out", "--failed", "no/such", "-H", "w1,w2", "--", "echo", "y").Want(t, 2, "", "no/such")
	if at("w2/status") != "0\n" || at("w2/stdout") != "x\n" || at("local#2/status") != "0\n" {
		t.Errorf("%q %q %q", at("w2/status"), at("w2/stdout"), at("local#2/status"))
	}
	Mitogend(t, dir, "exec", "-q", "-o", "out", "-p", "1", "--max-fail", "0", "-H", "w1,w2,local:,local:", "--", "false").Want(t, 1, "", "w1: the program ended with status 1")
	for name, want := range map[string]string{
		"w1/stdout": "", "w2/status": "none", "w2/stdout": "none", "w2/stderr": "none", "local/status": "none", "local#2/status": "none", "w3/status": "0\n",
	} {
		if got := at(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Files that a full disk has cut short are told of, also where the program has failed itself.
func TestOutputFilesOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2")
	Write(t, dir, "m.py", "def gen(fail):\n    yield 1\n    if fail:\n        raise ValueError('no')\n")
	for _, name := range []string{"w1", "w2"} {
		if err := os.MkdirAll(filepath.Join(dir, "out", name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/full", filepath.Join(dir, "out", name, "stdout")); err != nil {
			t.Fatal(err)
		}
	}
	const full = ": -o out/w1: no space left on device\n"
	for _, status := range []string{"0", "3"} {
		r := Mitogend(t, dir, "exec", "-q", "-H", "w1", "-o", "out", "--", "sh", "-c", "echo x; exit "+status)
		r.Want(t, map[string]int{"0": 1, "3": 3}[status], "", full)
	}
	d := Serve(t)
	for _, fail := range []string{"false", "true"} {
		r := d.Run(t, dir, "call", "-q", "-H", "w1,w2", "-o", "out", "m:gen", fail)
		if r.Status != 1 || strings.Count(r.Stderr, full) != 1 || strings.Contains(r.Stderr, "ValueError: no") != (fail == "true") {
			t.Error(r)
		}
	}
	// What cannot be made is told of once.
	Write(t, dir, "out/w3", "a file")
	fleet(t, dir, "w3")
	r := Mitogend(t, dir, "exec", "-q", "-H", "w3", "-o", "out", "--", "true")
	if r.Status != 1 || strings.Count(r.Stderr, "not a directory") != 1 {
		t.Error(r)
	}
}

// A command that does not begin leaves nothing of --failed, and the older file.
func TestFailedFileOfNothing(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2")
	Write(t, dir, "failed", "old\n")
	nothing := func(r Result, status int) {
		t.Helper()
		left, _ := filepath.Glob(filepath.Join(dir, ".mitogend-*"))
		if got, _ := os.ReadFile(filepath.Join(dir, "failed")); r.Status != status || len(left) > 0 || string(got) != "old\n" {
			t.Errorf("%v is left, failed has %q: %v", left, got, r)
		}
	}
	for _, args := range []string{
		"put nosuch /tmp/x", "get -H w1,w2 x -", "get -b -H w1 x -", "sync --pull x -", "exec -t true", "repl --json -H w1,w2", "run --interactive mitogend-hosts.yaml",
	} {
		words := strings.Fields(args)
		cmd := Command(t, dir, append([]string{words[0], "--failed", "failed"}, words[1:]...)...)
		cmd.SysProcAttr = noTerminal
		nothing(runCommand(t, cmd), 2)
	}
	cmd := Command(t, dir, "put", "--failed", "failed", "-", dir+"/x")
	cmd.SysProcAttr = noTerminal
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the file of --failed is made", func() bool {
		made, _ := filepath.Glob(filepath.Join(dir, ".mitogend-failed-*"))
		return len(made) > 0
	})
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	nothing(Result{Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode()}, 130)
}

// stdin cannot be the targets and something else.
func TestStdinOnce(t *testing.T) {
	dir := t.TempDir()
	for _, args := range []string{"put -H @- - " + dir + "/x", "run -H @- -", "call -H @- builtins:len @-", "call -H @- builtins:len --args-json @-"} {
		cmd := Command(t, dir, strings.Fields(args)...)
		cmd.Stdin = strings.NewReader("local:\n")
		runCommand(t, cmd).Want(t, 2, "", "-H @- takes all of stdin")
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
		t.Error("a file was written")
	}
}

func TestBatches(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2", "w3", "w4", "w5", "w6")
	shell := []string{"--", "sh", "-c", `case {target} in w2|w3) exit 1;; *) echo {target}; esac`}
	exec := func(args ...string) Result {
		return Mitogend(t, dir, append(append([]string{"exec", "-H", "all"}, args...), shell...)...)
	}
	r := exec("--batch", "1", "--max-fail", "1", "--failed", "failed")
	r.Want(t, 1, "w1| w1\n", "mitogend: 1 ok, 2 failed: w2 w3, 3 not begun: more than --max-fail 1 have failed\n")
	if got, _ := os.ReadFile(filepath.Join(dir, "failed")); string(got) != "w2\nw3\nw4\nw5\nw6\n" {
		t.Errorf("%q", got)
	}
	r = Mitogend(t, dir, "exec", "-q", "-b", "-H", "@failed", "--failed", "failed", "--", "echo", "x")
	r.Want(t, 0, "--- w[2-6] (5)\nx\n", "")
	if got, err := os.ReadFile(filepath.Join(dir, "failed")); err != nil || len(got) > 0 {
		t.Errorf("%q %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".mitogend-*")); len(left) > 0 {
		t.Error(left)
	}
	// 34% of six is 2.04: three at a time; and one failure of six is within 20%, two are not.
	r = exec("--batch", "34%", "--max-fail", "20%", "--json", "--pause", "1ms")
	if strings.Count(r.Stdout, `"ok":true`) != 1 || strings.Count(r.Stdout, `"kind":"not_begun"`) != 3 || strings.Count(r.Stdout, "\n") != 6 || r.Status != 1 {
		t.Error(r)
	}
	r = exec("--dry-run", "--batch", "4")
	if r.Status != 0 || !strings.Contains(r.Stdout, "batch 2: w5: exec sh -c ") || strings.Count(r.Stdout, "batch 1: ") != 4 {
		t.Error(r)
	}
	for _, wrong := range [][]string{{"--batch", "0"}, {"--batch", "x"}, {"--batch", "101%"}, {"--max-fail", "-1"}, {"--retry", "-1"}, {"--pause", "1s"},
		{"-b", "--json"}, {"--failed", "no/such"}} {
		if r := exec(wrong...); r.Status != 2 || r.Stdout != "" {
			t.Error(wrong, r)
		}
	}
}

func TestRetryConnecting(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	program := Write(t, dir, "later", "#!/bin/sh\necho x >> "+dir+"/tries\n[ $(wc -l < "+dir+"/tries) -gt 1 ] || { echo not yet >&2; exit 1; }\nexec \"$@\"\n")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	target := "exec:" + program + "?python_path=" + strings.ReplaceAll(p.Command, " ", "%20")
	Mitogend(t, dir, "exec", "-H", target, "--", "true").Want(t, 3, "", "not yet")
	_ = os.Remove(filepath.Join(dir, "tries"))
	Mitogend(t, dir, "exec", "--retry", "1", "-H", target, "--", "sh", "-c", "echo ran >> "+dir+"/ran; exit 5").Want(t, 5, "", "")
	if got, _ := os.ReadFile(filepath.Join(dir, "ran")); string(got) != "ran\n" {
		t.Errorf("%q", got)
	}
}

// interrupted interrupts a command with --json once w2 and w3 run, which make files of these names. It gives what the command says about
// each target, and all of its output.
func interrupted(t *testing.T, dir string, cmd *exec.Cmd) (kinds map[string]string, said string) {
	t.Helper()
	var out, errs Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "two run", func() bool {
		_, err2 := os.Stat(dir + "/w2")
		_, err3 := os.Stat(dir + "/w3")
		return err2 == nil && err3 == nil
	})
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	kinds = map[string]string{}
	for line := range strings.Lines(out.String()) {
		var row struct {
			Target string
			OK     bool
			Error  struct{ Kind string }
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err, line)
		}
		kinds[row.Target] = row.Error.Kind
		if row.OK {
			kinds[row.Target] = "ok"
		}
	}
	if status := cmd.ProcessState.ExitCode(); status != 130 {
		t.Errorf("status %d", status)
	}
	return kinds, out.String() + errs.String()
}

func TestInterruptedLines(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w1", "w2", "w3")
	cmd := Command(t, dir, "exec", "--json", "-p", "2", "-H", "all", "--failed", "failed", "--", "sh", "-c", "case {target} in w1) exit;; esac; touch "+dir+"/{target}; exec sleep 60")
	kinds, said := interrupted(t, dir, cmd)
	if len(kinds) != 3 || kinds["w1"] != "ok" || kinds["w2"] != "interrupted" || kinds["w3"] != "interrupted" {
		t.Error(kinds, said)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "failed")); string(got) != "w2\nw3\n" {
		t.Errorf("%q", got)
	}
}

// What a program has printed is in its line, too, if its end is not known: out of time, interrupted, lost.
func TestOutputWithoutStatus(t *testing.T) {
	dir := t.TempDir()
	fleet(t, dir, "w2", "w3")
	want := `"result":{"status":null,"signal":null,"stdout":"important\n","stderr":"E\n","truncated":false},"error":{"kind":"`
	printing := []string{"--shell", "echo important; echo E >&2; touch " + dir + "/{target}; exec sleep 60"}
	check := func(said, kind string, targets int) {
		t.Helper()
		if strings.Count(said, want+kind+`"`) != targets {
			t.Errorf("%d lines of kind %s: %s", targets, kind, said)
		}
	}
	d := Serve(t)
	with := func(daemon bool, args ...string) *exec.Cmd {
		args = append(append([]string{"exec", "--json"}, args...), printing...)
		cmd := Command(t, dir, args...)
		if daemon {
			cmd.Env = append(cmd.Env, d.Env()...)
		}
		return cmd
	}
	for _, daemon := range []bool{false, true} {
		for _, name := range []string{"w2", "w3"} {
			_ = os.Remove(filepath.Join(dir, name))
		}
		_, said := interrupted(t, dir, with(daemon, "-H", "all"))
		check(said, "interrupted", 2)
	}
	check(runCommand(t, with(true, "--timeout", "4", "-H", "w2")).Stdout, "timeout", 1) // it is connected
	check(runCommand(t, with(true, "--timeout", "4", "-H", "all")).Stdout, "timeout", 2)
}

// TestRetryOfARefusedPassword: what may lock an account is not tried again, by whichever way.
func TestRetryOfARefusedPassword(t *testing.T) {
	dir := t.TempDir()
	stub, asked := filepath.Join(dir, "sudo"), filepath.Join(dir, "asked")
	pythons.RefusingSudo(t, stub, asked)
	d := Serve(t)
	for name, env := range map[string][]string{"alone": environ(), "daemon": d.Env()} {
		for _, command := range [][]string{{"exec"}, {"call"}} {
			_ = os.Remove(asked)
			args := append(command, "--retry", "3", "-H", "sudo:root?sudo_path="+stub+"&password_env=RETRY_PASSWORD")
			if command[0] == "exec" {
				args = append(args, "--", "true")
			} else {
				args = append(args, "os:getpid")
			}
			cmd := Command(t, dir, args...)
			cmd.Env = append(slices.Clone(env), "RETRY_PASSWORD=wrong")
			r := runCommand(t, cmd)
			text, err := os.ReadFile(asked)
			if r.Status != 3 || string(text) != "wrong\n" {
				t.Errorf("%s %s: status %d, given %q, %v\n%s", name, command, r.Status, text, err, r.Stderr)
			}
		}
	}
}
