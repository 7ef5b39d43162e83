package pyproto

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

const (
	// arenaSize is the memory that short strings share; up to a quarter of it is short.
	arenaSize = 1024
	// maxDecimal bounds the digits of an integer in decimal: parsing takes more than linear time.
	maxDecimal = 1 << 16
)

// long is LONG1 and LONG4.
func (d *decoder) long(op byte) error {
	width := 1
	if op == opLong4 {
		width = 4
	}
	from, n, err := d.sizedBy(width)
	if err != nil {
		return err
	}
	if b := d.data[from : from+n]; n <= 8 {
		d.push(kindInt, uint64(shortLong(b)))
	} else {
		d.value(parseLong(b), 1, 0)
	}
	return nil
}

// shortLong reads a two's complement little-endian integer of at most eight bytes.
func shortLong(b []byte) int64 {
	var n uint64
	for i, c := range b {
		n |= uint64(c) << (8 * i)
	}
	shift := 64 - 8*uint(len(b))
	return int64(n<<shift) >> shift
}

// parseLong reads a longer one.
func parseLong(b []byte) any {
	be := slices.Clone(b)
	slices.Reverse(be)
	n := new(big.Int).SetBytes(be)
	if be[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

// text gives n bytes from there on as a string.
func (d *decoder) text(from, n int) (any, error) {
	b := d.data[from : from+n]
	if !isASCII(b) && !ValidText(b) {
		return nil, d.errorf("the text at byte %d is no UTF-8", from)
	}
	if !d.opts.Alias {
		b = d.copy(b)
	}
	return d.string(unsafe.String(unsafe.SliceData(b), n)), nil
}

// byteString gives n bytes from there on as a []byte.
func (d *decoder) byteString(from, n int) any {
	b := d.data[from : from+n : from+n]
	switch {
	case n == 0:
		return emptyBytes
	case !d.opts.Alias:
		b = d.copy(b)
	}
	return d.slice(b)
}

// copy copies b, to a chunk when it is short. Nobody else writes to those bytes.
func (d *decoder) copy(b []byte) []byte {
	n := len(b)
	if n > arenaSize/4 {
		return append([]byte(nil), b...)
	}
	if n > len(d.arena)-d.used {
		d.arena = make([]byte, max(n, min(arenaSize, len(d.data))))
		d.used = 0
	}
	at := d.used
	d.used += n
	c := d.arena[at:d.used:d.used]
	copy(c, b)
	return c
}

func isASCII(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&highBits != 0 {
			return false
		}
		b = b[8:]
	}
	var or byte
	for _, c := range b {
		or |= c
	}
	return or < 0x80
}

// ValidText reports whether b is UTF-8, or UTF-8 with lone surrogates, as Python writes text that came from file names
// which are no UTF-8.
func ValidText(b []byte) bool {
	for !utf8.Valid(b) {
		i := 0
		for i < len(b) {
			if b[i] < utf8.RuneSelf {
				i++
				continue
			}
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				break
			}
			i += n
		}
		if len(b)-i < 3 || b[i] != 0xed || b[i+1]&0xe0 != 0xa0 || b[i+2]&0xc0 != 0x80 {
			return false
		}
		b = b[i+3:]
	}
	return true
}

// nextLine gives the text up to the next newline and steps over it.
func (d *decoder) nextLine() ([]byte, error) {
	n := bytes.IndexByte(d.data[d.pos:], '\n')
	if n < 0 {
		return nil, d.truncated()
	}
	line := d.data[d.pos : d.pos+n]
	d.pos += n + 1
	return line, nil
}

// line does the opcodes of protocol 0, whose argument is a line of text.
func (d *decoder) line(op byte) error {
	line, err := d.nextLine()
	if err != nil {
		return err
	}
	switch op {
	case opInt, opLong:
		v, ok := parseDecimal(string(line), op == opInt)
		if !ok {
			return d.errorf("%q is no integer", clip(line))
		}
		if n, ok := v.(int64); ok {
			d.push(kindInt, uint64(n))
		} else {
			d.value(v, 1, 0)
		}
	case opFloat:
		f, err := strconv.ParseFloat(string(line), 64)
		if err != nil && !math.IsInf(f, 0) {
			return d.errorf("%q is no float", clip(line))
		}
		d.push(kindFloat, math.Float64bits(f))
	case opString:
		b, ok := unquote(line)
		if !ok {
			return d.errorf("bad quoted string")
		}
		d.value(b, 1, 0)
	case opUnicode:
		s, ok := rawUnicode(line)
		if !ok {
			return d.errorf("bad escaped text")
		}
		d.value(s, 1, 0)
	case opPut, opGet:
		n, err := strconv.ParseUint(string(line), 10, 32)
		if err != nil {
			return d.errorf("%q is no memo number", clip(line))
		}
		if op == opGet {
			return d.get(uint(n))
		}
		return d.put(uint(n))
	}
	return nil
}

