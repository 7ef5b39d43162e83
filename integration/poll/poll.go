// Package poll waits in tests by polling, since a slow machine may take any time.
package poll

import (
	"testing"
	"time"
)

const (
	// limit is when a test gives up, even on a very busy machine.
	limit = 3 * time.Minute
	pause = 2 * time.Millisecond
)

// Until returns once cond holds. what is for the error: it says what did not happen.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %v: %s", limit, what)
		}
	}
}
