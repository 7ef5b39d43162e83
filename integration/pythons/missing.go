package pythons

import (
	"fmt"
	"os"
	"testing"
)

// Missing skips a test for want of something that CI must have: root, sudo, an engine of containers, a program. In CI it fails.
func Missing(t testing.TB, why ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why...)
	}
	t.Skip(fmt.Sprint(why...))
}
