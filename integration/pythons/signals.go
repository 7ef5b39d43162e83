package pythons

import (
	"os"
	"os/signal"
	"syscall"
)

// Programs that a test starts have the default action for signals, even if the tests were started with some ignored (nohup, a
// shell's &). A handler is enough for that; the tests themselves still ignore these signals.
func init() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGCHLD, syscall.SIGUSR1, syscall.SIGALRM} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}
