package pythons

import (
	"os"
	"os/signal"
	"syscall"
)

// What a test starts has the default action for signals, whoever started the tests ignores some (nohup, a shell's &). To
// have a handler is enough for that; the tests themselves still pass over what is ignored.
func init() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGCHLD, syscall.SIGUSR1, syscall.SIGALRM} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}
