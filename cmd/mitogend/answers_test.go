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
		a := newAnswers(mark, g, "t")
		a.begin()
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

// What is printed between two texts is gathered by itself.
func TestOutputBetweenTexts(t *testing.T) {
	g := &gatherer{spool: &spool{}}
	a := newAnswers([]byte("mark"), g, "t")
	for _, text := range []string{"early", "first", "late", "second"} {
		a.begin()
		if a.waits() != true {
			t.Error("no answer is waited for")
		}
		if text == "early" || text == "late" {
			a.end()
		}
		_, _ = io.WriteString(a, text)
	}
	a.end()
	var all []string
	for _, group := range g.groups {
		_ = group.text.eachText(func(text string) error { all = append(all, text); return nil })
	}
	if got := strings.Join(all, " "); got != "early first late second" || a.waits() {
		t.Error(got)
	}
}

// An answer that comes too late is none to the next question.
func TestLateAnswer(t *testing.T) {
	a := newAnswers([]byte("mark"), &gatherer{spool: &spool{}}, "t")
	a.giveUp()
	_, _ = io.WriteString(a, "\x00mark00000001\n0\x00mark00000001\n1")
	select {
	case got := <-a.came:
		if string(got) != "1" {
			t.Errorf("%s", got)
		}
	default:
		t.Error("there is no answer")
	}
	_, _ = io.WriteString(a, "\x00mark00000001\n2")
	a.giveUp() // it has come just now
	if a.late != 0 || len(a.came) != 0 {
		t.Error(a.late, len(a.came))
	}
}

// A target that never ends an answer costs as much as the longest one.
func TestAnswerWithoutEnd(t *testing.T) {
	a := newAnswers([]byte("mark"), &gatherer{spool: &spool{}}, "t")
	_, _ = io.WriteString(a, fmt.Sprintf("\x00mark%08x\n", maxAnswer))
	piece := []byte(strings.Repeat("x", 64<<10))
	for range 100 {
		if _, err := a.Write(piece); err != nil || len(a.held) > maxAnswer+100 {
			t.Fatal(len(a.held), err)
		}
	}
	for _, size := range []string{"ffffffff", "-0000001", "+0000001"} {
		_, _ = io.WriteString(a, "\x00mark"+size+"\n")
	}
	if len(a.held) > 100 {
		t.Errorf("%d bytes are held", len(a.held))
	}
}
