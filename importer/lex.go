package importer

import "bytes"

var wordChars = func() (t [256]bool) {
	for c := range t {
		t[c] = c == '_' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	return t
}()

var stopChars = func() (t [256]bool) {
	for _, c := range []byte("\n\r\\#;:()[]{}'\"") {
		t[c] = true
	}
	return t
}()

// peekWord gives the name at the position, without moving. A number is none.
func (s *scanner) peekWord() []byte {
	i := s.pos
	if i < len(s.src) && '0' <= s.src[i] && s.src[i] <= '9' {
		return nil
	}
	for i < len(s.src) && wordChars[s.src[i]] {
		i++
	}
	return s.src[s.pos:i]
}

// space skips blanks and line continuations.
func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == ' ' || c == '\t' || c == '\f':
			s.pos++
		case c == '\\' && s.pos+1 < len(s.src) && (s.src[s.pos+1] == '\n' || s.src[s.pos+1] == '\r'):
			s.pos++
			s.newline()
		default:
			return
		}
	}
}

// newline skips one line end: \n, \r\n or \r.
func (s *scanner) newline() {
	if s.src[s.pos] == '\r' && s.pos+1 < len(s.src) && s.src[s.pos+1] == '\n' {
		s.pos++
	}
	s.pos++
}

// blank skips what may stand between tokens in brackets: blanks, newlines, comments.
func (s *scanner) blank() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\f', '\n', '\r':
			s.pos++
		case '#':
			s.comment()
		case '\\':
			before := s.pos
			if s.space(); s.pos == before {
				return
			}
		default:
			return
		}
	}
}

// comment goes to the end of the line, before the newline.
func (s *scanner) comment() {
	for s.pos < len(s.src) && s.src[s.pos] != '\n' && s.src[s.pos] != '\r' {
		s.pos++
	}
}

// skip goes behind the end of the statement and returns what ended it: ';', or ':' outside brackets, or '\n', which stands for
// the end of the source as well. Calls on the way are looked at, unless they are in code that does not run at import.
func (s *scanner) skip(g *guard) byte {
	depth := 0
	for {
		for s.pos < len(s.src) && !stopChars[s.src[s.pos]] {
			s.pos++
		}
		if s.pos >= len(s.src) {
			return '\n'
		}
		switch c := s.src[s.pos]; c {
		case '\n', '\r':
			s.newline()
			if depth == 0 {
				return '\n'
			}
		case '#':
			s.comment()
		case '\'', '"':
			s.str()
		case '\\':
			s.pos++
			if s.pos < len(s.src) && (s.src[s.pos] == '\n' || s.src[s.pos] == '\r') {
				s.newline()
			}
		case '(':
			if !g.dormant() {
				s.call(g)
			}
			s.pos++
			depth++
		case '[', '{':
			s.pos++
			depth++
		case ')', ']', '}':
			s.pos++
			depth = max(depth-1, 0)
		default: // ';' and ':'
			s.pos++
			if depth == 0 && !(c == ':' && s.pos < len(s.src) && s.src[s.pos] == '=') {
				return c
			}
		}
	}
}

// str skips the string literal whose opening quote is at the position. Its prefix matters only when it makes an f-string (or
// a t-string); a backslash guards a quote in raw strings as well.
func (s *scanner) str() {
	quote := s.src[s.pos]
	if s.formatted() {
		s.fstr()
		return
	}
	if s.triple(quote) {
		s.pos += 3
		for {
			i := bytes.IndexByte(s.src[s.pos:], quote)
			if i < 0 {
				s.pos = len(s.src)
				return
			}
			start := s.pos
			s.pos += i
			slashes := 0
			for p := s.pos - 1; p >= start && s.src[p] == '\\'; p-- {
				slashes++
			}
			if slashes%2 == 0 && s.triple(quote) {
				s.pos += 3
				return
			}
			s.pos++
		}
	}
	for s.pos++; s.pos < len(s.src); s.pos++ {
		switch s.src[s.pos] {
		case quote:
			s.pos++
			return
		case '\\':
			if s.pos++; s.pos+1 < len(s.src) && s.src[s.pos] == '\r' && s.src[s.pos+1] == '\n' {
				s.pos++
			}
		case '\n', '\r': // unterminated: an error in Python too
			return
		}
	}
}

