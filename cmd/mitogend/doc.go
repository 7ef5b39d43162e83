// Command mitogend runs Python code on local and remote interpreters that have nothing of it installed. It reads flags,
// shows results and sets the exit status. Package daemon does all the work.
//
// # Goroutines
//
//	name                            started in                   ends when                         waited for by
//	a target is examined            doctorCommand.run            the target is done                doctorCommand.run
//	a client's program is served    runMaster                    the program has ended             runMaster
//	mitogen.sock is served          service.serveClients         the daemon stops                  the function it returns
//	control.sock is served          service.run                  the daemon stops                  control.Server.Shutdown
//	the configuration is read again service.reloads              the daemon stops                  the function it returns
//	signals of the daemon           service.shutdown             the daemon has stopped            service.shutdown
//	metrics are served              service.serveHTTP            the daemon stops                  control.Server.Shutdown
//	profiles are served             service.serveProfiles        the daemon stops                  control.Server.Shutdown
//	the watchdog of systemd         service.feedWatchdog         the daemon stops                  the function it returns
//	the line of progress            console.progress             the command has ended             the function it returns
//	the command line                start                        it is done, or the process ends  start
//	the command                     fleet.each                   all targets are done              fleet.each
//	a target is worked on           fleet.start, together.done   the target is done                fleet.each
//	a second signal                 app.closing                  it comes, or the time is up       nobody: it holds nothing
//	signals for a program           runClient                    the process ends                  nobody: it holds nothing
//	signals                         app.watchSignals             the process ends                  nobody: it holds nothing
//	what is typed                   fleet.interactive            the terminal or process ends      nobody: a read may hang
//	the terminal's size             typed.follow                 the program has ended             the function it returns
//	orders to a session             prompts.work                 the session is closed             prompts.work
//	the prompt                      fleet.prompt                 the user leaves, or all is done   fleet.prompt
//	a line is read                  prompts.await                it is there, or the process ends  nobody: a read may hang
//	a password is read              askPassword                  it is there, or the process ends  nobody: a read may hang
//	what cannot be interrupted      interruptible                it is done, or the process ends   nobody: the process ends
//
// # Locks
//
//	answers.mu -> gathered.mu -> gatherer.mu -> lines.mu, spool.mu
//
// importTrace.mu is held while the modules of a trace are looked up. The four above, captured.mu, outFile.mu, typed.mu and session.mu are
// held during writes that belong together. The others guard memory, and are taken alone: examine.mu,
// failures.mu, fleet.droppedMu, fleet.varsMu, outDir.mu, prompts.mu, shower.mu, tally.mu, tracer.mu,
// transferNames.mu. The console has a lock of its own kind, which nobody waits for once the console was given up.
package main
