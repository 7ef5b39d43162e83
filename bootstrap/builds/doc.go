// Package builds finds builds of Python for targets that have none, and packs what such a target needs of one.
//
// [Open] takes places: a directory that is a build (it has bin/python3.X and lib/python3.X), a directory of such directories, or a tar
// file, which may be compressed (gzip, bzip2, zstd). [Set.List] gives of all that it finds the newest for each machine and loader.
//
// What is packed is the interpreter, its standard library without tests, bytecode and what was installed into it, and the shared
// libraries that these need and that lie in the build; for a build of this machine also those of this machine that no C library brings.
// Every file is a regular one: links are followed, and those that lead to nothing are left out. A build's hash is that of its
// manifest, the output of sha256sum for all files in order, so that neither times nor owners count.
//
// Before List, only as much is read as tells a build from something else. List reads all files of the builds that it names,
// unless they are as they were before, and looks at them at most once a second. [Build.Pack] reads them again and fails when they have
// changed since. A Set may be used by many at once; there are no goroutines.
//
// # Locks
//
// Set.mu guards what was packed. Reading the places takes a token; others wait for it.
package builds
