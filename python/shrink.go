package python

import (
	"fmt"
	"strings"
)

// Shrink takes comments, docstrings and blanks out of Python source, cuts each level of four spaces to one, and
// writes S for self, line for line. It reads the dialect of the files here: indentation by four spaces, docstrings in
// triple double quotes, and no triple quoted string that is not a docstring.
func Shrink(source string) string {
	lines := strings.Split(source, "\n")
	out := make([]string, len(lines))
	doc := false   // within a docstring
	continued := 0 // open brackets
	for i, line := range lines {
		text := strings.TrimLeft(line, " ")
		if doc {
			doc = !strings.Contains(text, `"""`)
			continue
		}
		indent := strings.Repeat(" ", (len(line)-len(text)+3)/4)
		if strings.HasPrefix(text, `"""`) {
			doc = !strings.Contains(text[3:], `"""`)
			// A body may consist of its docstring; nothing may stand before a module's __future__ imports.
			if indent != "" {
				out[i] = indent + "0"
			}
			continue
		}
		open := continued > 0
		text, continued = strip(text, continued)
		if open {
			indent = ""
		}
		if text != "" {
			out[i] = indent + text
		}
	}
	for i, line := range out {
		if strings.Trim(line, " ") != "0" {
			continue
		}
		for _, next := range out[i+1:] {
			if next != "" {
				if strings.HasPrefix(next, line[:len(line)-1]) {
					out[i] = "" // the body has more than its docstring
				}
				break
			}
		}
	}
	return strings.Join(out, "\n")
}

// strip cuts a comment, and blanks that mean nothing, off one line, and counts the brackets that it leaves open.
func strip(line string, open int) (string, int) {
	const signs = "=,:()[]{}+-*/%<>!&|^"
	var quote byte
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0:
			if c == '\\' {
				out = append(out, c)
				i++
				c = line[i]
			} else if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '(' || c == '[' || c == '{':
			open++
		case c == ')' || c == ']' || c == '}':
			open--
		case c == '#':
			return strings.TrimRight(string(out), " "), open
		case c == ' ' && i+1 < len(line) && i > 0 &&
			(strings.IndexByte(signs, line[i+1]) >= 0 || strings.IndexByte(signs, line[i-1]) >= 0):
			continue
		}
		out = append(out, c)
		if n := len(out) - len("self"); quote == 0 && n >= 0 && string(out[n:]) == "self" &&
			(n == 0 || !isName(out[n-1])) &&
			(i+1 == len(line) || !isName(line[i+1])) {
			out = append(out[:n], 'S')
		}
	}
	return strings.TrimRight(string(out), " "), open
}

func isName(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// squeeze removes empty lines, for source whose line numbers nobody sees.
func squeeze(source string) string {
	var kept []string
	for _, line := range strings.Split(source, "\n") {
		if line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n") + "\n"
}

// generation blanks the lines that only the other generation of Python needs: those between a comment "# Only 2.x." (or
// 3.x) and the next "# For both.".
func generation(source string, major int) string {
	lines := strings.Split(source, "\n")
	other := fmt.Sprintf("# Only %d.x.", 5-major)
	drop := false
	for i, line := range lines {
		switch strings.TrimSpace(line) {
		case other:
			drop = true
		case "# For both.", fmt.Sprintf("# Only %d.x.", major):
			drop = false
		}
		if drop {
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}
