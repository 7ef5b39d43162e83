package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Answers are found however the output is cut, and everything else is output.
func TestAnswersAmongOutput(t *testing.T) {
	mark := []byte("0123456789abcdef")
	text := "before\x00" + "0123\x00" + string(mark) + "00000005\n1\n2\n3" + "between \x000123456789abcdeX\x00" + string(mark) + "zzzzzzzz\nend\x00"
	for size := 1; size <= len(text); size++ {
		var out bytes.Buffer
		g := &gatherer{spool: &spool{}, to: &out}
		a := newAnswers(mark)
		a.begin(g.writer("t"))
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := a.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		select {
		case got := <-a.came:
			if string(got) != "1\n2\n3" {
				t.Errorf("%d: the answer %q", size, got)
			}
		default:
			t.Errorf("%d: there is no answer", size)
		}
		a.end()
		var all bytes.Buffer
		for _, group := range g.groups {
			if err := group.text.each(func(b []byte) error { _, err := all.Write(b); return err }); err != nil {
				t.Fatal(err)
			}
		}
		want := "before\x000123between \x000123456789abcdeX\x00" + string(mark) + "zzzzzzzz\nend"
		if all.String() != want {
			t.Errorf("%d: %q", size, all.String())
		}
	}
}

// A target that never ends an answer costs as much as the longest one.
func TestAnswerWithoutEnd(t *testing.T) {
	a := newAnswers([]byte("mark"))
	_, _ = io.WriteString(a, fmt.Sprintf("\x00mark%08x\n", maxAnswer))
	piece := []byte(strings.Repeat("x", 64<<10))
	for range 100 {
		if _, err := a.Write(piece); err != nil || len(a.held) > maxAnswer+100 {
			t.Fatal(len(a.held), err)
		}
	}
	_, _ = io.WriteString(a, "\x00markffffffff\n")
	if len(a.held) > 100 {
		t.Errorf("%d bytes are held", len(a.held))
	}
}
