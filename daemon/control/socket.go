package control

import (
	"fmt"
	"os"
	"path/filepath"

	"mitogend/daemon/socket"
)

// SocketName is the socket's name in its directory.
const SocketName = "control.sock"

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

// InUseError is a directory whose socket another daemon serves.
type InUseError = socket.InUseError

// Listen makes the directory, 0700, and the socket in it, 0600. A socket that nobody serves any more is replaced.
func Listen(dir string) (*socket.Listener, error) {
	return socket.ListenLocked(filepath.Join(dir, SocketName))
}

// CheckPath tells whether a directory's path is short enough for a socket in it.
func CheckPath(dir string) error { return socket.CheckPath(filepath.Join(dir, SocketName)) }
