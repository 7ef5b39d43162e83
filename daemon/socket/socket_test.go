package socket

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/internal/slogzap"
)

// place is a directory whose path is short enough for a socket.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "mitogend-socket-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	for what, listen := range map[string]func(string) (*Listener, error){"locked": ListenLocked, "plain": Listen} {
		ln, err := listen(path)
		if err == nil {
			_ = ln.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
	}
}

func TestDirectoryOfOthers(t *testing.T) {
	dir := place(t)
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o770); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(shared, "x.sock"), "others may write to the directory")
	refused(t, filepath.Join(dir, strings.Repeat("x", 200), "x.sock"), "use --listen with a shorter directory")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(dir, "file", "x.sock"), "not a directory")
	refused(t, filepath.Join(dir, "file"), "is no socket")
	if os.Geteuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := errors.Join(os.Mkdir(theirs, 0o755), os.Chown(theirs, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		refused(t, filepath.Join(theirs, "x.sock"), "belongs to user 65534")
		// Nor does their link lead to a directory of ours.
		link := filepath.Join(dir, "link")
		if err := errors.Join(os.Symlink(dir, link), os.Lchown(link, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		refused(t, filepath.Join(link, "x.sock"), "not a directory")
	}
}

// The lock file is written to only if it is ours, and nobody else's name for something else.
func TestLockFileIsNoLink(t *testing.T) {
	for name, plant := range map[string]func(victim, lock string) error{
		"symbolic link": os.Symlink,
		"hard link":     os.Link,
		"pipe":          func(_, lock string) error { return syscall.Mkfifo(lock, 0o600) },
	} {
		dir := place(t)
		victim := filepath.Join(dir, "victim")
		if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := plant(victim, filepath.Join(dir, lockName)); err != nil {
			t.Fatal(err)
		}
		ln, err := ListenLocked(filepath.Join(dir, "x.sock"))
		if err == nil {
			_ = ln.Close()
			t.Errorf("%s: it was taken", name)
		}
		if data, _ := os.ReadFile(victim); string(data) != "precious" {
			t.Errorf("%s: the file is now %q", name, data)
		}
	}
}

func TestLinkOfOurs(t *testing.T) {
	dir := place(t)
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "real"), 0o700), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	ln, err := ListenLocked(filepath.Join(link, "x.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// There is one lock, under whichever name.
	var used *InUseError
	if _, err := ListenLocked(filepath.Join(dir, "real", "x.sock")); !errors.As(err, &used) || used.PID != os.Getpid() {
		t.Errorf("got %v", err)
	}
}

// A socket from outside goes through the same checks, and stays at the end.
func TestAdopt(t *testing.T) {
	dir := place(t)
	path := filepath.Join(dir, "x.sock")
	open := func() net.Listener {
		_ = os.Remove(path)
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	ln, err := Adopt(open())
	if err != nil {
		t.Fatal(err)
	}
	var used *InUseError
	if _, err := ListenLocked(filepath.Join(dir, "y.sock")); !errors.As(err, &used) {
		t.Errorf("the lock was not taken: %v", err)
	}
	_ = ln.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket was removed: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	outside := open()
	defer outside.Close()
	if _, err := Adopt(outside); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("got %v", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, err := Adopt(tcp); err == nil {
		t.Error("a TCP socket was taken")
	}
}

// The end of a daemon whose directory was removed leaves the sockets of the next one alone, and its own end removes them.
func TestSocketOfASuccessor(t *testing.T) {
	for what, listen := range map[string]func(string) (*Listener, error){"locked": ListenLocked, "plain": Listen} {
		dir := filepath.Join(place(t), "run")
		path := filepath.Join(dir, "x.sock")
		first, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		second, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_ = first.Close()
			nc, err := net.Dial("unix", path)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			_ = nc.Close()
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it is left: %v", what, err)
		}
	}
}

// Who has stopped is followed by nobody before it has ended.
func TestLockOfWhoHasStopped(t *testing.T) {
	path := filepath.Join(place(t), "x.sock")
	ln, err := ListenLocked(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	var used *InUseError
	if _, err := ListenLocked(path); !errors.As(err, &used) {
		t.Errorf("got %v", err)
	}
	_ = ln.Close()
	if ln, err = ListenLocked(path); err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}

// shortListener fails with what it is given, and then gives connections.
type shortListener struct {
	errs  []error
	conns chan net.Conn
	done  chan struct{}
}

func (l *shortListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *shortListener) Close() error   { close(l.done); return nil }
func (l *shortListener) Addr() net.Addr { return &net.UnixAddr{Name: "short"} }

// A shortage makes clients wait, and is told once; any other error ends the loop.
func TestServeOutOfDescriptors(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	l := &shortListener{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	for range 2 {
		l.errs = append(l.errs, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ECONNABORTED)
	}
	a, b := net.Pipe()
	defer b.Close()
	l.conns <- a
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan net.Conn, 1)
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, slogzap.Slog(zap.New(core)), func(c net.Conn) { got <- c }) }()
	select {
	case c := <-got:
		_ = c.Close()
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the client still waits")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
	if logs.Len() != 1 {
		t.Errorf("%d lines were logged", logs.Len())
	}
	l = &shortListener{errs: []error{syscall.EINVAL}, done: make(chan struct{})}
	if err := Serve(context.Background(), l, slog.New(slog.DiscardHandler), nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("got %v", err)
	}
}
