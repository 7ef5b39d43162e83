package python

import "strings"

// Strip removes comments, docstrings and all but one blank of each level of indentation from Python source of others,
// line for line. The source is compiled faster then, and tracebacks stay true. Source that Strip cannot read comes
// back as it is.
func Strip(source string) string {
	s := stripper{src: source, line: 1}
	if strings.Contains(source, "\r") {
		return source
	}
	for s.pos < len(s.src) {
		if !s.logical() {
			return source
		}
	}
	s.endDoc(0)
	return s.out.String()
}

// stripper goes through source by logical lines, as Python's grammar has them.
type stripper struct {
	src  string
	pos  int
	line int // of pos, from 1
	out  strings.Builder

	levels []int // columns of the open blocks
	doc    int   // newlines of a string that is a statement and was left out, and what follows it; 0 for none
}

// endDoc writes what stands in place of a string that was left out, when the level of what follows is known.
func (s *stripper) endDoc(level int) {
	if s.doc == 0 {
		return
	}
	if have := len(s.levels); level < have {
		s.out.WriteString(strings.Repeat(" ", have) + "pass") // nothing else may be in that block
	}
	s.out.WriteString(strings.Repeat("\n", s.doc))
	s.doc = 0
}

// newline ends a physical line.
func (s *stripper) newline() {
	s.pos++
	s.line++
	if s.doc > 0 {
		s.doc++
		return
	}
	s.out.WriteByte('\n')
}

// logical reads one logical line, or a physical one without a statement.
func (s *stripper) logical() bool {
	column := 0
	for s.pos < len(s.src) && s.src[s.pos] == ' ' {
		s.pos, column = s.pos+1, column+1
	}
	if s.pos == len(s.src) {
		return true
	}
	switch s.src[s.pos] {
	case '\n':
		s.newline()
		return true
	case '#':
		text := s.comment()
		if s.line > 2 {
			return true
		}
		s.out.WriteString(text) // it may name the encoding
		return s.doc == 0
	case '\t', '\f', '\\':
		return false
	}
	level := 0
	for level < len(s.levels) && s.levels[level] <= column {
		level++
	}
	at := 0
	if level > 0 {
		at = s.levels[level-1]
	}
	if at < column { // a block begins
		if level < len(s.levels) {
			return false
		}
		s.levels = append(s.levels, column)
		level++
	}
	s.endDoc(level)
	s.levels = s.levels[:level]
	text, onlyString, ok := s.statement()
	if !ok {
		return false
	}
	if onlyString {
		s.doc = strings.Count(text, "\n") + 1
		s.pos, s.line = s.pos+1, s.line+1
		return true
	}
	s.out.WriteString(strings.Repeat(" ", level) + text)
	if s.pos < len(s.src) {
		s.newline()
	}
	return true
}

// comment goes to the end of a comment, and gives it.
func (s *stripper) comment() string {
	text, _, _ := strings.Cut(s.src[s.pos:], "\n")
	s.pos += len(text)
	return text
}

// statement reads to the newline that ends the logical line, and leaves pos there.
func (s *stripper) statement() (text string, onlyString, ok bool) {
	var out []byte
	trim := func() {
		for len(out) > 0 && out[len(out)-1] == ' ' {
			out = out[:len(out)-1]
		}
	}
	open := 0
	onlyString = true
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		switch {
		case c == '\n':
			trim()
			if open == 0 {
				return string(out), onlyString, true
			}
			out = append(out, c)
			s.line++
			for s.pos++; s.pos < len(s.src) && s.src[s.pos] == ' '; s.pos++ {
			}
			continue
		case c == '#':
			if s.line <= 2 {
				return "", false, false
			}
			s.comment()
			trim()
			continue
		case c == '\t' || c == '\f':
			return "", false, false
		case c == '\\':
			if !strings.HasPrefix(s.src[s.pos+1:], "\n") {
				return "", false, false
			}
			out = append(out, '\\', '\n')
			s.pos, s.line = s.pos+2, s.line+1
			continue
		case c == '\'' || c == '"':
			end := stringEnd(s.src, s.pos)
			if end < 0 {
				return "", false, false
			}
			out = append(out, s.src[s.pos:end]...)
			s.line += strings.Count(s.src[s.pos:end], "\n")
			s.pos = end
			continue
		case isName(c) || c >= 0x80:
			start := s.pos
			for s.pos < len(s.src) && (isName(s.src[s.pos]) || s.src[s.pos] >= 0x80) {
				s.pos++
			}
			word := s.src[start:s.pos]
			out = append(out, word...)
			if s.pos < len(s.src) && (s.src[s.pos] == '\'' || s.src[s.pos] == '"') {
				switch strings.ToLower(word) {
				case "r", "u", "ur":
					continue
				}
				if len(word) < 3 && strings.ContainsAny(word, "fFtT") {
					return "", false, false // quotes may stand in it
				}
			}
			onlyString = false
			continue
		case c == '(' || c == '[' || c == '{':
			open++
		case c == ')' || c == ']' || c == '}':
			open--
		}
		if c != ' ' {
			onlyString = false
		}
		out = append(out, c)
		s.pos++
	}
	trim()
	return string(out), false, open == 0
}

// stringEnd gives the place behind the string that begins at a quote; -1 where there is none.
func stringEnd(src string, pos int) int {
	quote := src[pos : pos+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(src[pos:], triple) {
		quote = triple
	}
	for i := pos + len(quote); i < len(src); i++ {
		switch {
		case src[i] == '\\':
			i++
		case strings.HasPrefix(src[i:], quote):
			return i + len(quote)
		case src[i] == '\n' && len(quote) == 1:
			return -1
		}
	}
	return -1
}
