package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/pyproto/printable"
)

// How long Close waits for a program to leave by itself, and after SIGTERM; and how long after SIGKILL before it gives up on
// a process that the kernel holds, as on a dead network file system.
const (
	leaveTime = 3 * time.Second
	termTime  = 1 * time.Second
	killTime  = 10 * time.Second
)

// Process is a started program with a child behind it that is ready for frames. It leads a process group and session of its
// own. An idle one costs one or two descriptors for data, one for stderr, and no goroutine; a local child of the embedded runtime
// closes its stderr, and then it is one less.
type Process struct {
	// Constant after Start.
	PID   int
	Hello // what the child has said of itself
	// Took is how long it was from the preamble being sent until the child had taken it.
	Took     time.Duration
	Label    string
	r, w     *os.File
	errFile  *os.File // nil when everything is on the terminal
	tty      bool     // errFile is a terminal's master side
	buffered []byte
	output   transcript
	before   int           // lines of output before the child was up; set by finish
	done     chan struct{} // closed once the program has been reaped
	lineMu   sync.Mutex    // held across onLine, so that calls do not overlap; taken before mu
	onLine   func(line string, ready bool)
	onExit   func() // called by the reaper: the handshake's, then AfterDone's; guarded by mu, must not block

	// mu protects the following. Never held across I/O.
	mu       sync.Mutex
	exited   bool
	lost     bool // somebody else has collected the exit status
	status   syscall.WaitStatus
	detached bool
	killed   bool // by us, so that its status says nothing about it
	ready    bool
	stderr   *errReader // nil when nothing reads stderr
}

// Reader is the file that frames come from, after the bytes of [Process.Buffered]. It is in Go's poller: deadlines work. It may be
// the same file as Writer. Reads end as IsEOF says.
func (p *Process) Reader() *os.File { return p.r }

// Writer is the file that frames go to.
func (p *Process) Writer() *os.File { return p.w }

// Buffered gives the bytes that were read together with MITO002: the beginning of the first frames.
func (p *Process) Buffered() []byte { return p.buffered }

// Done is closed when the program has ended. The stream may live on for a moment, or longer when a grandchild has inherited it.
func (p *Process) Done() <-chan struct{} { return p.done }

// AfterDone has fn called once the program has ended, or at once if it has. It must not block. It is for one function.
func (p *Process) AfterDone(fn func()) {
	p.mu.Lock()
	exited := p.exited
	p.onExit = fn
	p.mu.Unlock()
	if exited {
		fn()
	}
}

// ExitStatus says how the program ended ("exit status 1", "signal: killed"), or "" while it runs or when it was this package
// that killed it.
func (p *Process) ExitStatus() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.exited || p.killed || p.lost:
		return ""
	case p.status.Signaled():
		return "signal: " + p.status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", p.status.ExitStatus())
}

// sshFailed is the exit status of ssh itself. Any other is the status of the command on the target.
const sshFailed = 255

// OwnEnd says how a connection program has ended that is known to have ended by itself and not with the child: ssh, with what it
// said last. It is empty for all others.
func (p *Process) OwnEnd() string {
	if !strings.HasPrefix(p.Label, "ssh ") || p.ExitStatus() != fmt.Sprintf("exit status %d", sshFailed) {
		return ""
	}
	p.drainErr(lingerTime)
	said := fmt.Sprintf("ssh ended with status %d", sshFailed)
	if last := p.output.since(p.before); last != "" {
		said += fmt.Sprintf(": %q", last)
	}
	return said
}

// Detach lets the program and its group live on when Close is called.
func (p *Process) Detach() {
	p.mu.Lock()
	p.detached = true
	p.mu.Unlock()
}

// Kill sends SIGKILL to the process group at once. Close has to be called all the same.
func (p *Process) Kill() { p.signal(syscall.SIGKILL) }

// signal sends to the program's group, which the program leads.
func (p *Process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.detached {
		return
	}
	if !p.exited {
		p.killed = true
	}
	// The group's number stays taken as long as one process is in it, also after the leader was reaped.
	_ = syscall.Kill(-p.PID, sig)
}

// Close ends the connection: it closes the data stream, which tells the child to leave; sends SIGTERM to the
// process group when it has not left within 3 seconds or when ctx ends, and SIGKILL a second later. It returns when the
// program is reaped and nothing is left in its group, or says that this could not be reached. It may be called more than
// once.
func (p *Process) Close(ctx context.Context) error {
	p.closeData()
	p.mu.Lock()
	detached := p.detached
	p.mu.Unlock()
	var err error
	if !detached {
		err = p.leave(ctx)
	}
	p.closeErr()
	return err
}

