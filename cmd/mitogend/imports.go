package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/pyproto/printable"
)

// importTrace collects what the importer served to one target.
type importTrace struct {
	start time.Time

	mu     sync.Mutex
	events []importRow
	more   int // were not kept
}

// importRow is one module of the waterfall.
type importRow struct {
	Module string `json:"module"`
	// How is answered or refused if the child asked, and waited for a round trip; preloaded if the module was sent
	// before the child asked, and foretold if the child was told so that there is none; duplicate if the child asked
	// while the module was on its way; forwarded if the hop before it has passed the module on.
	How    importer.What `json:"how"`
	Path   string        `json:"path,omitempty"`
	Reason string        `json:"reason,omitempty"`
	// For is the module that imports a preloaded one, or looks for a foretold one. It is empty if the call or the
	// script itself names the module.
	For   string `json:"for,omitempty"`
	Bytes int    `json:"bytes"`
	// AtMS is when it was sent, counted from the start of the connection. TookMS is how long it took to find and
	// build it.
	AtMS   float64 `json:"at_ms"`
	TookMS float64 `json:"took_ms"`
}

func (t *importTrace) add(e importer.Event) {
	row := importRow{
		Module: e.Name, How: e.What, Reason: e.Reason, For: e.For, Bytes: e.Bytes,
		AtMS: milliseconds(time.Since(t.start)), TookMS: milliseconds(e.Took),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) == maxTraced {
		t.more++
		return
	}
	t.events = append(t.events, row)
}

// maxTraced is how many messages are kept: a target may ask for ever.
const maxTraced = 100_000

// rows gives the events in order, with the files that were served.
func (t *importTrace) rows(im *importer.Importer, c daemon.Remote) []importRow {
	if child, ok := c.(*daemon.Child); ok {
		im = child.Importer()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.events {
		row := &t.events[i]
		if row.Reason != "" || c == nil {
			continue
		}
		if m, err := im.Module(context.Background(), row.Module, c.Version()); err == nil {
			row.Path = m.Path
		}
	}
	if t.more > 0 {
		return append(t.events, importRow{How: "left out", Reason: fmt.Sprintf("%d more messages", t.more)})
	}
	return t.events
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// importTable shows rows as text: a summary, then one line for each.
func importTable(rows []importRow) string {
	var b strings.Builder
	bytes, asked := 0, 0
	for _, r := range rows {
		bytes += r.Bytes
		switch r.How {
		case importer.Answered, importer.Refused, importer.Duplicate:
			asked++
		}
	}
	fmt.Fprintf(&b, "imports: %s, %s, %d bytes\n", several(len(rows), "message"), several(asked, "round trip"), bytes)
	fmt.Fprintf(&b, "%9s  %-9s  %7s  %8s  %s\n", "at ms", "how", "bytes", "took ms", "module")
	for _, r := range rows {
		from := r.Path
		if r.Reason != "" {
			from = r.Reason
		}
		if r.For != "" {
			from += "  for " + r.For
		}
		fmt.Fprintf(&b, "%9.1f  %-9s  %7d  %8.1f  %s  %s\n", r.AtMS, r.How, r.Bytes, r.TookMS, printable.Line(r.Module), printable.Line(from))
	}
	return b.String()
}
