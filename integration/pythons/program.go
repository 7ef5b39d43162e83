package pythons

import (
	"os"
	"syscall"
	"testing"
)

// Program writes a program that a test runs. No process is started meanwhile: it would have the file open until it becomes another
// program, and who runs it then is told that the file is busy.
func Program(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte(text), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
}
