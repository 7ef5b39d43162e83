// Package transfer copies files between this machine and a child, by a program there (python/transfer.py, with one
// part for either direction) whose stdin and stdout are the way: what Remote.Run promises of flow control,
// interruption and loss holds for files as well, over any hops.
//
// # Messages
//
// A message is a letter, its length in four bytes and what belongs to it; none is longer than maxMessage. Files are
// cut into blocks of 252 KiB, each of which has a digest (SHA-256 or BLAKE2b, see algorithm); a file's is that of its
// blocks' digests.
//
//	d, l, f   a directory, a link, a file of less than a block with its digest and content: see entry
//	h         another name of a file that was sent before, whose path stands where that of a symbolic link does
//	F         a larger file. The receiver answers n and N with the digests of the blocks that it has, or x with a reason
//	B, K, Z   then: a block; a count of blocks that the receiver has; a count of blocks of zeros
//	E, X      the file's digest; or the source cannot be read (any more)
//	Q, P      questions of sync, from where the files are: an entry that is to be, with the digest for --checksum; and
//	          the end of them. What is no file, directory or link is asked about, too, so that nothing with its name is
//	          deleted, and never sent. A has an answer for each (= it is so, n it is not), r is a path that is deleted, p
//	          their end
//	e         an error with one file
//	q, T      the end; the count of files that are in place, and of their bytes
//
// With Options.Xattrs each entry is followed by the length of the file's extended attributes, or untold, and them: of
// each the lengths of its name and its value, in two bytes and in four, and these.
//
// The first part of each path is what its source is called. For what a child sends, it is told that, and nothing else
// is taken from it.
//
// A file is written to a temporary name beside its own, checked, given its mode and times, and renamed. The name of a
// large one is made of the file's, so that what a lost connection has left is found by the next transfer, which sends
// the blocks that are not there. It is locked while somebody writes to it, and not used if somebody else has made it.
// Where there are many small files and several processors, processes beside the program write them, each those of a
// directory; what they find fault with is told at the end.
//
// Names are looked up once: what a file gets, its owner as its time, is given to what is open. A source's file is what
// it was when it was opened, with its owner and attributes, whatever was listed; if it changes under the reader, other
// than by growing, that is an error.
//
// A Source is read for any number of targets at once: it keeps digests, and small files within maxCached. Each Put
// has one goroutine that runs the program, one that reads its answers, and the caller's, which writes. A Get has two.
//
// # Goroutines
//
//	name          started in   ends when                  waited for by
//	the program   start        it has ended               session.end
//	put.answers   Put          the program says no more   Put
//
// # Locks
//
//	item.mu -> Source.mu -> item.mu of another, if it is free (TryLock)
//
// put.mu, tail.mu and blockSums.mu are taken alone, and nothing that blocks is done under them. item.mu is held while its file is
// read: who wants the same waits for it.
package transfer
