package bytecode

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/integration/pythons"
	"mitogend/internal/slogzap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const waitTime = 120 * time.Second

// wait polls until ok holds.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTime); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// ownDir is a directory that is the user's alone on all of its way.
func ownDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "cache", "bytecode")
}

func newStore(t *testing.T, dir string, opt Options) *Store {
	t.Helper()
	if dir != "" {
		d, err := OpenDir(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		opt.Dir = d
	}
	s := New(opt)
	t.Cleanup(s.Close)
	return s
}

func sourceOf(file, text string) Source {
	return Source{Hash: sha256.Sum256([]byte(text)), Size: len(text), File: file, Text: func() ([]byte, error) { return []byte(text), nil }}
}

// describe asks an interpreter for its magic number.
func describe(t *testing.T, py pythons.Python) Python {
	t.Helper()
	p := Python{}
	program := "try:\n from importlib.util import MAGIC_NUMBER as m\nexcept ImportError:\n import imp; m = imp.get_magic()\n" +
		"import struct,sys; print('%d %d %d' % ((struct.unpack('<H', m[:2])[0],) + sys.version_info[:2]))"
	out, err := exec.Command(py.Path, "-c", program).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &p.Magic, &p.Major, &p.Minor)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run has an interpreter run code that came from a store.
func run(t *testing.T, py pythons.Python, code []byte) string {
	t.Helper()
	cmd := exec.Command(py.Path, "-c", "import sys, marshal, zlib; code = marshal.loads(zlib.decompress(getattr(sys.stdin, 'buffer', sys.stdin).read())); exec(code); print(code.co_filename)")
	cmd.Stdin = bytes.NewReader(code)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// settled waits until there is code, or none to be had.
func settled(t *testing.T, s *Store, p Python, src Source) []byte {
	t.Helper()
	if code := s.Code(p, src); code != nil {
		return code
	}
	k := keyOf(p, src)
	wait(t, "nothing comes of it", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.pending[k]
	})
	// Only now: it may have come since it was asked for.
	return s.Code(p, src)
}

// TestCode has each interpreter compile, and run what another store has found in the directory.
func TestCode(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		t.Parallel()
		p, dir := describe(t, py), ownDir(t)
		s := newStore(t, dir, Options{})
		s.Offer(py.Path, p.Magic)
		src := sourceOf("/master:/x/mod.py", "\"\"\"Doc.\"\"\"\r\nimport sys\r\nprint(sys.version_info[0] * 7)")
		if code := s.Code(p, src); code != nil {
			t.Fatal("there is code at once")
		}
		code := settled(t, s, p, src)
		want := fmt.Sprintf("%d\n/master:/x/mod.py\n", p.Major*7)
		if got := run(t, py, code); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		var none []string
		for what, text := range map[string]string{"is no Python": "def f(:\n", "is warned of": "print(1 is 1, '\\d')\nassert (1, 'x')\n"} {
			if code := settled(t, s, p, sourceOf("/x.py", text)); code != nil {
				t.Errorf("what %s has code", what)
			}
			none = append(none, text)
		}
		// It runs nothing of what it compiles.
		trap := filepath.Join(t.TempDir(), "trap")
		settled(t, s, p, sourceOf("/y.py", "open("+fmt.Sprintf("%q", trap)+", 'w')\n"))
		if _, err := os.Stat(trap); err == nil {
			t.Error("the source was run")
		}
		s.Close()
		// Without an interpreter.
		other := newStore(t, dir, Options{})
		other.Ahead(p, src)
		other.Ahead(p, sourceOf("/x.py", "Y = 1\n"))
		if len(other.entries) != 1 || len(other.workers) != 0 {
			t.Errorf("read ahead: %d entries, %d workers", len(other.entries), len(other.workers))
		}
		if got := other.Code(p, src); !bytes.Equal(got, code) {
			t.Errorf("the next process finds %d bytes, not %d", len(got), len(code))
		}
		// It is also known what has no code; that is not compiled again.
		for _, text := range none {
			if code := other.Code(p, sourceOf("/x.py", text)); code != nil || len(other.workers) != 0 {
				t.Errorf("the next process has code of %q: %q", text, code)
			}
		}
		if src.File = "/other.py"; other.Code(p, src) != nil {
			t.Error("there is the code of another file")
		}
	})
}

