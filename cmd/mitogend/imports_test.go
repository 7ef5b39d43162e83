package main

import (
	"strings"
	"testing"

	"mitogend/importer"
)

// TestTraceOfManyImports: a target that asks for ever is told of, and not kept.
func TestTraceOfManyImports(t *testing.T) {
	var trace importTrace
	for range maxTraced + 7 {
		trace.add(importer.Event{Name: "m", What: importer.Answered})
	}
	rows := trace.rows(nil, nil)
	if len(rows) != maxTraced+1 || rows[maxTraced].Reason != "7 more messages" {
		t.Errorf("%d rows, the last %v", len(rows), rows[len(rows)-1])
	}
	if text := importTable(rows[maxTraced-1:]); !strings.Contains(text, "left out") || !strings.Contains(text, "7 more messages") {
		t.Errorf("the table does not say so: %s", text)
	}
}
