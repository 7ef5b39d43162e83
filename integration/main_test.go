package integration

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// A binary built with -race sleeps for a second before it exits, and tests run thousands.
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", "atexit_sleep_ms=20")
	}
	code := m.Run()
	Cleanup()
	os.Exit(code)
}
