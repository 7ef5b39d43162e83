// Package socket is what the daemon's Unix sockets have in common: the directory that they are in, the lock that
// keeps two daemons apart, the processes at the other end, and the loop that takes them.
//
// A directory counts only if it is this user's and nobody else may write in it. This holds for a socket of systemd's,
// too. The lock file and the directory are opened without following links: otherwise, in a directory where others may
// make links, a link of theirs would decide which file is written to.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/internal/fault"
)

// lockName is the file that a running daemon holds a lock on, so that two that are started at once do not both take a
// stale socket.
const lockName = "control.lock"

// ControlName is the name of the control socket in its directory.
const ControlName = "control.sock"

// DefaultDir is where the sockets are: $XDG_RUNTIME_DIR/mitogend, else ~/.cache/mitogend.
func DefaultDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "mitogend"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errorf("there is neither XDG_RUNTIME_DIR nor a home directory: %w", err)
	}
	return filepath.Join(home, ".cache", "mitogend"), nil
}

func errorf(format string, args ...any) error { return fault.Errorf("socket", format, args...) }

// maxPath is what a Unix socket's address holds, less the final NUL.
const maxPath = 107

// InUseError is a socket that another process serves.
type InUseError struct {
	Path string
	PID  int // 0 when it is not known
}

func (e *InUseError) Error() string { return "socket: " + e.Plain() }

// Plain is for fault.Plain.
func (e *InUseError) Plain() string {
	who := "another daemon"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is served by %s; stop it with mitogend stop, or use --listen with another directory",
		e.Path, who)
}

// Listener is a listening socket. Close removes it, unless it came from outside, and gives the lock back.
type Listener struct {
	*net.UnixListener
	path   string
	lock   *os.File
	file   fs.FileInfo // what Close removes; nil for nothing
	keep   bool
	remove sync.Once
}

// Path is the socket's path.
func (l *Listener) Path() string { return l.path }

// Stop takes no more clients, and removes the socket. The lock stays until Close.
func (l *Listener) Stop() error {
	l.remove.Do(l.unlink) // while we listen, no other file has its number
	return l.UnixListener.Close()
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	err := l.Stop()
	if l.lock != nil {
		_ = l.lock.Close()
	}
	return err
}

// SetUnlinkOnClose says whether Close removes the socket; what came from outside stays in any case.
func (l *Listener) SetUnlinkOnClose(unlink bool) { l.keep = !unlink }

// unlink removes the socket. One of that name may be another daemon's, since our directory may have been removed.
func (l *Listener) unlink() {
	if l.file == nil || l.keep {
		return
	}
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.file) {
		_ = os.Remove(l.path)
	}
}

// ListenLocked makes a socket, 0600, in a directory of this user's, 0700, whose lock it takes. The directory is made
// where there is none.
func ListenLocked(path string) (*Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	l, err := listen(path)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	l.lock = lock
	return l, nil
}

// Listen is ListenLocked without a lock, for a further socket in a directory.
func Listen(path string) (*Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	_ = dir.Close()
	return listen(path)
}

// Adopt takes a socket that somebody else listens on for us, as systemd does. It must be in such a directory, too,
// whose lock is taken. It is not removed at the end.
func Adopt(ln net.Listener) (*Listener, error) {
	ul, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, errorf("%s is no Unix stream socket", ln.Addr())
	}
	path := ul.Addr().String()
	if !filepath.IsAbs(path) {
		return nil, errorf("%q is no file", path)
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	ul.SetUnlinkOnClose(false)
	return &Listener{UnixListener: ul, path: path, lock: lock}, nil
}

// CheckPath tells whether a socket's path is short enough.
func CheckPath(path string) error {
	if len(path) > maxPath {
		return errorf("the path of the socket is %d bytes long, and the system takes %d: %s; "+
			"use --listen with a shorter directory",
			len(path), maxPath, path)
	}
	return nil
}

