package integration

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

func TestCallNeedsNothingElse(t *testing.T) {
	r := Mitogend(t, t.TempDir(), "call", "os:getpid")
	if pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout)); err != nil || pid <= 1 || r.Status != 0 || r.Stderr != "" {
		t.Fatal(r)
	}
}

func TestPythonVersion(t *testing.T) {
	EachPython(t, func(t *testing.T, p Python) {
		r := Mitogend(t, t.TempDir(), "call", "-H", p.Target(), "platform:python_version")
		var version string
		if err := json.Unmarshal([]byte(r.Stdout), &version); err != nil || !strings.HasPrefix(version, p.Version+".") {
			t.Fatal(err, r)
		}
		Mitogend(t, t.TempDir(), "call", "--raw", "-H", p.Target(), "platform:python_version").Want(t, 0, version, "")
	})
}

// values is a module whose functions return values that JSON has, and others.
const values = `# -*- coding: utf-8 -*-
import sys
def echo(*args, **kwargs):
    return [args, kwargs]
def types(*args):
    return [type(a).__name__ for a in args]
def several():
    return [None, True, -1, 2 ** 80, 1.5, 1e300, u'h\xe9\n', (1, 2), {u'a': 1}, {1: u'b', u'c': [b'\xff']}]
def floats():
    inf = float('inf')
    return [inf, -inf, inf - inf, 100.0, 1e-7, 1e16]
def raw():
    return b'\x00\xff\n'
def text():
    return u'h\xe9'
class Thing(object):
    @classmethod
    def name(cls):
        return cls.__name__
`

func TestValuesAsJSON(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "values.py", values)
	EachPython(t, func(t *testing.T, p Python) {
		call := func(args ...string) Result {
			return Mitogend(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
		}
		call("values:several").Want(t, 0, `[null,true,-1,1208925819614629174706176,1.5,1e+300,"hé\n",[1,2],{"a":1},{"$dict":[[1,"b"],["c",[{"$bytes":"/w=="}]]]}]`+"\n", "")
		call("values:floats").Want(t, 0, `[{"$float":"inf"},{"$float":"-inf"},{"$float":"nan"},100.0,1e-07,1e+16]`+"\n", "")
		call("values:raw").Want(t, 0, `{"$bytes":"AP8K"}`+"\n", "")
		call("--raw", "values:raw").Want(t, 0, "\x00\xff\n", "")
		call("--raw", "values:text").Want(t, 0, "h\xc3\xa9", "")
		call("values:Thing.name").Want(t, 0, `"Thing"`+"\n", "")
		call("--kw", `k={"a":[1]}`, "--kw", "s=x y", "values:echo", "-1", "[1, 2.0]", "a b", `{"$bytes": "/w=="}`).
			Want(t, 0, `[[-1,[1,2.0],"a b",{"$bytes":"/w=="}],{"k":{"a":[1]},"s":"x y"}]`+"\n", "")
		call("--string-args", "values:echo", "1", "null").Want(t, 0, `[["1","null"],{}]`+"\n", "")
		call("values:echo", "--", "--json").Want(t, 0, `[["--json"],{}]`+"\n", "")
	})
	// The order of keywords is kept, and numbers stay exact.
	p := AnyPython(t)
	Mitogend(t, dir, "call", "-H", p.Target(), "values:types", "1", "1.0", "12345678901234567890123", `"1"`, "true", `{"$dict":[[[1],2]]}`).
		Want(t, 0, `["int","float","int","str","bool","dict"]`+"\n", "")
}

type line struct {
	Target  string
	OK      bool
	Result  json.RawMessage
	Error   struct{ Kind, Type, Message, Traceback string }
	Seconds float64
	Imports []struct{ Module, How, Path, For string }
}

