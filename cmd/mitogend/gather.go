package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"

	"mitogend/pyproto/printable"
)

// gatherer keeps what targets write to one stream, and shows what several have written alike once, under their folded names.
type gatherer struct {
	spool *spool
	to    io.Writer

	// mu protects the following.
	mu     sync.Mutex
	groups []*group
}

// group is what targets have written alike.
type group struct {
	sum     [sha256.Size]byte
	text    *captured
	targets []string
}

// gathered is the output of one target until that is done. It is safe for concurrent use.
type gathered struct {
	g      *gatherer
	target string

	mu   sync.Mutex // guards the following
	text *captured
	sum  hash.Hash
}

func (g *gatherer) writer(target string) *gathered {
	return &gathered{g: g, target: target, text: &captured{spool: g.spool}, sum: sha256.New()}
}

func (w *gathered) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.text != nil {
		_, _ = w.sum.Write(p)
		_, _ = w.text.Write(p)
	}
	return len(p), nil
}

// Close puts the output to what is equal to it.
func (w *gathered) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := w.text; text != nil {
		w.text = nil
		w.g.add(w.target, text, [sha256.Size]byte(w.sum.Sum(nil)))
	}
	return nil
}

func (g *gatherer) add(target string, text *captured, sum [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if text.size == 0 {
		return
	}
	if i := slices.IndexFunc(g.groups, func(o *group) bool { return o.sum == sum }); i >= 0 {
		g.groups[i].targets = append(g.groups[i].targets, target)
		text.release()
		return
	}
	g.groups = append(g.groups, &group{sum, text, []string{target}})
}

// show writes the groups, the largest first.
func (g *gatherer) show(c *console) {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.SortStableFunc(g.groups, func(a, b *group) int { return len(b.targets) - len(a.targets) })
	for _, group := range g.groups {
		fmt.Fprintf(g.to, "%s\n", c.bold(g.to, "--- "+printable.Line(counted(group.targets))))
		out := newLines(g.to, "")
		err := group.text.each(func(data []byte) error { _, err := out.Write(data); return err })
		_ = out.Close()
		if err != nil || group.text.cut {
			c.complain("%s: only the first %d bytes of its output were kept", counted(group.targets), maxCaptured)
		}
	}
	g.groups = nil
}

// failures tells equal failures of several targets once: the first as it comes, the others at the end.
type failures struct {
	mu    sync.Mutex // guards the following
	first map[string]*repeated
	order []*repeated
}

type repeated struct {
	text    string
	targets []string
}

// take counts a failure; true says that it is the first of its kind.
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

// show tells of the targets that failed like another one; gathered, of all.
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

// tee writes to several, whether or not one of them fails.
type tee []io.WriteCloser

func (t tee) Write(p []byte) (int, error) {
	for _, w := range t {
		_, _ = w.Write(p)
	}
	return len(p), nil
}

func (t tee) Close() error {
	for _, w := range t {
		_ = w.Close()
	}
	return nil
}

// both gives a writer to what there is of two.
func both(a, b io.WriteCloser) io.WriteCloser {
	switch {
	case a == nil && b == nil:
		return keepOpen{io.Discard}
	case b == nil:
		return a
	case a == nil:
		return b
	}
	return tee{a, b}
}
