package pythons

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Tests start programs with the signals' default actions, even if nohup or a script's & has started the tests.
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
	_, mask, _ := strings.Cut(string(out), "SigIgn:\t")
	ignored, perr := strconv.ParseUint(mask[:min(16, len(mask))], 16, 64)
	// Signals from 32 on belong to the C library, or are not used here.
	if err != nil || perr != nil || ignored&(1<<31-1) != 0 {
		t.Errorf("%v, %v\n%s", err, perr, out)
	}
}
