package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mitogend/integration/poll"
)

// apart gives targets of one interpreter, which see in their environment which one they are.
func apart(t *testing.T, dir string, names ...string) {
	t.Helper()
	p := AnyPython(t)
	text := "all:\n  hosts:\n"
	for _, name := range names {
		target := "exec:env%20W=" + name + "?python_path=" + strings.ReplaceAll(p.Command, " ", "%20")
		if strings.HasPrefix(name, "gone") {
			target = "exec:false"
		}
		text += "    " + name + ": {mitogend_target: '" + target + "', own: 'v" + name + "'}\n"
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
def chatty():
    for i in range(3):
        print('%s is at %d' % (me, i))
        yield i
def logs():
    import logging
    for i in range(2):
        logging.getLogger('l').warning('%s is at %d', me, i)
        yield i
    for i in range(500):
        logging.getLogger('l').warning('at the end, record %d', i)
def slow(directory):
    if me == 'w1': return 'early'
    print('slow ' + me)
    sys.stdout.flush()
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

// steady sorts the lines of an output.
func steady(text string) string {
	lines := strings.Split(took.ReplaceAllString(text, ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// One request to the daemon for several targets shows the same as single requests of this process.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5", "gone1", "w6")
	Write(t, dir, "prog.py", `import os, sys
import mitogend, work
sys.stdout.write(work.me + mitogend.host_vars()['own'] + str(sys.argv[1:]) + os.environ['MITOGEND_TARGET'] + 'x' * 3000)
sys.stderr.write('e' + work.me)
sys.exit(work.me == 'w3')
`)
	prog := filepath.Join(dir, "prog.py")
	script := "echo $W {target} $MITOGEND_TARGET $A; echo e$W >&2; case $W in w2) exit 3;; w3) kill -9 $$;; esac"
	d := Serve(t)
	for name, args := range map[string][]string{
		"exec":       {"exec", "-H", "all", "--env", "A=b", "--", "sh", "-c", script},
		"exec json":  {"exec", "-H", "all", "--json", "--", "sh", "-c", script},
		"exec same":  {"exec", "-H", "w*", "-b", "--", "sh", "-c", "echo $W"},
		"exec none":  {"exec", "-H", "w1,w2", "--", "no-such-command"},
		"exec fails": {"exec", "-H", "all", "--batch", "1", "--max-fail", "1", "--json", "--", "sh", "-c", script},
		"exec files": {"exec", "-H", "all", "-o", "out", "--json", "--", "sh", "-c", script},
		"exec late":  {"exec", "-H", "w1,w2", "--timeout", "20s", "--", "sh", "-c", "echo $W; case $W in w2) exec sleep 60;; esac"},
		"run":        {"run", "-H", "all", prog, "a", "b"},
		"run json":   {"run", "-H", "all", "--json", prog},
		"run module": {"run", "-H", "w*", "-m", "prog", "c"},
		"run fresh":  {"run", "-H", "w*", "--fresh", prog},
		"run twice":  {"run", "-H", "w1,w1,w1", prog},
		"plain":      {"-H", "w*", "work:name"},
		"parallel":   {"-H", "w*", "-p", "3", "work:say"},
		"parallel 9": {"-H", "w1,w4,w5,w6", "-p", "9", "--json", "work:numbers"},
		"errors":     {"-H", "all", "work:some"},
		"json":       {"-H", "all", "--json", "work:some"},
		"printed":    {"-H", "w*", "work:say"},
		"printed -b": {"-H", "all", "-b", "work:say"},
		"generators": {"-H", "all", "work:numbers"},
		"they print": {"-H", "w*", "work:chatty"},
		"print json": {"-H", "w*", "--json", "work:chatty"},
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
		"late":       {"-H", "w1,w2", "--timeout", "20s", "work:quick", "60"},
		"files":      {"-H", "w*", "-o", "out", "work:say"},
		"many times": {"-H", "w1,w1,w1,w2,w2", "work:numbers"},
		"fresh":      {"-H", "w*", "--fresh", "work:name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := "call"
			if args[0] != "-H" {
				command, args = args[0], args[1:]
			}
			args := append([]string{command, "-I", dir, "-i", filepath.Join(dir, "mitogend-hosts.yaml")}, args...)
			if !strings.HasPrefix(name, "parallel") {
				args = slices.Insert(args, 1, "-p", "1")
			}
			want := Mitogend(t, t.TempDir(), slices.Insert(slices.Clone(args), 1, "--daemon", "none")...)
			got := d.Run(t, t.TempDir(), args...)
			if got.Status != want.Status || steady(got.Stdout) != steady(want.Stdout) || steady(got.Stderr) != steady(want.Stderr) {
				t.Errorf("by one request:\n%v\nby many:\n%v", got, want)
			}
		})
	}
}

// After an interruption, each target has run, may have run, or has not begun; nothing else is reported.
func TestTogetherInterrupted(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5")
	d := Serve(t)
	for _, args := range [][]string{
		{"call", "work:slow", dir}, {"exec", "--", "sh", "-c", "case $W in w1) exit;; esac; touch " + dir + "/$W; exec sleep 60"},
	} {
		args = slices.Insert(args, 1, "--json", "-p", "2", "-H", "all", "--failed", "failed")
		cmd := Command(t, dir, args...)
		cmd.Env = append(cmd.Env, d.Env()...)
		kinds, said := interrupted(t, dir, cmd)
		if len(kinds) != 5 || kinds["w1"] != "ok" || kinds["w2"] != "interrupted" || kinds["w3"] != "interrupted" ||
			kinds["w4"] != "not_begun" || kinds["w5"] != "not_begun" {
			t.Error(args[0], kinds, said)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "failed")); string(got) != "w2\nw3\nw4\nw5\n" {
			t.Errorf("%s: %q", args[0], got)
		}
		for _, w := range []string{"w2", "w3"} {
			_ = os.Remove(filepath.Join(dir, w))
		}
	}
}

// The daemon is killed meanwhile: each target is reported once.
func TestTogetherWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2", "w3", "w4", "w5")
	d := Serve(t)
	cmd := Command(t, dir, "call", "--json", "-p", "2", "-H", "all", "-o", "out", "work:slow", dir)
	cmd.Env = append(cmd.Env, d.Env()...)
	var out Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "two run", func() bool {
		text2, _ := os.ReadFile(dir + "/out/w2/stderr")
		text3, _ := os.ReadFile(dir + "/out/w3/stderr")
		return string(text2)+string(text3) == "slow w2\nslow w3\n"
	})
	d.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	if s := out.String(); strings.Count(s, `"kind":"lost"`) != 4 || strings.Count(s, `"ok":true`) != 1 || strings.Count(s, "\n") != 5 || cmd.ProcessState.ExitCode() != 4 {
		t.Error(cmd.ProcessState.ExitCode(), s)
	}
	if text, _ := os.ReadFile(dir + "/out/w2/stderr"); !strings.Contains(string(text), "slow w2\n") {
		t.Errorf("%q", text)
	}
	directories(t, dir+"/out", "w1", "w2", "w3", "w4", "w5")
}

