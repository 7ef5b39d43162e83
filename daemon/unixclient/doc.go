// Package unixclient serves programs that were written for Mitogen: what mitogen.unix.connect connects to.
//
// A client sends its process id and is told its context id; frames follow. From then on it is a peer in the daemon's
// tree that acts with the daemon's authority. What it asks of context 0 is answered here: _proxy_connect, by which
// router.ssh(via=...) starts a child, and the module requests of those children, which are passed to the client for
// what the daemon itself does not have.
//
// Data files of packages go the same way (resources.go): what the daemon's path does not have is asked of the client
// that owns the child, once for all of its children that wait, and is missing where the client is known not to answer
// or has not in ten seconds.
//
// # Ownership
//
// A child belongs to the client that asked for it. Its log records go there, its modules come from there, and it ends
// with that client, unless another client has used it.
//
// # Goroutines
//
//	name                 started in         ends when                                       waited for by
//	Server.accept        Server.Serve       the client is gone and its children are ended   Server.wg, in Serve
//	a connect            Server.onCall      the child is there, or has failed               client.wg, in Server.accept
//	client.watch         client.add         the child is gone, or the client                client.wg, in Server.accept
//	a child is ended     client.end         it has ended, at most closeTime                 client.end
//	a resource is sent   resources.answer   the child's queue has it                        client.wg, in Server.accept
//
// # Locks
//
//	client.mu                                -> Server.mu
//	Server.mu, modules.mu, resources.mu      -> daemon.stream.mu, daemon.warnings.mu, daemon.Daemon.mu, each alone
//
// Server.mu guards the table of clients, client.mu what one client has, modules.mu and resources.mu what it was asked
// for, runtimes.mu what it runs. What is sent to a client under one of them is queued, or written as far as its
// socket takes it at once; nothing waits. Handlers run on readLoops and do not block: a connect runs on a goroutine
// of its own.
package unixclient
