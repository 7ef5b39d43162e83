package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// These bound one message. They are far above the needs of any call, and keep what a peer can make us allocate to a
// small multiple of what it has sent.
const (
	// DefaultMaxMessage is the largest message, in bytes: the largest value that a child takes, and room for what is
	// around it.
	DefaultMaxMessage = 128<<20 + 64<<10
	// MaxDepth is how deep arrays and maps may be nested.
	MaxDepth = 200
	// MaxValues is how many values, nested ones included, one message may have.
	MaxValues = 4 << 20
)

// ErrBadMessage is a message that breaks the format or a bound. The stream cannot be used after it.
var ErrBadMessage = errors.New("wire: bad message")

// Reader cuts a byte stream into messages. Its memory grows with what has arrived, whatever lengths the peer claims.
type Reader struct {
	br  *bufio.Reader
	max int

	buf    []byte
	last   int // the size of the last message
	values int
	// From the first step on, the message's memory is counted there; nil counts nowhere.
	begin   func() Part
	part    Part
	charged int
	open    []uint64 // values still missing in each open array or map, outermost first
}

// NewReader makes a reader of messages of at most max bytes; 0 means DefaultMaxMessage.
func NewReader(r io.Reader, max int) *Reader {
	if max <= 0 {
		max = DefaultMaxMessage
	}
	return &Reader{br: bufio.NewReaderSize(r, 16<<10), max: max}
}

// Part is where the memory of one message that comes in part is counted: a *daemon.Part.
type Part interface {
	Grow(n int) error
	Came(n int)
	Done()
}

// Count has the memory of messages that come in part be counted, each from begin on.
func (r *Reader) Count(begin func() Part) { r.begin = begin }

// charge counts what the message takes by now.
func (r *Reader) charge() error {
	if r.begin == nil || cap(r.buf)-r.charged < step {
		return nil
	}
	if r.part == nil {
		r.part = r.begin()
	}
	n := cap(r.buf) - r.charged
	r.charged += n
	return r.part.Grow(n)
}

// step is how much of a string is read at once. What was read before has been counted.
const step = 1 << 20

// small is enough room for what is around a message's data.
const small = 64

// Next gives the bytes of one message. They are the caller's. io.EOF is an end between messages, io.ErrUnexpectedEOF
// an end in one. After an error that wraps ErrBadMessage, Partial has what was read of the message.
func (r *Reader) Next() ([]byte, error) {
	r.buf, r.values, r.open, r.charged = nil, 0, r.open[:0], 0
	defer func() {
		if r.part != nil {
			r.part.Done()
			r.part = nil
		}
	}()
	if _, err := r.br.Peek(1); err != nil {
		return nil, err
	}
	for first := true; first || len(r.open) > 0; first = false {
		if err := r.value(first); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		for n := len(r.open); n > 0 && r.open[n-1] == 0; n = len(r.open) {
			r.open = r.open[:n-1]
		}
	}
	r.last = len(r.buf)
	if cap(r.buf) > max(2*r.last, minReused) {
		// Whoever keeps what is in it is not to keep that.
		large := r.buf
		r.buf = bytes.Clone(large)
		Reuse(large)
	}
	return r.buf, nil
}

// Partial is the beginning of a bad message.
func (r *Reader) Partial() []byte { return r.buf }

// Buffered is how many bytes have been read ahead.
func (r *Reader) Buffered() int { return r.br.Buffered() }

// value reads one value's head, and its bytes unless it is an array or map, whose values follow.
func (r *Reader) value(first bool) error {
	if n := len(r.open); n > 0 {
		r.open[n-1]--
	}
	if r.values++; r.values > MaxValues {
		return fmt.Errorf("%w: more than %d values", ErrBadMessage, MaxValues)
	}
	tag, err := r.br.ReadByte()
	if err != nil {
		return err
	}
	r.buf = append(r.buf, tag)
	if err := r.charge(); err != nil {
		return err
	}
	f := formatOf(tag)
	if first && f.kind != array {
		return fmt.Errorf("%w: it begins with byte 0x%02x, not with an array", ErrBadMessage, tag)
	}
	n := f.n
	if f.size > 0 {
		if n, err = r.length(f.size); err != nil {
			return err
		}
		n += f.n
	}
	switch f.kind {
	case bad:
		return fmt.Errorf("%w: byte 0x%02x is in no format", ErrBadMessage, tag)
	case array:
		if first && (n < 3 || n > 4) {
			return fmt.Errorf("%w: an array of %d values", ErrBadMessage, n)
		}
		return r.push(n)
	case mapping:
		return r.push(2 * n)
	}
	return r.bytes(n)
}

