package pythons

import (
	"fmt"
	"os"
	"testing"
)

// Missing skips a test that lacks something which CI must have: root, sudo, a container engine, a program. In CI the test fails.
func Missing(t testing.TB, why ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why...)
	}
	t.Skip(fmt.Sprint(why...))
}