// TestCompilersOfHere: names and patterns are those of the directory that we run in.
func TestCompilersOfHere(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "bin", "python3")
	if err := os.Mkdir(filepath.Dir(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	pythons.Program(t, fake, "")
	t.Chdir(dir)
	for _, name := range []string{"bin/python3", "./bin/python[23]", fake} {
		s := newStore(t, "", Options{Compilers: []string{name}})
		if list := s.candidates(Python{1, 3, 99}); len(list) == 0 || list[0] != fake {
			t.Errorf("%s: got %q", name, list)
		}
	}
}

// TestSettle: it waits for what is being compiled, and no longer than it is told.
func TestSettle(t *testing.T) {
	py := pythons.Any(t)
	p := describe(t, py)
	s := newStore(t, "", Options{})
	s.Settle(waitTime)
	s.Offer(py.Path, p.Magic)
	for i := range 20 {
		s.Code(p, sourceOf("/x.py", fmt.Sprintf("X = %d\n", i)))
	}
	s.Settle(waitTime)
	for i := range 20 {
		if s.Code(p, sourceOf("/x.py", fmt.Sprintf("X = %d\n", i))) == nil {
			t.Errorf("no code of source %d", i)
		}
	}
	// A compiler that hangs.
	fake := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, fake, "#!/bin/sh\necho MITOCODE $$ 1 /etc/passwd\nexec sleep 600\n")
	s.Offer(fake, 1)
	s.Code(Python{1, 3, 99}, sourceOf("/x.py", "X = 1\n"))
	s.Settle(time.Millisecond)
	s.Close()
	s.Settle(waitTime)
}

// TestNoCode: what none may have.
func TestNoCode(t *testing.T) {
	py := pythons.Any(t)
	p := describe(t, py)
	src := sourceOf("/x.py", "X = 1\n")
	t.Run("of another magic number", func(t *testing.T) {
		s := newStore(t, "", Options{Compilers: []string{py.Path}})
		strange := p
		strange.Magic++
		s.Offer(py.Path, strange.Magic) // that is a lie
		if settled(t, s, strange, src) != nil || s.Code(Python{}, src) != nil || len(s.workers) != 1 {
			t.Error("there is code")
		}
	})
	t.Run("interpreter of others", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "python")
		pythons.Program(t, link, "#!/bin/sh\nexec "+py.Path+" \"$@\"\n")
		if err := os.Chmod(link, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := startCompiler(t.Context(), link, 3); err == nil || !strings.Contains(err.Error(), "others may write to") {
			t.Error(err)
		}
		if err := os.Chmod(link, 0o755); err != nil {
			t.Fatal(err)
		}
		c, err := startCompiler(t.Context(), link, 3)
		if err != nil {
			t.Fatal(err)
		}
		c.end()
	})
}

