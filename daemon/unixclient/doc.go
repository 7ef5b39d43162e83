// Package unixclient serves programs that were written for Mitogen: what mitogen.unix.connect connects to.
//
// A client sends its process id and is told its context id; frames follow. From then on it is a peer in the daemon's tree that
// acts with the daemon's authority. What it asks of context 0 is answered here: _proxy_connect, by which router.ssh(via=...)
// starts a child, and the module requests of those children, which are passed to the client for what the daemon itself does
// not have.
//
// Data files of packages go the same way (resources.go): what the daemon's path does not have is asked of the client that owns the child,
// once for all of its children that wait, and is missing where the client is known not to answer or has not in ten seconds.
//
// # Ownership
//
// A child belongs to the client that asked for it. Its log records go there, its modules come from there, and it ends with
// that client, unless another client has used it.
//
// # Goroutines
//
//	name            started in       ends when                                     waited for by
//	Server.accept   Server.Serve     the client is gone and its children are ended Server.wg, in Serve
//	a connect       Server.onCall    the child is there, or has failed             client.wg
//
// # Locks
//
// Server.mu guards the table of clients, client.mu what one client has. Neither is held across I/O; Server.mu may be taken
// under client.mu, and nothing under Server.mu. Handlers run on readLoops and do not block: a connect runs in a goroutine of its own, which Server.wg counts.
package unixclient