func (s *scanner) triple(quote byte) bool {
	return s.pos+2 < len(s.src) && s.src[s.pos+1] == quote && s.src[s.pos+2] == quote
}

// formatted tells whether the prefix before the quote has an f or a t.
func (s *scanner) formatted() bool {
	found := false
	i := s.pos - 1
	for ; i >= 0 && i >= s.pos-2; i-- {
		switch s.src[i] | 0x20 {
		case 'f', 't':
			found = true
		case 'r', 'b', 'u':
		default:
			return found && !wordChars[s.src[i]]
		}
	}
	return found && (i < 0 || !wordChars[s.src[i]])
}

// maxNesting bounds the recursion of f-strings in f-strings.
const maxNesting = 100

// fstr skips an f-string. From Python 3.12 on a replacement field may have any expression, with quotes of the same kind,
// comments and newlines; older source reads the same way.
func (s *scanner) fstr() {
	if s.nesting >= maxNesting {
		s.pos = len(s.src)
		return
	}
	s.nesting++
	defer func() { s.nesting-- }()
	quote := s.src[s.pos]
	triple := s.triple(quote)
	s.pos++
	if triple {
		s.pos += 2
	}
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; c {
		case quote:
			if !triple {
				s.pos++
				return
			}
			if s.triple(quote) {
				s.pos += 3
				return
			}
			s.pos++
		case '\\':
			if s.pos++; s.pos < len(s.src) && s.src[s.pos] != '{' && s.src[s.pos] != '}' {
				s.pos++
			}
		case '{':
			s.pos++
			if s.pos < len(s.src) && s.src[s.pos] == '{' {
				s.pos++
			} else if !s.field(quote, triple) {
				return
			}
		case '\n', '\r':
			if !triple {
				return
			}
			s.pos++
		default:
			s.pos++
		}
	}
}

// field skips a replacement field behind its brace. It is false when the string ends, as an unterminated one, inside.
func (s *scanner) field(quote byte, triple bool) bool {
	depth := 0
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; c {
		case '\'', '"':
			s.str()
		case '#':
			s.comment()
		case '(', '[', '{':
			depth++
			s.pos++
		case ')', ']', '}':
			s.pos++
			if c == '}' && depth == 0 {
				return true
			}
			depth = max(depth-1, 0)
		case ':':
			s.pos++
			if depth == 0 {
				return s.formatSpec(quote, triple)
			}
		default:
			s.pos++
		}
	}
	return false
}

// formatSpec skips what follows the colon of a replacement field: literal text with fields in it.
func (s *scanner) formatSpec(quote byte, triple bool) bool {
	if s.nesting >= maxNesting {
		s.pos = len(s.src)
		return false
	}
	s.nesting++
	defer func() { s.nesting-- }()
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == '}':
			s.pos++
			return true
		case c == '{':
			s.pos++
			if !s.field(quote, triple) {
				return false
			}
		case c == quote && (!triple || s.triple(quote)):
			return true // unterminated field: the string ends here
		case (c == '\n' || c == '\r') && !triple:
			return false
		default:
			s.pos++
		}
	}
	return false
}

// maskDoubleByte hides the second bytes of characters where the source declares an encoding in which they may look like a
// quote, a bracket or a backslash. For other sources it returns its argument.
func maskDoubleByte(src []byte) []byte {
	head := src[:min(len(src), 400)]
	for range 2 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		if !bytes.HasPrefix(bytes.TrimLeft(line, " \t\f"), []byte("#")) {
			continue
		}
		_, name, ok := bytes.Cut(line, []byte("coding"))
		if !ok {
			continue
		}
		name = bytes.ToLower(bytes.TrimLeft(name, ":= \t"))
		for _, enc := range []string{"big5", "cp932", "cp936", "cp949", "cp950", "gb18030", "gbk", "johab", "ms932", "shift", "sjis", "uhc"} {
			if bytes.HasPrefix(name, []byte(enc)) {
				return maskPairs(src)
			}
		}
	}
	return src
}

func maskPairs(src []byte) []byte {
	out := bytes.Clone(src)
	for i := 0; i < len(out)-1; i++ {
		// 0xa0 to 0xdf are characters of one byte in Shift JIS; hiding a plain byte behind them is harmless, unless it ends a line.
		if out[i] >= 0x81 && out[i+1] >= 0x40 {
			out[i], out[i+1] = 'x', 'x'
			i++
		}
	}
	return out
}
