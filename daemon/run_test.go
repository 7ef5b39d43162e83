package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
	"mitogend/pyproto"
	"mitogend/python"
)

const readAll = "import sys\nsys.stdout.write('up')\nsys.stdout.flush()\nsys.stdin.read()\n"

// signalReader tells of each read and then waits for the end.
type signalReader struct{ reads, end chan struct{} }

func (r *signalReader) Read([]byte) (int, error) {
	select {
	case r.reads <- struct{}{}:
	default:
	}
	<-r.end
	return 0, io.EOF
}

// A program sees the end of its input while another that was started later still runs.
func TestInputEndsBesideAnotherProgram(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, newDaemon(t, Options{}), target(py))
		var ends [2]chan struct{}
		var done [2]chan error
		for i := range ends {
			ends[i], done[i] = make(chan struct{}), make(chan error, 1)
			up := make(chan struct{}, 1)
			go func() {
				_, err := c.Run(context.Background(), RunOptions{
					Path: "p.py", Source: []byte(readAll), Stdin: &signalReader{make(chan struct{}, 1), ends[i]}, Stdout: signalWriter(up),
				})
				done[i] <- err
			}()
			<-up
		}
		for i := range ends {
			close(ends[i])
			select {
			case err := <-done[i]:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("program %d does not end", i)
			}
		}
	})
}

// A program that was given up before it began does not run for ever.
func TestRunGivenUpBeforeItBegins(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		d := newDaemon(t, Options{})
		c := connect(t, d, target(py))
		busy := c.Start(context.Background(), "time:sleep", 0.5)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		in := &signalReader{make(chan struct{}, 1), make(chan struct{})}
		defer close(in.end)
		if _, err := c.Run(ctx, RunOptions{Path: "p.py", Source: []byte(readAll), Stdin: in}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := busy.Result(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		// Calls run in order, so the program has begun by now.
		if err := c.Call(context.Background(), "os:getpid").Err(); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, "the program is gone", func() bool { return len(d.Routes()) == 1 })
	})
}

// stuckWriter takes nothing until the end of a test.
type stuckWriter struct{ began, end chan struct{} }

func (w stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.began <- struct{}{}:
	default:
	}
	<-w.end
	return len(p), nil
}

// A program ends with its context even if nobody reads what it has printed.
func TestRunGivenUpWhileNobodyReads(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		d := newDaemon(t, Options{})
		c := connect(t, d, target(py))
		w := stuckWriter{make(chan struct{}, 1), make(chan struct{})}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			_, err := c.Run(ctx, RunOptions{Path: "p.py", Source: []byte(readAll), Stdin: &signalReader{make(chan struct{}, 1), w.end}, Stdout: w})
			ended <- err
		}()
		<-w.began
		cancel()
		poll.Until(t, "the program is gone", func() bool { return len(d.Routes()) == 1 })
		close(w.end)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Programs leave nothing in the child.
func TestRunLeavesNoHandle(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		dir := writeFiles(t, map[string]string{"look.py": "import mitogen.core\n\ndef handles():\n    return len(mitogen.core.router.handlers)\n"})
		c := connect(t, newDaemon(t, Options{Path: []string{dir}}), target(py))
		handles := func() (n int) {
			t.Helper()
			if err := c.Call(context.Background(), "look:handles").Decode(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := 0
		for i := range 6 {
			if _, err := c.Run(context.Background(), RunOptions{Path: "p.py", Source: []byte("pass")}); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				before = handles() // with those of what makes it a parent
			}
		}
		poll.Until(t, "the handles are gone", func() bool { return handles() <= before })
	})
}

// stubborn ends by SIGKILL only.
const stubborn = "import os, signal, sys, time\nfor n in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:\n    signal.signal(n, signal.SIG_IGN)\n" +
	"sys.stdout.write('up')\nsys.stdout.flush()\ntime.sleep(600)\n"

