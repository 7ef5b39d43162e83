// Package bootstrap starts a Python child and brings it to the first frame.
//
// A connection method (local, ssh, sudo, docker ...) is a function from arguments to a [Plan]: which program, on which
// descriptors, which questions it may ask, what its complaints mean. [Start] runs a plan on this machine. For a hop behind a
// child the same plan goes to that child's launcher ([Plan.Map]), so that Python has one launcher and no method of its
// own. [Plan.Explain] puts into words what the launcher reports.
//
// # The handshake
//
//	           program started
//	                 │            banner lines, on any stream ── kept for errors, bounded
//	                 │            questions on the terminal ──── answered once, or the end
//	                 ▼
//	┌─────────── waitHello ──────────┐
//	│ MITO000 <hexversion> [<magic>] │ MITOERR <text>: the target says itself what is wrong
//	▼                                ▼
//	waitReceived ◄── preamble sent   failed
//	│ MITO001                        ▲
//	▼                                │
//	waitReady ───────────────────────┤ end of file, time is up, ctx done, a mebibyte of
//	│ MITO002                        │ something else, a question without an answer
//	▼                                │
//	ready: frames from the next byte on; what was read too far is Process.Buffered
//
// In waitHello sh may ask for an interpreter, where the plan has a [Supply] (MITONOPY, MITOSIZE, MITOSEND); supply.sh says how that goes on.
// Each piece of it that is taken gives the connection its time anew.
//
// A marker counts only as a whole line and only when it is the next one; any other line is a banner. MITO000 with a version
// may follow text on its line. A failed attempt ends the program (its process group gets SIGTERM, and SIGKILL a second
// later), closes every descriptor, and explains itself by the last lines printed. Programs that say that they are busy (sshd's
// MaxStartups) are tried again with growing, random pauses, within the connect timeout.
//
// # Goroutines
//
//	name              started in                ends when                                     waited for by
//	errReader.Resume  startOne, errReader.end   stderr ends, Close closes our side, or it     Process.Close
//	                                            is parked; internal/parking starts it as well
//	reapLoop          startReaped               no started program is left                    nobody: it holds nothing
//
// The handshake itself runs on the caller's goroutine. When everything is on the terminal there is no errReader.
//
// # Locks
//
//	reaper.mu, Process.lineMu -> Process.mu
//
// handshake.mu, errReader.mu, transcript.mu, once.mu and onceSecret.mu are taken alone. None is held across I/O, but lineMu across the
// caller's Output, and onceSecret.mu while the file with the password is read.
package bootstrap
