package main

import (
	"strings"
	"sync"
)

// failures tells equal failures of several targets once. The first is told as it comes, and at the end which others
// had it.
type failures struct {
	mu    sync.Mutex // guards the following
	first map[string]*repeated
	order []*repeated
}

type repeated struct {
	text    string
	targets []string
}

// take counts a failure. It is true for the first of its kind.
func (f *failures) take(t target, text, stack string) bool {
	key := text + "\n" + stack
	if host := t.host(); len(host) > 1 {
		key = strings.ReplaceAll(key, host, "\x00")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.first[key]; r != nil {
		r.targets = append(r.targets, t.name)
		return false
	}
	if f.first == nil {
		f.first = map[string]*repeated{}
	}
	r := &repeated{text, []string{t.name}}
	f.first[key] = r
	f.order = append(f.order, r)
	return true
}

// show tells which targets have failed like another one. With gathered, it tells of all failures.
func (f *failures) show(c *console, gathered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.order {
		first, rest := strings.TrimSuffix(r.targets[0], ":"), r.targets[1:]
		switch {
		case gathered && len(rest) == 0:
			c.complain("%s: %s", first, r.text)
		case gathered:
			c.complain("%s: %s", counted(r.targets), r.text)
		case len(rest) > 0:
			c.complain("%s: the same as %s", counted(rest), first)
		}
	}
	f.order, f.first = nil, nil
}
