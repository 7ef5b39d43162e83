package wire

import (
	"fmt"
	"math/big"
	"reflect"

	"github.com/ugorji/go/codec"

	"mitogend/pyproto"
)

// The extension types. For other values msgpack has a type: None is nil; bool, int (64 bits) and float are
// themselves; str is str, bytes bin, a list an array, and a dict a map, in its order and with keys of any type that
// can be a key.
const (
	ExtTuple   = 1 // an array, in msgpack
	ExtInt     = 2 // an int beyond 64 bits, in decimal text
	ExtContext = 3 // [id, name], in msgpack
	ExtSender  = 4 // [context id, handle], in msgpack
	ExtSecret  = 5 // text that Python shows as [secret]
	ExtBlob    = 6 // bytes that Python shows as a size
)

// Handle tells ugorji's codec how to read and write what goes over the socket. Constant after init.
var Handle = newHandle()

func newHandle() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{}
	h.WriteExt = true // bin and str are different types
	h.Raw = true
	h.RawToString = true
	h.MaxDepth = MaxDepth
	h.ErrorIfNoField = true // a misspelt parameter is an error, not a default
	return h
}

// pairs is a map in its order: key, value, key, value.
type pairs []any

// MapBySlice tells the codec that this is a map.
func (pairs) MapBySlice() {}

// Value is a Python value, in the types of package pyproto, that goes through the codec.
type Value struct {
	V any
	// Plain writes a tuple as an array and bytes of every kind as bin, for clients that know no extension types.
	Plain bool

	size int // about how many bytes it takes; 0 until it is measured
}

const (
	// maxOwn bounds, in bytes, a value that no child has sent.
	maxOwn = 4 * DefaultMaxMessage
	// maxCopied bounds the bytes that nested tuples have copied: each is written on its own, and then into the one
	// around it.
	maxCopied = 8 * DefaultMaxMessage
	// valueSize is about what a value takes beside its text or bytes.
	valueSize = 16
)

// NewValue makes a value of one that a child has sent. The error says that it is too large for the socket, in bytes
// (max; 0 means DefaultMaxMessage), values, depth or digits.
func NewValue(v any, plain bool, max int) (*Value, error) {
	if max <= 0 {
		max = DefaultMaxMessage
	}
	out := &Value{V: v, Plain: plain}
	return out, out.measure(max)
}

func (v *Value) measure(max int) error {
	if v.size > 0 {
		return nil
	}
	e, err := pyproto.Limits{Bytes: max, Values: MaxValues, Depth: MaxDepth, Digits: maxDigits}.Extent(v.V)
	if err != nil {
		return Errorf(KindInternal, "wire: the value cannot be sent: it has %v", err)
	}
	v.size = e.Bytes + valueSize*e.Values
	return nil
}

// Size is about how many bytes the value takes; little for one that cannot be sent.
func (v *Value) Size() int {
	if v.measure(maxOwn) != nil {
		return valueSize
	}
	return v.size
}

// CodecEncodeSelf implements codec.Selfer.
func (v *Value) CodecEncodeSelf(e *codec.Encoder) {
	if err := v.measure(maxOwn); err != nil {
		panic(err) // the codec makes it Encode's error
	}
	enc := encoder{plain: v.Plain}
	x, err := enc.value(v.V, 0)
	if err != nil {
		panic(err) // the codec makes it Encode's error
	}
	e.MustEncode(x)
}

// CodecDecodeSelf implements codec.Selfer.
func (v *Value) CodecDecodeSelf(d *codec.Decoder) {
	var raw codec.Raw
	d.MustDecode(&raw)
	if raw = present(raw); raw == nil {
		v.V = nil
		return
	}
	var err error
	if v.V, err = decode(raw); err != nil {
		panic(err)
	}
}

// Marshal encodes what this package has Go types for.
func Marshal(v any) ([]byte, error) { return marshal(v, 0) }

// marshal is Marshal for something of about size bytes.
func marshal(v any, size int) ([]byte, error) {
	return appendTo(room(size+small), v)
}

// appendTo encodes into the room that out has.
func appendTo(out []byte, v any) ([]byte, error) {
	err := codec.NewEncoderBytes(&out, Handle).Encode(v)
	return out, err
}

