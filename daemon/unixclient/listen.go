package unixclient

import (
	"net"

	"mitogend/daemon/socket"
)

// SocketName is the socket's name in its directory.
const SocketName = "mitogen.sock"

// Listen makes the socket, 0600, in a directory that is this user's alone. One that nobody serves any more is
// replaced; a live one is an error.
func Listen(path string) (net.Listener, error) { return socket.Listen(path) }
