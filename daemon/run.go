package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python"
)

// RunOptions describe a program to run in a child.
type RunOptions struct {
	// Path is the script as it was named: sys.argv[0]. Source nil has it be a module, which is run as python -m does.
	Path   string
	Source []byte
	// File is the absolute name of the script, which is __file__ from Python 3.9 on; empty where it has none.
	File string
	// Dir is what sys.path begins with: the script's directory. What the importer has in it is found in it, before what
	// the target has itself. Empty for none.
	Dir string
	// Packed says that Source is __main__.py of a directory or archive, which Path and Dir name.
	Packed bool
	// Title is what lists of what runs call it; Path if it is empty.
	Title string
	// Args are sys.argv[1:]. Like the names above they may be any bytes.
	Args []string
	// Env are settings NAME=VALUE of the program's environment, beside what the child has in its own.
	Env []string
	// WorkDir is the program's working directory; empty for that of the child. Where it cannot be entered, the program
	// fails with what Python says of that.
	WorkDir string
	// HostVars is what mitogend.host_vars() gives there: JSON with known, an object, and unknown, why others cannot be
	// had; or with error, why there are none at all. Nil is for nothing. Programs that this one starts by
	// multiprocessing have it, too.
	HostVars []byte
	// Stdin, Stdout and Stderr are the program's; nil is /dev/null. Stdin is read ahead of what the program reads, and
	// a read of it that is under way when the program ends goes on. What Write is given is used again when it returns.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Keeper is a writer that may be given bytes to keep, which saves it a copy.
type Keeper interface {
	io.Writer
	// Keep is Write of bytes that nobody else uses any more.
	Keep(p []byte) (int, error)
}

// Names of programs that are not their user's own.
const (
	PathCommand  = "mitogend-exec"
	PathTerminal = "mitogend-terminal"
	PathRepl     = "mitogend-repl"  // Terminal without a command
	PathAfter    = "mitogend-after" // TerminalAfter; Title is the script's
	PathPrompt   = "mitogend-prompt"
	PathTransfer = "mitogend-transfer"
)

// Command gives the options of Run for a command of the target's, with settings NAME=VALUE for its environment and the
// directory that it runs in, empty for the child's. A program becomes it, with status 127 where there is no such
// command and 126 where it cannot be run.
func Command(argv, env []string, dir string) RunOptions {
	args := append([]string{dir, strconv.Itoa(len(env))}, env...)
	return RunOptions{Path: PathCommand, Title: strings.Join(argv, " "), Source: []byte(python.Command()), Args: append(args, argv...)}
}

// Terminal gives the options of Run for a command at a terminal of its own; for Python, whose prompt begins with where,
// if there is no command. Stdin has messages then; see terminal.py. What both stdout and stderr of the command show is
// stdout.
func Terminal(argv, env []string, dir, where string, rows, columns int) RunOptions {
	o := Command(argv, env, dir)
	o.Args = append([]string{strconv.Itoa(rows), strconv.Itoa(columns), where}, o.Args...)
	o.Path, o.Source = PathTerminal, []byte(python.Terminal())
	if len(argv) == 0 {
		o.Path, o.Title = PathRepl, "repl"
	}
	return o
}

// TerminalAfter gives the options of Run for Python's prompt at a terminal of its own, after a script has run there.
func TerminalAfter(script RunOptions, env []string, where string, rows, columns int) RunOptions {
	o := Terminal(nil, env, "", where, rows, columns)
	file := cmp.Or(script.File, script.Path)
	if script.Packed {
		file = filepath.Join(script.Path, "__main__.py")
	}
	o.Source = []byte(python.TerminalAfter(script.Path, file, script.Source, script.Args))
	o.Path, o.Dir, o.Title = PathAfter, script.Dir, cmp.Or(script.Title, script.Path)
	return o
}

// Prompt gives the options of Run for a Python that runs what is typed elsewhere. Stdin has messages, and Stdout and
// Stderr have answers between what is printed; see prompt.py.
func Prompt(env []string, dir string) RunOptions {
	o := Command(nil, env, dir)
	o.Path, o.Title, o.Source = PathPrompt, "repl", []byte(python.Prompt())
	return o
}

// ExitStatus is how a program ended: by a status or, if Signal is not 0, by a signal.
type ExitStatus struct {
	Code, Signal int
}

// Shell is the status as a shell tells it: 128 and the number of a signal.
func (s ExitStatus) Shell() int {
	if s.Signal != 0 {
		return 128 + s.Signal
	}
	return s.Code
}

// stopTime is how long a program gets to end after ctx has: the child sends SIGINT, SIGTERM two seconds later, and
// SIGKILL one second after that.
const stopTime = 5 * time.Second

// Run runs a Python program as __main__ in a process of its own, forked off an interpreter in which no function was
// called. The error is that the child was lost, that it does not take the program's input, or that ctx ended; the
// program and its process group are ended then, as they are when the program ends, and what it prints until then is
// written.
func (c *Child) Run(ctx context.Context, o RunOptions) (ExitStatus, error) {
	if c.runtime != nil {
		return ExitStatus{}, errorf("%s runs %s, which calls functions and can run no program: %w", c.name, c.runtime, ErrRuntime)
	}
	for _, e := range o.Env {
		if strings.IndexByte(e, '=') < 1 || strings.IndexByte(e, 0) >= 0 {
			return ExitStatus{}, errorf("%s: %.100q is no setting NAME=VALUE of an environment", c.name, e)
		}
	}
	c.d.printing.Add(1)
	defer c.d.printing.Add(-1)
	if err := c.pushScript(ctx, o); err != nil {
		return ExitStatus{}, err
	}
	_, keeps := o.Stdout.(Keeper)
	p := &program{c: c, id: c.d.allocate(1), window: minWindow, lent: !keeps, changed: make(chan struct{}, 1), over: make(chan struct{})}
	if p.id == 0 {
		return ExitStatus{}, errNoIDs
	}
	c.d.programs.Store(p.id, c)
	defer c.d.programs.Delete(p.id)
	c.stream.ids.give(p.id)
	c.d.allow(c.id, p.id, 1)
	forestalled := false
	defer func() {
		if !forestalled {
			p.takeBack()
		}
	}()
	defer close(p.over)
	handle := c.d.handles.add(handler{fn: p.deliver, respondent: c.id})
	defer c.d.handles.remove(handle)
	err := c.Call(ctx, "mitogen.program:run", int64(p.id), filepath.Base(strings.ToValidUTF8(o.Path, "?")), int64(handle), c.spec(&o),
		o.Stdin != nil, int64(p.window)).Decode(&p.input)
	if err != nil {
		if ctx.Err() != nil {
			forestalled = p.forestall()
		}
		return ExitStatus{}, err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	if o.Stdin != nil {
		feeding, stop := context.WithCancel(ctx)
		defer stop()
		go p.feed(feeding, o.Stdin, &feeder{c: c, patience: c.d.sharePatience}, giveUp)
	}
	// At the end of ctx, what the program has printed may still wait for who reads it.
	watched := context.AfterFunc(ctx, func() { _ = p.interrupt(errors.Is(context.Cause(ctx), ErrNobodyReads)) })
	status, err := p.copy(ctx, o)
	if err != nil && c.gone() == nil {
		p.stop(o, ctx.Err() == nil || errors.Is(err, ErrNobodyReads))
	}
	if !watched() {
		_ = p.interrupt(true) // waits for it
		if err == nil {
			status, err = ExitStatus{}, context.Cause(ctx) // it has ended by that
		}
	}
	return status, err
}

// spec tells the child's script.py what the program is.
func (c *Child) spec(o *RunOptions) *pyproto.Dict {
	args := make([]any, len(o.Args))
	for i, a := range o.Args {
		args[i] = []byte(a)
	}
	env := make([]any, len(o.Env))
	for i, e := range o.Env {
		env[i] = []byte(e)
	}
	var source, pack any
	if o.Source != nil {
		source = pyproto.Blob(o.Source)
	}
	if o.Packed {
		pack = ""
	}
	var secrets any
	if o.HostVars != nil {
		secrets = o.HostVars
	}
	file := o.File
	if file == "" {
		file = o.Path
	}
	var names []string
	if o.Dir != "" {
		names = c.Importer().Directory(o.Dir, c.Version())
	}
	return pyproto.DictOf("path", []byte(o.Path), "file", []byte(file), "source", source, "package", pack, "argv", args, "env", env,
		"cwd", []byte(o.WorkDir), "dir", []byte(o.Dir), "names", []byte(strings.Join(names, " ")), "disk", c.via == nil && bytecodeMethods[c.method],
		"secrets", secrets)
}

// pushScript sends what running a script takes and what the script imports, so that the process that is forked off has
// it.
func (c *Child) pushScript(ctx context.Context, o RunOptions) error {
	if err := c.learn(ctx); err != nil {
		return err
	}
	names := []string{"mitogen.running", "mitogen.guard", "mitogen.watcher", "mitogen.process", "mitogen.parent", "mitogen.program",
		"mitogen.forker", "mitogen.script"}
	if o.Source == nil {
		names = append(names, o.Path, o.Path+".__main__")
	} else {
		c.responder.LearnLists(o.Source)
		names = append(names, c.Importer().ScriptClosure(c.Version(), o.Source)...)
		if importer.ScriptReadsFiles(o.Source) {
			names = append(names, withPaths)
		}
	}
	return c.Push(ctx, names...)
}

const (
	// outputBytes is what all programs together may print ahead of who reads it, and no one more than maxWindow.
	// minWindow is each one's, however many there are, and what each begins with.
	outputBytes = 8 << 20
	maxWindow   = 1 << 20
	minWindow   = 8 << 10
	// inputBytes is what all programs together may have of their input on the way, no one more than maxWindow, and each
	// at least one piece. A program that began before others keeps what is on the way to it.
	inputBytes = 16 << 20
)

// OutputShare is how much of a program's output may wait, at one place, as many as are running now.
func (d *Daemon) OutputShare() int { return d.share(outputBytes) }

// share is what one program may have of so many bytes.
func (d *Daemon) share(of int) int {
	return max(minWindow, min(maxWindow, of/int(max(d.printing.Load(), 1))))
}

// program is a script that runs in a process forked off a child. What it prints comes as messages, at most its window
// of them ahead of what was written here; it is ended when more than maxOutput come.
type program struct {
	// Constant after the call.
	c     *Child
	id    pyproto.ContextID
	input pyproto.Handle
	lent  bool // stdout only borrows what it is given: that lies in buffers

	changed chan struct{} // one token: look at queue again
	over    chan struct{} // closed when nobody waits for the program any more

	stopping sync.Once
	stopErr  error // of that

	// Owned by copy: what the child may send and was not told to be taken.
	window int

	// mu protects the following. Never held across I/O.
	mu    sync.Mutex
	queue []chunk
	bytes int   // of queue
	err   error // set once; queue is empty then
	acks  chan struct{}
}

// chunk is what one message says: o and e with output, x with a wait status, a when standard input was taken, d when
// the child is gone.
type chunk struct {
	tag  byte
	data []byte
	buf  *buffer // of data, if set
}

// write gives it to a writer, which may be nil; it is of no use then.
func (k *chunk) write(w io.Writer) (err error) {
	if keeper, ok := w.(Keeper); ok && k.buf == nil {
		_, err = keeper.Keep(k.data)
	} else if w != nil {
		_, err = w.Write(k.data)
	}
	k.release()
	return err
}

func (k *chunk) release() {
	if k.buf != nil {
		k.buf.release()
		k.buf = nil
	}
}

// join puts output behind what it has.
func (k *chunk) join(data []byte) {
	if k.buf != nil && len(k.data)+len(data) > cap(k.data) {
		k.data = bytes.Clone(k.data)
		k.release()
	}
	k.data = append(k.data, data...)
}

func (p *program) deliver(h pyproto.Header, payload []byte, _ bool) {
	tag, data := byte('d'), payload
	if h.ReplyTo != pyproto.IsDead {
		if len(payload) == 0 {
			return
		}
		tag, data = payload[0], payload[1:]
	}
	p.learn(tag, data)
}

// learn takes what a message says, and wakes who copies it.
func (p *program) learn(tag byte, data []byte) {
	if p.take(tag, data) {
		_ = p.c.stream.reached("bytes of a program's output that wait", maxOutput)
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// joinBelow is the size below which output is put behind what waits already: a program that writes byte by byte costs
// no more than its bytes.
const joinBelow = 4 << 10

// take queues what a message says; true says that it is too much.
func (p *program) take(tag byte, data []byte) (full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case tag == 'a':
		if p.acks != nil {
			select {
			case p.acks <- struct{}{}:
			default:
			}
		}
		return false
	case p.err != nil || len(data) == 0 && (tag == 'o' || tag == 'e'):
		return false
	case p.bytes+len(data) > maxOutput && tag != 'd':
		p.queue, p.bytes, p.err = nil, 0, ErrOverflow
		return true
	}
	p.bytes += len(data)
	if n := len(p.queue); n > 0 && p.queue[n-1].tag == tag && (tag == 'o' || tag == 'e') && len(data) < joinBelow {
		p.queue[n-1].join(data)
		return false
	}
	p.bytes += messageCost
	k := chunk{tag: tag}
	if p.lent && len(data) > copyBelow && len(data) <= shareFrom {
		k.buf = bufferFor(len(data))
		k.data = k.buf.b[:copy(k.buf.b, data)]
	} else {
		k.data = bytes.Clone(data)
	}
	p.queue = append(p.queue, k)
	return false
}

// copy writes what the program prints until it has ended. A writer that fails ends the program.
func (p *program) copy(ctx context.Context, o RunOptions) (ExitStatus, error) {
	for {
		p.mu.Lock()
		queue, err := p.queue, p.err
		p.queue, p.bytes = nil, 0
		p.mu.Unlock()
		if err != nil {
			return ExitStatus{}, err
		}
		for i, k := range queue {
			w := o.Stdout
			switch k.tag {
			case 'x':
				n, err := strconv.Atoi(string(k.data))
				if n < 0 {
					return ExitStatus{}, &DeadError{Target: p.c.name, Reason: "the process that had started the program was killed, and nobody knows how it ended", Lost: true}
				}
				ws := syscall.WaitStatus(n)
				if err == nil && ws.Signaled() {
					return ExitStatus{Signal: int(ws.Signal())}, nil
				}
				return ExitStatus{Code: ws.ExitStatus()}, err
			case 'd':
				p.giveBack(queue[i+1:])
				if err := p.c.gone(); err != nil {
					return ExitStatus{}, err
				}
				return ExitStatus{}, &DeadError{Target: p.c.name, Reason: string(k.data), Lost: true}
			case 'e':
				w = o.Stderr
			}
			err := k.write(w)
			if n := p.credit(len(k.data)); n > 0 {
				_ = p.c.d.post(p.c.id, p.input, 0, fmt.Appendf(nil, "a%d", n))
			}
			if err != nil {
				p.giveBack(queue[i+1:])
				return ExitStatus{}, err
			}
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			return ExitStatus{}, context.Cause(ctx)
		}
	}
}

// giveBack leaves to stop what copy has not come to: the exit status may be there already.
func (p *program) giveBack(rest []chunk) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = slices.Concat(rest, p.queue)
}

// credit is what the child is told now that it may send more, when n bytes were taken: nothing while it has most of its
// share left, so that not every message is answered.
func (p *program) credit(n int) int {
	p.window -= n
	share := p.c.d.OutputShare()
	give := share - p.window
	if give < share/4 {
		return 0
	}
	p.window = share
	return give
}

// minPiece and maxPiece bound a piece of standard input that is sent as one. The child reads a minPiece at once (CHUNK of
// core.py). Large pieces cost a child less, whose reader is woken for each part of them. Two of them are on the way, so
// that a far child takes one while the answer to the other comes back.
const (
	minPiece = 64514
	maxPiece = 4 * minPiece
)

// InputPiece is the most of standard input that goes to a program as one piece.
const InputPiece = maxPiece

// inputPiece is one, two or four minPieces: what cuts the same input into others meets again at the end of the largest.
func (d *Daemon) inputPiece() int {
	switch share := d.share(inputBytes); {
	case share >= 2*maxPiece:
		return maxPiece
	case share >= 4*minPiece:
		return 2 * minPiece
	}
	return minPiece
}

// maxPieces bounds the pieces on the way, however small they are.
const maxPieces = 64

// feed sends standard input, as fast as the child takes it, until its end, the end of ctx or that of the program. It gives
// up the program if the input cannot be read: what came before is not all of it.
func (p *program) feed(ctx context.Context, r io.Reader, to *feeder, giveUp context.CancelCauseFunc) {
	acks := make(chan struct{}, maxPieces)
	p.mu.Lock()
	p.acks = acks
	p.mu.Unlock()
	defer to.end()
	// A reader may wait for ever, and nobody is to wait for it then.
	defer context.AfterFunc(ctx, to.end)()
	var chunk InputBuffer
	var sizes []int // of the pieces on the way
	ahead := 0      // their bytes
	for {
		f, n, err := p.piece(r, &chunk)
		if ctx.Err() != nil {
			f.done()
			return
		}
		if n > 0 {
			for window := p.c.d.share(inputBytes); len(sizes) > 0 && (ahead+n > window || len(sizes) == maxPieces); {
				select {
				case <-acks:
					ahead, sizes = ahead-sizes[0], sizes[1:]
				case <-p.over:
					f.done()
					return
				}
			}
			if err := to.send(ctx, f); err != nil {
				// It would wait for the rest. The end of a stream is told by who ends it.
				if ctx.Err() == nil && p.c.stream.failure() == nil {
					p.learn('d', []byte(err.Error()))
				}
				return
			}
			ahead, sizes = ahead+n, append(sizes, n)
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = p.c.d.post(p.c.id, p.input, 0, []byte{'i'})
			return
		case err != nil:
			giveUp(errorf("standard input cannot be read: %w", err))
			return
		}
	}
}

// piece reads n bytes of standard input into a frame: while much comes, to where they are written from.
func (p *program) piece(r io.Reader, chunk *InputBuffer) (f frame, n int, err error) {
	h := pyproto.Header{Enc: pyproto.EncMGC, Dst: p.c.id, Handle: p.input}
	size := p.c.d.inputPiece()
	if !chunk.much() || size < maxPiece {
		buf := chunk.Next(1 + size)
		n, err = r.Read(buf[1:])
		chunk.Read(1 + n)
		buf[0] = 'i'
		return newFrame(h, chunk.Take(buf[:1+n])), n, err
	}
	buf := getBuffer(true)
	n, err = r.Read(buf.b[:size])
	if n < readBuffer/2 {
		chunk.Read(n)
		f = newFrame(h, append([]byte{'i'}, buf.b[:n]...))
		buf.release()
		return f, n, err
	}
	h.Length = uint32(1 + n)
	return frame{head: append(h.Append(make([]byte, 0, pyproto.HeaderLen+1)), 'i'), body: buf.b[:n], buf: buf}, n, err
}

// InputBuffer grows with what is read into it: of a thousand programs that are given standard input, most get none.
type InputBuffer struct {
	b    []byte
	full bool
	read int // the last time
}

// firstInput is what it begins with.
const firstInput = 512

// Next gives the buffer, of at most max bytes.
func (i *InputBuffer) Next(max int) []byte {
	switch {
	case i.b == nil:
		i.b = make([]byte, min(firstInput, max))
	case (i.full || len(i.b) > max) && len(i.b) != max:
		i.b = make([]byte, grow(len(i.b), max))
	}
	i.full = false
	return i.b
}

// grow is the next size. What is not far from max becomes it: a piece of the most that a reader gives at once is not
// cut then.
func grow(n, max int) int {
	if n *= 8; n+n/2 < max {
		return n
	}
	return max
}

// Take gives what was read to somebody who keeps it.
func (i *InputBuffer) Take(data []byte) []byte {
	if 2*len(data) < len(i.b) {
		return bytes.Clone(data)
	}
	i.b = make([]byte, len(i.b))
	return data
}

// much says that the last read had much.
func (i *InputBuffer) much() bool { return i.read >= readBuffer/2 }

// Read says how much of it was used.
func (i *InputBuffer) Read(n int) { i.full, i.read = n == len(i.b), n }

// stop ends the program, waits until it is gone, and writes what it has to say meanwhile, if anybody wants to read it.
func (p *program) stop(o RunOptions, quiet bool) {
	if quiet {
		o = RunOptions{}
	}
	if p.interrupt(quiet) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if _, err := p.copy(ctx, o); err != nil && ctx.Err() == nil {
		_, _ = p.copy(ctx, RunOptions{}) // nobody reads it any more
	}
}

// interrupt has the child end the program, once: by SIGINT first, or SIGTERM where nobody wants to know what it says of
// that.
func (p *program) interrupt(quiet bool) error {
	p.stopping.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		sig := syscall.SIGINT
		if quiet {
			sig = syscall.SIGTERM
		}
		p.stopErr = p.c.Call(ctx, "mitogen.program:stop", int64(p.id), int64(sig)).Err()
	})
	return p.stopErr
}

// forestall kills a program that was given up before the child has said that it runs. Calls run in order: when this one
// does, the program was started, or never will be, and its number is taken back. False says that the call was not sent.
func (p *program) forestall() bool {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	taken := func(pyproto.Header, []byte, bool) { p.takeBack() }
	handle := p.c.d.handles.add(handler{fn: taken, respondent: p.c.id, once: true})
	payload, err := p.c.encode(ctx, "", "mitogen.program:stop", []any{int64(p.id), int64(syscall.SIGINT)}, math.MaxInt)
	if err == nil {
		err = p.c.sendCall(ctx, handle, payload)
	}
	return err == nil || !p.c.d.handles.remove(handle)
}

// takeBack takes back the number of a program that has not announced it.
func (p *program) takeBack() { p.c.d.takeBack(p.c.stream, p.c.id, p.id) }