// A child that is killed with its process group leaves none of its programs, at whatever moment that is.
func TestProgramsEndWhenTheGroupIsKilled(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		seed := time.Now().UnixNano()
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		env := mark(t)
		d := newDaemon(t, Options{})
		for round := range 4 {
			c := connect(t, d, target(py), ConnectOptions{Env: env})
			up, ended := make(chan struct{}, 1), make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = c.Run(context.Background(), RunOptions{Path: "p.py", Source: []byte(stubborn), Stdout: signalWriter(up)})
			}()
			if round == 0 {
				<-up
			} else {
				select {
				case <-up:
				case <-time.After(time.Duration(random.IntN(150)) * time.Millisecond):
				}
			}
			c.stream.proc.Kill()
			<-ended
		}
		t.Log("seed", seed)
	})
}

const clockModule = `
import time
import mitogen.core

def wait():
    real = time.time
    latch = mitogen.core.Latch()
    time.time = lambda: real() - (3600 if real() - start > 0.1 else 0)
    start = real()
    try:
        try:
            latch.get(timeout=0.5)
        except mitogen.core.TimeoutError:
            return True
    finally:
        time.time = real
`

// A system clock that is set back makes no wait longer.
func TestWaitWhileTheClockIsSetBack(t *testing.T) {
	dir := writeFiles(t, map[string]string{"clocks.py": clockModule})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		if py.Version == "2.7" {
			t.Skip("Python 2 has no other clock")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var ended bool
		c := connect(t, newDaemon(t, Options{Path: []string{dir}}), target(py))
		if err := c.Call(ctx, "clocks:wait").Decode(&ended); err != nil || !ended {
			t.Error(ended, err)
		}
	})
}

// A program may have ended before its start is reported.
func TestRunEndsAtOnce(t *testing.T) {
	dir := writeFiles(t, map[string]string{"late.py": `import socket, time
import mitogen.program as program, mitogen.core as core
def news():
    real = program.News.on_readable
    def on_readable(self, fd, event):
        # Both are there: that it was started, and that it has ended.
        peer = socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.time() + 20
        while len(peer.recv(4096, socket.MSG_PEEK)) < 2 * program.TELL.size and time.time() < deadline:
            time.sleep(0.005)
        return real(self, fd, event)
    program.News.on_readable = on_readable
    # The main thread reads by itself, as it does when no function was called.
    core.Io.start_ticker = lambda io: None
`})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, newDaemon(t, Options{Path: []string{dir}}), target(py))
		if err := c.Call(testContext(t), "late:news").Err(); err != nil {
			t.Fatal(err)
		}
		for _, stdin := range []io.Reader{nil, strings.NewReader("input")} {
			var out bytes.Buffer
			status, err := c.Run(testContext(t), RunOptions{
				Path: "p.py", Source: []byte("import os\nos.write(1, b'out')\nos._exit(3)\n"), Stdin: stdin, Stdout: &out,
			})
			if err != nil || status.Code != 3 || out.String() != "out" {
				t.Errorf("%v, %v, %q", status, err, out.String())
			}
		}
	})
}

// If a child has no memory for its own work, it ends and says why: the program's end would never be told.
func TestRunOutOfMemory(t *testing.T) {
	dir := writeFiles(t, map[string]string{"short.py": `import mitogen.core as core, mitogen.program as program
def memory(ticker):
    def finish(self):
        raise MemoryError
    program.Program.finish = finish
    if not ticker:
        # The main thread reads by itself, as it does when no function was called.
        core.Io.start_ticker = lambda io: None
`})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		for _, ticker := range []bool{true, false} {
			said := make(chan string, 10)
			d := newDaemon(t, Options{Path: []string{dir}})
			c := connect(t, d, target(py), ConnectOptions{OnLog: func(l Log) { said <- l.Text }})
			if err := c.Call(testContext(t), "short:memory", ticker).Err(); err != nil {
				t.Fatal(err)
			}
			var dead *DeadError
			if _, err := c.Run(testContext(t), RunOptions{Path: "p.py", Source: []byte("print(1)\n")}); !errors.As(err, &dead) {
				t.Errorf("%v", err)
			}
			if text := <-said; !strings.Contains(text, "out of memory") {
				t.Errorf("%q", text)
			}
		}
	})
}

