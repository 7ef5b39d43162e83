package main

import (
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"

	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

// contextColumns are the titles of contextCells.
var contextColumns = []string{"ID", "TARGET", "STATE", "PYTHON", "PID", "AGE", "IDLE", "USERS", "CALLS", "FAILED", "IN", "OUT", "RUNS", "CHAIN"}

// printTree shows contexts as a tree: each below the one that it is behind.
func printTree(w io.Writer, list []wire.Context) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(contextColumns, "\t"))
	for c, depth := range tree(list) {
		fmt.Fprintln(t, strings.Join(contextCells(c, depth), "\t"))
	}
	return t.Flush()
}

// tree gives each context after the one that it is behind, with its depth.
func tree(list []wire.Context) iter.Seq2[wire.Context, int] {
	below := map[uint32][]wire.Context{}
	known := map[uint32]bool{}
	for _, c := range list {
		known[c.ID] = true
	}
	for _, c := range list {
		parent := c.Parent
		if !known[parent] {
			parent = 0
		}
		below[parent] = append(below[parent], c)
	}
	return func(yield func(wire.Context, int) bool) {
		var show func(parent uint32, depth int) bool
		show = func(parent uint32, depth int) bool {
			for _, c := range below[parent] {
				if !yield(c, depth) || c.ID != 0 && !show(c.ID, depth+1) {
					return false
				}
			}
			return true
		}
		show(0, 0)
	}
}

func contextCells(c wire.Context, depth int) []string {
	id, pid, age, idle, runs := "-", "-", "-", "-", "-"
	if c.ID != 0 {
		id = fmt.Sprint(c.ID)
	}
	if c.PID != 0 {
		pid = fmt.Sprint(c.PID)
	}
	if c.Age > 0 {
		age = shortTime(c.Age)
	}
	if c.State == "idle" {
		idle = shortTime(c.Idle)
	}
	if len(c.Work) > 0 {
		w := c.Work[0]
		runs = fmt.Sprintf("%s %s", printable.Line(w.What), shortTime(w.Seconds))
		if n := c.Running + int(c.Programs) - 1; n > 0 {
			runs += fmt.Sprintf(" and %d more", n)
		}
	}
	return []string{
		id, strings.Repeat("  ", depth) + printable.Line(dash(c.Name)), printable.Line(c.State), printable.Line(dash(c.Python)), pid, age, idle,
		fmt.Sprint(c.Leases), fmt.Sprint(c.Calls), fmt.Sprint(c.Failures), shortBytes(c.In), shortBytes(c.Out), runs, printable.Line(dash(c.Chain)),
	}
}
