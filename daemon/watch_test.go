package daemon

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// A stopped child takes and gives nothing, but its connection stays open: so does a link that goes silent. Its
// callers get an error, and nothing is left of it. A child that is only busy stays.
func TestSilence(t *testing.T) {
	const limit = 3 * time.Second
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
				poll.Until(t, "the child is gone", func() bool { return syscall.Kill(pid, 0) != nil })
			})
		}
	}
}

// The same holds for a child that code starts. That code is also told that such a child cannot have a runtime of
// another kind.
func TestSilenceOfChildrenOfAChild(t *testing.T) {
	env := mark(t)
	d := newDaemon(t, Options{Path: []string{writeFiles(t, map[string]string{"tree.py": treeModule})}})
	for _, py := range ends(t) {
		c := connect(t, d, target(py), ConnectOptions{Env: env})
		var made pyproto.Tuple
		err := c.Call(testContext(t), "tree:make", pyproto.Kwargs{
			{Name: "how", Value: "local"}, {Name: "python_path", Value: py.Path}, {Name: "silence_timeout", Value: "3s"},
		}).Decode(&made)
		if err != nil {
			t.Fatal(err)
		}
		pid := int(made[1].(int64))
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var ce *pyproto.CallError
		if err := c.Call(testContext(t), "tree:last", "pid").Err(); !errors.As(err, &ce) || !strings.HasSuffix(ce.Type(), "ChannelError") {
			t.Errorf("%v", err)
		}
		poll.Until(t, "the child is gone", func() bool { return syscall.Kill(pid, 0) != nil })
		err = c.Call(testContext(t), "tree:make", pyproto.Kwargs{
			{Name: "how", Value: "local"}, {Name: "python_path", Value: py.Path}, {Name: "runtime", Value: "mitogen"},
		}).Err()
		if !errors.As(err, &ce) || !strings.Contains(ce.Message(), "name the runtime in a target") {
			t.Errorf("a runtime of its own: %v", err)
		}
	}
}
