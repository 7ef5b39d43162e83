package pythons

import (
	"os"
	"syscall"
	"testing"
)

// Program writes a program that a test runs. No process is started meanwhile: a new process would have the file open until its exec,
// and until then running the file fails as busy.
func Program(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte(text), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
}
