// Package control serves msgpack-RPC on a Unix socket: the way in for every client that does not speak Mitogen's protocol. The
// methods are in docs/control.md; package client is a client in Go.
//
// The daemon answers requests and sends nothing else: what comes of itself (output, messages, events) waits in a stream of
// the connection until the client reads it. So a client that never reads costs what its queues hold, and stalls nobody.
//
// Every queue has a bound, and a rule for when it is full:
//
//	requests of one client under way      maxRequests, maxRequestBytes: refused with kind overflow
//	replies that a client does not read   maxReplyBytes: the reply is replaced by an error of kind overflow; a client that
//	                                      takes nothing for Options.StallTimeout while replies wait is disconnected
//	a program's output, a channel         streamBytes: the program or the sender waits (end to end, to the process that writes)
//	what a function prints, events        streamBytes: what does not fit is dropped and counted
//	messages to a receiver                daemon.DefaultReceiverBytes: the receiver ends with an error
//	what waits for a child to read        daemon.Options.MaxPending: the request waits
//
// Order: requests of one client for the same child, or the same target, are started in the order in which they were sent; so
// are reads and writes of one stream. Others run at the same time.
//
// Goroutines: Serve has one, each client one that reads, each request one until it is answered, each stream one until its work
// has ended. Shutdown waits for all.
//
// Locks: Server.mu, conn.mu, stream.mu and hub.mu are taken alone. Nothing that blocks is done under them.
package control
