package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// What the help lists is what facts.py tells.
func TestFactNames(t *testing.T) {
	source, err := os.ReadFile("../../python/facts.py")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\nFACTS = \{.*?\n\}`).Find(source)
	var there, listed []string
	for _, m := range regexp.MustCompile(`'([a-z_0-9]+)': `).FindAllSubmatch(table, -1) {
		there = append(there, string(m[1]))
	}
	for _, f := range facts {
		listed = append(listed, f.name)
	}
	slices.Sort(there)
	slices.Sort(listed)
	if len(there) < 20 || !slices.Equal(there, listed) {
		t.Errorf("facts.py tells %v, the help lists %v", there, listed)
	}
}
