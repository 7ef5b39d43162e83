package bootstrap

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// What a program has printed before it ended is read, also when the readers have got no time before their wait is over.
func TestLastWords(t *testing.T) {
	said := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		if _, err := w.WriteString("first\nkex_exchange_identification: read\nrest"); err != nil {
			t.Fatal(err)
		}
		_ = r.SetReadDeadline(time.Unix(1, 0))
		return r
	}
	want := []string{"first", "kex_exchange_identification: read", "rest"}
	p := &Process{errFile: said()}
	e := newErrReader(p, nil)
	e.over = true
	e.Resume()
	if got := p.output.raw(); !slices.Equal(got, want) {
		t.Errorf("of stderr %q was read", got)
	}
	p = &Process{r: said(), w: said(), errFile: said(), done: make(chan struct{})}
	h := &handshake{plan: &Plan{}, p: p, deadline: time.Now().Add(time.Hour)}
	h.interrupt(errExited)
	if err := h.run(); !errors.Is(err, errExited) {
		t.Error(err)
	}
	if got := append(p.output.raw(), string(h.marks.line.buf)); !slices.Equal(got, want) {
		t.Errorf("of the stream %q was read", got)
	}
}
