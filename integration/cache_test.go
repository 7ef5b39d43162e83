package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// TestCache: commands without a daemon use what earlier ones had compiled. Whatever is wrong with the cache, they do their work.
func TestCache(t *testing.T) {
	for _, p := range pythons.All(t) {
		if p.Version != "2.7" && p.Version != pythons.Any(t).Version {
			continue
		}
		t.Run(p.Version, func(t *testing.T) {
			t.Parallel()
			py := clean(t, p)
			home := t.TempDir()
			dir := filepath.Join(home, "mitogend", "bytecode")
			modules := t.TempDir()
			if err := os.WriteFile(filepath.Join(modules, "cachemod.py"), []byte("import sys, time\ndef line(wait=0):\n    time.sleep(wait)\n    return sys._getframe().f_lineno\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			mitogend := func(args ...string) Result {
				t.Helper()
				cmd := Command(t, modules, args...)
				cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home)
				return runCommand(t, cmd)
			}
			call := func(args ...string) string {
				t.Helper()
				r := mitogend(append([]string{"-v", "call", "-I", modules, "-H", py.Target(), "cachemod:line"}, args...)...)
				if r.Status != 0 || r.Stdout != "4\n" {
					t.Fatal(r)
				}
				return r.Stderr
			}
			entries := func() (n int) {
				t.Helper()
				r := mitogend("cache")
				rest, ok := strings.CutPrefix(r.Stdout, dir+": ")
				if _, err := fmt.Sscan(rest, &n); err != nil || !ok || r.Status != 0 {
					t.Fatal(err, r)
				}
				return n
			}
			if n := entries(); n != 0 {
				t.Fatalf("there are %d entries at first", n)
			}
			// The core, what calls need, and the module. Compilers have the lowest priority, and end with the
			// command, so each command gets longer for them.
			wait := 0
			for end := time.Now().Add(commandTime); entries() < 3; wait++ {
				if time.Now().After(end) {
					t.Fatal("nothing is kept")
				}
				call(fmt.Sprint(wait))
			}
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(files) < 3 {
				t.Fatal(files, err)
			}
			whole, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			for i, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if i%2 == 0 {
					data[len(data)/2] ^= 1
				} else {
					data = whole // another's
				}
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			call()
			if err := os.Chmod(home, 0o777); err != nil {
				t.Fatal(err)
			}
			if said := call(); !strings.Contains(said, "bytecode is not kept for the next time") {
				t.Errorf("with a directory that others may write to, it says %q", said)
			}
			for _, args := range [][]string{{"cache"}, {"cache", "clear"}} {
				if r := mitogend(args...); r.Status != 1 || !strings.Contains(r.Stderr, "mitogend: the cache is not used: ") || !strings.Contains(r.Stderr, "others may write to the directory "+home) {
					t.Error(args, r)
				}
			}
			if err := os.Chmod(home, 0o700); err != nil {
				t.Fatal(err)
			}
			if r := mitogend("cache", "clear"); r.Status != 0 || !strings.Contains(r.Stdout, " entries removed, ") || entries() != 0 {
				t.Error(r)
			}
		})
	}
}
