package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

const detachModule = `
import os
import time

import mitogen.core

@mitogen.core.takes_econtext
def leave(path, econtext):
    econtext.detach()
    print('to nobody')
    with open(path + '.new', 'w') as fp:
        fp.write(str(os.getpid()))
    os.rename(path + '.new', path)
    deadline = time.time() + 60
    while os.path.exists(path) and time.time() < deadline:
        time.sleep(0.01)
    os._exit(0)
`

// A child that has detached outlives its connection, and the daemon.
func TestDetach(t *testing.T) {
	r := stockRuntime(t)
	dir := writeFiles(t, map[string]string{"detached.py": detachModule})
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		if v := py.Version; v != "2.7" && v != "3.6" && v != "3.11" && v != "3.13" {
			t.Skip("the same as on its neighbours")
		}
		for _, kind := range []string{"embedded", "mitogen", "pty", "behind embedded", "behind stock", "stock behind embedded"} {
			t.Run(kind, func(t *testing.T) {
				d := newDaemon(t, Options{Path: []string{dir}})
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				one := target(py)
				hop := strings.ReplaceAll(one, "+", "%2B")
				name, opt := one, ConnectOptions{}
				switch kind {
				case "mitogen":
					opt.Runtime = r
				case "pty":
					name += "&stdio=pty"
				case "behind embedded":
					name = hop + "+" + hop
				case "behind stock":
					name, opt.Runtime = hop+"+"+hop, r
				case "stock behind embedded":
					name, opt.Runtime = hop+"&runtime=embedded+"+hop, r
				}
				c, err := d.Connect(ctx, name, opt)
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(t.TempDir(), "pid")
				call := c.Call(ctx, "detached:leave", path)
				var dead *DeadError
				if !errors.As(call.Err(), &dead) {
					t.Fatalf("the call ended otherwise: %v", call.Err())
				}
				var pid int
				poll.Until(t, "the detached process says who it is", func() bool {
					text, err := os.ReadFile(path)
					if err != nil {
						return false
					}
					_, err = fmt.Sscan(string(text), &pid)
					return err == nil
				})
				if err := d.Shutdown(ctx); err != nil {
					t.Error(err)
				}
				if err := syscall.Kill(pid, 0); err != nil {
					t.Fatalf("the detached process has not outlived the daemon: %v", err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				poll.Until(t, "the detached process ends", func() bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
					return err != nil || strings.Contains(string(stat), ") Z ")
				})
			})
		}
	})
}
