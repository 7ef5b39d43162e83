package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Indent is what stands before each further line of a Text.
const Indent = "    "

// Line gives s as one line of visible characters.
func Line(s string) string { return escape(s, keepNothing) }

// Short cuts a text for a message to 60 bytes at most. It escapes nothing.
func Short(s string) string {
	if len(s) <= 60 {
		return s
	}
	return head(s, 57) + "..."
}

// Cut shortens a text to n bytes, and says how many more there were. It escapes nothing.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	begin := head(s, n)
	return begin + "... (" + strconv.Itoa(len(s)-len(begin)) + " bytes more)"
}

// head gives the first n bytes of a text that is longer, or a few less if a character ends behind them.
func head(s string, n int) string {
	k := n
	for k > 0 && k > n-utf8.UTFMax && !utf8.RuneStart(s[k]) {
		k--
	}
	return s[:k]
}

func keepNothing(*strings.Builder, string, rune) int { return 0 }

// Text gives s with its lines, those after the first indented. Newlines at its end are dropped; a carriage return
// before a newline belongs to it. Tabs stay.
func Text(s string) string { return lines(s, "\n"+Indent) }

// Lines is Text without the indentation.
func Lines(s string) string { return lines(s, "\n") }

func lines(s, newline string) string {
	return escape(strings.TrimRight(s, "\r\n"), func(b *strings.Builder, rest string, r rune) int {
		switch {
		case r == '\t':
			b.WriteByte('\t')
			return 1
		case r == '\n':
			b.WriteString(newline)
			return 1
		case strings.HasPrefix(rest, "\r\n"):
			b.WriteString(newline)
			return 2
		}
		return 0
	})
}

// Colored gives a line that a program printed, without its end: tabs and the sequences that set colours stay, and
// colours end with the line.
func Colored(s string) string {
	colored := false
	out := escape(s, func(b *strings.Builder, rest string, r rune) int {
		if r == '\t' {
			b.WriteByte('\t')
			return 1
		}
		n := colorLength(rest)
		if n > 0 {
			b.WriteString(rest[:n])
			colored = true
		}
		return n
	})
	if colored {
		out += "\x1b[0m"
	}
	return out
}

// colorLength gives the length of the sequence ESC [ numbers m at the start of s, or 0.
func colorLength(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case (c < '0' || c > '9') && c != ';' && c != ':':
			return 0
		}
	}
	return 0
}

// escape writes what cannot be shown as an escape, unless keep writes it and gives its length.
func escape(s string, keep func(b *strings.Builder, rest string, r rune) int) string {
	i := firstHidden(s)
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for {
		b.WriteString(s[:i])
		if s = s[i:]; s == "" {
			return b.String()
		}
		r, size := utf8.DecodeRuneInString(s)
		switch n := keep(&b, s, r); {
		case n > 0:
			size = n
		case r == utf8.RuneError && size == 1:
			writeHex(&b, `\x`, rune(s[0]), 2)
		default:
			writeRune(&b, r)
		}
		s = s[size:]
		i = firstHidden(s)
	}
}

// firstHidden gives where s has its first byte that is not shown as it is, or its length.
func firstHidden(s string) int {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7f {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !visible(r) {
			return i
		}
		i += size
	}
	return len(s)
}

// visible tells whether a character shows itself and does nothing else: letters, marks, numbers, punctuation,
// symbols, spaces and joiners. Controls, marks of direction, separators of lines and paragraphs, tags and what is not
// assigned are not.
func visible(r rune) bool { return unicode.IsGraphic(r) || r == '\u200c' || r == '\u200d' }

func writeRune(b *strings.Builder, r rune) {
	switch {
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < utf8.RuneSelf:
		writeHex(b, `\x`, r, 2)
	case r <= 0xffff:
		writeHex(b, `\u`, r, 4)
	default:
		writeHex(b, `\U`, r, 8)
	}
}

func writeHex(b *strings.Builder, prefix string, r rune, width int) {
	digits := strconv.FormatInt(int64(r), 16)
	b.WriteString(prefix + strings.Repeat("0", width-len(digits)) + digits)
}

// JSON gives JSON text that means the same and has only visible characters in its strings. Outside of strings JSON
// has spaces and newlines, which stay. It is data itself where there is nothing to do.
func JSON(data []byte) []byte {
	i := firstNotJSON(data)
	if i == len(data) {
		return data
	}
	var b strings.Builder
	b.Grow(len(data) + 16)
	for {
		b.Write(data[:i])
		if data = data[i:]; len(data) == 0 {
			return []byte(b.String())
		}
		r, size := utf8.DecodeRune(data)
		if r > 0xffff {
			high, low := utf16Pair(r)
			writeHex(&b, `\u`, high, 4)
			r = low
		}
		writeHex(&b, `\u`, r, 4)
		data = data[size:]
		i = firstNotJSON(data)
	}
}

func firstNotJSON(data []byte) int {
	for i := 0; i < len(data); {
		if c := data[i]; c < utf8.RuneSelf {
			if c == 0x7f {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || !visible(r) {
			return i
		}
		i += size
	}
	return len(data)
}

// utf16Pair gives the surrogates of a character beyond U+FFFF.
func utf16Pair(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}
