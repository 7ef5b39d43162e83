package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the socket's name in its directory.
const SocketName = "control.sock"

// lockName is the file that a running daemon holds a lock on, so that two that are started at once do not both take a stale socket.
const lockName = "control.lock"

// maxSocketPath is what a Unix socket's address holds, less the final NUL.
const maxSocketPath = 107

// DefaultDir is where the sockets are: $XDG_RUNTIME_DIR/mitogend, else ~/.cache/mitogend.
func DefaultDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "mitogend"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("control: there is neither XDG_RUNTIME_DIR nor a home directory: %w", err)
	}
	return filepath.Join(home, ".cache", "mitogend"), nil
}

// Listener is a listening socket in a directory of its own. Close removes it.
type Listener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// InUseError is a directory whose socket another daemon serves.
type InUseError struct {
	Path string
	PID  int // 0 when it is not known
}

func (e *InUseError) Error() string {
	who := "another daemon"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("control: %s is served by %s; stop it with mitogend stop, or use --listen with another directory", e.Path, who)
}

// Listen makes the directory, 0700, and the socket in it, 0600. A socket that nobody serves any more is replaced.
func Listen(dir string) (*Listener, error) {
	path := filepath.Join(dir, SocketName)
	if err := CheckPath(dir); err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("control: %s: %w", lock.Name(), err)
		}
		b := make([]byte, 20)
		n, _ := lock.ReadAt(b, 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		return nil, &InUseError{Path: path, PID: pid}
	}
	l, err := listen(path)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	l.lock = lock
	_ = lock.Truncate(0)
	_, _ = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return l, nil
}

// CheckPath tells whether a directory's path is short enough for a socket in it.
func CheckPath(dir string) error {
	if path := filepath.Join(dir, SocketName); len(path) > maxSocketPath {
		return fmt.Errorf("control: the path of the socket is %d bytes long, and the system takes %d: %s; use --listen with a shorter directory",
			len(path), maxSocketPath, path)
	}
	return nil
}

// listen replaces a stale socket. The lock is held.
func listen(path string) (*Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("control: %s is there and is no socket", path)
		}
		// Somebody may serve it who knows nothing of the lock: systemd, for another unit.
		if nc, err := net.DialTimeout("unix", path, time.Second); err == nil {
			peer, _ := peerOf(nc)
			_ = nc.Close()
			return nil, &InUseError{Path: path, PID: peer.pid}
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control: replacing a stale socket: %w", err)
		}
	}
	old := syscall.Umask(0o177)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	return &Listener{UnixListener: ln, path: path}, nil
}

// makeDir makes the directory, and refuses one that others can write to or own.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("control: the directory %s belongs to user %d", dir, st.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("control: others may write to the directory %s (mode %o); chmod 700 it", dir, info.Mode().Perm())
	}
	return nil
}

// Path is the socket's path.
func (l *Listener) Path() string { return l.path }

// Close removes the socket and gives the lock back.
func (l *Listener) Close() error {
	err := l.UnixListener.Close() // unlinks it
	if l.lock != nil {
		_ = l.lock.Close()
	}
	return err
}

// peer is the process at the other end of a socket.
type peer struct{ pid, uid int }

// allowed tells whether that process may be a client: only those of our own user.
func (p peer) allowed() bool { return p.uid == os.Geteuid() }

func peerOf(nc net.Conn) (peer, error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return peer{uid: -1}, fmt.Errorf("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return peer{uid: -1}, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return peer{uid: -1}, err
	}
	if cerr != nil {
		return peer{uid: -1}, cerr
	}
	return peer{pid: int(cred.Pid), uid: int(cred.Uid)}, nil
}