// hint is about how many bytes something takes. It spares large messages from being copied as they grow.
func hint(v any) int {
	switch v := v.(type) {
	case *Value:
		return v.Size()
	case *Items:
		n := 0
		for i := range v.Items {
			n += v.Items[i].Size()
		}
		return n
	case *Write:
		return len(v.Data)
	case *Call:
		return v.Args.Size() + v.Kwargs.Size()
	}
	return 0
}

// Unmarshal is the reverse of Marshal.
func Unmarshal(data []byte, v any) error { return unmarshal(data, v, Handle) }

// UnmarshalShared is Unmarshal for data that is not used otherwise: text and bytes in v share its memory, and keep
// it.
func UnmarshalShared(data []byte, v any) error { return unmarshal(data, v, sharing) }

// sharing is Handle for UnmarshalShared. Constant after init.
var sharing = func() *codec.MsgpackHandle {
	h := newHandle()
	h.ZeroCopy = true
	return h
}()

func unmarshal(data []byte, v any, h *codec.MsgpackHandle) error {
	d := codec.NewDecoderBytes(data, h)
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.NumBytesRead() != len(data) {
		return fmt.Errorf("wire: %d bytes too many", len(data)-d.NumBytesRead())
	}
	return nil
}

type encoder struct {
	plain  bool
	copied int
}

// value gives what the codec writes for a Python value.
func (e *encoder) value(v any, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("wire: nested deeper than %d", MaxDepth)
	}
	switch v := v.(type) {
	case nil, bool, int, int64, float64, string, []byte:
		return v, nil
	case *big.Int:
		return ext(ExtInt, []byte(v.String())), nil
	case []any:
		return e.list(v, depth)
	case pyproto.Tuple:
		if e.plain {
			return e.list(v, depth)
		}
		return e.nested(ExtTuple, v, depth)
	case *pyproto.Dict:
		out := make(pairs, 0, 2*v.Len())
		for key, val := range v.All() {
			k, err := e.value(key, depth+1)
			if err != nil {
				return nil, err
			}
			x, err := e.value(val, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, k, x)
		}
		return out, nil
	case pyproto.Kwargs:
		out := make(pairs, 0, 2*len(v))
		for _, arg := range v {
			x, err := e.value(arg.Value, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, arg.Name, x)
		}
		return out, nil
	case pyproto.Blob:
		if e.plain {
			return []byte(v), nil
		}
		return ext(ExtBlob, v), nil
	case pyproto.Secret:
		return ext(ExtSecret, []byte(v)), nil
	case pyproto.Context:
		return e.nested(ExtContext, []any{int64(v.ID), v.Name}, depth)
	case pyproto.Sender:
		return e.nested(ExtSender, []any{int64(v.Context), int64(v.Handle)}, depth)
	}
	return e.other(v, depth)
}

// other takes the other Go types that pyproto.Marshal takes, by way of it.
func (e *encoder) other(v any, depth int) (any, error) {
	p, err := pyproto.Marshal(v)
	if err != nil {
		return nil, err
	}
	x, err := pyproto.Unmarshal(p)
	if err != nil {
		return nil, err
	}
	if reflect.TypeOf(x) == reflect.TypeOf(v) {
		return nil, fmt.Errorf("wire: a %T cannot be sent", v)
	}
	return e.value(x, depth)
}

func (e *encoder) list(v []any, depth int) (any, error) {
	out := make([]any, len(v))
	for i := range v {
		var err error
		if out[i], err = e.value(v[i], depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (e *encoder) nested(tag byte, v []any, depth int) (any, error) {
	x, err := e.list(v, depth)
	if err != nil {
		return nil, err
	}
	data, err := Marshal(x)
	if e.copied += len(data); err == nil && e.copied > maxCopied {
		err = fmt.Errorf("wire: tuples in tuples have more than %d bytes copied", maxCopied)
	}
	return ext(tag, data), err
}

func ext(tag byte, data []byte) *codec.RawExt {
	return &codec.RawExt{Tag: uint64(tag), Data: data}
}
