package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
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
	query, err := gojq.Parse(c.selection)
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
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, err
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
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
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
		out = append(out, printable.JSON(each))
	}
}

// show prints a value, or keeps it for the table.
func (s *shower) show(j *job, v any, text []byte) error {
	c := s.flags
	switch v := v.(type) {
	case string:
		if c.raw || c.repr && !c.json && !c.table {
			text = []byte(rawText(v))
			if c.repr && !c.raw {
				text = append(text, '\n')
			}
			_, _ = j.stdout.Write(text)
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
		d := json.NewDecoder(bytes.NewReader(item))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			row.cells["result"] = cell(item)
			s.column("result")
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
				row.cells[key.(string)] = cell(value)
				s.column(key.(string))
			}
		}
		s.rows = append(s.rows, row)
	}
	return nil
}

func (s *shower) column(name string) {
	if !slices.Contains(s.columns, name) {
		s.columns = append(s.columns, name)
	}
}

// cell gives a value as the table shows it: text has no quotes.
func cell(text []byte) string {
	var v any
	if json.Unmarshal(text, &v) == nil {
		switch v := v.(type) {
		case string:
			return v
		case float64:
			if v == math.Trunc(v) && math.Abs(v) < 1e15 {
				return strconv.FormatFloat(v, 'f', -1, 64)
			}
		}
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
	w := tabwriter.NewWriter(s.app.console.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TARGET")
	for _, c := range s.columns {
		fmt.Fprint(w, "\t"+printable.Line(c))
	}
	for _, row := range s.rows {
		fmt.Fprint(w, "\n"+printable.Line(row.target))
		for _, c := range s.columns {
			fmt.Fprint(w, "\t"+printable.Line(row.cells[c]))
		}
	}
	fmt.Fprintln(w)
	_ = w.Flush()
}