// Reading standard input ahead takes memory only once much comes.
func TestInputBuffer(t *testing.T) {
	var b InputBuffer
	size := 0
	for _, tt := range []struct{ read, want int }{{0, firstInput}, {100, firstInput}, {firstInput, firstInput}, {0, 8 * firstInput}, {8 * firstInput, 8 * firstInput}, {0, 10000}, {10000, 10000}, {10000, 10000}} {
		if size = len(b.Next(10000)); size != tt.want {
			t.Fatalf("%d bytes, want %d", size, tt.want)
		}
		b.Read(tt.read)
	}
	if n := len(new(InputBuffer).Next(9)); n != 9 {
		t.Errorf("%d bytes of at most 9", n)
	}
}

// A program's environment is not seen by others, and a setting that is none is an error before anything runs.
func TestRunEnvironment(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, newDaemon(t, Options{}), target(py))
		for _, row := range []struct {
			env  []string
			want string
		}{
			{[]string{"A=b=c", "E=", "W=w\u00f6rd", "X=\xff"}, "['b=c', '', 'w\u00f6rd', '\xff']"},
			{nil, "[None, None, None, None]"},
		} {
			var out bytes.Buffer
			_, err := c.Run(context.Background(), RunOptions{Path: "p.py", Stdout: &out, Env: row.env, Source: []byte(
				"import os, sys\nget = getattr(os, 'environb', os.environ).get\nvalues = [get(n if str is bytes else n.encode()) for n in 'AEWX']\n" +
					"out = getattr(sys.stdout, 'buffer', sys.stdout)\n" +
					"out.write(b'[' + b', '.join(b'None' if v is None else b\"'\" + v + b\"'\" for v in values) + b']')\n")})
			if err != nil || out.String() != row.want {
				t.Errorf("%q: %q, %v", row.env, out.String(), err)
			}
		}
		for _, bad := range []string{"", "A", "=b", "A=\x00"} {
			if _, err := c.Run(context.Background(), RunOptions{Path: "p.py", Source: []byte("pass"), Env: []string{bad}}); err == nil ||
				!strings.Contains(err.Error(), "no setting NAME=VALUE") {
				t.Errorf("%q: %v", bad, err)
			}
		}
	})
}

// A program's working directory is its own, and the child's where none is given; one that cannot be entered is the program's failure.
func TestRunWorkDir(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, newDaemon(t, Options{}), target(py))
		own, err := Call[string](t.Context(), c, "os:getcwd")
		if err != nil {
			t.Fatal(err)
		}
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			dir, out, errs string
			code           int
		}{{dir, dir, "", 0}, {"", own, "", 0}, {dir + "/none", "", "No such file or directory: '" + dir + "/none'", 1}} {
			var out, errs bytes.Buffer
			st, err := c.Run(t.Context(), RunOptions{
				Path: "p.py", WorkDir: row.dir, Source: []byte("import os, sys\nsys.stdout.write(os.getcwd())"), Stdout: &out, Stderr: &errs,
			})
			if err != nil || st.Code != row.code || out.String() != row.out || !strings.Contains(errs.String(), row.errs) ||
				strings.Contains(errs.String(), "Traceback") {
				t.Errorf("%q: %v, %v, %q, %q", row.dir, st, err, out.String(), errs.String())
			}
		}
	})
}

