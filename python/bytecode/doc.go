// Package bytecode has interpreters of this machine compile what children are served, once for all children of the
// same Python, and keeps the code in memory and in a directory of the user's own.
//
// [Store.Code] gives code that is there, and otherwise has it made in the background for the next who asks: nobody
// waits for a compiler. [Store.Source] gives a source as it is sent, so that it is compressed once, and not by each process.
//
//	Code ──> memory ──> directory ──> queue ──> compiler (a process for each magic number, while there is work)
//	            ▲            ▲                     │
//	            └────────────┴─────────────────────┘
//
// # Whose code it is
//
// Code comes from compilers alone, never from a child. A compiler is an interpreter of this machine that belongs,
// with its library, to the user or root, and that nobody else may write to. It says itself what its magic number is.
// It runs no code of what it compiles: it is given sources over a pipe, and no environment of ours but PATH, HOME and
// LD_LIBRARY_PATH. It has limits of processor time, memory and size of files, and is killed when a source takes
// longer than compileTime.
//
// The directory must be the user's alone (0700), and everything on the way to it safe from others; otherwise it is
// not used. An entry of code is named by a digest of the source, the magic number and the file's name, as far as the
// code is to have one, and that of a source by one of the source; it begins with a digest of its name and its content.
// Whatever does not fit is no entry. It is written under another name and renamed, so that several processes can share
// a directory. The oldest go when there is too much.
//
// # Goroutines
//
//	name   started in         ends when                                         waited for by
//	work   Store.enqueue      a compiler had nothing to do for IdleTime, none   Store.Close
//	                          is of use, or the store is closed
//	save   Store.KeepSource   no source waits to be kept, or the store is       Store.Close
//	                          closed
//
// # Locks
//
// Store.mu guards memory only, and is never held across I/O. Dir.mu guards the count of what was written, compiler.mu
// the time at which its pid is no longer ours to kill. None is held while another is taken.
package bytecode
