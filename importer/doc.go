// Package importer finds the modules that children import, and sends each child what it lacks, without running Python.
//
//	GET_MODULE ──> Responder.Request ──┐                                  ┌──> Sink.LoadModule
//	a call ──────> Responder.Push ─────┴─> work ──> search ──> cache ─────┘
//	                                       (one goroutine     (a file is read, scanned and
//	                                        per stream)        compressed once for all streams)
//
// A search is one look at the path on behalf of one child's Python (search.go, load.go, module.go). It follows the rules of the
// interpreters' own path finder. finder.go keeps what was read of the path, by disk.go, archive.go and site.go. What cannot be sent
// (extension modules for other systems, bytecode, FIFOs ...) is passed over, and is the reason when there is nothing better. The
// standard library's names are in a table, by version (stdlib_table.go, made by gen_stdlib.py). wheelhouse.go, constraints.go and
// platform.go choose the wheels that fit a child; these are entries of the path then. For makes an importer for each kind of child.
//
// A scan (scan.go, lex.go, expr.go) gives the imports in a source and the conditions they stand under. It is independent of
// the child, and kept with the source. For one child, eval.go decides the conditions, related.go gives the modules that an import
// loads, and closure.go all that importing a module will load.
//
// A Responder (responder.go, answer.go) has what one stream was sent, knows which Pythons are behind it (kinds.go), and keeps the rules
// that Mitogen's peers rely on; see its documentation.
//
// # Locks
//
// cache.mu, finder.mu, views.mu, objects.mu, archive.mu, Responder.mu, unit.mu: none is held while another is taken. All but archive.mu guard memory
// only: while one is held, no file is read, no source is scanned or compressed, and nothing is sent. archive.mu is held while the archive
// is opened. While one search reads a file, others wait on the slot's channel, or until their own context ends. While a unit is
// compressed, or read from where it was kept, others wait on its Once; while a member of an archive is unpacked, on a channel.
//
// # Memory
//
// Sources, scans and records are dropped when they pass Options.MaxCache, those first that were not used for longest.
// Shared objects in archives are kept up to 64 MiB, or the last one; two are unpacked at a time.
//
// # Goroutines
//
//	name       started in      ends when                              waited for by
//	compress   compressAhead   its share of the units is compressed   whoever has called it
//
// Responder.work runs on a goroutine that the caller of Start gives it, one at a time for each stream, while there is work.
package importer
