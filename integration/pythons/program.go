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

// RefusingSudo writes a program that asks for a password as sudo does, and refuses it. What it is given is in the file asked, a line
// for each.
func RefusingSudo(t testing.TB, path, asked string) {
	t.Helper()
	Program(t, path, `#!/bin/sh
exec 3<>/dev/tty
printf '[sudo: %s] ' "$SUDO_PROMPT" >&3
read answer <&3
echo "$answer" >> `+asked+`
echo "Sorry, try again." >&3
exit 1
`)
}
