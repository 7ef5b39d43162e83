package integration

import (
	"mitogend/integration/pythons"
	"path/filepath"
	"strings"
	"testing"
)

// oneLine fails unless the command ended with that status and wrote one line to stderr that contains all parts.
func oneLine(t *testing.T, r Result, status int, parts ...string) {
	t.Helper()
	if r.Status != status || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.HasPrefix(r.Stderr, "mitogend: ") {
		t.Errorf("want status %d and one line, got %v", status, r)
		return
	}
	for _, part := range parts {
		if !strings.Contains(r.Stderr, part) {
			t.Errorf("want %q in %q", part, r.Stderr)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "s.py", "")
	Write(t, dir, "empty", "# nothing\n")
	for _, c := range []struct {
		args string
		want []string
	}{
		{"frobnicate", []string{`no command "frobnicate"`}},
		{"--frobnicate", []string{"unknown flag: --frobnicate", "--help"}},
		{"call --frobnicate", []string{"unknown flag: --frobnicate", "mitogend call --help"}},
		{"call", []string{"MODULE:FUNCTION"}},
		{"call os.getpid", []string{`"os.getpid" is not MODULE:FUNCTION`}},
		{"call os:a.b.c", []string{"is not MODULE:FUNCTION"}},
		{"call ../x:f", []string{"is not MODULE:FUNCTION"}},
		{"call os:getpid --jsn", []string{"unknown flag: --jsn", "--"}},
		{"call --raw --json os:getpid", []string{"--raw, --table and --json exclude each other"}},
		{"call --kw x os:getpid", []string{"--kw x", "NAME=VALUE"}},
		{"call --kw x=1 --kw x=2 os:getpid", []string{"given twice"}},
		{`call os:getpid {"$bytes":"*"}`, []string{"$bytes"}},
		{"call -H frob:x os:getpid", []string{`unknown method "frob"`, "ssh"}},
		{"call -H local:x os:getpid", []string{"takes nothing after the colon"}},
		{"call -H local:?frob=1 os:getpid", []string{`unknown key "frob"`, "python"}},
		{"call -H local:?connect_timeout=soon os:getpid", []string{"connect_timeout", "soon"}},
		{"call -H ssh:h?password=geheim os:getpid", []string{"a secret never stands in a target", "password_env"}},
		{"call -H ssh:h?password_env=NOT_SET_AT_ALL os:getpid", []string{"NOT_SET_AT_ALL is not set"}},
		{"call -H ssh:h+ os:getpid", []string{"hop 2"}},
		{"call -H @nowhere os:getpid", []string{"@nowhere", "no such file"}},
		{"call -H @empty os:getpid", []string{"@empty", "no target"}},
		{"call -H @. os:getpid", []string{"@.", "is a directory"}},
		{"call -p 0 os:getpid", []string{"--parallel 0"}},
		{"call -p x os:getpid", []string{"invalid argument", "-p"}},
		{"call --timeout -1s os:getpid", []string{"--timeout"}},
		{"call --timeout 5x os:getpid", []string{"--timeout", "5x"}},
		{"call --connect-timeout 0s os:getpid", []string{"--connect-timeout"}},
		{"call --python -x os:getpid", []string{`"-x" is no interpreter`}},
		{"call --python=~/bin/python os:getpid", []string{`"~/bin/python": ~ stands for no directory`}},
		{"call --prefer there os:getpid", []string{"here or target"}},
		{"call --allow a..b os:getpid", []string{"a..b"}},
		{"call -I nowhere os:getpid", []string{"nowhere", "no such file"}},
		{"call --venv . os:getpid", []string{"no virtual environment"}},
		{"call --ask-pass -H ssh:h os:getpid", []string{"--ask-pass", "no terminal", "password_env"}},
		{"call --where= os:getpid", []string{"--where", "it is empty"}},
		{"exec --batch= -- true", []string{"--batch", "it is empty"}},
		{"run", []string{"SCRIPT"}},
		{"run nowhere.py", []string{"no script nowhere.py"}},
		{"run .", []string{"directory"}},
		{"run /dev/zero", []string{"larger than"}},
		{"modules", []string{"NAME"}},
		{"modules --python-version three os", []string{"--python-version three"}},
		{"version x", []string{`unknown command "x" for "mitogend version"`}},
	} {
		cmd := Command(t, dir, strings.Fields(c.args)...)
		cmd.SysProcAttr = noTerminal
		r := runCommand(t, cmd)
		oneLine(t, r, 2, c.want...)
		if strings.Contains(r.Stderr, "geheim") {
			t.Errorf("the secret shows: %q", r.Stderr)
		}
	}
}

func TestTargetsThatDoNotStart(t *testing.T) {
	dir := t.TempDir()
	pythons.Program(t, filepath.Join(dir, "old"), "#!/bin/sh\necho 'this is Python 2.5' >&2\nexit 1\n")
	Write(t, dir, "data", "x")
	for _, c := range []struct {
		target string
		want   []string
	}{
		{"local:?python=/nowhere/python", []string{"/nowhere/python", "try: "}},
		{"local:?python=nowhere1,nowhere2", []string{"nowhere1 (not found)", "nowhere2 (not found)"}},
		{"local:?python=" + dir + "/old", []string{"this is Python 2.5", "exit status 1"}},
		{"local:?python=" + dir + "/data", []string{"permission denied"}},
		{"local:?python_path=/bin/true", []string{"ended before"}},
		{"local:?connect_timeout=0.2&python_path=sleep%20100%20%23", []string{"sleep"}},
	} {
		oneLine(t, Mitogend(t, dir, "call", "-H", c.target, "os:getpid"), 3, c.want...)
	}
	silent := filepath.Join(dir, "silent")
	pythons.Program(t, silent, "#!/bin/sh\nexec sleep 1000\n")
	oneLine(t, Mitogend(t, dir, "call", "--python", silent, "--connect-timeout", "300ms", "os:getpid"), 3, "300ms")
	oneLine(t, Mitogend(t, dir, "call", "--python", silent, "--timeout", "300ms", "os:getpid"), 4, "300ms", "--timeout")
}

// trouble is a module whose functions fail.
const trouble = `# -*- coding: utf-8 -*-
import os, signal, sys, time
class Odd(Exception):
    def __str__(self):
        return u'caf\xe9'.encode('utf-8') if sys.version_info[0] == 2 else u'caf\xe9'
def inner():
    raise Odd()
def raises():
    inner()
def lock():
    import threading
    return threading.Lock()
def a_set():
    return set([1])
def leave():
    sys.exit(3)
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def forever():
    while 1:
        time.sleep(100)
def spin():
    while 1:
        pass
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forever()
def orphan():
    pid = os.fork()
    if not pid:
        while 1:
            time.sleep(100)
    return 'parent'
def daemon():
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        forever()
    os._exit(5)
`

func TestFunctionsThatFail(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "trouble.py", trouble)
	Write(t, dir, "broken.py", "def f(:\n")
	Write(t, dir, "latin.py", "x = '\xe4'\n")
	Write(t, dir, "needs.py", "import this_is_nowhere\n")
	Write(t, dir, "_ext.cpython-311-x86_64-linux-gnu.so", "\x7fELF")
	Write(t, dir, "_ext.so", "\x7fELF")
	EachPython(t, func(t *testing.T, p Python) {
		call := func(args ...string) Result {
			return Mitogend(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
		}
		r := call("trouble:raises")
		want := []string{"Odd: café\nTraceback (most recent call last):\n  File \"", "trouble.py\", line 9, in raises\n    inner()\n", "line 7, in inner\n    raise Odd()\n"}
		for _, part := range want {
			if !strings.Contains(r.Stderr, part) || r.Status != 1 || r.Stdout != "" {
				t.Errorf("want %q in %v", part, r)
			}
		}
		for _, c := range []struct {
			function string
			status   int
			want     string
		}{
			{"trouble:lock", 1, "it returned a value of type "},
			{"trouble:leave", 1, "SystemExit: 3"},
			{"trouble:nothing", 1, "AttributeError: "},
			{"trouble:kill", 4, "signal: killed"},
			{"trouble:daemon", 4, "exit status 5"},
			{"nowhere:f", 1, "nowhere"},
			{"trouble.sub:f", 1, "sub"},
			{"broken:f", 1, "SyntaxError: "},
			{"needs:f", 1, "this_is_nowhere"},
			{"_ext:f", 1, "extension module that is no ELF file"},
		} {
			r := call(c.function)
			if r.Status != c.status || r.Stdout != "" || !strings.Contains(r.Stderr, c.want) || !strings.Contains(r.Stderr, "mitogend: ") {
				t.Errorf("%s: want status %d and %q, got %v", c.function, c.status, c.want, r)
			}
		}
		call("trouble:a_set").Want(t, 0, "[1]\n", "")
		call("trouble:orphan").Want(t, 0, `"parent"`+"\n", "")
		for _, f := range []string{"forever", "spin", "stubborn"} {
			oneLine(t, call("--timeout", "1s", "trouble:"+f), 4, "not done after 1s")
		}
	})
}

func TestScriptsThatFail(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "syntax.py", "print(1)\ndef f(:\n")
	Write(t, dir, "nul.py", "x = 1\x00\n")
	Write(t, dir, "nowhere.py", "import this_is_nowhere\n")
	Write(t, dir, "forks.py", "import os, sys, time, warnings\nwarnings.simplefilter('ignore')\nif not os.fork():\n    time.sleep(1000)\nsys.stdout.write('done')\n")
	Write(t, dir, "thread.py", "import threading, time\nt = threading.Thread(target=time.sleep, args=(1000,))\nt.start()\nprint('started')\n")
	EachPython(t, func(t *testing.T, p Python) {
		script := filepath.Join(dir, "syntax.py")
		here := p.Local(t, dir, "", script)
		if there := Mitogend(t, dir, "run", "-H", p.Target(), script); here != there {
			t.Errorf("here %v\nthere %v", here, there)
		}
		if r := Mitogend(t, dir, "run", "-H", p.Target(), "nul.py"); r.Status != 1 || !strings.Contains(r.Stderr, "Error: ") {
			t.Error(r)
		}
		if r := Mitogend(t, dir, "run", "-H", p.Target(), "nowhere.py"); r.Status != 1 || !strings.Contains(r.Stderr, "this_is_nowhere") {
			t.Error(r)
		}
		Mitogend(t, dir, "run", "-H", p.Target(), "forks.py").Want(t, 0, "done", "")
		r := Mitogend(t, dir, "run", "-H", p.Target(), "--timeout", "20s", "thread.py")
		if r.Status != 4 || !strings.HasPrefix(r.Stdout, "started") || !strings.Contains(r.Stderr, "not done after 20s") {
			t.Error(r)
		}
	})
}
