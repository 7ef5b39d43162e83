package daemon

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A child that is stopped takes and gives nothing, but its connection stays open: as when a link goes silent. Who waits for it
// is told, and nothing is left of it. One that is only busy stays.
func TestSilence(t *testing.T) {
	const limit = 2 * time.Second
	env := mark(t)
	d := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"tree.py": treeModule})}})
	for _, py := range ends(t) {
		for where, before := range map[string]string{"here": "", "behind a hop": target(py) + "+"} {
			t.Run(py.Version+" "+where, func(t *testing.T) {
				t.Parallel()
				c := connect(t, d, before+target(py)+"&silence_timeout="+limit.String(), ConnectOptions{Env: env})
				if err := c.Call(testContext(t), "time:sleep", (2 * limit).Seconds()).Err(); err != nil {
					t.Fatalf("busy for longer than the limit: %v", err)
				}
				var pid int
				if err := c.Call(testContext(t), "tree:pid").Decode(&pid); err != nil {
					t.Fatal(err)
				}
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				err := c.Call(testContext(t), "tree:pid").Err()
				var dead *DeadError
				if !errors.As(err, &dead) || !strings.Contains(dead.Reason, "no sign of life") || !dead.Lost {
					t.Errorf("%v", err)
				}
				eventually(t, "the child is gone", func() bool { return syscall.Kill(pid, 0) != nil })
			})
		}
	}
}
