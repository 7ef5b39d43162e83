// Package pool shares connections: clients that name the same target with the same options get the same child.
//
// A connection is used while leases on it are held, kept for an idle time after that, and closed before its time when
// there are more than a limit (victim says which), or no descriptors for another one. Connects that are under way are
// joined. A target that fails, or is lost soon after it was connected, is tried again with a growing pause.
//
// A child runs one call at a time. So a connection whose running call takes long is not given to a new lease while
// the target may have another one (Options.PerTarget); and one on which a call was given up is given to nobody until
// that call ends. When the last lease is released while a call runs, the child is ended: nobody waits for what it
// does.
//
// Python imports a module once. So a connection to which a module was sent that has changed since, here, or that was
// told that there is none and now there is, is not given to a new lease either. Whether that is so is looked up once
// for all connections that are asked for within 100 ms (check), and again for a client that had nothing under way
// when it asked: it may have changed them.
//
// Nothing that may have run is done again: the pool connects anew only for a new lease.
//
// # Goroutines
//
//	name              started in     ends when                               waited for by
//	Pool.connect      Pool.pick      the child is there, or has failed       Pool.wg, in Shutdown
//	Pool.end          Pool.close     the child is gone                       Pool.wg, in Shutdown
//	a call given up   Conn.abandon   it ends, at the latest with its child   nobody; it holds nothing else
//
// # Locks
//
//	check.mu -> Conn.sentMu, and those of package importer
//
// Pool.mu guards everything but the atomics; Pool.checkMu, Conn.watchMu and Conn.sentMu what their fields say. Each
// is taken alone, and nothing that blocks is done under them: an importer is made, which may read files, while none
// is held. check.mu is held while files are looked at.
package pool
