package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/peterh/liner"

	"mitogend/daemon"
	"mitogend/pyproto/printable"
)

// prompts is one prompt for Python on several targets. What is typed here runs on all of them. Equal output is shown
// once.
type prompts struct {
	fl  *fleet
	env []string
	dir string

	mark      []byte
	begun     chan struct{} // closed once each target is connected, or given up
	out, errs *gatherer     // what the targets print

	mu      sync.Mutex    // guards the following
	live    []*session    // in the order in which they were connected
	settled map[*job]bool // those that are connected, or given up
	reading bool          // talk waits for a line
	over    bool          // all targets have ended
}

// session is the Python on one target.
type session struct {
	name     string
	orders   chan []byte // to its stdin
	gone     chan struct{}
	out, err *answers // what it prints

	mu     sync.Mutex // guards closed, and sending to orders
	closed bool
}

// answerTime is how long a target may take to say whether a text is complete, or what completes a word.
const answerTime = 5 * time.Second

// prompt is repl on several targets. Without a terminal, the lines come from stdin as they are.
func (fl *fleet) prompt(ctx context.Context, env []string, dir string) error {
	c := fl.app.console
	p := &prompts{
		fl: fl, env: env, dir: dir, mark: make([]byte, 32), begun: make(chan struct{}), settled: map[*job]bool{},
		out: &gatherer{spool: &fl.spool, to: c.out}, errs: &gatherer{spool: &fl.spool, to: c.err},
	}
	var random [16]byte
	_, _ = rand.Read(random[:])
	hex.Encode(p.mark, random[:])
	// All are connected at the same time.
	fl.flags.parallel = max(fl.flags.parallel, len(fl.targets))
	fl.silent = true
	fl.after = p.settle
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		select {
		case <-p.begun:
			p.talk(ctx)
		case <-ctx.Done():
		}
	}()
	err := fl.each(ctx, func(ctx context.Context, j *job) *outcome { return p.work(ctx, j) })
	p.mu.Lock()
	p.over = true
	reading := p.reading
	p.mu.Unlock()
	if !reading { // otherwise somebody would have to type a line first
		fl.await(ctx, typed)
	}
	return err
}

// settle counts a target once, when it is connected or given up.
func (p *prompts) settle(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled[j] {
		return
	}
	if p.settled[j] = true; len(p.settled) == len(p.fl.targets) {
		close(p.begun)
	}
}

// work runs the Python of one target until its end.
func (p *prompts) work(ctx context.Context, j *job) *outcome {
	r, w := io.Pipe()
	name := j.target.name
	s := &session{
		name: name, orders: make(chan []byte, 64), gone: make(chan struct{}),
		out: newAnswers(p.mark, p.out, name), err: newAnswers(p.mark, p.errs, name),
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		defer w.Close()
		for o := range s.orders {
			_, _ = w.Write(o) // fails once the program has ended
		}
	})
	o := daemon.Prompt(append(slices.Clone(p.env), j.target.setting()), p.dir)
	o.HostVars = p.fl.hostVars(j.target)
	o.Stdin, o.Stdout, o.Stderr = r, s.out, s.err
	s.send('n', p.mark)
	p.mu.Lock()
	p.live = append(p.live, s)
	p.mu.Unlock()
	p.settle(j)
	status, err := j.child.Run(ctx, o)
	s.out.end()
	s.err.end()
	p.mu.Lock()
	p.live = slices.DeleteFunc(p.live, func(o *session) bool { return o == s })
	last := len(p.live) == 0
	p.mu.Unlock()
	close(s.gone)
	if last {
		p.show()
	}
	_ = r.Close()
	s.end()
	writing.Wait()
	if err != nil {
		return failed(ctx, err)
	}
	return p.fl.programEnded(j, status)
}

// send sends an order. It gives false if the target has 64 orders left that it has not taken: it is stuck then, and
// whoever waits for it says so.
func (s *session) send(kind byte, body []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	select {
	case s.orders <- append(msg, body...):
		return true
	default:
		return false
	}
}

// end ends the session's stdin.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.orders)
	}
}

func (p *prompts) sessions() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.live)
}

