package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

const maskScript = `import subprocess
with open('/proc/self/status') as f:
    print([line for line in f if line.startswith('SigBlk')][0].strip())
print(subprocess.Popen(['grep', 'SigBlk', '/proc/self/status'], stdout=subprocess.PIPE).communicate()[0].decode().strip())
`

// A program, a function and what they start block the same signals as under plain Python, also behind a hop: the
// thread that starts the hop takes no signals.
func TestSignalMask(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc")
	}
	blocked := func(text string) (masks []string) {
		for _, line := range strings.Split(text, "\n") {
			if rest, ok := strings.CutPrefix(line, "SigBlk:"); ok {
				masks = append(masks, strings.TrimSpace(rest))
			}
		}
		return masks
	}
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		ctx := testContext(t)
		plain, err := exec.CommandContext(ctx, py.Path, "-c", maskScript).Output()
		want := blocked(string(plain))
		if err != nil || len(want) != 2 {
			t.Fatalf("%q, %v", plain, err)
		}
		dir := t.TempDir()
		stub, saw := filepath.Join(dir, "sudo"), filepath.Join(dir, "saw")
		script := "#!/bin/sh\ngrep SigBlk /proc/self/status >" + saw + "\n" +
			`while [ "${1#-}" != "$1" ]; do case $1 in -u|-p|--) [ "$1" = -- ] && { shift; break; }; shift;; esac; shift; done` + "\n" + `exec "$@"` + "\n"
		pythons.Program(t, stub, script)
		d := newDaemon(t, Options{})
		here := target(py)
		for name, hops := range map[string]string{
			"local": "", "hop": "+" + here, "sudo": "+sudo:root?sudo_path=" + stub + "&python=" + py.Path, "two hops": "+" + here + "+" + here,
		} {
			c := connect(t, d, here+hops, ConnectOptions{Env: mark(t)})
			var lines []string
			if err := c.Call(ctx, "linecache:getlines", "/proc/self/status").Decode(&lines); err != nil {
				t.Fatal(name, err)
			}
			var child []byte
			if err := c.Call(ctx, "subprocess:check_output", []string{"grep", "SigBlk", "/proc/self/status"}).Decode(&child); err != nil {
				t.Fatal(name, err)
			}
			var out bytes.Buffer
			if _, err := c.Run(ctx, RunOptions{Path: "p.py", Source: []byte(maskScript), Stdout: &out}); err != nil {
				t.Fatal(name, err)
			}
			got := append(blocked(strings.Join(lines, "")), blocked(string(child))...)
			got = append(got, blocked(out.String())...)
			if len(got) != 4 {
				t.Fatalf("%s: %q, %q, %q", name, lines, child, out.String())
			}
			if name == "sudo" {
				data, _ := os.ReadFile(saw)
				got = append(got, blocked(string(data))...)
			}
			for i, mask := range got {
				if mask != want[0] {
					t.Errorf("%s: %d: %s is blocked, not %s", name, i, mask, want[0])
				}
			}
			if err := c.Close(ctx); err != nil {
				t.Error(err)
			}
		}
	})
}