// directories lists the files below a directory.
func directories(t *testing.T, dir string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if err != nil || !slices.Equal(got, want) {
		t.Error(got, err)
	}
}

// What a generator logs comes behind its first value, also behind its last one, and makes no outcome of its own.
func TestTogetherGeneratorLogs(t *testing.T) {
	dir := t.TempDir()
	apart(t, dir, "w1", "w2")
	d := Serve(t)
	if r := d.Run(t, dir, "call", "-H", "all", "-o", "out", "work:logs"); r.Status != 0 {
		t.Error(r)
	}
	directories(t, dir+"/out", "w1", "w2")
	for _, name := range []string{"w1", "w2"} {
		if text, err := os.ReadFile(filepath.Join(dir, "out", name, "stderr")); err != nil || !strings.HasSuffix(string(text), "record 499\n") {
			t.Errorf("%s: %v, %d bytes, %.100q", name, err, len(text), text[max(0, len(text)-100):])
		}
		if text, err := os.ReadFile(filepath.Join(dir, "out", name, "status")); err != nil || string(text) != "0\n" {
			t.Errorf("%s: %v, %q", name, err, text)
		}
	}
	if r := d.Run(t, dir, "call", "-H", "all", "-b", "work:logs"); r.Status != 0 || strings.Count(r.Stderr, "record 499\n") != 2 || !strings.Contains(r.Stdout, "(2)\n0\n1\n") {
		t.Error(r)
	}
}