// TestInputPieces: pieces are as large as they may be, and meet again. Two are on the way to each of many programs, and in
// all no more than may be. A child reads the smallest at once.
func TestInputPieces(t *testing.T) {
	t.Parallel()
	d := &Daemon{}
	for n := range 1000 {
		d.printing.Store(int64(n))
		piece, window := d.inputPiece(), d.share(inputBytes)
		switch {
		case piece < minPiece || maxPiece%piece != 0 || n <= 32 && piece < maxPiece || n <= 64 && piece < 2*minPiece:
			t.Errorf("%d programs: pieces of %d bytes", n, piece)
		case n <= 130 && 2*piece > window || piece > minPiece && n*window > inputBytes:
			t.Errorf("%d programs: pieces of %d bytes, and %d on the way", n, piece, window)
		}
	}
	chunk := regexp.MustCompile(`\nCHUNK *= *([0-9]+)\n`).FindStringSubmatch(python.Core(3))
	if chunk == nil {
		t.Fatal("core.py has no CHUNK")
	}
	if most, err := strconv.Atoi(chunk[1]); err != nil || pyproto.HeaderLen+1+minPiece > most {
		t.Errorf("a piece of %d bytes with what stands before it is more than a child reads at once: %d, %v", minPiece, most, err)
	}
}

// TestInputBufferIsKept: a writer's largest pieces are read as one each, into memory that is used again.
func TestInputBufferIsKept(t *testing.T) {
	t.Parallel()
	for _, most := range []int{firstInput, minPiece, 1 + minPiece, 256 << 10, 1 + 256<<10} {
		var b InputBuffer
		var last *byte
		for range 10 {
			p := b.Next(most)
			if len(p) > most {
				t.Fatalf("a buffer of %d bytes; at most %d were asked for", len(p), most)
			}
			b.Read(len(p))
			if len(p) == most && last != nil && last != &p[0] {
				t.Errorf("a buffer of %d bytes was made again", most)
			}
			if last = nil; len(p) == most {
				last = &p[0]
			}
		}
		if last == nil {
			t.Errorf("pieces never become as large as %d bytes", most)
		}
		b.Read(most - 1)
		if p := b.Next(firstInput); len(p) > firstInput {
			t.Errorf("a buffer of %d bytes; only %d are asked for now", len(p), firstInput)
		}
	}
}

// The number of a program that was never there is taken back, here and in the hops; that of one that was given up, once
// it cannot begin any more.
func TestNumbersOfProgramsAreTakenBack(t *testing.T) {
	d := newDaemon(t, Options{})
	p := newPeer(t, d)
	c := p.behind()
	s := p.c.stream
	given := func() int {
		s.ids.mu.Lock()
		defer s.ids.mu.Unlock()
		return len(s.ids.given)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	run := func() chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := c.Run(ctx, RunOptions{Path: "p.py", Source: []byte("pass")})
			ended <- err
		}()
		return ended
	}
	call := func() *pyproto.Message {
		for {
			if m := p.read(); m.Handle == pyproto.CallFunction && m.ReplyTo != 0 {
				return m
			}
		}
	}
	answer := func(m *pyproto.Message) {
		p.send(pyproto.Header{Src: c.id, Auth: c.id, Handle: m.ReplyTo}, pickle(t, &pyproto.CallError{Text: "OSError: no"}))
	}
	wantAllow := func(what string) {
		for {
			m := p.answer(pyproto.Allow)
			if first, end, _ := strings.Cut(string(m.Payload), ":"); first == end {
				break
			}
		}
		if n := given(); n != 0 {
			t.Errorf("%s: %d numbers are kept", what, n)
		}
	}
	ended := run()
	answer(call())
	if err := <-ended; err == nil {
		t.Error("it has run")
	}
	wantAllow("not started")
	ended = run()
	call()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop := call()
	if n := given(); n != 1 {
		t.Errorf("%d numbers are given to a program that may still begin", n)
	}
	answer(stop)
	wantAllow("given up")
	// A number that is used is nobody's to take back.
	id := d.allocate(1)
	s.ids.give(id)
	p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: pyproto.AddRoute}, fmt.Sprint(id))
	poll.Until(t, "the route is there", func() bool { return d.streamOf(id) == s })
	d.takeBack(s, c.id, id)
	p.send(pyproto.Header{Src: p.id, Auth: p.id, Handle: 54321, ReplyTo: 1999}, "")
	for m := p.read(); m.Handle != 1999; m = p.read() {
		if m.Handle == pyproto.Allow {
			t.Errorf("%q is taken back", m.Payload)
		}
	}
}
