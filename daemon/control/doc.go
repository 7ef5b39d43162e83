// Package control serves msgpack-RPC on a Unix socket: the way in for every client that does not speak Mitogen's
// protocol. The methods are in docs/control.md; package client is a client in Go.
//
// The daemon answers requests and sends nothing else. Output, messages and events wait in a stream of the connection
// until the client reads them. So a client that never reads costs what its queues hold, and stalls nobody.
//
// Every queue has a bound, and a rule for when it is full:
//
//	requests of one client under way      maxRequests, maxRequestBytes: refused with kind overflow
//	replies that a client does not read   maxReplyBytes: the next reply waits to be made, and requests are left unread;
//	                                      a client that takes nothing for Options.StallTimeout while replies wait is
//	                                      disconnected; in memory, less than twice as much
//	large results of its calls            maxResultBytes: the child's stream is not read (daemon.CallOptions.Room)
//	outcomes of call_many and its like    streamBytes: nothing more begins (package work)
//	what programs of run_many print, and  the same: the program, or the function, waits
//	messages of open_many
//	a channel                             streamBytes: the sender waits (end to end, to the process that writes)
//	a program's output                    daemon.OutputShare: the program waits in the same way
//	what a function prints                printBytes, for open streamBytes with its messages: what does not fit is
//	                                      dropped and counted
//	events                                streamBytes: the same
//	spans for a collector of traces       maxSpans, of imports maxImports, which targets share: the same
//	files of put and get                  maxTransfers at once, others wait; maxTransferNames for lists: the transfer
//	                                      ends
//	messages to a receiver                daemon.DefaultReceiverBytes: the receiver ends with an error
//	what waits for a child to read        daemon.Options.MaxPending: the request waits
//
// Requests of one client for the same child or the same target start in the order in which they were sent. So do
// reads and writes of one stream. Others run at the same time.
//
// # Goroutines
//
//	name              started in        ends when                                        waited for by
//	conn.serve        Server.accept     the client is gone and its work has ended        Server.wg
//	a request         conn.handle       it is answered                                   conn.wg, in conn.serve
//	a stream's work   call.work         the call, program, channel, transfer or          conn.wg
//	                                    subscription has ended, or the client has closed it
//	an inventory      Server.resolve    it has answered, or Shutdown has ended its program   Server.wg
//	exporter.run      New               Shutdown, after what is left was sent            exporter.close
//	the last wait     Server.Shutdown   all work has ended                               nobody: it holds nothing
//
// Server.Serve and Server.ServeHTTP run on their callers' goroutines. Work on many targets has the goroutines of
// package work as well.
//
// The goroutine that replies writes to the socket itself, unless another is writing.
//
// # Locks
//
//	conn.making                 -> conn.mu
//	hub.mu                      -> stream.mu, to give out events
//	conn.making                 -> Server.mu, stream.mu, exporter.mu, each alone
//	conn.mu, stream.mu          -> pool.Pool.mu, pool.Conn.watchMu, each alone
//
// conn.making is held while a reply is made, and before that while it waits for room. So the waiting replies are not
// encoded yet, and items stay in their streams. Nothing that blocks is done under the other locks. manyChannels.mu is
// taken alone. Server.asking is a token in place of a lock, since an inventory may run a program: requests that name a
// target wait for it no longer than their contexts, with no lock held.
package control
