package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"mitogend/pyproto/printable"
)

// console is stdout and stderr as all targets share them. A Write to either of its streams is never torn apart by another,
// and the progress line is out of the way of both.
type console struct {
	out, err *stream

	// mu protects the following, and makes writes one at a time.
	mu       sync.Mutex
	drawn    bool // the progress line is on the screen
	failed   bool // stdout takes no more
	onFailed func(error)
}

// stream is one of the two.
type stream struct {
	c   *console
	f   *os.File
	tty bool
}

func newConsole(out, err *os.File, onFailed func(error)) *console {
	c := &console{onFailed: onFailed}
	c.out = &stream{c, out, term.IsTerminal(int(out.Fd()))}
	c.err = &stream{c, err, term.IsTerminal(int(err.Fd()))}
	return c
}

// together has fn write what nothing else may come between.
func (s *stream) together(fn func(io.Writer)) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	b := bufio.NewWriterSize(writerFunc(s.write), 64<<10)
	fn(b)
	_ = b.Flush()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Write implements io.Writer. After stdout has failed once, what goes there is dropped: everything is being ended then.
func (s *stream) Write(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.write(p)
}

// write is Write with the lock held.
func (s *stream) write(p []byte) (int, error) {
	if s.tty {
		s.c.erase()
	}
	if s == s.c.out && s.c.failed {
		return len(p), nil
	}
	n, err := s.f.Write(p)
	if err != nil && s == s.c.out {
		s.c.failed = true
		s.c.onFailed(err)
		return len(p), nil
	}
	return n, err
}

// erase takes the progress line off the screen. The caller holds mu.
func (c *console) erase() {
	if c.drawn {
		_, _ = c.err.f.WriteString("\r\x1b[K")
		c.drawn = false
	}
}

// ownPrefix begins each line that the command itself prints on stderr.
const ownPrefix = "mitogend: "

// complain prints a message of the command's own.
func (c *console) complain(format string, args ...any) {
	fmt.Fprintf(c.err, ownPrefix+"%s\n", printable.Text(fmt.Sprintf(format, args...)))
}

// sum tells how it went on several targets; on all of them well is told to somebody who watches.
func (c *console) sum(text string, well bool) {
	if !well || c.err.tty {
		c.complain("%s", text)
	}
}

// note tells somebody who watches what is going on.
func (c *console) note(text string) {
	if c.err.tty {
		c.complain("%s", text)
	}
}

// colored tells whether colours are wanted on a stream (https://no-color.org).
func (s *stream) colored() bool {
	return s.tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// bold gives text for w.
func (c *console) bold(w io.Writer, text string) string {
	if s, ok := w.(*stream); ok && s.colored() {
		return "\x1b[1m" + text + "\x1b[0m"
	}
	return text
}

// Progress appears only when something takes long.
const (
	progressAfter = 700 * time.Millisecond
	progressEvery = 200 * time.Millisecond
)

// progress shows a line on stderr until the returned function is called, if stderr is a terminal.
func (c *console) progress(line func() string) (stop func()) {
	if !c.err.tty {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	stopped := make(chan os.Signal, 1)
	if !signal.Ignored(unix.SIGTSTP) {
		signal.Notify(stopped, unix.SIGTSTP)
	}
	go func() {
		defer close(done)
		defer signal.Stop(stopped)
		wait := progressAfter
		for {
			select {
			case <-quit:
				c.mu.Lock()
				c.erase()
				c.mu.Unlock()
				return
			case <-stopped:
				// ^Z: the line is not left on the screen.
				c.mu.Lock()
				c.erase()
				c.mu.Unlock()
				_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
			case <-time.After(wait):
			}
			wait = progressEvery
			c.draw(line())
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func (c *console) draw(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if background(c.err.f) {
		return // the screen is another job's
	}
	// A line that wraps could not be erased.
	if width, _, err := term.GetSize(int(c.err.f.Fd())); err == nil && width > 0 && len(line) >= width {
		line = line[:width-1]
	}
	_, _ = c.err.f.WriteString("\r\x1b[K" + line)
	c.drawn = true
}

// maxLine is the longest line that is kept in memory, in bytes. A longer one is broken.
const maxLine = 4 << 20

// lines passes on whole lines, each with a prefix that names its target. On a terminal only tabs and colours of them are obeyed: nobody may
// write into what another target has said. It is safe for concurrent use.
type lines struct {
	w      io.Writer
	tty    bool
	prefix []byte

	mu   sync.Mutex
	rest []byte // of a line that has no end yet
}

func newLines(w io.Writer, prefix string) *lines {
	s, ok := w.(*stream)
	return &lines{w: w, tty: ok && s.tty, prefix: []byte(printable.Line(prefix))}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := bytes.LastIndexByte(p, '\n') + 1
	if i == 0 {
		l.rest = append(l.rest, p...)
		if len(l.rest) >= maxLine {
			return len(p), l.flush()
		}
		return len(p), nil
	}
	out := make([]byte, 0, len(l.rest)+i+8*len(l.prefix))
	for b := p[:i]; len(b) > 0; {
		n := bytes.IndexByte(b, '\n') + 1
		out = l.line(out, b[:n])
		b = b[n:]
	}
	l.rest = append(l.rest, p[i:]...)
	_, err := l.w.Write(out)
	return len(p), err
}

// line appends the line that begins with rest and ends with b, newline included, to out.
func (l *lines) line(out, b []byte) []byte {
	if l.tty {
		b = append(l.rest, b...)
		l.rest = l.rest[:0]
		text := printable.Colored(string(bytes.TrimRight(b, "\r\n")))
		return append(append(append(out, l.prefix...), text...), '\n')
	}
	out = append(append(append(out, l.prefix...), l.rest...), b...)
	l.rest = l.rest[:0]
	return out
}

// Close passes on a last line that has no end. It gets one.
func (l *lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

func (l *lines) flush() error {
	if len(l.rest) == 0 {
		return nil
	}
	out := l.line(nil, []byte{'\n'})
	l.rest = nil
	_, err := l.w.Write(out)
	return err
}
