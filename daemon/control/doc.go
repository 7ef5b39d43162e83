// Package control serves msgpack-RPC on a Unix socket: the way in for every client that does not speak Mitogen's protocol. The
// methods are in docs/control.md; package client is a client in Go.
//
// The daemon answers requests and sends nothing else: what comes of itself (output, messages, events) waits in a stream of
// the connection until the client reads it. So a client that never reads costs what its queues hold, and stalls nobody.
//
// Every queue has a bound, and a rule for when it is full:
//
//	requests of one client under way      maxRequests, maxRequestBytes: refused with kind overflow
//	replies that a client does not read   maxReplyBytes: the next reply waits to be made, and requests are left unread; a client
//	                                      that takes nothing for Options.StallTimeout while replies wait is disconnected
//	large results of its calls            maxResultBytes: the child's stream is not read (daemon.CallOptions.Room)
//	outcomes of call_many and its like    streamBytes: nothing more begins (package work)
//	what programs of run_many print, and  the same: the program, or the function, waits
//	messages of open_many
//	a channel                             streamBytes: the sender waits (end to end, to the process that writes)
//	a program's output                    daemon.OutputShare: the program waits in the same way
//	what a function prints, events        streamBytes: what does not fit is dropped and counted
//	messages to a receiver                daemon.DefaultReceiverBytes: the receiver ends with an error
//	what waits for a child to read        daemon.Options.MaxPending: the request waits
//
// Order: requests of one client for the same child, or the same target, are started in the order in which they were sent; so
// are reads and writes of one stream. Others run at the same time.
//
// # Goroutines
//
//	name               started in            ends when                                      waited for by
//	Server.Serve       its caller            the listener is closed, by Shutdown            Server.wg
//	conn.serve         Server.accept         the client is gone and its work has ended      Server.wg
//	request            conn.handle           it is answered                                 conn.wg, in conn.serve
//	stream's work      call.work             the call, program, channel or subscription     conn.wg
//	                                         has ended, or the client has closed it
//	Runner.Run         start (many.go)       its targets are done, or no more may begin     the work
//	Input.fill         a program of          nobody reads it any more                       the work, in Input.Close
//	                   run_many
//	Server.ServeHTTP   its caller            Shutdown closes it                             Server.wg
//	exporter.run       newExporter           Shutdown, after what is left was sent          exporter.close
//
// Whoever replies writes to the socket itself if nobody else does: there is no goroutine for writing.
//
// # Locks
//
// conn.making is held while a reply is made, and while it waits for room before that: who waits holds a result, not its encoding,
// and what a stream has stays there. Server.mu, conn.mu, stream.mu and exporter.mu may be taken under it, and else are taken alone; a stream's is also taken under hub.mu, which gives out events.
// Nothing that blocks is done under those four. Server.invMu is held while the inventory is asked, which may run a program: it is
// taken by requests that name a target, with no other lock.
package control
