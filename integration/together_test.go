package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// apart gives targets of one interpreter whose environment tells which it is.
func apart(t *testing.T, dir string, names ...string) {
	t.Helper()
	p := AnyPython(t)
	text := "all:\n  hosts:\n"
	for _, name := range names {
		target := "exec:env%20W=" + name + "?python_path=" + strings.ReplaceAll(p.Command, " ", "%20")
		if strings.HasPrefix(name, "gone") {
			target = "exec:false"
		}
		text += "    " + name + ": {mitogend_target: '" + target + "'}\n"
	}
	Write(t, dir, "mitogend-hosts.yaml", text)
	Write(t, dir, "work.py", `import os, sys, time
me = os.environ['W']
def name(): return me
def some():
    if me in ('w2', 'w3'): raise ValueError('not here')
    return {'me': me, 'at': (1, b'x')}
def say():
    print('said by ' + me)
    return len(me)
def numbers():
    for i in range(3):
        yield me + str(i)
    if me == 'w2': raise KeyError(me)
def slow(directory):
    if me == 'w1': return 'early'
    open(os.path.join(directory, me), 'w').close()
    time.sleep(60)
def quick(seconds):
    time.sleep(seconds if me == 'w2' else 0)
    return me
def much(): return me * 300000
`)
}

// Times differ from run to run.
var took = regexp.MustCompile(`"seconds":[0-9.e-]+`)

// steady gives output as sorted lines.
func steady(text string) string {
	lines := strings.Split(took.ReplaceAllString(text, ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A call on several targets that the daemon makes as one request shows what as many requests of this process show.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5", "gone1", "w6")
	d := Serve(t)
	for name, args := range map[string][]string{
		"plain":      {"-H", "w*", "work:name"},
		"parallel":   {"-H", "w*", "-p", "3", "work:say"},
		"parallel 9": {"-H", "w1,w4,w5,w6", "-p", "9", "--json", "work:numbers"},
		"errors":     {"-H", "all", "work:some"},
		"json":       {"-H", "all", "--json", "work:some"},
		"printed":    {"-H", "w*", "work:say"},
		"printed -b": {"-H", "all", "-b", "work:say"},
		"generators": {"-H", "all", "work:numbers"},
		"table":      {"-H", "w*", "--table", "work:some"},
		"select":     {"-H", "w*", "--select", ".me", "work:some"},
		"bad select": {"-H", "w*", "--select", ".me.no", "work:name"},
		"repr":       {"-H", "w*", "--repr", "work:some"},
		"arguments":  {"-H", "w*", "--kw", "base=16", "builtins:int", "\"ff\""},
		"large":      {"-H", "w*", "work:much"},
		"unknown":    {"-H", "w*", "work:no_such"},
		"max-fail":   {"-H", "all", "--batch", "1", "--max-fail", "1", "work:some"},
		"judged":     {"-H", "all", "--batch", "1", "--max-fail", "0", "--select", ".me.no", "work:some"},
		"max-fail n": {"-H", "all", "--batch", "1", "--max-fail", "1", "--json", "work:some"},
		"pauses":     {"-H", "w*", "--batch", "2", "--pause", "1ms", "work:name"},
		"late":       {"-H", "w1,w2", "--timeout", "1500ms", "work:quick", "60"},
		"files":      {"-H", "w*", "-o", "out", "work:say"},
		"many times": {"-H", "w1,w1,w1,w2,w2", "work:numbers"},
		"fresh":      {"-H", "w*", "--fresh", "work:name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"call", "-I", dir, "-i", filepath.Join(dir, "mitogend-hosts.yaml")}, args...)
			if !strings.HasPrefix(name, "parallel") {
				args = slices.Insert(args, 1, "-p", "1")
			}
			want := Mitogend(t, t.TempDir(), append(args, "--daemon", "none")...)
			got := d.Run(t, t.TempDir(), args...)
			if got.Status != want.Status || steady(got.Stdout) != steady(want.Stdout) || steady(got.Stderr) != steady(want.Stderr) {
				t.Errorf("by one request:\n%v\nby many:\n%v", got, want)
			}
		})
	}
}

// What is interrupted has run, may have run, or has not begun; nothing else is said of it.
func TestTogetherInterrupted(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5")
	d := Serve(t)
	cmd := Command(t, dir, "call", "--json", "-p", "2", "-H", "all", "--failed", "failed", "work:slow", dir)
	cmd.Env = append(cmd.Env, d.Env()...)
	kinds, said := interrupted(t, dir, cmd)
	if len(kinds) != 5 || kinds["w1"] != "ok" || kinds["w2"] != "interrupted" || kinds["w3"] != "interrupted" ||
		kinds["w4"] != "not_begun" || kinds["w5"] != "not_begun" {
		t.Error(kinds, said)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "failed")); string(got) != "w2\nw3\nw4\nw5\n" {
		t.Errorf("%q", got)
	}
}

// The daemon is killed meanwhile: each target is told of once.
func TestTogetherWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5")
	d := Serve(t)
	cmd := Command(t, dir, "call", "--json", "-p", "2", "-H", "all", "work:slow", dir)
	cmd.Env = append(cmd.Env, d.Env()...)
	var out Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "two run", func() bool {
		_, err2 := os.Stat(dir + "/w2")
		_, err3 := os.Stat(dir + "/w3")
		return err2 == nil && err3 == nil
	})
	d.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	if s := out.String(); strings.Count(s, `"kind":"lost"`) != 4 || strings.Count(s, `"ok":true`) != 1 || strings.Count(s, "\n") != 5 || cmd.ProcessState.ExitCode() != 4 {
		t.Error(cmd.ProcessState.ExitCode(), s)
	}
}
