package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"mitogend/pyproto/printable"
)

// tally counts how it went on several targets.
type tally struct {
	mu     sync.Mutex // guards the following
	sealed bool       // nothing is counted any more
	begun  []string
	ended  map[string]int // the number of outcomes: a target may be named twice
	good   []string
	unmet  []string            // left out by --where
	by     map[string][]string // those that are not ok, by kind
}

// words are the words for the kinds of failures, in the order in which they are told.
var words = []struct{ kind, word string }{
	{kindCall, "failed"}, {kindConnect, "not reached"}, {kindLost, "lost"}, {kindTimeout, "out of time"},
}

func (t *tally) begin(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = append(t.begun, name)
}

// end counts an outcome. It gives false if that comes too late.
func (t *tally) end(out *outcome) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sealed {
		return false
	}
	if t.ended == nil {
		t.ended, t.by = map[string]int{}, map[string][]string{}
	}
	t.ended[out.Target]++
	if out.unmet {
		t.unmet = append(t.unmet, out.Target)
		return true
	}
	if out.OK {
		t.good = append(t.good, out.Target)
		return true
	}
	kind := kindCall
	if out.Error != nil {
		kind = out.Error.Kind
	}
	t.by[kind] = append(t.by[kind], out.Target)
	return true
}

// counts gives how many times each target has ended and has begun. The caller holds mu.
func (t *tally) counts() (ended, begun map[string]int) {
	ended, begun = map[string]int{}, map[string]int{}
	maps.Copy(ended, t.ended)
	for _, name := range t.begun {
		begun[name]++
	}
	return ended, begun
}

// text gives the line for the end. all says that all targets are ok.
func (t *tally) text(targets []target) (text string, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parts := []string{fmt.Sprintf("%d ok", len(t.good))}
	for _, w := range words {
		if names := t.by[w.kind]; len(names) > 0 {
			parts = append(parts, some(w.word, names))
		}
	}
	open := t.left()
	if len(open) > 0 {
		parts = append(parts, some("interrupted", open))
	}
	if n := len(targets) - len(t.begun); n > 0 {
		parts = append(parts, fmt.Sprintf("%d not begun", n))
	}
	if n := len(t.unmet); n > 0 {
		parts = append(parts, fmt.Sprintf("%d left out by --where", n))
	}
	return strings.Join(parts, ", "), len(t.good)+len(t.unmet) == len(targets)
}

// left gives the targets that have begun and not ended. The caller holds mu.
func (t *tally) left() (open []string) {
	ended, _ := t.counts()
	for _, name := range t.begun {
		if ended[name] == 0 {
			open = append(open, name)
			continue
		}
		ended[name]--
	}
	return open
}

// open gives the targets that have begun and not ended, and how many have begun.
func (t *tally) open() ([]string, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left(), len(t.begun)
}

// maxNames is how many targets a line names.
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

// told is a target without an outcome.
type told struct {
	target target
	begun  bool
}

// seal ends the counting, and gives the targets without an outcome in order.
func (t *tally) seal(targets []target) (out []told) {
	t.mu.Lock()
	t.sealed = true
	t.mu.Unlock()
	return t.without(targets)
}

// without gives the targets without an outcome in order.
func (t *tally) without(targets []target) (out []told) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended, begun := t.counts()
	for _, target := range targets {
		begun[target.name]--
		if ended[target.name]--; ended[target.name] < 0 {
			out = append(out, told{target, begun[target.name] >= 0})
		}
	}
	return out
}

// failedNames gives the targets that are not ok, each once, in order.
func (t *tally) failedNames(targets []target) (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok := map[string]int{}
	for _, name := range slices.Concat(t.good, t.unmet) {
		ok[name]++
	}
	for _, target := range targets {
		if ok[target.name]--; ok[target.name] < 0 && !slices.Contains(names, target.name) {
			names = append(names, target.name)
		}
	}
	return names
}
