// Package importer finds the modules that children import, and sends each child what it lacks, without running Python.
//
//	GET_MODULE ──> Responder.Request ──┐                                  ┌──> Sink.LoadModule
//	a call ──────> Responder.Push ─────┴─> Serve ──> search ──> cache ────┘
//	                                       (one goroutine      (a file is read, scanned and
//	                                        per stream)         compressed once for all streams)
//
// A search is one look at the path on behalf of one child's Python (finder.go, disk.go, archive.go, site.go): it follows the
// rules of the interpreters' own path finder. What can not be sent (extension modules, bytecode, FIFOs ...) is passed over,
// and is the reason when there is nothing better. The standard library's names are in a table, by version (stdlib_table.go,
// made by gen_stdlib.py). Wheels of a wheelhouse are chosen for what the child is (wheelhouse.go, platform.go), and are entries of the
// path then; For makes an importer for each kind of child.
//
// A scan (scan.go, lex.go, expr.go) gives the imports in a source and the conditions they stand under. It is independent of
// the child, and kept with the source. resolve.go turns it into names of modules for one child: what importing a module will
// load, directly (related) or altogether (closure).
//
// A Responder has what one stream was sent, and keeps the rules that Mitogen's peers rely on; see its documentation.
//
// # Locks
//
// cache.mu, finder.mu, views.mu, Responder.mu, archive.mu, unit.mu: none is held while another is taken. All but archive.mu guard memory
// only, and no file is read, no source scanned or compressed and nothing sent while one is held; archive.mu is held while the
// archive is opened. Who needs what somebody else is reading waits on the slot's channel, or until his own context ends; who
// needs what is being compressed waits on the unit's Once.
//
// # Memory
//
// Sources, scans and records are dropped when they pass Options.MaxCache, those first that were not used for longest.
package importer
