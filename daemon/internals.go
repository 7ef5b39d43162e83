// What follows is for who changes this package, and so is no part of its documentation: a blank line is between the
// two.
//
// # Two straight lines
//
// A GET_MODULE comes in: stream.readLoop, Daemon.route, Daemon.deliver, importer.Responder.Request, which queues the
// name; the responder's goroutine finds, builds and sends (sink, stream.send). No file is looked at on a readLoop.
//
// A call goes out: Child.Start registers a handle, encodes, stream.send. Its reply: stream.readLoop, Daemon.route,
// Daemon.deliver, handles.deliverShared; the caller's goroutine decodes. A lost stream is torn down once, by its
// readLoop: routes go, waiters get a dead message, peers who have talked to what is gone get DEL_ROUTE, the process is
// reaped.
//
// # Goroutines
//
//	name                      started in                    ends when                                      waited for by
//	stream.readLoop           Daemon.start, Daemon.Attach   the stream fails or is shut, or is quiet       Daemon.wg, Child.Close
//	stream.Resume             stream.fail                   the same: it is readLoop of a stream that was  Daemon.wg, Child.Close
//	                                                        quiet. internal/parking starts it as well
//	stream.writeLoop          stream.handOver               the queue is empty, or the stream fails        Daemon.wg
//	a responder's work        Daemon.run                    all that is asked for is sent                  Daemon.wg
//	a parked question         Daemon.run                    its context takes messages again, or is lost   Daemon.wg
//	watchSilence              Daemon.connectChild,          the child is gone; only with silence_timeout   Daemon.wg
//	                          Child.connectBehind
//	a connect for a child     Daemon.onConnect              it is answered                                 Daemon.wg
//	resources for a child     resourceQueue.push            the queue is empty                             Daemon.wg
//	a sender held back        Daemon.stopSender             there is room again, or after StallTimeout     Daemon.wg
//	a hop connects            Daemon.joinHop                it is there, or has failed                     Daemon.wg
//	a hop is given back       Child.leaveHop                it is kept for others, or has ended            Daemon.wg, Child.Close
//	a child is given up       Child.fail                    the hop before it has ended it, at most 5 s    Daemon.wg
//	a runtime is looked for   Daemon.findRuntime            the interpreter has answered, at most 20 s     Daemon.wg
//	a connect nobody wants    Child.disown                  the stock child has answered                   Daemon.wg
//	program.feed              Child.Run                     standard input ends; or the first read after   nobody: it may hang in the user's
//	                                                        the program has ended                          reader, and holds nothing else
//	wg.Wait                   Daemon.Shutdown               all of these have ended                        Daemon.Shutdown
//
// Only a stream's readLoop reads it. Whoever finds a stream's writing flag clear sets it and is its only writer until
// the queue is empty: a sender writes by itself what the pipe takes at once, and leaves the rest to a writeLoop. So a
// call costs no hop to another goroutine.
//
// A stream on which nothing came for one to two seconds is parked: its readLoop ends, and one goroutine of the process waits
// for all of them (internal/parking). Daemon.wg counts it all the time. A stream's fail resumes it, so that its teardown
// has a goroutine.
//
// # Locks
//
// What stands left of an arrow may be held while what stands right of it is taken; there is no other order.
//
//	Channel.mu, Receiver.mu                  -> shards.mu (of handles)
//	Receiver.mu, Tracked.decoding, hops.mu   -> Child.mu
//	hops.mu, resourceQueue.mu                -> Daemon.mu
//	sharing.mu                               -> stream.mu
//
// All others are taken alone: stream.mu, ids.mu, tracked.mu, talkers.mu, observers.mu, passed.mu, program.mu,
// gate.mu, few.mu, turn.mu, Assembly.mu, LogLimit.mu, warnings.mu, supplies.mu, idAccounts.mu, detached.mu, arrivals.mu.
// Three are of one connect or call, and are held while something is waited for: Tracked.decoding while a result is
// decoded, supplying.mu while a question for a Python is answered, once.mu while builds are looked for. No other is held
// across I/O. Routes, streams and children are sync.Maps, so that forwarding takes no lock that another stream holds but
// the queue's own, and for a moment that of stream.sent.
//
// # Many children
//
// What ends costs what it has: each stream keeps which contexts and children are behind it (tables.go), who has sent to
// a context is kept with the context, and handles are split by respondent. What is being started at once on one machine
// is bounded (starting.go).
//
// # Full queues
//
// What waits for one peer is bounded by Options.MaxPending bytes (and one frame). A sender waits for room: a Call until
// its context ends, a responder until the stream is lost (and at the gate of a child behind a hop), a readLoop that
// forwards until room comes. The last holds up the stream that the message came from, and so its sender, and nobody
// else. A peer that took no byte for Options.StallTimeout while its queue is full is not waited for: its messages are
// refused with a dead message until it reads again. Where nobody waits for an answer to what was refused, it may be one
// itself; then the handle that it was for gets the dead message (Daemon.tellLost). A readLoop is not held for small messages, which may be answers to
// whoever asks, and never for longer than Options.StallTimeout at a time, whatever the receiver does. What the daemon itself must say (dead messages,
// answers to small questions, DEL_ROUTE) waits for no room; a peer that leaves MaxPending of it unread is not read
// either, and is disconnected when it takes nothing for StallTimeout.
//
// What programs print goes by credit: each child is told how much it may send ahead of who reads it, a share of
// outputBytes that is smaller the more programs run (OutputShare), and is told again when a quarter of it is due. Of its
// input, a share of inputBytes may be on the way, in pieces that it answers.
// A large result of a call with a Room is read when there is room for it, for which a readLoop waits for StallTimeout
// at most.
//
// Whatever else a peer can cause has a bound, in bounds.go or beside what it bounds; docs/security.md has the table.
//
// # Bad peers
//
// An unknown magic number ends the stream. A frame over Options.MaxMessage is read over and refused. A payload is
// allocated as it arrives, never by its header alone. A message whose source or authority is not behind the stream that
// it came in on is dropped; nobody but a client's stream brings one of context 0 or of a client's number, whatever the
// tables say.
//
// What goes to one of our fixed handles is judged in one place (policy in deliver.go): by who sends it over which
// stream, then by the handler, by what it is about. A context can be announced over the stream that its number was
// given to (ids.go): that of a hop which is starting it, or which asked for a block of numbers. A dead message counts
// from the respondent, from a hop on the way to it, and from ourselves. A child's importer, launcher and log are
// reached over its own stream only. Refusals are counted, and logged by kind.
//
// Whoever takes a child out of Daemon.children, by CompareAndDelete, ends it. A fault of ours in handling what a peer
// has sent ends that peer's stream (stream.survive).

package daemon
