package control

import (
	"path/filepath"

	"mitogend/daemon/socket"
)

// SocketName is the socket's name in its directory.
const SocketName = socket.ControlName

// DefaultDir is where the sockets are: $XDG_RUNTIME_DIR/mitogend, else ~/.cache/mitogend.
func DefaultDir() (string, error) { return socket.DefaultDir() }

// InUseError is a directory whose socket another daemon serves.
type InUseError = socket.InUseError

// Listen makes the directory, 0700, and the socket in it, 0600. It replaces a socket that nobody serves any more.
func Listen(dir string) (*socket.Listener, error) {
	return socket.ListenLocked(filepath.Join(dir, SocketName))
}

// CheckPath tells whether a directory's path is short enough for a socket in it.
func CheckPath(dir string) error { return socket.CheckPath(filepath.Join(dir, SocketName)) }
