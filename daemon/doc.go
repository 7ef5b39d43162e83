// Package daemon calls Python functions, and runs Python programs, on this machine and on others: over ssh, sudo,
// docker and what else docs/targets.md lists. It starts the interpreters and serves their imports, so that nothing has
// to be installed where they run.
//
// A first program has a module embedded, connects, and calls a function of it. (Without all:, Go leaves out files like
// __init__.py.)
//
//	//go:embed all:lib
//	var lib embed.FS
//
//	func main() {
//		ctx := context.Background()
//		d, err := daemon.New(daemon.Options{Modules: []importer.Tree{{FS: lib, Root: "lib"}}, Logger: slog.Default()})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer d.Shutdown(ctx)
//		web, err := d.Connect(ctx, "ssh:web1+sudo:root")
//		if err != nil {
//			log.Fatal(err)
//		}
//		free, err := daemon.Call[int64](ctx, web, "facts:free", "/") // free() of lib/facts.py
//		fmt.Println(web, free, err)
//	}
//
// [Options.Path] has directories and archives in place of embedded files. [Child.Call] gives a [Result], which is
// decoded into structs as well; [Child.Start] and [Child.CallWith] are its other forms. [Child.Run] runs a program,
// with its standard streams, [Child.Open] has a function and this process send each other values. Package daemon/client
// has most of it for a daemon that runs already (mitogend serve), which keeps connections; code that is to work with
// either takes a [Master] and a [Remote].
//
// # Guarantees
//
// Messages from one context to another arrive in the order in which they were sent. Calls to one child run one at a
// time, in the order of Start. Each call ends exactly once: with a value, with *pyproto.CallError (Python raised), with
// *DeadError (nobody will answer; Lost says that the function may have run), with the error of the caller's context
// (the function goes on in the child), or with another error that says which name, argument or result is wrong. Nothing
// is retried: what was sent may have run.
//
// What waits for one child is bounded by [Options].MaxPending. A sender of more waits for room until its context ends,
// or the child has read nothing for [Options].StallTimeout; the latter is a *DeadError.
//
// # Protocol
//
// It speaks Mitogen's protocol (docs/protocol.md), in which the daemon is context 0, the master, and a child a context
// with a number. docs/security.md says what a child can do that is not to be trusted. How this package works inside is
// in internals.go.
package daemon
