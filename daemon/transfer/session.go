package transfer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"mitogend/daemon"
	"mitogend/pyproto/printable"
)

// Options say how files are copied. The zero value is good.
type Options struct {
	// Owner keeps owners, by name where the name is known.
	Owner bool
	// HardLinks keeps files that have several names one file, as far as the names are copied together.
	HardLinks bool
	// Xattrs copies extended attributes of files and directories, not of links. A child gets what rsync -X copies:
	// user.* from an ordinary user, all but system.* from root. Of a child's, only user.* are taken. Sync compares
	// them as it does modes. Python 2 has none.
	Xattrs bool
	// Sync sends what differs in size or time, or with Checksum in content, and of large files the blocks that
	// differ. The destination becomes the source, of which there is one, and is not a directory to put it into.
	Sync, Checksum bool
	// Delete, of Sync, removes what is not at the source. DryRun, of Sync, changes nothing.
	Delete, DryRun bool
	// Into has the destination be a directory to put things into, whether or not it is there.
	Into bool
	// Named has the destination of Put be a name, also where a directory is: then that is an error.
	Named bool
	// Keep is asked before n more bytes are kept for the list of what is copied; false ends the transfer with
	// ErrTooMany. It may be nil: a child's list has a bound in any case.
	Keep func(n int) bool
	// OnBytes is told how many bytes are done; OnFile, of Sync, what is sent ("send") or removed ("delete"). Both are
	// called from any goroutine.
	OnBytes func(n int64)
	OnFile  func(action, path string)
}

// letters are what transfer.py calls them.
func (o *Options) letters(a algorithm) string {
	var b strings.Builder
	for _, l := range []struct {
		on     bool
		letter byte
	}{{true, '-'}, {o.Owner, 'o'}, {o.HardLinks, 'h'}, {o.Xattrs, 'x'}, {o.Sync, 's'}, {o.Checksum, 'c'},
		{o.Delete, 'D'}, {o.DryRun, 'n'}, {o.Into, 'i'}, {o.Named, 'N'}, {a == blake, 'b'}} {
		if l.on {
			b.WriteByte(l.letter)
		}
	}
	return b.String()
}

// Result is what was done.
type Result struct {
	Files   int   // that are in place now
	Bytes   int64 // of these
	Sent    int64 // of these, what went over the wire
	Same    int   // of Sync: what needed no change
	Deleted int
	Errors  []string // one for each file that is not in place
}

// maxErrors bounds how many errors are kept of a side that sends them without end, maxError each text: a name and
// why.
const (
	maxErrors = 1000
	maxError  = 8 << 10
)

func (r *Result) fail(text string) {
	if len(r.Errors) < maxErrors {
		r.Errors = append(r.Errors, strings.Clone(text[:min(len(text), maxError)]))
	}
}

// Error is a transfer that was not complete; Result has more of it.
type Error struct{ Result *Result }

func (e *Error) Error() string {
	const shown = 10
	list := e.Result.Errors
	text := printable.Line(list[0])
	if len(list) > 1 {
		text = fmt.Sprintf("%d files:", len(list))
		for i, each := range list {
			if i == shown {
				return fmt.Sprintf("%s\nand %d more", text, len(list)-shown)
			}
			text += "\n" + printable.Line(each)
		}
	}
	return text
}

// A block goes as one piece.
const _ = uint(daemon.InputPiece - block - headLen)

// session is the program on the other side.
type session struct {
	in     *io.PipeWriter
	out    *io.PipeReader
	wire   wire
	reader reader
	stderr tail
	cancel context.CancelFunc
	ended  chan struct{} // closed when the program has ended

	err error // why, once ended is closed; nil for status 0
}

// start starts a program of python/transfer.py.
func start(ctx context.Context, r daemon.Remote, program string, args ...string) *session {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &session{in: inW, out: outR, cancel: cancel, ended: make(chan struct{})}
	s.wire = wire{bufio.NewWriterSize(inW, daemon.InputPiece)}
	s.reader = reader{r: bufio.NewReaderSize(outR, block)}
	go func() {
		defer close(s.ended)
		status, err := r.Run(ctx, daemon.RunOptions{
			Path: daemon.PathTransfer, Source: []byte(program), Args: args, Stdin: inR, Stdout: outW, Stderr: &s.stderr,
		})
		if err == nil && status != (daemon.ExitStatus{}) {
			err = fmt.Errorf("transfer: the program there ended with status %d: %s", status.Shell(), s.stderr.text())
		}
		s.err = err
		if err == nil {
			err = io.EOF
		}
		_ = inR.CloseWithError(err)
		_ = outW.CloseWithError(err)
	}()
	return s
}

// end waits for the program's end. err is this side's result. If the program has failed, that is the reason.
func (s *session) end(err error) error {
	if err != nil {
		s.cancel()
	}
	_ = s.in.Close()
	_ = s.out.Close()
	<-s.ended
	s.cancel()
	early := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
	switch {
	case s.err != nil && (err == nil || early || errors.Is(err, context.Canceled)):
		return s.err
	case early:
		return errEarly
	}
	return err
}

// over is why nothing more is to be done: ctx has ended, or the program has failed. It is io.EOF if that has ended
// well: nobody takes an answer, but it may have said what is not read yet.
func (s *session) over(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-s.ended:
		if s.err == nil {
			return io.EOF
		}
		return s.err
	default:
		return nil
	}
}

var errEarly = errors.New("transfer: the program there has ended too early")

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxTail = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	t.buf = t.buf[max(0, len(t.buf)-maxTail):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return printable.Line(string(bytes.TrimSpace(t.buf)))
}