// TestBadCompilers: whatever an interpreter does in place of compiling, there is no code, and nothing waits or is left.
func TestBadCompilers(t *testing.T) {
	py := pythons.Any(t)
	// No other interpreter that may be found has it.
	p := Python{1, 3, 99}
	const hello = "echo MITOCODE $$ 1 /etc/passwd"
	answer := func(number, check, code string) string {
		return hello + "; exec " + py.Path + ` -c "
import os, struct, zlib
data = os.read(0, 1 << 20)
n = struct.unpack('>L', data[:4])[0]
check = zlib.crc32(data[12:])
code = ` + code + `
os.write(1, struct.pack('>LLLL', ` + number + `, ` + check + `, 0, len(code)) + code)"`
	}
	for name, text := range map[string]string{
		"ends":             "exit 3",
		"says nothing":     "exec >&-; sleep 60",
		"has a banner":     "echo Welcome; " + hello,
		"says no end":      "yes | tr -d '\\n'",
		"stays beside":     "echo MITOCODE 1 a0d /etc/passwd; cat >/dev/null",
		"is special":       "echo MITOCODE a special build",
		"ends at a source": hello + "; head -c 12 >/dev/null",
		"is killed":        hello + "; head -c 12 >/dev/null; kill -9 $$",
		"answers garbage":  hello + "; exec head -c 100000 /dev/urandom",
		// The one that does what is wanted.
		"answers":         answer("n", "check", "zlib.compress(b'c' * 10)"),
		"answers another": answer("n + 1", "check", "zlib.compress(b'c' * 10)"),
		"of another text": answer("n", "check ^ 1", "zlib.compress(b'c' * 10)"),
		"not with code":   answer("n", "check", "zlib.compress(b'X = 1')"),
		"not whole":       answer("n", "check", "zlib.compress(b'c' * 10)[:-1]"),
		"with less":       hello + "; head -c 12 >/dev/null; head -c 15 /dev/zero",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := filepath.Join(t.TempDir(), "python")
			pythons.Program(t, fake, "#!/bin/sh\n"+text+"\n")
			s := newStore(t, ownDir(t), Options{Logger: slogzap.Slog(zaptest.NewLogger(t))})
			s.Offer(fake, p.Magic)
			for i := range 2 {
				src := sourceOf("/x.py", fmt.Sprintf("X = %d\n", i))
				if code := settled(t, s, p, src); (code != nil) != (name == "answers") {
					t.Errorf("there is code: %.20q", code)
				}
			}
		})
	}
}

// TestManyPythons: children that lie about their Python do not keep others from getting code, once that is found out.
func TestManyPythons(t *testing.T) {
	t.Parallel()
	py := pythons.Any(t)
	p := describe(t, py)
	s := newStore(t, "", Options{})
	s.Offer(py.Path, p.Magic)
	later := time.Now().Add(time.Hour)
	s.mu.Lock()
	for i := range maxPythons {
		fake := Python{1, 3, 100 + i}
		s.workers[fake] = &worker{python: fake, until: later}
	}
	s.mu.Unlock()
	src := sourceOf("/x.py", "X = 1\n")
	if settled(t, s, p, src) != nil || len(s.workers) != maxPythons {
		t.Error("there is no bound")
	}
	s.mu.Lock()
	s.workers[Python{1, 3, 100}].until = time.Time{}
	s.mu.Unlock()
	if settled(t, s, p, src) == nil || len(s.workers) != maxPythons {
		t.Errorf("there is no code, with %d kinds of Python", len(s.workers))
	}
}

// TestManySources: what waits for a compiler is bounded, and the bound is for what waits alone.
func TestManySources(t *testing.T) {
	t.Parallel()
	fake := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, fake, "#!/bin/sh\nexec sleep 600\n")
	s := newStore(t, "", Options{})
	s.Offer(fake, 1)
	p := Python{1, 3, 99}
	const most = maxWaiting / maxSource
	for i := range 2 * most {
		src := sourceOf("/x.py", fmt.Sprintf("X = %d\n", i))
		src.Size = maxSource
		s.Code(p, src)
	}
	s.mu.Lock()
	// One is with the compiler.
	if n := len(s.pending); n != most && n != most+1 {
		t.Errorf("%d sources wait, not %d", n, most)
	}
	s.rest(s.workers[p])
	if s.waiting != 0 {
		t.Errorf("%d bytes wait in no queue", s.waiting)
	}
	s.mu.Unlock()
}

