package control_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/integration/pythons"
)

// printer prints parts of which no two are the same.
const printer = `
import hashlib, sys
out = getattr(sys.stdout, 'buffer', sys.stdout)
digest = hashlib.sha256()
for n in range(int(sys.argv[1])):
    part = (b'%07d\n' % n) * 8192
    digest.update(part)
    out.write(part)
    if n % 100 == 0:
        sys.stderr.write('x' * 20000)
sys.stderr.write(digest.hexdigest())
`

// TestOutputTakesLittle: much output goes through the daemon and the client in memory that is used again, and stays
// what it was.
func TestOutputTakesLittle(t *testing.T) {
	const parts = 1000
	size := uint64(parts * 65536)
	python := pythons.Any(t)
	b := newBed(t, nil)
	for name, row := range map[string]struct {
		remote daemon.Remote
		most   uint64 // in tenths of the output; 0 is not checked: a sync.Pool forgets much under the race detector
	}{
		"in process":    {inProcess(t), 0},
		"by the socket": {b.connect(t, local(python)), 40}, // the daemon's copy of each message is given away
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			sum := sha256.New()
			var said strings.Builder
			run := func(parts int) {
				t.Helper()
				sum.Reset()
				said.Reset()
				status, err := row.remote.Run(ctx, daemon.RunOptions{Path: "print.py", Source: []byte(printer), Args: []string{fmt.Sprint(parts)},
					Stdout: sum, Stderr: &said})
				if err != nil || status != (daemon.ExitStatus{}) {
					t.Fatal(status, err, said.String())
				}
				if want := fmt.Sprintf("%x", sum.Sum(nil)); !strings.HasSuffix(said.String(), want) {
					t.Fatal("it is not what was printed")
				}
			}
			run(1)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			run(parts)
			runtime.ReadMemStats(&after)
			took := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes allocated for %d", took, size)
			if row.most > 0 && took > size/10*row.most {
				t.Errorf("%d bytes allocated for %d of output", took, size)
			}
		})
	}
}