// length reads a big-endian count of 1, 2 or 4 bytes.
func (r *Reader) length(size int) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r.br, b[8-size:]); err != nil {
		return 0, err
	}
	r.buf = append(r.buf, b[8-size:]...)
	return binary.BigEndian.Uint64(b[:]), nil
}

func (r *Reader) push(n uint64) error {
	if len(r.open) == MaxDepth {
		return fmt.Errorf("%w: nested deeper than %d", ErrBadMessage, MaxDepth)
	}
	if n > uint64(r.max) {
		return fmt.Errorf("%w: an array or map of %d values", ErrBadMessage, n)
	}
	r.open = append(r.open, n)
	return nil
}

func (r *Reader) bytes(n uint64) error {
	if uint64(len(r.buf))+n > uint64(r.max) {
		return fmt.Errorf("%w: larger than the %d bytes that max_message allows", ErrBadMessage, r.max)
	}
	for n > 0 {
		k := int(min(n, step))
		at := len(r.buf)
		if cap(r.buf)-at < k {
			// Twice what has arrived, or one step more: what follows a long string is often short.
			size := max(2*at, at+k+small)
			var grown []byte
			if r.begin == nil && k >= minReused {
				grown = room(max(size, min(r.last+small, step))) // it may be output, which comes in messages of one size
			} else {
				grown = make([]byte, 0, size)
			}
			old := r.buf
			r.buf = append(grown, old...)
			Reuse(old)
			if err := r.charge(); err != nil {
				return err
			}
		}
		r.buf = r.buf[:at+k]
		if _, err := io.ReadFull(r.br, r.buf[at:]); err != nil {
			return err
		}
		n -= uint64(k)
		if r.part != nil {
			r.part.Came(k)
		}
	}
	return nil
}

// kind tells what follows a format byte.
type kind uint8

const (
	plain kind = iota // bytes
	array
	mapping
	bad
)

// format is what the first byte of a value says: size bytes hold a count, which n is added to.
type format struct {
	kind kind
	size int
	n    uint64
}

// formatOf is the table of https://github.com/msgpack/msgpack/blob/master/spec.md#formats.
func formatOf(tag byte) format {
	switch {
	case tag <= 0x7f, tag >= 0xe0: // small integers
		return format{}
	case tag <= 0x8f:
		return format{kind: mapping, n: uint64(tag & 0x0f)}
	case tag <= 0x9f:
		return format{kind: array, n: uint64(tag & 0x0f)}
	case tag <= 0xbf: // short text
		return format{n: uint64(tag & 0x1f)}
	}
	switch tag {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return format{}
	case 0xc4, 0xd9: // bin 8, str 8
		return format{size: 1}
	case 0xc5, 0xda:
		return format{size: 2}
	case 0xc6, 0xdb:
		return format{size: 4}
	case 0xc7: // ext 8 to 32: the length, one byte of type, then the data
		return format{size: 1, n: 1}
	case 0xc8:
		return format{size: 2, n: 1}
	case 0xc9:
		return format{size: 4, n: 1}
	case 0xcc, 0xd0: // uint 8, int 8
		return format{n: 1}
	case 0xcd, 0xd1:
		return format{n: 2}
	case 0xca, 0xce, 0xd2: // float 32 as well
		return format{n: 4}
	case 0xcb, 0xcf, 0xd3:
		return format{n: 8}
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // fixext 1 to 16
		return format{n: 1 + 1<<(tag-0xd4)}
	case 0xdc:
		return format{kind: array, size: 2}
	case 0xdd:
		return format{kind: array, size: 4}
	case 0xde:
		return format{kind: mapping, size: 2}
	case 0xdf:
		return format{kind: mapping, size: 4}
	}
	return format{kind: bad}
}
