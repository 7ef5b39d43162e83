package main

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mitogend/daemon"
)

// checkTerminal refuses what cannot have a terminal: it needs one here, and one target.
func (fl *fleet) checkTerminal(what string) error {
	switch {
	case len(fl.targets) != 1:
		return usagef("%s is for one target, not for %d", what, len(fl.targets))
	case fl.flags.json || fl.flags.gather || fl.flags.output != "":
		return usagef("%s shows a terminal as it is: without --json, -b and -o", what)
	case !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())):
		return usagef("%s gives what runs there a terminal, and needs one here for that: stdin and stdout have to be terminals", what)
	}
	return nil
}

// checkPrompt refuses flags that a prompt on several targets cannot obey.
func (fl *fleet) checkPrompt() error {
	switch f := fl.flags; {
	case f.json || f.gather || f.output != "":
		return usagef("repl shows what targets print alike once: without --json, -b and -o")
	case f.batch != "" || f.maxFail != "" || f.timeout > 0:
		return usagef("repl talks to all targets at once, as long as you like: without --batch, --max-fail and --timeout")
	}
	return nil
}

// interactive runs a program of terminal.py on the target. It has a terminal there, which shows on this one. Python
// gets the variables of the host.
func (fl *fleet) interactive(ctx context.Context, j *job, python bool, program func(env []string, rows, columns int) daemon.RunOptions) *outcome {
	columns, rows, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || rows < 1 || columns < 1 {
		rows, columns = 24, 80
	}
	var env []string
	if v := os.Getenv("TERM"); v != "" {
		env = append(env, "TERM="+v)
	}
	o := program(env, rows, columns)
	if python {
		o.HostVars = fl.hostVars(j.target)
	}
	in := newTyped(os.Stdin)
	restore, err := fl.app.rawTerminal()
	if err != nil {
		return failed(ctx, err)
	}
	defer restore()
	defer in.follow(os.Stdout)()
	go in.copy()
	o.Stdin = in.r
	out := fl.program(ctx, j, o)
	if in.gone.Load() {
		return leftOutcome()
	}
	return out
}

// leftOutcome is that of what was left by ~. before its end. What follows in a script must not take this for success.
func leftOutcome() *outcome {
	out := programOutcome(daemon.ExitStatus{Code: 255}, true) // as ssh
	out.Error.Message = "it was left by ~."
	return out
}

// label is a short name for a prompt.
func (t target) label() string {
	if t.known != "" {
		return t.name + " "
	}
	if t.name == t.host() || len(t.hops) > 1 || t.hops[0].Method != "local" {
		return t.host() + " "
	}
	return ""
}

// rawTerminal makes the terminal pass on every key. restore undoes this, and is called at the end of the process at the
// latest.
func (a *app) rawTerminal() (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	restore = sync.OnceFunc(func() { _ = term.Restore(fd, state) })
	a.restore.Store(&restore)
	return restore, nil
}

// typed makes messages for terminal.py of what is typed.
type typed struct {
	src io.Reader
	r   *io.PipeReader

	// gone: ~. was typed. Without the lock, which send may hold for ever: nobody reads once the program has ended.
	gone atomic.Bool

	mu sync.Mutex // guards the following: a message is written in one piece
	w  *io.PipeWriter
}

func newTyped(src io.Reader) *typed {
	r, w := io.Pipe()
	return &typed{src: src, r: r, w: w}
}

func (t *typed) send(kind byte, body []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	_, _ = t.w.Write(append(msg, body...))
}

// copy sends what is typed. As in ssh, ~. at the beginning of a line ends it, and ~~ stands for ~.
func (t *typed) copy() {
	buf := make([]byte, 32<<10)
	e := escape{lineStart: true}
	for {
		n, err := t.src.Read(buf)
		data, end := e.filter(buf[:n])
		if len(data) > 0 {
			t.send('d', data)
		}
		if end {
			t.gone.Store(true)
		}
		if end || err != nil {
			_ = t.w.Close()
			return
		}
	}
}

// escape finds the keys that are meant for this side.
type escape struct{ lineStart, held bool }

func (e *escape) filter(data []byte) (out []byte, end bool) {
	for _, b := range data {
		switch {
		case e.held && b == '.':
			return out, true
		case e.held:
			e.held = false
			out = append(out, '~')
			if b == '~' {
				e.lineStart = false
				continue
			}
		case e.lineStart && b == '~':
			e.held, e.lineStart = true, false
			continue
		}
		out = append(out, b)
		e.lineStart = b == '\r' || b == '\n'
	}
	return out, false
}

// follow sends the size of the terminal when it changes, until stop is called.
func (t *typed) follow(screen *os.File) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-changes:
			case <-done:
				return
			}
			if columns, rows, err := term.GetSize(int(screen.Fd())); err == nil {
				size := binary.BigEndian.AppendUint16(nil, uint16(rows))
				t.send('w', binary.BigEndian.AppendUint16(size, uint16(columns)))
			}
		}
	})
	return func() {
		signal.Stop(changes)
		close(done)
		_ = t.r.Close() // writers do not wait any more
		wg.Wait()
	}
}

// interact does the work of repl and exec -t.
func (f *fleetFlags) interact(cmd *cobra.Command, a *app, what, firstPath string, argv, env []string, dir string) error {
	fl, err := newFleet(cmd.Context(), a, f, firstPath, nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return what }
	if argv == nil && len(fl.targets) > 1 && !f.dryRun {
		if err := fl.checkPrompt(); err != nil {
			fl.discard()
			return err
		}
		return fl.prompt(cmd.Context(), env, dir)
	}
	if !f.dryRun {
		if err := fl.checkTerminal(what); err != nil {
			fl.discard()
			return err
		}
	}
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		return fl.interactive(ctx, j, argv == nil, func(own []string, rows, columns int) daemon.RunOptions {
			return daemon.Terminal(placedAll(argv, j.target), append(own, env...), placed(dir, j.target), j.target.label(), rows, columns)
		})
	})
}