// ask asks the first of the targets. It gives false if there is no answer.
func (p *prompts) ask(kind byte, text string) (string, bool) {
	for _, s := range p.sessions() {
		s.out.drain()
		if !s.send(kind, []byte(text)) {
			return "", false
		}
		select {
		case answer := <-s.out.came:
			return string(answer), true
		case <-s.gone:
		case <-time.After(answerTime):
			s.out.giveUp()
			return "", false
		}
	}
	return "", false
}

// talk reads texts and runs them, until the input or the last target ends.
func (p *prompts) talk(ctx context.Context) {
	defer func() {
		for _, s := range p.sessions() {
			s.end()
		}
	}()
	interrupts := make(chan os.Signal, 1)
	signal.Reset(os.Interrupt) // it is for what runs there, not for this command
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Notify(p.fl.app.signals, os.Interrupt) // after that, it is for this command again
	in := p.newTypist()
	defer in.close()
	read := func(prompt string) (string, error) {
		if !p.begin() {
			return "", io.EOF
		}
		defer p.done()
		if in.line != nil {
			return in.read(prompt) // the terminal gives ^C as a key
		}
		return p.await(ctx, in, prompt, interrupts)
	}
	for ctx.Err() == nil && len(p.sessions()) > 0 {
		text, err := read(p.prefix())
		// What threads have printed meanwhile is shown by itself.
		for _, s := range p.sessions() {
			s.out.end()
			s.err.end()
		}
		p.show()
		for err == nil && strings.TrimSpace(text) != "" {
			if more, ok := p.ask('m', text); !ok || more != "1" {
				break
			}
			var line string
			if line, err = read("... "); err == nil || errors.Is(err, io.EOF) {
				text += "\n" + line
			}
		}
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			fmt.Fprintln(p.fl.app.console.out, "KeyboardInterrupt")
			continue
		case strings.TrimSpace(text) != "":
			p.execute(ctx, text, interrupts)
		}
		if err != nil {
			return
		}
	}
}

// await reads a line where there is no terminal. An interrupt ends the command: nothing runs that it could be for.
func (p *prompts) await(ctx context.Context, in *typist, prompt string, interrupts <-chan os.Signal) (text string, err error) {
	select {
	case <-interrupts: // it was for an earlier text
	default:
	}
	read := make(chan struct{})
	var line string
	var failed error
	go func() {
		defer close(read)
		line, failed = in.read(prompt)
	}()
	select {
	case <-read:
		return line, failed
	case <-interrupts:
		p.fl.app.stop(signalError{syscall.SIGINT})
	case <-ctx.Done():
	}
	return "", io.EOF
}

// begin tells that talk waits for a line. It is false if no target is left.
func (p *prompts) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = !p.over
	return p.reading
}

func (p *prompts) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = false
}

func (p *prompts) prefix() string {
	n, all := len(p.sessions()), len(p.fl.targets)
	if n == all {
		return fmt.Sprintf("%d targets>>> ", n)
	}
	return fmt.Sprintf("%d of %d targets>>> ", n, all)
}

// execute runs a text on all targets and shows what they print.
func (p *prompts) execute(ctx context.Context, text string, interrupts chan os.Signal) {
	waiting := p.sessions()
	select {
	case <-interrupts: // it was for an earlier text
	default:
	}
	for _, s := range waiting {
		s.out.begin()
		s.err.begin()
		s.send('s', []byte(text))
	}
	stop := p.fl.app.console.progress(func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		var names []string
		for _, s := range p.live {
			if s.err.waits() {
				names = append(names, s.name)
			}
		}
		return fmt.Sprintf("waiting for %s: %s", several(len(names), "target"), printable.Line(fold(names)))
	})
	interrupted := 0
	for _, s := range waiting {
		for _, a := range []*answers{s.out, s.err} {
			for done := false; !done; {
				select {
				case <-a.came:
					done = true
				case <-s.gone:
					done = true
				case <-ctx.Done():
					done = true
				case <-interrupts:
					if interrupted++; interrupted > 2 {
						p.fl.app.stop(signalError{2})
					}
					for _, s := range waiting {
						s.send('i', nil)
					}
				}
			}
			a.end()
		}
	}
	stop()
	p.show()
}

// show shows what was gathered.
func (p *prompts) show() {
	p.out.show(p.fl.app.console)
	p.errs.show(p.fl.app.console)
}
