package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/itchyny/gojq"

	"mitogend/pyproto/printable"
)

// shower shows the results of call: as they are, filtered, or as a table at the end.
type shower struct {
	app    *app
	flags  *callCommand
	filter *gojq.Code // nil without --select

	mu      sync.Mutex // guards the following
	columns []string
	known   map[string]bool // those in columns
	leftOut bool            // there were more columns
	rows    []tableRow
}

// tableRow is a line of the table, with its cells by column. A value without fields has one cell, in the column
// "result".
type tableRow struct {
	target string
	cells  map[string]string
}

func (c *callCommand) shower(a *app) (*shower, error) {
	s := &shower{app: a, flags: c}
	if c.selection == "" {
		return s, nil
	}
	query, err := gojq.Parse(hideLone(c.selection))
	if err == nil {
		s.filter, err = gojq.Compile(query)
	}
	if err != nil {
		return nil, usagef("--select %s: %w", c.selection, err)
	}
	return s, nil
}

// result shows the result v, whose JSON is text. It gives what --json shows of it.
func (s *shower) result(ctx context.Context, j *job, v any, text json.RawMessage) (json.RawMessage, error) {
	if s.filter == nil {
		return text, s.show(j, v, text)
	}
	selected, err := s.selected(ctx, text)
	if err != nil {
		return nil, err
	}
	for _, text := range selected {
		var v any
		if name, ok := textOf(text); ok {
			v = name
		}
		if err := s.show(j, v, text); err != nil {
			return nil, err
		}
	}
	if len(selected) == 1 {
		return selected[0], nil
	}
	return append(append([]byte("["), bytes.Join(selected, []byte(","))...), ']'), nil
}

// maxSelected bounds what a filter makes of one result, which may be endless.
const maxSelected = 1_000_000

// selected gives the values that the filter makes of a result.
func (s *shower) selected(ctx context.Context, text []byte) (out [][]byte, err error) {
	v, err := decodeMarked(text)
	if err != nil {
		return nil, err
	}
	it := s.filter.RunWithContext(ctx, v)
	for {
		v, ok := it.Next()
		if !ok {
			return out, nil
		}
		if err, failed := v.(error); failed {
			return nil, fmt.Errorf("--select %s: %w", s.flags.selection, err)
		}
		if len(out) == maxSelected {
			return nil, fmt.Errorf("--select %s: it gives more than %d values", s.flags.selection, maxSelected)
		}
		each, err := gojq.Marshal(v)
		if err != nil {
			return nil, err
		}
		out = append(out, printable.JSON(escapeLone(each)))
	}
}

// show prints a value, or keeps it for the table.
func (s *shower) show(j *job, v any, text []byte) error {
	c := s.flags
	switch v := v.(type) {
	case string:
		switch {
		case c.raw:
			_, _ = io.WriteString(j.stdout, rawText(v))
			return nil
		case c.repr && !c.json && !c.table:
			// The child may have written what a terminal obeys.
			_, _ = io.WriteString(j.stdout, printable.Lines(rawText(v))+"\n")
			return nil
		}
	case []byte:
		if c.raw {
			_, _ = j.stdout.Write(v)
			return nil
		}
	}
	switch {
	case c.json:
	case c.table:
		return s.keep(j.target.name, text)
	default:
		_, _ = j.stdout.Write(append(text, '\n'))
	}
	return nil
}

// Bounds of the table. A target can return objects whose keys are all different, and each of them would be a column
// of every row.
const (
	maxColumns = 200
	maxCells   = 4_000_000
)

// keep adds a value to the table. A list gives a line for each of its values, anything else gives one line.
func (s *shower) keep(target string, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil {
		list = []json.RawMessage{text}
	}
	for _, item := range list {
		row := tableRow{target, map[string]string{}}
		d := json.NewDecoder(strings.NewReader(hideLone(string(item))))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			s.cell(&row, "result", item)
		} else {
			for d.More() { // the columns have the order of the fields
				key, err := d.Token()
				var value json.RawMessage
				if err == nil {
					err = d.Decode(&value)
				}
				if err != nil {
					return err
				}
				s.cell(&row, rawText(showLone(key.(string))), escapeLone(value))
			}
		}
		s.rows = append(s.rows, row)
	}
	return nil
}

// cell sets a cell of a row, unless there are too many columns. The caller holds mu.
func (s *shower) cell(row *tableRow, column string, value []byte) {
	if !s.known[column] {
		if len(s.columns) == maxColumns {
			s.leftOut = true
			return
		}
		if s.known == nil {
			s.known = map[string]bool{}
		}
		s.known[column] = true
		s.columns = append(s.columns, column)
	}
	row.cells[column] = cell(value)
}

// cell gives a value as the table shows it: text has no quotes.
func cell(text []byte) string {
	if s, ok := textOf(text); ok {
		return rawText(s)
	}
	var v float64
	if json.Unmarshal(text, &v) == nil && string(text) != "null" && v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return string(text)
}

// flush writes the table, with targets in the order in which they were named.
func (s *shower) flush(targets []target) {
	if !s.flags.table || len(s.rows) == 0 {
		return
	}
	order := map[string]int{}
	for i, t := range targets {
		order[t.name] = i
	}
	slices.SortStableFunc(s.rows, func(a, b tableRow) int { return order[a.target] - order[b.target] })
	columns := s.columns
	if most := max(1, maxCells/len(s.rows)); len(columns) > most {
		columns, s.leftOut = columns[:most], true
	}
	w := tabwriter.NewWriter(s.app.console.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TARGET")
	for _, c := range columns {
		fmt.Fprint(w, "\t"+printable.Line(c))
	}
	for _, row := range s.rows {
		fmt.Fprint(w, "\n"+printable.Line(row.target))
		for _, c := range columns {
			fmt.Fprint(w, "\t"+printable.Line(row.cells[c]))
		}
	}
	fmt.Fprintln(w)
	_ = w.Flush()
	if s.leftOut {
		s.app.console.complain("--table: what comes after the first %s is not shown; --select '{NAME, NAME}' chooses fields", several(len(columns), "column"))
	}
}