// openDir makes the directory, and refuses one that others can write to or own. A link of this user's or root's may
// lead to it.
func openDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errorf("%w", err)
	}
	if info, err := os.Lstat(dir); err == nil && info.Mode().Type() == fs.ModeSymlink && trusted(info) {
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return nil, errorf("%w", err)
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errorf("open %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	info, err := f.Stat()
	if err == nil {
		st, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case st == nil || int(st.Uid) != os.Geteuid():
			err = errorf("the directory %s belongs to user %d", dir, owner(info))
		case info.Mode().Perm()&0o022 != 0:
			err = errorf("others may write to the directory %s (mode %o); chmod 700 it", dir,
				info.Mode().Perm())
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func trusted(info fs.FileInfo) bool {
	uid := owner(info)
	return uid == 0 || uid == os.Geteuid()
}

// takeLock takes the lock of the directory of a socket, and writes our number into it.
func takeLock(path string) (*os.File, error) {
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := filepath.Join(dir.Name(), lockName)
	fd, err := unix.Openat(int(dir.Fd()), lockName,
		unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errorf("open %s: %w", name, err)
	}
	lock := os.NewFile(uintptr(fd), name)
	err = checkLock(lock)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			b := make([]byte, 20)
			n, _ := lock.ReadAt(b, 0)
			pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
			err = &InUseError{Path: path, PID: pid}
		} else if err != nil {
			err = errorf("%s: %w", name, err)
		}
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	_ = lock.Truncate(0)
	_, _ = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return lock, nil
}

// checkLock tells whether the lock file is a file of this user's that has no other name.
func checkLock(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return errorf("%w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || st.Nlink > 1 {
		return errorf("%s is no file of this user's alone; remove it", f.Name())
	}
	return nil
}

// listen replaces a stale socket.
func listen(path string) (*Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, errorf("%s is there and is no socket", path)
		}
		// Somebody may serve it who has not taken the lock.
		if nc, err := net.DialTimeout("unix", path, time.Second); err == nil {
			peer, _ := PeerOf(nc)
			_ = nc.Close()
			return nil, &InUseError{Path: path, PID: peer.PID}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errorf("replacing a stale socket: %w", err)
		}
	}
	old := syscall.Umask(0o177)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, errorf("%w", err)
	}
	ln.SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		_ = ln.Close()
		return nil, errorf("%w", err)
	}
	return &Listener{UnixListener: ln, path: path, file: info}, nil
}

// Peer is the process at the other end of a socket.
type Peer struct{ PID, UID int }

// Allowed tells whether that process may be a client: only those of our own user may, and not root's.
func (p Peer) Allowed() error {
	if p.UID != os.Geteuid() {
		return fmt.Errorf("this daemon belongs to user %d, and you are user %d", os.Geteuid(), p.UID)
	}
	return nil
}

// PeerOf asks the kernel.
func PeerOf(nc net.Conn) (Peer, error) {
	none := Peer{UID: -1}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return none, errorf("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return none, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return none, err
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// The pause after a shortage, which doubles up to its limit, and how often the log says so. Nothing tells when there
// are descriptors again.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
	tellEvery  = time.Minute
)

// Serve gives each client to take, until the listener is closed or ctx ends, which closes it. While there are no descriptors or no
// memory, clients wait. An error is one of the listener's.
func Serve(ctx context.Context, ln net.Listener, log *slog.Logger, take func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	pause := firstPause
	var told time.Time
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = firstPause
			take(nc)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case IsShortage(err):
			if time.Since(told) > tellEvery {
				told = time.Now()
				log.Error("cannot take a client; raise the limit of open files (ulimit -n, or LimitNOFILE= of the unit)", "error", err)
			}
			Pause(ctx, &pause)
		default:
			_ = ln.Close()
			return errorf("%w", err)
		}
	}
}

// Pause waits, longer each time, and no longer than ctx.
func Pause(ctx context.Context, pause *time.Duration) {
	if *pause == 0 {
		*pause = firstPause
	}
	t := time.NewTimer(*pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	*pause = min(2**pause, maxPause)
}

// IsShortage tells whether an error says that there is too little of something now.
func IsShortage(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS,
		syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
