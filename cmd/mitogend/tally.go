package main

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"mitogend/pyproto/printable"
)

// tally is how it went on each of several targets.
type tally struct {
	mu    sync.Mutex
	begun []string
	ended map[string]int // how many times: a target may be named twice
	ok    int
	by    map[string][]string // those that are not ok, by the word for it
}

// words are those of the kinds of failures, in the order in which they are told.
var words = []struct{ kind, word string }{
	{kindCall, "failed"}, {kindConnect, "not reached"}, {kindLost, "lost"}, {kindTimeout, "out of time"},
}

func (t *tally) begin(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = append(t.begun, name)
}

func (t *tally) end(out *outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended == nil {
		t.ended, t.by = map[string]int{}, map[string][]string{}
	}
	t.ended[out.Target]++
	if out.OK {
		t.ok++
		return
	}
	kind := kindCall
	if out.Error != nil {
		kind = out.Error.Kind
	}
	t.by[kind] = append(t.by[kind], out.Target)
}

// text is the line for the end; all tells whether all are ok.
func (t *tally) text(targets []target) (text string, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parts := []string{fmt.Sprintf("%d ok", t.ok)}
	for _, w := range words {
		if names := t.by[w.kind]; len(names) > 0 {
			parts = append(parts, some(w.word, names))
		}
	}
	var open []string
	ended := maps.Clone(t.ended)
	for _, name := range t.begun {
		if ended[name] == 0 {
			open = append(open, name)
			continue
		}
		ended[name]--
	}
	if len(open) > 0 {
		parts = append(parts, some("interrupted", open))
	}
	if n := len(targets) - len(t.begun); n > 0 {
		parts = append(parts, fmt.Sprintf("%d not begun", n))
	}
	return strings.Join(parts, ", "), t.ok == len(targets)
}

// maxNames is how many targets are told by name.
const maxNames = 10

func some(word string, names []string) string {
	text := fmt.Sprintf("%d %s:", len(names), word)
	for i, name := range names {
		if i == maxNames {
			return fmt.Sprintf("%s and %d more", text, len(names)-i)
		}
		text += " " + printable.Line(strings.TrimSuffix(name, ":"))
	}
	return text
}
