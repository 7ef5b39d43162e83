package main

import (
	"bytes"
	"testing"
)

func TestLines(t *testing.T) {
	var b bytes.Buffer
	l := newLines(&b, "t| ")
	for _, part := range []string{"a", "", "b\nc\n\nd", "e", "\n", "f"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil || b.String() != "t| ab\nt| c\nt| \nt| de\nt| f\n" {
		t.Errorf("%q %v", b.String(), err)
	}
	b.Reset()
	for range maxLine/1000 + 1 {
		if _, err := l.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() < maxLine || len(l.rest) >= maxLine {
		t.Errorf("a line without end stays in memory: %d, %d", b.Len(), len(l.rest))
	}
}

func TestLinesOnTerminal(t *testing.T) {
	for _, c := range []struct{ in, terminal, pipe string }{
		{"plain\nrest", "web1| plain\nweb1| rest\n", "web1| plain\nweb1| rest\n"},
		{"\x1b[31mred\x1b[0m\tx\r\n", "web1| \x1b[31mred\x1b[0m\tx\x1b[0m\n", "web1| \x1b[31mred\x1b[0m\tx\r\n"},
		{"up \x1b[1A\rweb2| forged\n", "web1| up \\x1b[1A\\rweb2| forged\n", "web1| up \x1b[1A\rweb2| forged\n"},
		{"\xff\u202e\n\n", "web1| \\xff\\u202e\nweb1| \n", "web1| \xff\u202e\nweb1| \n"},
	} {
		for _, tty := range []bool{true, false} {
			// However it is cut.
			for _, step := range []int{1, 3, 100} {
				var b bytes.Buffer
				l := newLines(&b, "web1| ")
				l.tty = tty
				for in := c.in; in != ""; {
					n := min(step, len(in))
					_, _ = l.Write([]byte(in[:n]))
					in = in[n:]
				}
				_ = l.Close()
				want := c.pipe
				if tty {
					want = c.terminal
				}
				if b.String() != want {
					t.Errorf("%q in steps of %d, terminal %v: %q, not %q", c.in, step, tty, b.String(), want)
				}
			}
		}
	}
	if l := newLines(&bytes.Buffer{}, "we\x1b[1A\nb| "); string(l.prefix) != `we\x1b[1A\nb| ` {
		t.Errorf("the prefix is %q", l.prefix)
	}
}
