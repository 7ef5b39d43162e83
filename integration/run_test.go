package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program shows what a main program can see about itself, and ends as its first argument says.
const program = `# -*- coding: utf-8 -*-
from __future__ import print_function
import os, sys, signal
import helper

def fail():
    raise helper.Mine(u'bad')

if __name__ == '__main__':
    print(sys.argv)
    assert sys.modules['__main__'].fail is fail
    how = sys.argv[1]
    sys.stderr.write('to stderr\n')
    if how == 'exit':
        sys.exit(int(sys.argv[2]))
    if how == 'text':
        sys.exit('a last word')
    if how == 'os._exit':
        sys.stdout.flush()
        os.write(1, b'at the end')
        os._exit(9)
    if how == 'kill':
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'raise':
        fail()
    if how == 'read':
        print(sys.stdin.read(), end='')
    if how == 'log':
        import logging
        logging.warning('before')
        logging.basicConfig(level=logging.DEBUG, format='%(levelname)s %(name)s %(message)s')
        logging.getLogger('a.b').debug('after')
        logging.shutdown()
    if how == 'fork':
        sys.stdout.flush()
        if not os.fork():
            os._exit(8)
        print(os.wait()[1] >> 8)
    if how == 'exec':
        sys.stdout.flush()
        os.execv('/bin/sh', ['sh', '-c', 'echo from sh; exit 5'])
`

func TestRunIsTheProgramItself(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "app/prog.py", program)
	Write(t, dir, "app/helper.py", "class Mine(Exception):\n    pass\n")
	EachPython(t, func(t *testing.T, p Python) {
		for _, c := range []struct {
			args []string
			want int
		}{
			{[]string{"none"}, 0}, {[]string{"exit", "7"}, 7}, {[]string{"exit", "0"}, 0}, {[]string{"text"}, 1},
			{[]string{"os._exit"}, 9}, {[]string{"log"}, 0}, {[]string{"raise"}, 1}, {[]string{"fork"}, 0}, {[]string{"exec"}, 5}, {[]string{"read", "-x", "--json", "-H"}, 0},
		} {
			// An absolute path, since the name in tracebacks is as given, and Python 3.9 and later make it absolute.
			args := append([]string{filepath.Join(dir, "app/prog.py")}, c.args...)
			here := p.Local(t, dir, "", args...)
			there := Mitogend(t, dir, append([]string{"run", "-H", p.Target()}, args...)...)
			if here != there || there.Status != c.want {
				t.Errorf("%v: here %v\nthere %v", c.args, here, there)
			}
		}
		there := Mitogend(t, dir, "run", "-H", p.Target(), "app/prog.py", "kill")
		// Before 3.9 stderr is buffered, and lost here as it is locally.
		there.Want(t, 128+9, "['app/prog.py', 'kill']\n", "mitogend: ")
		if !strings.Contains(there.Stderr, "mitogend: "+p.Target()+": the program was ended by signal 9 (killed)\n") {
			t.Error(there)
		}
	})
}

// lots prints what is hard to pass on: a megabyte without a newline, bytes that are not text, and output on both streams up to the
// very end.
const lots = `import os, sys
def write(fd, data):
    while data:
        data = data[os.write(fd, data):]
write(1, b'x' * 1000000)
write(2, bytes(bytearray(range(256))) * 40)
write(1, bytes(bytearray(range(256))) * 4000)
for i in range(2000):
    write(1, (u'line %d\r\n' % i).encode())
sys.stdout.write('the end')
sys.stderr.write('the very end')
`

func TestRunPassesEveryByte(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "lots.py", lots)
	EachPython(t, func(t *testing.T, p Python) {
		here := p.Local(t, dir, "", "lots.py")
		if len(here.Stdout) < 2000000 {
			t.Fatal(here)
		}
		if there := Mitogend(t, dir, "run", "-H", p.Target(), "lots.py"); there != here {
			t.Fatalf("here %v\nthere %v", here, there)
		}
	})
}

