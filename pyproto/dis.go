package pyproto

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// disText bounds how much of a string is shown, in bytes.
const disText = 60

// Disassemble lists the opcodes of the pickles in data, one to a line: offset, name, argument. It is for tests and
// traces, and takes any input; the last line is what cannot be read. The values of Secrets are masked, others are cut
// when they are long.
func Disassemble(data []byte) string {
	var b strings.Builder
	d := disassembler{data: data, out: &b}
	d.run()
	return b.String()
}

type disassembler struct {
	data   []byte
	pos    int
	out    *strings.Builder
	secret bool // the next text belongs to a Secret
	// texts are the last two texts, which is how STACK_GLOBAL names a global.
	texts [2]string
}

func (d *disassembler) run() {
	for d.pos < len(d.data) {
		at := d.pos
		op := d.data[at]
		d.pos++
		info := &opTable[op]
		if info.name == "" {
			fmt.Fprintf(d.out, "%5d: %#02x is no opcode\n", at, op)
			return
		}
		arg, ok := d.arg(op, info.arg)
		if !ok {
			fmt.Fprintf(d.out, "%5d: %s, cut off\n", at, info.name)
			return
		}
		fmt.Fprintf(d.out, "%5d: %s%s\n", at, info.name, arg)
	}
}

// arg reads an argument and gives it with a leading space, or nothing when there is none.
func (d *disassembler) arg(op byte, kind argKind) (string, bool) {
	switch kind {
	case argNone:
		if op == opStackGlobal {
			d.secret = d.texts == [2]string{coreModule, "Secret"}
			return " " + d.texts[0] + " " + d.texts[1], true
		}
		if op == opReduce {
			d.secret = false
		}
		return "", true
	case argLine, argTwoLine:
		return d.line(op, kind)
	case argData8, argData32, argData64:
		return d.counted(op, kind)
	}
	width := map[argKind]int{argU8: 1, argU16: 2, argI32: 4, argU32: 4, argU64: 8, argF64: 8}[kind]
	if len(d.data)-d.pos < width {
		return "", false
	}
	b := d.data[d.pos:]
	d.pos += width
	switch kind {
	case argU8:
		return fmt.Sprintf(" %d", b[0]), true
	case argU16:
		return fmt.Sprintf(" %d", binary.LittleEndian.Uint16(b)), true
	case argI32:
		return fmt.Sprintf(" %d", int32(binary.LittleEndian.Uint32(b))), true
	case argU32:
		return fmt.Sprintf(" %d", binary.LittleEndian.Uint32(b)), true
	case argU64:
		return fmt.Sprintf(" %d", binary.LittleEndian.Uint64(b)), true
	}
	return fmt.Sprintf(" %v", math.Float64frombits(binary.BigEndian.Uint64(b))), true
}

func (d *disassembler) line(op byte, kind argKind) (string, bool) {
	first, ok := d.nextLine()
	if !ok {
		return "", false
	}
	if kind == argTwoLine {
		second, ok := d.nextLine()
		if !ok {
			return "", false
		}
		d.secret = first == coreModule && second == "Secret"
		return fmt.Sprintf(" %s %s", quoteBytes([]byte(first)), quoteBytes([]byte(second))), true
	}
	if op == opUnicode || op == opString {
		return " " + d.show([]byte(first), false), true
	}
	return " " + quoteBytes([]byte(first)), true
}

func (d *disassembler) nextLine() (string, bool) {
	line, _, ok := strings.Cut(string(d.data[d.pos:min(len(d.data), d.pos+maxDecimal)]), "\n")
	d.pos += len(line) + 1
	return line, ok
}

func (d *disassembler) counted(op byte, kind argKind) (string, bool) {
	width := map[argKind]int{argData8: 1, argData32: 4, argData64: 8}[kind]
	if len(d.data)-d.pos < width {
		return "", false
	}
	var size [8]byte
	copy(size[:], d.data[d.pos:d.pos+width])
	n := binary.LittleEndian.Uint64(size[:])
	d.pos += width
	if n > uint64(len(d.data)-d.pos) {
		return "", false
	}
	b := d.data[d.pos : d.pos+int(n)]
	d.pos += int(n)
	switch op {
	case opLong1, opLong4:
		if len(b) <= 8 {
			return fmt.Sprintf(" %d", shortLong(b)), true
		}
		return fmt.Sprintf(" %d bytes", len(b)), true
	case opBinUnicode, opShortBinUnicode, opBinUnicode8:
		if len(b) <= disText {
			d.texts[0], d.texts[1] = d.texts[1], string(b)
		}
		return " " + d.show(b, true), true
	}
	return " " + d.show(b, false), true
}

// show quotes a string.
func (d *disassembler) show(b []byte, isText bool) string {
	if d.secret {
		return secretMask
	}
	prefix := ""
	if !isText {
		prefix = "b"
	}
	if len(b) <= disText {
		return fmt.Sprintf("%s%q", prefix, b)
	}
	cut := b[:disText]
	for isText && len(cut) > 0 && !utf8.Valid(cut) {
		cut = cut[:len(cut)-1]
	}
	return fmt.Sprintf("%s%q... %d bytes", prefix, cut, len(b))
}

// String describes a header in one line.
func (h Header) String() string {
	s := fmt.Sprintf("%v %d->%d auth %d %v", h.Enc, h.Src, h.Dst, h.Auth, h.Handle)
	switch h.ReplyTo {
	case 0:
	case IsDead:
		s += " dead"
	default:
		s += fmt.Sprintf(" reply_to %v", h.ReplyTo)
	}
	return fmt.Sprintf("%s, %d bytes", s, h.Length)
}
