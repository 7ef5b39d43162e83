package unixclient

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/poll"
)

// A client whose call is under way learns that the daemon ends, or that only the server of its socket does.
func TestCallsEndWithTheDaemon(t *testing.T) {
	for name, end := range map[string]func(*daemon.Daemon, context.CancelFunc){
		"the daemon": func(d *daemon.Daemon, _ context.CancelFunc) { go func() { _ = d.Shutdown(context.Background()) }() },
		"the server": func(_ *daemon.Daemon, stop context.CancelFunc) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			d, socket := serveUntil(ctx, t, daemon.Options{}, Options{})
			called := filepath.Join(t.TempDir(), "called")
			cmd, out := start(t, `
import os, sys, time
import mitogen.core, mitogen.unix
router, parent = mitogen.unix.connect(sys.argv[1])
child = router.local(via=parent)
child.call(os.getpid)
call = child.call_async(time.sleep, 600)
os.mkdir(sys.argv[2])
try:
    call.get()
except mitogen.core.ChannelError as e:
    print(e)
router.broker.shutdown()
`, nil, socket, called)
			kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			poll.Until(t, "the call is under way", func() bool {
				_, err := os.Stat(called)
				return err == nil
			})
			end(d, stop)
			if err := cmd.Wait(); err != nil || out.String() != "the respondent Context has disconnected\n" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// A client is not shown that another one has gone that talked to the same child.
func TestTheEndOfAnotherClient(t *testing.T) {
	_, socket := serve(t, Options{})
	run(t, "True True\n[]\n", `
import logging, os, subprocess, sys
import mitogen.parent, mitogen.unix

class Records(logging.Handler):
    texts = []
    def emit(self, record):
        self.texts.append(record.getMessage())

if __name__ == '__main__':
    router, parent = mitogen.unix.connect(sys.argv[1])
    if len(sys.argv) > 2:
        mitogen.parent.Context(router, int(sys.argv[2])).call(os.getpid)
    else:
        logging.getLogger().addHandler(Records())
        child = router.local(via=parent)
        pid = child.call(os.getpid)
        subprocess.check_call([sys.executable] + sys.argv + [str(child.context_id)])
        # A record that the child has sent comes before its next answers.
        print(pid == child.call(os.getpid), pid == child.call(os.getpid))
        print(Records.texts)
    router.broker.shutdown()
    router.broker.join()
`, nil, socket)
}