// TestSlowLog: nobody waits for the log, whose reader may itself wait for others.
func TestSlowLog(t *testing.T) {
	t.Parallel()
	fake := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, fake, "#!/bin/sh\necho MITOCODE $$ 1 /etc/passwd; head -c 12 >/dev/null\n")
	logging, read := make(chan struct{}), make(chan struct{})
	core, logged := observer.New(zap.InfoLevel)
	log := zap.New(core, zap.Hooks(func(zapcore.Entry) error {
		close(logging)
		<-read
		return nil
	}))
	s := newStore(t, "", Options{Logger: slogzap.Slog(log)})
	s.Offer(fake, 1)
	src := sourceOf("", "X = 1\n")
	src.Name = "/x.py"
	s.Code(Python{1, 3, 99}, src)
	<-logging
	asked := make(chan struct{})
	go func() {
		s.Code(Python{2, 3, 99}, sourceOf("/y.py", "Y = 1\n"))
		close(asked)
	}()
	select {
	case <-asked:
	case <-time.After(waitTime):
		t.Error("who asks for code waits for the log")
	}
	close(read)
	<-asked
	if file := logged.All()[0].ContextMap()["file"]; file != "/x.py" {
		t.Errorf("the source is called %q", file)
	}
}

// TestCompilerThatHangs is killed.
func TestCompilerThatHangs(t *testing.T) {
	t.Parallel()
	fake := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, fake, "#!/bin/sh\necho MITOCODE $$ a0d /etc/passwd\nexec sleep 600\n")
	c, err := startCompiler(t.Context(), fake, 3)
	if err != nil {
		t.Fatal(err)
	}
	stop := c.within(10 * time.Millisecond)
	if _, err := c.compile("/x.py", []byte("X = 1\n")); err == nil {
		t.Error("it has answered")
	}
	stop()
	c.end()
	// So it is when the store is closed.
	s := newStore(t, "", Options{})
	s.Offer(fake, 0xa0d)
	p := Python{0xa0d, 3, 99}
	s.Code(p, sourceOf("/x.py", "X = 1\n"))
	wait(t, "it is not started", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.workers[p].queue) == 0
	})
	s.Close()
}

// TestCompilerThatLeavesOthers: a process that has left the group holds the pipes, and nobody waits for it.
func TestCompilerThatLeavesOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fake, started := filepath.Join(dir, "python"), filepath.Join(dir, "started")
	text := fmt.Sprintf("#!/bin/sh\nsetsid sh -c ': >%s; while [ -e %s ]; do sleep 0.1; done' &\n", started, fake)
	pythons.Program(t, fake, text)
	s := newStore(t, "", Options{})
	s.Offer(fake, 1)
	s.Code(Python{1, 3, 99}, sourceOf("/x.py", "X = 1\n"))
	wait(t, "it is not started", func() bool {
		_, err := os.Stat(started)
		return err == nil
	})
	closed := make(chan struct{})
	go func() {
		s.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(waitTime):
		t.Error("the store waits for it")
		_ = os.Remove(fake)
		<-closed
	}
}

// TestCompilerThatEnds: the source on which a compiler ends is not compiled, and the next one is.
func TestCompilerThatEnds(t *testing.T) {
	t.Parallel()
	py := pythons.Any(t)
	p := describe(t, py)
	dir := t.TempDir()
	fake := filepath.Join(dir, "python")
	// The first time.
	text := fmt.Sprintf("#!/bin/sh\nmkdir %s/first 2>/dev/null || exec %s \"$@\"\necho MITOCODE $$ %x /etc/passwd; head -c 12 >/dev/null\n", dir, py.Path, p.Magic)
	pythons.Program(t, fake, text)
	s := newStore(t, "", Options{})
	s.Offer(fake, p.Magic)
	for range 2 {
		if settled(t, s, p, sourceOf("/x.py", "X = 1\n")) != nil {
			t.Error("there is code")
		}
	}
	if settled(t, s, p, sourceOf("/y.py", "Y = 1\n")) == nil {
		t.Error("there is none of the next")
	}
}

// TestLimits: those that a compiler runs under.
func TestLimits(t *testing.T) {
	t.Parallel()
	py := pythons.Any(t)
	c, err := startCompiler(t.Context(), py.Path, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Max cpu time              40 ", "Max address space         1073741824 ", "Max file size             0 ", "Max core file size        0 "} {
		if !bytes.Contains(limits, []byte(want)) {
			t.Errorf("no limit %q:\n%s", want, limits)
		}
	}
}
