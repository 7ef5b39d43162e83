package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// The test binary is the link: started with these variables, it runs the interpreter and passes standard input and
// output on, each byte that much later.
const (
	delayVar  = "MITOGEND_TEST_DELAY"
	delayedTo = "MITOGEND_TEST_DELAYED"
)

func init() {
	if python := os.Getenv(delayedTo); python != "" {
		os.Exit(beLink(python))
	}
}

// overLink gives an interpreter behind a link with that round trip time.
func overLink(t testing.TB, py pythons.Python, rtt time.Duration) pythons.Python {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "python"+py.Version)
	script := fmt.Sprintf("#!/bin/sh\nexport %s=%s %s='%s'\nexec '%s' \"$@\"\n", delayVar, rtt/2, delayedTo, py.Path, self)
	pythons.Program(t, path, script)
	return pythons.Python{Version: py.Version, Path: path}
}

func beLink(python string) int {
	delay, err := time.ParseDuration(os.Getenv(delayVar))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	_ = os.Unsetenv(delayVar)
	_ = os.Unsetenv(delayedTo)
	cmd := exec.Command(python, os.Args[1:]...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		var stdout io.ReadCloser
		if stdout, err = cmd.StdoutPipe(); err == nil {
			if err = cmd.Start(); err == nil {
				go func() {
					late(stdin, os.Stdin, delay)
					_ = stdin.Close()
				}()
				late(os.Stdout, stdout, delay)
				err = cmd.Wait()
			}
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// late copies until the end of r, each piece after d. The link has no other limit.
func late(w io.Writer, r io.Reader, d time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1<<16)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 64<<10)
			n, err := r.Read(buf)
			if n > 0 {
				pieces <- piece{time.Now().Add(d), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := w.Write(p.data); err != nil {
			return
		}
	}
}