func TestRunOnSeveralPrefixesLines(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import sys\nsys.stdout.write('a\\n\\nb')\nsys.stderr.write('c\\n')\nsys.exit(3)\n")
	p := AnyPython(t)
	r := Mitogend(t, dir, "run", "-H", p.Target(), "-H", p.Target(), "p.py")
	prefix := p.Target() + "| "
	for _, text := range []string{"a\n", "\n", "b\n"} {
		if strings.Count(r.Stdout, prefix+text) != 2 {
			t.Errorf("%q", text)
		}
	}
	if r.Status != 1 || strings.Count(r.Stdout, "\n") != 6 || strings.Count(r.Stderr, prefix+"c\n") != 2 ||
		strings.Count(r.Stderr, "the program ended with status 3\n") != 1 || !strings.Contains(r.Stderr, " (1): the same as local:") {
		t.Fatal(r)
	}
}

func TestRunAsJSON(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", "import os, sys\nos.write(1, b'a<\\n')\nos.write(2, b'\\xff')\nsys.exit(3)\n")
	p := AnyPython(t)
	r := Mitogend(t, dir, "run", "--json", "-H", p.Target(), "p.py")
	want := `"ok":false,"result":{"status":3,"signal":0,"stdout":"a<\n","stderr":{"$bytes":"/w=="},"truncated":false},` +
		`"error":{"kind":"call","type":"","message":"the program ended with status 3","traceback":""},"seconds":`
	if r.Status != 3 || !strings.Contains(r.Stdout, want) || len(readLines(t, r)) != 1 {
		t.Fatal(r)
	}
}

func TestRunReadsStdin(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "cat.py", "import os\nwhile 1:\n    b = os.read(0, 1 << 16)\n    if not b: break\n    while b: b = b[os.write(1, b):]\n")
	input := strings.Repeat("0123456789abcdef\xff\x00\n", 200000)
	EachPython(t, func(t *testing.T, p Python) {
		cmd := Command(t, dir, "run", "-H", p.Target(), "cat.py")
		cmd.Stdin = strings.NewReader(input)
		runCommand(t, cmd).Want(t, 0, input, "")
	})
	cmd := Command(t, dir, "run", "-H", AnyPython(t).Target(), "-", "a", "b")
	cmd.Stdin = strings.NewReader("import sys\nprint(sys.argv, sys.stdin.read())\n")
	runCommand(t, cmd).Want(t, 0, "['<stdin>', 'a', 'b'] \n", "")
}

// A program that stops reading must not delay its own end.
func TestRunLeavesUnreadStdin(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "head.py", "import sys\nprint(sys.stdin.readline().strip())\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fmt.Fprintf(w, "first\nsecond\n")
	cmd := Command(t, dir, "run", "-H", AnyPython(t).Target(), "head.py")
	cmd.Stdin = r
	runCommand(t, cmd).Want(t, 0, "first\n", "")
	_ = r.Close()
}

// The same session gives the same bytes over every kind of descriptor.
func TestSessionOverEveryLayout(t *testing.T) {
	dir := t.TempDir()
	blob := bytes.Repeat([]byte("\x00\x03\x04\x11\x13\x1a\x7f\xff\r\n"), 3000)
	Write(t, dir, "blob.py", fmt.Sprintf("def f():\n    return b%s\n", pyBytes(blob)))
	Write(t, dir, "session.py", "from __future__ import print_function\n"+lots+program[strings.Index(program, "import os"):])
	Write(t, dir, "helper.py", "class Mine(Exception):\n    pass\n")
	EachPython(t, func(t *testing.T, p Python) {
		script := filepath.Join(dir, "session.py")
		here := p.Local(t, dir, "", script, "raise")
		for _, stdio := range []string{"socketpair", "pipes", "pty", "hybrid", "hybrid-pipes"} {
			there := Mitogend(t, dir, "run", "-H", p.Target()+"&stdio="+stdio, script, "raise")
			if here != there {
				t.Errorf("%s: here %v\nthere %v", stdio, here, there)
			}
			r := Mitogend(t, dir, "call", "--raw", "-H", p.Target()+"&stdio="+stdio, "blob:f")
			r.Want(t, 0, string(blob), "")
		}
	})
}

// pyBytes writes a Python literal.
func pyBytes(b []byte) string {
	var s strings.Builder
	s.WriteByte('\'')
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String() + "'"
}
