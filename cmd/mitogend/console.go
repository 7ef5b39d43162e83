package main

import (
	"bufio"
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

// console is stdout and stderr, which all targets share. No other Write gets into a Write to one of its streams, and
// the progress line gets into neither.
type console struct {
	out, err *stream

	stuck   chan struct{} // closed by giveUp
	dead    chan struct{} // closed once nobody has got the lock since then
	giveUps sync.Once
	deaths  sync.Once

	// turn is a lock with room for its one holder. It protects the following, and is held during a write, so that there
	// is one at a time.
	turn     chan struct{}
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
	c := &console{onFailed: onFailed, stuck: make(chan struct{}), dead: make(chan struct{}), turn: make(chan struct{}, 1)}
	c.out = &stream{c, out, term.IsTerminal(int(out.Fd()))}
	c.err = &stream{c, err, term.IsTerminal(int(err.Fd()))}
	return c
}

// deadTime is how long a console that was given up may take to end the write that it is at.
const deadTime = 100 * time.Millisecond

// giveUp lets nobody wait for a write that does not end, because stdout or stderr is not read: what is written behind
// it is dropped.
func (c *console) giveUp() { c.giveUps.Do(func() { close(c.stuck) }) }

// lock takes the lock. It is false if the console was given up and somebody else keeps the lock.
func (c *console) lock() bool {
	select {
	case c.turn <- struct{}{}:
		return true
	case <-c.stuck:
	}
	select {
	case c.turn <- struct{}{}:
		return true
	case <-c.dead:
	case <-time.After(deadTime):
		c.deaths.Do(func() { close(c.dead) })
	}
	select {
	case c.turn <- struct{}{}: // it is free after all
		return true
	default:
		return false
	}
}

func (c *console) unlock() { <-c.turn }

// together lets fn write several pieces. Nothing else comes between them.
func (s *stream) together(fn func(io.Writer)) {
	if !s.c.lock() {
		return
	}
	defer s.c.unlock()
	b := bufio.NewWriterSize(writerFunc(s.write), 64<<10)
	fn(b)
	_ = b.Flush()
}

// Write implements io.Writer. Once stdout has failed, output to it is dropped: everything is being ended then.
func (s *stream) Write(p []byte) (int, error) {
	if !s.c.lock() {
		return len(p), nil
	}
	defer s.c.unlock()
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

// erase takes the progress line off the screen. The caller holds the lock.
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

// sum tells how it went on several targets. If it went well on all of them, only a terminal is told.
func (c *console) sum(text string, well bool) {
	if !well || c.err.tty {
		c.complain("%s", text)
	}
}

// note tells a terminal what is going on.
func (c *console) note(text string) {
	if c.err.tty {
		c.complain("%s", text)
	}
}

// colored tells whether colours are wanted on a stream (https://no-color.org).
func (s *stream) colored() bool {
	return s.tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// bold gives text in bold, if w shows that.
func (c *console) bold(w io.Writer, text string) string {
	if s, ok := w.(*stream); ok && s.colored() {
		return "\x1b[1m" + text + "\x1b[0m"
	}
	return text
}

// The line of progress appears only if something takes long.
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
				c.wipe()
				return
			case <-stopped:
				// It was ^Z: the line must not stay on the screen.
				c.wipe()
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

// wipe is erase for those that do not hold the lock.
func (c *console) wipe() {
	if c.lock() {
		c.erase()
		c.unlock()
	}
}

func (c *console) draw(line string) {
	if !c.lock() {
		return
	}
	defer c.unlock()
	if background(c.err.f) {
		return // another job has the screen
	}
	// erase could not erase a line that wraps.
	if width, _, err := term.GetSize(int(c.err.f.Fd())); err == nil && width > 0 && len(line) >= width {
		line = line[:width-1]
	}
	_, _ = c.err.f.WriteString("\r\x1b[K" + line)
	c.drawn = true
}

// background tells whether f is this process's terminal and another job has it now.
func background(f *os.File) bool {
	if !term.IsTerminal(int(f.Fd())) {
		return false
	}
	front, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && front != unix.Getpgrp()
}
