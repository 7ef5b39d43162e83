// Package work does one thing on one target or on thousands, within limits, and gives what comes of it as one stream
// of outcomes.
//
//	r := work.New(work.Plan{Targets: len(names), Parallel: 100, MaxFail: work.NoLimit}, lease, do, put)
//	begun := r.Run(ctx) // names[begun:] were left alone
//
// It knows nothing of sockets and of what is done: lease connects a target, do does the work there, and put takes the
// outcome. A put waits until there is room, and nothing more begins until then: that is the credit. Targets begin in
// their order, and each that has begun has one outcome, whose State says what is known of it; those that have not
// begun have none.
//
// # What holds
//
// No more than MaxFail failures are counted when one more begins. Stop, and the end of ctx, let nothing more begin;
// only the latter gives up what runs. Connecting is tried again, if it failed (Retry); what may have run never is. A
// lease is given back before its outcome is put.
//
// An Input is what all of many programs read, each from the beginning.
//
// # Goroutines
//
//	name                    started in         ends when                                  waited for by
//	Plan.Parallel of them   Runner.Run         no target is left, or no more may begin    Runner.Run
//	Input.fill              inputReader.Read   the source has ended, or nobody wants it   Input.Close
//
// # Locks
//
// Runner.mu guards what its fields say, Input.mu what was read. They are taken alone, and nothing that blocks is done
// under them.
package work