// parseDecimal reads the argument of INT, where 00 and 01 stand for False and True, or of LONG with its trailing L.
func parseDecimal(s string, isInt bool) (any, bool) {
	if isInt && (s == "00" || s == "01") {
		return s == "01", true
	}
	if !isInt {
		s = strings.TrimSuffix(s, "L")
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	if len(s) > maxDecimal || strings.Contains(s, "_") {
		return nil, false
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, false
	}
	return n, true
}

// unquote reads the repr of a Python 2 string.
func unquote(s []byte) ([]byte, bool) {
	s = bytes.TrimRight(s, " \t\r")
	if len(s) < 2 || s[0] != '\'' && s[0] != '"' || s[len(s)-1] != s[0] {
		return nil, false
	}
	s = s[1 : len(s)-1]
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, false
		}
		switch c := s[i]; c {
		case '\\', '\'', '"':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'a', 'b', 'f', 'v':
			out = append(out, map[byte]byte{'a': 7, 'b': 8, 'f': 12, 'v': 11}[c])
		case 'x':
			n, ok := hexDigits(s[i+1:], 2)
			if !ok {
				return nil, false
			}
			out = append(out, byte(n))
			i += 2
		case '0', '1', '2', '3', '4', '5', '6', '7':
			n := 0
			for j := 0; j < 3 && i < len(s) && s[i] >= '0' && s[i] <= '7'; j++ {
				n = n*8 + int(s[i]-'0')
				i++
			}
			i--
			out = append(out, byte(n))
		default:
			out = append(out, '\\', c)
		}
	}
	return out, true
}

// rawUnicode reads Python's raw-unicode-escape: latin1 with \u and \U escapes. Pairs of surrogates, as Python 2 writes
// characters beyond 16 bits, are joined.
func rawUnicode(s []byte) (string, bool) {
	out := make([]byte, 0, len(s))
	var pending rune
	flush := func() {
		if pending != 0 {
			out = appendRune(out, pending)
			pending = 0
		}
	}
	for i := 0; i < len(s); i++ {
		r, digits := rune(s[i]), 0
		if r == '\\' && i+1 < len(s) {
			switch s[i+1] {
			case 'u':
				digits = 4
			case 'U':
				digits = 8
			}
		}
		if digits > 0 {
			n, ok := hexDigits(s[i+2:], digits)
			if !ok || n > utf8.MaxRune {
				return "", false
			}
			r = rune(n)
			i += 1 + digits
		}
		if pending != 0 {
			if joined := utf16.DecodeRune(pending, r); joined != utf8.RuneError {
				out = utf8.AppendRune(out, joined)
				pending = 0
				continue
			}
		}
		flush()
		if r >= 0xd800 && r < 0xdc00 {
			pending = r
			continue
		}
		out = appendRune(out, r)
	}
	flush()
	return string(out), true
}

// appendRune is utf8.AppendRune that also takes a surrogate.
func appendRune(b []byte, r rune) []byte {
	if utf16.IsSurrogate(r) {
		return append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
	}
	return utf8.AppendRune(b, r)
}

func hexDigits(s []byte, n int) (uint32, bool) {
	if len(s) < n {
		return 0, false
	}
	v, err := strconv.ParseUint(string(s[:n]), 16, 32)
	return uint32(v), err == nil
}

// clip shortens input for an error message.
func clip(b []byte) []byte { return b[:min(len(b), 40)] }

// quoteBytes makes a name from the wire fit for an error message.
func quoteBytes(b []byte) string {
	b = b[:min(len(b), 100)]
	if !utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.QuoteToASCII(string(b))
	}
	return string(b)
}
