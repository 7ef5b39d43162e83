package unixclient

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// SocketName is the socket's name in its directory.
const SocketName = "mitogen.sock"

// Listen makes the socket, 0600. One that nobody serves any more is replaced; a live one is an error.
func Listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("unixclient: %s is there and is no socket", path)
		}
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			pid, _ := peerPID(conn)
			_ = conn.Close()
			return nil, fmt.Errorf("unixclient: %s is served by process %d", path, pid)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("unixclient: replacing a stale socket: %w", err)
		}
	}
	old := syscall.Umask(0o177)
	ln, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("unixclient: %w", err)
	}
	return ln, nil
}
