package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What is read before any work begins can be interrupted: stdin, and what is no regular file.
func TestReadingCanBeInterrupted(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"run -", "run " + fifo, "call m:f @-", "call m:f @" + fifo, "call m:f --args-json @-", "call m:f --kw x=@-", "exec -H @- true", "exec -H @" + fifo + " true",
		"run --requirements " + fifo + " -m x", "call --requirements " + fifo + " m:f",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			ctx, stop := context.WithCancelCause(t.Context())
			in, w := io.Pipe()
			defer w.Close()
			stop(signalError{syscall.SIGINT})
			a := &app{stop: stop, hurry: make(chan struct{})}
			a.console = newConsole(os.Stdout, os.Stderr, nil)
			root := newRoot(a)
			root.SetArgs(strings.Fields(line))
			root.SetIn(in)
			if err := root.ExecuteContext(ctx); !errors.As(err, new(signalError)) {
				t.Error(err)
			}
		})
	}
}

// A FIFO is read as soon as somebody writes to it, and a directory's file tells why it cannot be.
func TestScriptFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(fifo, []byte("x = 1\n"), 0o600) }()
	if s, err := new(runCommand).find(fifo, nil); err != nil || string(s.source) != "x = 1\n" {
		t.Errorf("%q %v", s.source, err)
	}
	if _, err := new(runCommand).find(dir, nil); err == nil || !strings.Contains(err.Error(), "it is a directory without __main__.py") {
		t.Error(err)
	}
	if err := os.Symlink("__main__.py", filepath.Join(dir, "__main__.py")); err != nil {
		t.Fatal(err)
	}
	if _, err := new(runCommand).find(dir, nil); err == nil || !strings.Contains(err.Error(), "__main__.py: too many levels of symbolic links") {
		t.Error(err)
	}
}
