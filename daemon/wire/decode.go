package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"

	"mitogend/pyproto"
)

// decoder reads one Python value. The codec's own does not do: a dict's order matters, and its keys need not be text.
type decoder struct {
	data   []byte // what is left
	values int
}

// decode gives the value that data holds. Bytes in it share data's memory.
func decode(data []byte) (any, error) {
	d := decoder{data: data}
	v, err := d.value(0)
	if err == nil && len(d.data) > 0 {
		err = fmt.Errorf("wire: %d bytes too many", len(d.data))
	}
	return v, err
}

var errShort = errors.New("wire: the value ends early")

// take cuts off the next n bytes.
func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.data)) {
		return nil, errShort
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b, nil
}

// head reads a value's first byte and its count: of the bytes that follow, or of the values in an array or map.
func (d *decoder) head() (f format, n uint64, err error) {
	b, err := d.take(1)
	if err != nil {
		return f, 0, err
	}
	f = formatOf(b[0])
	n = f.n
	if f.size > 0 {
		if b, err = d.take(uint64(f.size)); err != nil {
			return f, 0, err
		}
		n += number(b)
	}
	return f, n, nil
}

// skip passes over one value.
func (d *decoder) skip() error {
	for left := uint64(1); left > 0; left-- {
		f, n, err := d.head()
		switch {
		case err != nil:
			return err
		case f.kind == bad:
			return errors.New("a byte is in no format")
		case f.kind == array && n <= uint64(len(d.data)):
			left += n
		case f.kind == mapping && n <= uint64(len(d.data)):
			left += 2 * n
		case f.kind != plain:
			return errShort
		default:
			if _, err := d.take(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *decoder) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("wire: nested deeper than %d", MaxDepth)
	}
	if d.values++; d.values > MaxValues {
		return nil, fmt.Errorf("wire: more than %d values", MaxValues)
	}
	if len(d.data) == 0 {
		return nil, errShort
	}
	tag := d.data[0]
	f, n, err := d.head()
	if err != nil {
		return nil, err
	}
	switch f.kind {
	case bad:
		return nil, fmt.Errorf("wire: byte 0x%02x is in no format", tag)
	case array:
		return d.array(n, depth)
	case mapping:
		return d.mapping(n, depth)
	}
	b, err := d.take(n)
	if err != nil {
		return nil, err
	}
	return d.scalar(tag, b, depth)
}

func number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// arrayStep is how many values of an array are allocated before any has come.
const arrayStep = 1024

func (d *decoder) array(n uint64, depth int) ([]any, error) {
	if n > uint64(len(d.data)) { // each takes a byte at least
		return nil, errShort
	}
	if n > uint64(MaxValues-d.values) {
		return nil, fmt.Errorf("wire: more than %d values", MaxValues)
	}
	// The list grows as values come: each takes sixteen bytes here, and may have taken one there.
	list := make([]any, 0, min(n, arrayStep))
	for range n {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (d *decoder) mapping(n uint64, depth int) (any, error) {
	if n > uint64(len(d.data))/2 {
		return nil, errShort
	}
	dict := pyproto.NewDict(int(min(n, arrayStep)))
	for range n {
		k, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if list, ok := k.([]any); ok {
			k = pyproto.Tuple(list) // a list can be no key
		}
		if err := dict.Set(k, v); err != nil {
			return nil, err
		}
	}
	return dict, nil
}

// scalar reads a value that is neither array nor map; b is what follows its head.
func (d *decoder) scalar(tag byte, b []byte, depth int) (any, error) {
	switch {
	case tag <= 0x7f:
		return int64(tag), nil
	case tag >= 0xe0:
		return int64(int8(tag)), nil
	case tag <= 0xbf, tag >= 0xd9 && tag <= 0xdb:
		if !pyproto.ValidText(b) {
			return nil, errors.New("wire: a text is not valid UTF-8; bytes are sent as bin")
		}
		return string(b), nil
	}
	switch tag {
	case 0xc0:
		return nil, nil
	case 0xc2, 0xc3:
		return tag == 0xc3, nil
	case 0xc4, 0xc5, 0xc6:
		return b, nil
	case 0xca:
		return float64(math.Float32frombits(binary.BigEndian.Uint32(b))), nil
	case 0xcb:
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	case 0xcc, 0xcd, 0xce, 0xcf:
		if n := number(b); n > math.MaxInt64 {
			return new(big.Int).SetUint64(n), nil
		}
		return int64(number(b)), nil
	case 0xd0, 0xd1, 0xd2, 0xd3:
		shift := 64 - 8*len(b)
		return int64(number(b)<<shift) >> shift, nil
	}
	return d.ext(b[0], b[1:], depth)
}

// maxDigits bounds the time for reading a number; Python has the same bound.
const maxDigits = 4300

func (d *decoder) ext(tag byte, data []byte, depth int) (any, error) {
	switch tag {
	case ExtInt:
		n, ok := new(big.Int).SetString(string(data[:min(len(data), maxDigits+1)]), 10)
		if !ok || len(data) > maxDigits {
			return nil, fmt.Errorf("wire: extension %d is no decimal integer of at most %d digits", tag, maxDigits)
		}
		return n, nil
	case ExtSecret:
		if !pyproto.ValidText(data) {
			return nil, fmt.Errorf("wire: extension %d is no text", tag)
		}
		return pyproto.Secret(data), nil
	case ExtBlob:
		return pyproto.Blob(data), nil
	case ExtTuple, ExtContext, ExtSender:
	default:
		return nil, fmt.Errorf("wire: unknown extension type %d", int8(tag))
	}
	inner := decoder{data: data, values: d.values}
	// This comes before anything is allocated: an array may have as many values as the message may still have.
	if f, n, err := (&decoder{data: data}).head(); err != nil || f.kind != array || n > uint64(MaxValues-d.values) {
		return nil, fmt.Errorf("wire: extension %d is no array of values that a message may have", tag)
	}
	v, err := inner.value(depth + 1)
	d.values = inner.values
	list, ok := v.([]any)
	switch {
	case err != nil:
		return nil, err
	case !ok || len(inner.data) > 0:
		return nil, fmt.Errorf("wire: extension %d is no array", tag)
	case tag == ExtTuple:
		return pyproto.Tuple(list), nil
	}
	return address(tag, list)
}

// address reads a context or sender.
func address(tag byte, list []any) (any, error) {
	if len(list) == 2 {
		id, ok := list[0].(int64)
		ok = ok && id >= 0 && id <= math.MaxUint32
		if name, isText := list[1].(string); ok && isText && tag == ExtContext {
			return pyproto.Context{ID: pyproto.ContextID(id), Name: name}, nil
		}
		if h, isInt := list[1].(int64); ok && isInt && tag == ExtSender && h > 0 && h <= math.MaxUint32 {
			return pyproto.Sender{Context: pyproto.ContextID(id), Handle: pyproto.Handle(h)}, nil
		}
	}
	return nil, fmt.Errorf("wire: extension %d: bad address", tag)
}
