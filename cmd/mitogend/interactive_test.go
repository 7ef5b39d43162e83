package main

import "testing"

// What is typed goes on as it is, but for ~ at the beginning of a line, in whatever pieces it comes.
func TestEscape(t *testing.T) {
	for _, c := range []struct {
		typed, sent string
		end         bool
	}{
		{"ls ~\r", "ls ~\r", false}, {"~~x\r", "~x\r", false}, {"~x", "~x", false}, {"~\r~.", "~\r", true}, {"a~.", "a~.", false},
		{"~.", "", true}, {"a\n~.b", "a\n", true}, {"~~.\r", "~.\r", false}, {"x\r~~\r~y\r", "x\r~\r~y\r", false},
	} {
		for size := 1; size <= len(c.typed); size++ {
			e, sent, end := escape{lineStart: true}, "", false
			for rest := c.typed; rest != "" && !end; {
				n := min(size, len(rest))
				var out []byte
				out, end = e.filter([]byte(rest[:n]))
				sent, rest = sent+string(out), rest[n:]
			}
			if sent != c.sent || end != c.end {
				t.Errorf("%q by %d: %q, %v", c.typed, size, sent, end)
			}
		}
	}
}
