// Package work does one thing on one target or on thousands, within limits, and gives what comes of it as one stream of outcomes.
//
//	r := work.New(work.Plan{Targets: len(names), Parallel: 100, MaxFail: work.NoLimit}, lease, do, put)
//	begun := r.Run(ctx) // names[begun:] were left alone
//
// It knows nothing of sockets and of what is done: lease connects a target, do does the work there, and put takes the
// outcome. Whoever puts waits until there is room, and nothing more begins meanwhile: that is the credit. Targets begin in their order,
// and each that has begun has one outcome, whose State says what is known of it; those that have not begun have none.
//
// # What holds
//
// No more than MaxFail failures are counted when one more begins. Stop, and the end of ctx, let nothing more begin; only the latter gives
// up what runs. Connecting is tried again, if it failed (Retry); what may have run never is. A lease is given back before its outcome is put.
//
// An Input is what all of many programs read, each from the beginning.
//
// # Goroutines and locks
//
// Run has Parallel goroutines while it runs, and waits for them. Runner.mu guards what its fields say, and nothing that blocks is done under it.
// An Input has one goroutine from the first read to the end of its source, for which Close waits; Input.mu is not held while anything is read or written.
package work
