package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"mitogend/pyproto"
)

// Convert says what a child converts for a call: arguments, and the result. docs/cli.md has the types.
type Convert uint8

const (
	// ConvertResult makes the result of plain values: dates, named tuples, sets, paths and more. A coroutine is
	// awaited, a generator becomes a list.
	ConvertResult Convert = 1 << iota
	// ConvertRepr gives the repr() of the result.
	ConvertRepr
	// ConvertArgs reads {"$datetime": text} and the like in arguments.
	ConvertArgs
	// ConvertLines, with ConvertResult, gives a dict {"$lines": number} for a generator. The function
	// mitogen.plain:more takes the number and how many bytes there is room for; it gives a list of values and whether
	// more may come. mitogen.plain:end ends it.
	ConvertLines
)

// convertWords are the words of the socket's clients, with the letters of plain.py.
var convertWords = []struct{ word, letter string }{{"result", "p"}, {"repr", "r"}, {"args", "a"}, {"lines", "l"}}

// Words gives the words for it.
func (o Convert) Words() (words []string) {
	for i, w := range convertWords {
		if o&(1<<i) != 0 {
			words = append(words, w.word)
		}
	}
	return words
}

// ParseConvert reads Words.
func ParseConvert(words []string) (o Convert, err error) {
	for _, word := range words {
		i := slices.IndexFunc(convertWords, func(w struct{ word, letter string }) bool { return w.word == word })
		if i < 0 {
			return 0, fmt.Errorf("convert is result, repr, args or lines, not %.40q", word)
		}
		o |= 1 << i
	}
	return o, nil
}

// letters are the letters for plain.py.
func (o Convert) letters() string {
	text := ""
	for i, w := range convertWords {
		if o&(1<<i) != 0 {
			text += w.letter
		}
	}
	return text
}

// converted gives a call that calls fn in the child and converts.
func (c *Child) converted(ctx context.Context, o Convert, fn string, args []any) (string, []any, error) {
	if c.runtime != nil {
		if o&^(ConvertResult|ConvertLines) != 0 {
			return "", nil, errorf("%s runs %s, which converts nothing: %w", c.name, c.runtime, ErrRuntime)
		}
		return fn, args, nil
	}
	module, class, function, err := splitFunction(fn)
	if err != nil {
		return "", nil, err
	}
	if err := c.prepare(ctx, "mitogen.plain", module); err != nil {
		return "", nil, err
	}
	args, kwargs := splitKwargs(args)
	return "mitogen.plain:call", []any{o.letters(), module, classOrNone(class), function, kwargs, args}, nil
}

// splitFunction reads MODULE:FUNCTION and MODULE:CLASS.METHOD. In the former class is empty.
func splitFunction(fn string) (module, class, function string, err error) {
	module, name, ok := strings.Cut(fn, ":")
	if !ok || module == "" || name == "" {
		return "", "", "", errorf("%q is not MODULE:FUNCTION", fn)
	}
	if class, method, isMethod := strings.Cut(name, "."); isMethod {
		return module, class, method, nil
	}
	return module, "", name, nil
}

// classOrNone is a class for channel.py and plain.py: None for a function of the module.
func classOrNone(class string) any {
	if class == "" {
		return nil
	}
	return class
}

// splitKwargs takes keyword arguments off the end, if there are any.
func splitKwargs(args []any) ([]any, pyproto.Kwargs) {
	if n := len(args); n > 0 {
		if kwargs, ok := args[n-1].(pyproto.Kwargs); ok {
			return args[: n-1 : n-1], kwargs
		}
	}
	if args == nil {
		args = []any{}
	}
	return args, nil
}

// Lines tells whether a result stands for a generator, and gives the number for mitogen.plain:more.
func Lines(v any) (number int64, ok bool) {
	d, isDict := v.(*pyproto.Dict)
	if !isDict || d.Len() != 1 {
		return 0, false
	}
	key, value := d.At(0)
	number, ok = value.(int64)
	return number, ok && key == "$lines"
}
