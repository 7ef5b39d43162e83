package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"mitogend/pyproto/printable"
)

// gatherer keeps what targets write to one stream. Equal output of several targets is shown once, under their folded
// names.
type gatherer struct {
	spool *spool
	to    io.Writer

	// mu protects the following.
	mu     sync.Mutex
	groups []*group
}

// group is equal output of some targets.
type group struct {
	sum     [sha256.Size]byte
	text    *captured
	targets []string
}

// gathered is the output of one target until it is closed. It is safe for concurrent use.
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

// Close puts the output into the group of its equals.
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
		group.text.release()
	}
	g.groups = nil
}
