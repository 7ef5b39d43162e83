package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// File names need not be UTF-8. In Python's text, each byte that is not UTF-8 is a lone surrogate, U+DC80 to U+DCFF
// (surrogateescape). A lone surrogate goes over the wire as three bytes.

// escapeBytes gives a text of the command line as Python has it.
func escapeBytes(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b.WriteString(surrogate(0xdc00 | rune(s[i])))
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// surrogate gives the three bytes of a lone surrogate.
func surrogate(r rune) string {
	return string([]byte{0xed, 0x80 | byte(r>>6)&0x3f, 0x80 | byte(r)&0x3f})
}

// surrogateAt tells whether s begins with a lone surrogate, and which.
func surrogateAt(s string) (rune, bool) {
	if len(s) < 3 || s[0] != 0xed || s[1]&0xe0 != 0xa0 || s[2]&0xc0 != 0x80 {
		return 0, false
	}
	return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), true
}

// eachSurrogate replaces each lone surrogate in s.
func eachSurrogate(s string, replace func(r rune) string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if r, ok := surrogateAt(s[i:]); ok {
			b.WriteString(replace(r))
			i += 3
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// rawText gives the bytes that Python's text stands for.
func rawText(s string) string {
	return eachSurrogate(s, func(r rune) string {
		if r >= 0xdc80 && r <= 0xdcff {
			return string([]byte{byte(r)})
		}
		return surrogate(r)
	})
}

// fileText is a text with names of files in it, in JSON as Python has them.
type fileText string

func (n fileText) MarshalJSON() ([]byte, error) {
	var w jsonWriter
	w.text(escapeBytes(string(n)))
	return w.buf.Bytes(), nil
}

// lone marks a surrogate while JSON is read or written, since Go's JSON cannot keep one. Text hardly ever has it: it
// is no character.
const lone = "\U0010ffff"

// hideLone replaces the escapes of lone surrogates in JSON by marks.
func hideLone(text string) string {
	if !strings.Contains(text, `\u`) || strings.Contains(text, lone) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, ok := unicodeEscape(text[i:])
		switch {
		case ok && r >= 0xd800 && r < 0xdc00:
			if low, ok := unicodeEscape(text[i+6:]); ok && low >= 0xdc00 && low < 0xe000 {
				b.WriteString(text[i : i+12])
				i += 12
				continue
			}
			fallthrough
		case ok && r >= 0xdc00 && r < 0xe000:
			fmt.Fprintf(&b, "%s%04x", lone, r)
			i += 6
		case text[i] == '\\' && i+1 < len(text):
			b.WriteString(text[i : i+2])
			i += 2
		default:
			b.WriteByte(text[i])
			i++
		}
	}
	return b.String()
}

func unicodeEscape(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(n), err == nil
}

// showLone replaces the marks by lone surrogates.
func showLone(s string) string { return replaceLone(s, surrogate) }

// escapeLone replaces the marks in JSON by the escapes of lone surrogates.
func escapeLone(text []byte) []byte {
	if !bytes.Contains(text, []byte(lone)) {
		return text
	}
	return []byte(replaceLone(string(text), func(r rune) string { return fmt.Sprintf(`\u%04x`, r) }))
}

// replaceLone replaces the marks of lone surrogates in a text.
func replaceLone(s string, replace func(r rune) string) string {
	if !strings.Contains(s, lone) {
		return s
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, lone)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n, err := strconv.ParseUint(rest[:min(4, len(rest))], 16, 16)
		if err != nil || n < 0xd800 || n > 0xdfff {
			b.WriteString(lone) // it is no mark
			s = rest
			continue
		}
		b.WriteString(replace(rune(n)))
		s = rest[4:]
	}
}

// decodeMarked decodes JSON for jq. Lone surrogates are marked in it.
func decodeMarked(text []byte) (v any, err error) {
	d := json.NewDecoder(strings.NewReader(hideLone(string(text))))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// textOf gives the text that JSON is, if it is one.
func textOf(data []byte) (string, bool) {
	if len(data) == 0 || data[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal([]byte(hideLone(string(data))), &s)
	return showLone(s), err == nil
}
