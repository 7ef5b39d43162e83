package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/itchyny/gojq"

	"mitogend/pyproto/printable"
)

// where is an expression over facts that selects targets.
type where struct {
	text  string
	names []string // the facts that it looks at
	code  *gojq.Code
}

var word = regexp.MustCompile(`[A-Za-z_][A-Za-z_0-9]*`)

// newWhere reads an expression in jq's language. Names of facts stand for their values. It gives nil if there is none.
func newWhere(text string) (*where, error) {
	if text == "" {
		return nil, nil
	}
	w := &where{text: text}
	var defs strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&defs, "def %s: $facts.%s;\n", f.name, f.name)
		if slices.Contains(word.FindAllString(text, -1), f.name) {
			w.names = append(w.names, f.name)
		}
	}
	// The text is read by itself first, so that an error is about what the user has written.
	query, err := gojq.Parse(text)
	if err == nil {
		query, err = gojq.Parse(". as $facts | " + defs.String() + "(" + hideLone(text) + "\n)")
	}
	if err == nil {
		w.code, err = gojq.Compile(query)
	}
	switch {
	case err != nil:
		return nil, usagef("--where %s: %w; mitogend facts --help lists the facts", text, err)
	case len(w.names) == 0:
		return nil, usagef("--where %s: it looks at no fact, as in --where 'memory > 8e9'; mitogend facts --help lists them", text)
	}
	return w, nil
}

// holds asks the target, and tells whether the expression is true for it.
func (w *where) holds(ctx context.Context, j *job) (bool, error) {
	text, err := askFacts(ctx, j, w.names)
	if err != nil {
		return false, err
	}
	v, err := decodeMarked(text)
	if err != nil {
		return false, err
	}
	return w.judge(ctx, v)
}

// judge tells whether the expression is true for these facts.
func (w *where) judge(ctx context.Context, facts any) (bool, error) {
	it := w.code.RunWithContext(ctx, facts)
	got, ok := it.Next()
	if err, isErr := got.(error); isErr {
		return false, fmt.Errorf("--where %s: %w", w.text, err)
	}
	if _, more := it.Next(); more {
		return false, fmt.Errorf("--where %s: it gives several values, and one is wanted: any(...) or all(...) makes one of them", w.text)
	}
	yes, isBool := got.(bool)
	if !ok || !isBool {
		gives := "nothing"
		if ok {
			gives = printable.Line(fmt.Sprint(got))
		}
		return false, fmt.Errorf("--where %s: it gives %s, not true or false", w.text, gives)
	}
	return yes, nil
}
