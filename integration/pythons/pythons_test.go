package pythons

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Tests that are started by nohup, or in the background of a script, start their programs with the signals' default actions.
func TestIgnoredSignals(t *testing.T) {
	const ask = "MITOGEND_TEST_SIGNALS"
	if os.Getenv(ask) != "" {
		status, _ := exec.Command("sh", "-c", "grep SigIgn: /proc/self/status").Output()
		t.Logf("%s", status)
		return
	}
	cmd := exec.Command("sh", "-c", `trap "" HUP INT QUIT TERM; exec "$@"`, "sh", os.Args[0], "-test.run=^TestIgnoredSignals$", "-test.v")
	cmd.Env = append(os.Environ(), ask+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SigIgn:\t0000000000000000") {
		t.Errorf("%v\n%s", err, out)
	}
}
