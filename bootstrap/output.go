package bootstrap

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	keptLines = 40      // of what the program printed, for error messages
	keptBytes = 400     // of each such line
	maxLine   = 8 << 10 // of an unfinished line; its beginning is forgotten first
)

// transcript keeps the last lines that a program printed, from both of its streams.
type transcript struct {
	mu      sync.Mutex
	total   int      // lines so far
	lines   []string // as printed: failure patterns need them so
	secrets []string // masked in what is shown; a shell or terminal may echo what was typed
}

// hide masks an answer that was sent in everything that is shown from now on.
func (t *transcript) hide(s Secret) {
	if s == "" {
		return
	}
	t.mu.Lock()
	t.secrets = append(t.secrets, normalise(string(s)))
	t.mu.Unlock()
}

// add keeps a line, already normalised, and returns it with the secrets masked.
func (t *transcript) add(line string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := strings.TrimSpace(line)
	if kept == "" {
		return line
	}
	if len(kept) > keptBytes {
		cut := beforeSecret(kept, keptBytes, t.secrets)
		for !utf8.RuneStart(kept[cut]) {
			cut--
		}
		kept = kept[:cut] + "..."
	}
	if len(t.lines) == keptLines {
		copy(t.lines, t.lines[1:])
		t.lines = t.lines[:keptLines-1]
	}
	t.total++
	t.lines = append(t.lines, kept)
	return mask(line, t.secrets)
}

// raw gives the lines as they were printed.
func (t *transcript) raw() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// count tells how many lines there have been.
func (t *transcript) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// since gives the last line with the secrets masked, if it is none of the first n.
func (t *transcript) since(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total <= n {
		return ""
	}
	return mask(t.lines[len(t.lines)-1], t.secrets)
}

func maskAll(lines, secrets []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = mask(line, secrets)
	}
	return out
}

func mask(line string, secrets []string) string {
	for _, s := range secrets {
		line = strings.ReplaceAll(line, s, "******")
		// Of lines that are kept, spaces at both ends are gone.
		if s = strings.TrimSpace(s); s != "" {
			line = strings.ReplaceAll(line, s, "******")
		}
	}
	return line
}

// beforeSecret is where to cut a line, so that no half of a secret stays, which would not be masked.
func beforeSecret(line string, cut int, secrets []string) int {
	for _, s := range secrets {
		from := max(0, cut-len(s)+1)
		if i := strings.Index(line[from:], s); s != "" && i >= 0 && from+i < cut {
			cut = from + i
		}
	}
	return cut
}

// lineBuffer holds the unfinished line of one stream.
type lineBuffer struct{ buf []byte }

// take consumes b up to and including the first newline. full tells whether a line is complete; it is then returned without
// its end, and is valid until the next call.
func (l *lineBuffer) take(b []byte) (n int, line []byte, full bool) {
	for i, c := range b {
		if c != '\n' {
			continue
		}
		line = b[:i]
		if len(l.buf) > 0 {
			line = append(l.buf, line...)
			l.buf = l.buf[:0]
		}
		if len(line) > 0 && line[len(line)-1] == '\r' {
			line = line[:len(line)-1]
		}
		return i + 1, line, true
	}
	l.buf = append(l.buf, b...)
	if len(l.buf) > maxLine {
		l.buf = l.buf[:copy(l.buf, l.buf[len(l.buf)-maxLine/2:])]
	}
	return len(b), nil, false
}

// each takes b and passes its complete lines on, normalised.
func (l *lineBuffer) each(b []byte, fn func(string)) {
	for len(b) > 0 {
		n, line, full := l.take(b)
		b = b[n:]
		if full {
			fn(normalise(string(line)))
		}
	}
}

// normalise makes printed text fit for patterns and messages: invalid UTF-8 becomes U+FFFD, every space (a no-break space
// before a colon, a tab) a plain one, and terminal escape sequences and control characters go. The launcher in a child does
// the same.
func normalise(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == 0x1b:
			i += escapeLength(s[i:])
			continue
		case unicode.IsSpace(r):
			if r != '\r' {
				b.WriteByte(' ')
			}
		case !unicode.IsControl(r):
			b.WriteRune(r) // RuneError writes U+FFFD
		}
		i += size
	}
	return b.String()
}

// escapeLength gives the length of the escape sequence at the start of s: CSI (ESC [ parameters final), OSC (ESC ] text BEL or
// ESC \), or ESC and one more character (ECMA-48).
func escapeLength(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']':
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}
