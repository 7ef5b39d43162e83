package main

import (
	"strings"
	"testing"
)

// An expression is judged by its one value, not by the first of several.
func TestWhereGivesOneValue(t *testing.T) {
	facts := map[string]any{"disks": []any{map[string]any{"free": 1}, map[string]any{"free": 9}}}
	for text, want := range map[string]string{
		"any(disks[]; .free > 5)":         "true",
		"disks[0].free > 5":               "false",
		"disks[].free > 5":                "several values, and one is wanted: any(...)",
		"disks[] | select(.free > 5)":     "not true or false",
		"disks[].free | select(. > 5)":    "it gives 9, not true or false",
		"disks[].free > 5 | select(.)":    "true",
		"true, (disks | error(\"no\"))":   "several values",
		"empty, (disks | empty)":          "it gives nothing, not true or false",
		"disks | length > 1, error(\"\")": "several values",
	} {
		w, err := newWhere(text)
		if err != nil {
			t.Fatal(err)
		}
		yes, err := w.judge(t.Context(), facts)
		got := map[bool]string{true: "true", false: "false"}[yes]
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