func (p *Process) closeData() {
	_ = p.r.Close()
	if p.w != p.r {
		_ = p.w.Close()
	}
}

func (p *Process) leave(ctx context.Context) error {
	if !p.await(ctx, leaveTime) {
		if p.tty {
			// What sudo has started belongs to root and takes no signal of ours, but everything hears the terminal hang up.
			p.hangUp()
		}
		p.signal(syscall.SIGTERM)
		if !p.await(context.Background(), termTime) {
			p.signal(syscall.SIGKILL)
			if !p.await(context.Background(), killTime) {
				return fmt.Errorf("bootstrap: %s: process %d does not end after SIGKILL", p.Label, p.PID)
			}
		}
	}
	// The reaper has sent SIGTERM to what the leader left behind.
	return p.emptyGroup()
}

func (p *Process) await(ctx context.Context, d time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	return false
}

// exitWait is how long AwaitExit waits for a program whose streams have ended. maxExitWait is the same while the system
// is ending the program: it closes the program's descriptors first, and on a busy machine the rest may take long.
const (
	exitWait    = 300 * time.Millisecond
	maxExitWait = 5 * time.Second
)

// AwaitExit waits for the exit status of a program whose streams have ended, so that an error can say more, and tells
// whether it is there.
func (p *Process) AwaitExit(ctx context.Context) bool {
	began := time.Now()
	for wait := exitWait; !p.await(ctx, wait); wait = exitWait / 10 {
		// One that is gone was reaped just now: the status is on its way.
		ends := p.Exiting() || syscall.Kill(p.PID, 0) == syscall.ESRCH
		if !ends || ctx.Err() != nil || time.Since(began) > maxExitWait {
			return p.await(context.Background(), 0)
		}
	}
	return true
}

// groupPoll is how often emptyGroup looks: the kernel does not tell when a process group becomes empty.
const groupPoll = 10 * time.Millisecond

// reapTime is what init gets to reap a dead process that has lost its parent.
const reapTime = 200 * time.Millisecond

func (p *Process) emptyGroup() error {
	killed := false
	for waited := time.Duration(0); ; waited += groupPoll {
		if err := syscall.Kill(-p.PID, 0); err != nil {
			// ESRCH: empty. EPERM: it belongs to another user (sudo), whom the closed stream has to tell.
			return nil
		}
		if waited >= reapTime && waited%reapTime == 0 && len(inGroup(p.PID)) == 0 {
			return nil // all are dead, and the first process of this container reaps nothing
		}
		switch {
		case waited >= termTime && !killed:
			killed = true
			p.signal(syscall.SIGKILL)
		case waited >= termTime+killTime:
			return fmt.Errorf("bootstrap: %s: processes of group %d do not end after SIGKILL", p.Label, p.PID)
		}
		time.Sleep(groupPoll)
	}
}

// reap collects the exit status if the program has ended. Called by the reaper.
func (p *Process) reap() bool {
	var ws syscall.WaitStatus
	pid, err := syscall.Wait4(p.PID, &ws, syscall.WNOHANG, nil)
	if pid == 0 || errors.Is(err, syscall.EINTR) {
		return false
	}
	p.mu.Lock()
	p.exited, p.status, p.lost = true, ws, err != nil
	onExit := p.onExit
	detached := p.detached
	p.mu.Unlock()
	if !detached {
		_ = syscall.Kill(-p.PID, syscall.SIGTERM)
	}
	close(p.done)
	if onExit != nil {
		onExit()
	}
	return true
}

// readRest reads, piece by piece and at most maxBanner, what lies there of a program that is over: it may have got no time to be read.
// Deadlines that have passed do not matter.
func readRest(f *os.File, buf []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		conn, err := f.SyscallConn()
		if err != nil {
			return
		}
		for total := 0; total < maxBanner; {
			n := 0
			_ = conn.Control(func(fd uintptr) {
				for n, err = unix.Read(int(fd), buf); err == unix.EINTR; {
					n, err = unix.Read(int(fd), buf)
				}
			})
			if total += n; n <= 0 || !yield(n) {
				return
			}
		}
	}
}

// line takes a finished line of output.
func (p *Process) line(text string) {
	shown := printable.Line(p.output.add(text))
	if p.onLine == nil {
		return
	}
	p.lineMu.Lock()
	defer p.lineMu.Unlock()
	p.mu.Lock()
	ready := p.ready
	p.mu.Unlock()
	p.onLine(shown, ready)
}
