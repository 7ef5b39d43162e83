package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fold gives names as one text, with numbers as ranges: web[01-20],db3. A name that occurs several times counts once.
func fold(names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	var order []string // of the shapes: as the first name of each comes
	shapes := map[string][][]string{}
	for _, name := range names {
		numbers := digits.FindAllString(name, -1)
		shape := digits.ReplaceAllString(name, "\x00")
		if shapes[shape] == nil {
			order = append(order, shape)
		}
		shapes[shape] = append(shapes[shape], numbers)
	}
	var out []string
	for _, shape := range order {
		out = append(out, foldShape(shape, shapes[shape])...)
	}
	return strings.Join(out, ",")
}

var digits = regexp.MustCompile(`[0-9]+`)

// foldShape folds names that differ in their numbers only. The last number that differs becomes a range.
func foldShape(shape string, all [][]string) []string {
	at := -1
	for i := range all[0] {
		if slices.ContainsFunc(all, func(n []string) bool { return n[i] != all[0][i] }) {
			at = i
		}
	}
	if at < 0 {
		return []string{unfold(shape, all[0])}
	}
	var order []string
	groups := map[string][]string{}
	for _, numbers := range all {
		number := numbers[at]
		numbers = slices.Clone(numbers)
		numbers[at] = "\x00"
		rest := unfold(shape, numbers)
		if groups[rest] == nil {
			order = append(order, rest)
		}
		groups[rest] = append(groups[rest], number)
	}
	for i, rest := range order {
		order[i] = strings.Replace(rest, "\x00", ranges(groups[rest]), 1)
	}
	return order
}

// unfold puts numbers into a shape.
func unfold(shape string, numbers []string) string {
	for _, n := range numbers {
		if n == "\x00" {
			n = "\x01" // the range goes here later
		}
		shape = strings.Replace(shape, "\x00", n, 1)
	}
	return strings.Replace(shape, "\x01", "\x00", 1)
}

// ranges writes numbers as [01-20,30]. Numbers with leading zeros go with others of their length.
func ranges(numbers []string) string {
	if len(numbers) == 1 {
		return numbers[0]
	}
	padded := map[int]bool{}
	for _, n := range numbers {
		if n[0] == '0' && len(n) > 1 {
			padded[len(n)] = true
		}
	}
	width := func(n string) int {
		if padded[len(n)] {
			return len(n)
		}
		return 0
	}
	slices.SortFunc(numbers, func(a, b string) int {
		if d := width(a) - width(b); d != 0 {
			return d
		}
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for i := 0; i < len(numbers); {
		j := i + 1
		for j < len(numbers) && width(numbers[j]) == width(numbers[i]) && follows(numbers[j-1], numbers[j]) {
			j++
		}
		part := numbers[i]
		if j > i+1 {
			part = fmt.Sprintf("%s-%s", numbers[i], numbers[j-1])
		}
		parts = append(parts, part)
		i = j
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func follows(a, b string) bool {
	n, err1 := strconv.ParseUint(a, 10, 64)
	m, err2 := strconv.ParseUint(b, 10, 64)
	return err1 == nil && err2 == nil && n+1 == m
}

// counted folds names, and tells how many they are.
func counted(names []string) string {
	short := make([]string, len(names))
	for i, name := range names {
		short[i] = strings.TrimSuffix(name, ":")
	}
	return fmt.Sprintf("%s (%d)", fold(short), len(names))
}
