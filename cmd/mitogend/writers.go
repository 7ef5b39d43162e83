package main

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"mitogend/pyproto/printable"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// maxLine is the length of the longest line that is kept in memory, in bytes. A longer line is broken.
const maxLine = 4 << 20

// lines passes on whole lines, each with a prefix that names its target. On a terminal, only their tabs and colours are
// obeyed, so that no target can write over the output of another. It is safe for concurrent use.
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

// line appends to out the line that begins with rest and ends with b, which has the newline.
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

// Close passes on a last line without a newline, and adds one.
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

// tee writes to all of its writers, even if one of them fails.
type tee []io.WriteCloser

func (t tee) Write(p []byte) (int, error) {
	for _, w := range t {
		_, _ = w.Write(p)
	}
	return len(p), nil
}

func (t tee) Close() error {
	for _, w := range t {
		_ = w.Close()
	}
	return nil
}

// both gives a writer to a and b. Each may be nil.
func both(a, b io.WriteCloser) io.WriteCloser {
	switch {
	case a == nil && b == nil:
		return keepOpen{io.Discard}
	case b == nil:
		return a
	case a == nil:
		return b
	}
	return tee{a, b}
}

// noNewline drops the newline at the end of a line.
type noNewline struct{ w io.Writer }

func (n noNewline) Write(p []byte) (int, error) {
	_, err := n.w.Write([]byte(strings.TrimSuffix(string(p), "\n")))
	return len(p), err
}