func readLines(t *testing.T, r Result) (lines []line) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(r.Stdout))
	for dec.More() {
		var l line
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err, r)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestTwentyTargetsTwoBroken(t *testing.T) {
	p := AnyPython(t)
	targets := strings.Repeat(p.Target()+"\n", 9) + "local:?python=/nowhere/python\n" + strings.Repeat(p.Target()+"\n", 9) +
		"# a comment\n\nlocal:?python_path=/bin/false\n"
	dir := t.TempDir()
	Write(t, dir, "hosts", targets)
	r := Mitogend(t, dir, "call", "-H", "@hosts", "os:getpid")
	if n := strings.Count(r.Stdout, p.Target()+"| "); n != 18 || r.Status != 3 || strings.Count(r.Stdout, "\n") != 18 {
		t.Fatal(r)
	}
	if strings.Count(r.Stderr, "\n") != 3 || !strings.Contains(r.Stderr, "/nowhere/python: ") || !strings.Contains(r.Stderr, "/bin/false: ") ||
		!strings.Contains(r.Stderr, "\nmitogend: 18 ok, 2 not reached: local:?python") {
		t.Fatal(r)
	}
	r = Mitogend(t, dir, "call", "--json", "-p", "3", "-H", "@hosts", "os:getpid")
	ok, pids := 0, map[string]bool{}
	for _, l := range readLines(t, r) {
		if l.OK {
			ok++
			pids[string(l.Result)] = true
		} else if l.Error.Kind != "connect" || l.Error.Message == "" {
			t.Error(l)
		}
	}
	if ok != 18 || len(pids) != 18 || r.Status != 3 || r.Stderr != "" {
		t.Fatal(ok, r)
	}
}

func TestStatusIsTheHighest(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	Write(t, dir, "m.py", "import os, sys\ndef f():\n    if os.environ.get('X'): pass\n    raise ValueError(u'no')\n")
	good, bad := p.Target(), "local:?python=/nowhere/python"
	Mitogend(t, dir, "call", "-H", good+","+good, "m:f").Want(t, 1, "", "ValueError: no\n")
	Mitogend(t, dir, "call", "-H", good+","+bad, "m:f").Want(t, 3, "", "ValueError: no\n")
	Mitogend(t, dir, "call", "-H", bad+","+good, "os:_exit", "9").Want(t, 4, "", "exit status 9")
}

func TestPrintedByAFunctionGoesToStderr(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "m.py", "from __future__ import print_function\nimport os, sys\ndef f():\n    print('one')\n    os.write(1, b'two\\n')\n    sys.stderr.write('three')\n    return 4\n")
	EachPython(t, func(t *testing.T, p Python) {
		r := Mitogend(t, dir, "call", "-H", p.Target(), "m:f")
		r.Want(t, 0, "4\n", "one\n")
		if !strings.Contains(r.Stderr, "two\n") || !strings.Contains(r.Stderr, "three") {
			t.Fatal(r)
		}
	})
	p := AnyPython(t)
	r := Mitogend(t, dir, "call", "-H", p.Target()+","+p.Target(), "m:f")
	if strings.Count(r.Stderr, p.Target()+"| one\n") != 2 || strings.Count(r.Stderr, "three\n") != 2 || strings.Count(r.Stdout, p.Target()+"| 4\n") != 2 {
		t.Fatal(r)
	}
}

func TestLogsOfAFunction(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "m.py", "import logging\ndef f():\n    log = logging.getLogger('a.b')\n    log.debug('fine')\n    log.info('usual %d', 1)\n    log.warning('odd')\n    log.error('bad')\n")
	EachPython(t, func(t *testing.T, p Python) {
		all := []string{"DEBUG a.b: fine\n", "INFO a.b: usual 1\n", "WARNING a.b: odd\n", "ERROR a.b: bad\n"}
		for flag, first := range map[string]int{"-vv": 0, "-v": 1, "--json=false": 2, "-q": 3} {
			r := Mitogend(t, dir, "call", flag, "-H", p.Target(), "m:f")
			for i, text := range all {
				if strings.Contains(r.Stderr, text) != (i >= first) {
					t.Errorf("%s: %v", flag, r)
				}
			}
		}
	})
}

// unlike is a module whose functions return and accept values that are not plain.
const unlike = `
import collections, datetime, time
Point = collections.namedtuple('Point', 'x y')
def point(x=1):
    return Point(x, set([2]))
def types(*args, **kwargs):
    return [type(a).__name__ for a in args] + [type(kwargs[k]).__name__ for k in sorted(kwargs)]
def numbers(n):
    for i in range(n):
        print('made %d' % i)
        yield datetime.date(2026, 1, i + 1)
    raise ValueError('no more')
class Odd(object):
    def __repr__(self):
        return '<odd>'
def odd():
    return [1, {'a': Odd()}]
`

