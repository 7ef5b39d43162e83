package bootstrap

import (
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"mitogend/internal/parking"
)

// errReader reads a program's stderr, or its terminal, to the end. While nothing comes for long it is parked, and has no
// goroutine.
type errReader struct {
	p     *Process
	file  *os.File
	done  chan struct{} // closed once it has ended
	place parking.Place

	// Owned by the goroutine that reads.
	h     *handshake // it is asked about unfinished lines; nil once it looks for no questions
	lines lineBuffer

	// mu protects the following and the file's read deadline. Nothing is locked under it.
	mu   sync.Mutex
	over bool   // it is to end
	open string // the unfinished line with which it did
}

func newErrReader(p *Process, h *handshake) *errReader {
	return &errReader{p: p, file: p.errFile, done: make(chan struct{}), h: h}
}

// errBuffer is how much of stderr is read at once.
const errBuffer = 2 << 10

// Resume reads on, to the end or until nothing comes.
func (e *errReader) Resume() {
	buf := make([]byte, errBuffer)
	for {
		n, err := e.file.Read(buf)
		timedOut := errors.Is(err, os.ErrDeadlineExceeded)
		if n > 0 {
			e.place.Active()
		}
		e.lines.each(buf[:n], e.p.line)
		switch {
		case e.h == nil && timedOut && e.park():
			return
		case e.h != nil && !e.h.errChunk(e, n, timedOut):
			e.h = nil // let the handshake's memory go
			e.arm(time.Time{})
			e.place.Begin(e)
		}
		if err != nil && (!timedOut || e.isOver()) {
			for k := range readRest(e.file, buf) {
				e.lines.each(buf[:k], e.p.line)
			}
			break
		}
	}
	e.place.End()
	if len(e.lines.buf) > 0 {
		text := normalise(string(e.lines.buf))
		e.p.line(text)
		e.mu.Lock()
		e.open = strings.TrimSpace(text)
		e.mu.Unlock()
	}
	if !e.p.tty {
		_ = e.file.Close()
	} // A terminal's end may only mean that the child has let go of stderr: closing our side would hang up on its session.
	e.p.errEnded()
	close(e.done)
}

// park is true if the reader is somebody else's to resume.
func (e *errReader) park() bool {
	e.arm(time.Time{})
	if len(e.lines.buf) == 0 {
		e.lines = lineBuffer{}
	}
	raw, err := e.file.SyscallConn()
	if err != nil || !e.place.Park(raw) {
		return false
	}
	// It may have been ended just before, and then nobody has resumed it.
	return !e.isOver() || !e.place.Unpark()
}

// Nudge ends a wait for output: for a look at the handshake, or to park.
func (e *errReader) Nudge() { e.arm(past) }

// past is a deadline that ends a wait at once.
var past = time.Unix(1, 0)

// arm sets the time at which the reader looks at an unfinished line again.
func (e *errReader) arm(t time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.over {
		_ = e.file.SetReadDeadline(t)
	}
}

func (e *errReader) isOver() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.over
}

// end ends the reader. It does not wait.
func (e *errReader) end() {
	e.mu.Lock()
	e.over = true
	_ = e.file.SetReadDeadline(past)
	_ = e.file.SetWriteDeadline(past) // an answer that nobody reads
	e.mu.Unlock()
	if e.place.Unpark() {
		go e.Resume()
	}
}

// stop ends the reader of an attempt that has failed, and gives what was printed last and is no whole line.
func (e *errReader) stop() string {
	e.end()
	<-e.done
	return e.open
}

// errEnded notes that stderr was read to its end.
func (p *Process) errEnded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stderr = nil
}

// errReader is what reads stderr; nil when nothing does.
func (p *Process) errReader() *errReader {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr
}

// closeErr ends the stderr reader. A grandchild, or ssh's ControlPersist process, may keep the other end for ever.
func (p *Process) closeErr() {
	if p.errFile == nil {
		return
	}
	if e := p.hangUp(); e != nil {
		<-e.done
	}
}

// hangUp closes our side of stderr, or of the terminal. It gives what reads that, and ends now; nil for nothing.
func (p *Process) hangUp() *errReader {
	e := p.errReader()
	if e != nil {
		e.end()
	}
	_ = p.errFile.Close()
	return e
}

// drainErr waits until the stderr reader has seen the end, at most d.
func (p *Process) drainErr(d time.Duration) {
	e := p.errReader()
	if e == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-e.done:
	case <-t.C:
	}
}
