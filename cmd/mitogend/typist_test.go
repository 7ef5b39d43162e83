package main

import (
	"slices"
	"testing"
)

// A target completes words, and writes nothing else into a line or onto the screen.
func TestCompletions(t *testing.T) {
	answer := "os.getpid()\nos.getenv(\nos.évite\nos.e\x1b[2J\nos.system('x')\nevil\n\nos.x\r\nos.path;y"
	if got := completions("os.", answer); !slices.Equal(got, []string{"os.getpid()", "os.getenv(", "os.évite"}) {
		t.Errorf("%q", got)
	}
	if got := completions("fin", "finally:"); len(got) != 1 {
		t.Error(got)
	}
	if got := completions("x", ""); len(got) != 0 {
		t.Error(got)
	}
}