func TestAnyResult(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "unlike.py", unlike)
	Write(t, dir, "arg.json", `{"$set": [1]}`)
	EachPython(t, func(t *testing.T, p Python) {
		call := func(args ...string) Result {
			return Mitogend(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
		}
		call("--select", "[.x, .y]", "unlike:point").Want(t, 0, "[1,[2]]\n", "")
		call("--table", "--select", "{x, y}", "unlike:point").Want(t, 0, "TARGET"+strings.Repeat(" ", len(p.Target())-4)+"x  y\n"+p.Target()+"  1  [2]\n", "")
		r := call("unlike:numbers", "2")
		r.Want(t, 1, "\"2026-01-01\"\n\"2026-01-02\"\n", "ValueError: no more")
		if strings.Contains(r.Stderr, "mitogen/") || !strings.Contains(r.Stderr, "unlike.py") && p.Version != "2.7" {
			t.Error("want the function's own frames only", r)
		}
		r = call("--json", "unlike:numbers", "2")
		if r.Status != 1 || !strings.Contains(r.Stdout, `"message":"no more"`) {
			t.Error(r)
		}
		call("unlike:odd").Want(t, 1, "", "it returned a value of type unlike.Odd (at [1].a), which cannot be shown; --repr shows its repr()\n")
		call("--repr", "unlike:odd").Want(t, 0, "[1, {'a': <odd>}]\n", "")
		call("unlike:types", `{"$datetime": "2026-01-31T12:00:00Z"}`, "@arg.json", "@@x", `{"$mine": 1}`, "--kw", "k=@arg.json").Want(t, 0,
			map[bool]string{true: `["datetime","set","unicode","dict","set"]`, false: `["datetime","set","str","dict","set"]`}[p.Version == "2.7"]+"\n", "")
		call("unlike:types", "--args-json", `[1, {"$decimal": "1.5"}]`).Want(t, 0, `["int","Decimal"]`+"\n", "")
		call("unlike:types", "--args-json", `{"a": {"$uuid": "12345678123456781234567812345678"}}`).Want(t, 0, `["UUID"]`+"\n", "")
		call("unlike:types", `{"$datetime": "tomorrow"}`).Want(t, 1, "", "ValueError: $datetime: ")
		call("unlike:types", "@nosuch").Want(t, 2, "", "argument @nosuch: the file nosuch: no such file or directory (for the text itself write @@nosuch, or --string-args)")
	})
}

// TestAnyResultByDaemon: a daemon's children convert the same values, over its socket.
func TestAnyResultByDaemon(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	d := Serve(t)
	Write(t, dir, "unlike.py", unlike)
	call := func(args ...string) Result {
		return d.Run(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
	}
	call("unlike:point").Want(t, 0, `{"x":1,"y":[2]}`+"\n", "")
	call("unlike:types", `{"$set": []}`).Want(t, 0, `["set"]`+"\n", "")
	call("--select", ".", "unlike:numbers", "1").Want(t, 1, "\"2026-01-01\"\n", "ValueError: no more")
	call("unlike:odd").Want(t, 1, "", "a value of type unlike.Odd (at [1].a)")
}

// Names that are not UTF-8 are the same behind a filter. Only --raw gives a terminal what a child has made for it.
func TestNamesBehindAFilter(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	Write(t, dir, "m.py", "class Odd(object):\n    def __repr__(self):\n        return 'a\\x1b[2J\\nb'\n\ndef odd():\n    return Odd()\n"+
		"def keys(n):\n    return [{'k%d' % i: i} for i in range(n)]\n")
	Write(t, dir, "names/caf\xe9", "")
	call := func(args ...string) Result {
		return Mitogend(t, dir, append([]string{"call", "-H", p.Target()}, args...)...)
	}
	list := []string{"os:listdir", `"names"`}
	call(append(list, "--select", ".[]", "--raw")...).Want(t, 0, "caf\xe9", "")
	call(append(list, "--select", ".[]")...).Want(t, 0, `"caf\udce9"`+"\n", "")
	call(append(list, "--select", `.[] | select(. == "caf\udce9") | {name: .}`)...).Want(t, 0, `{"name":"caf\udce9"}`+"\n", "")
	if r := call(append(list, "--select", ".[]", "--json")...); !strings.Contains(r.Stdout, `"result":"caf\udce9"`) {
		t.Error(r)
	}
	if r := call(append(list, "--table")...); !strings.HasSuffix(r.Stdout, `  caf\xe9`+"\n") {
		t.Error(r)
	}
	call("--repr", "m:odd").Want(t, 0, `a\x1b[2J`+"\nb\n", "")
	call("--repr", "--raw", "m:odd").Want(t, 0, "a\x1b[2J\nb", "")
	r := call("--table", "m:keys", "20000")
	if r.Status != 0 || len(strings.Fields(r.Stdout[:strings.IndexByte(r.Stdout, '\n')])) != 201 || !strings.Contains(r.Stderr, "after the first 200 columns") {
		t.Error(r)
	}
}
