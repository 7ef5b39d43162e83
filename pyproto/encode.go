package pyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// maxEncoded bounds a pickle: a frame's length has 32 bits, BINSTRING's 31.
const maxEncoded = math.MaxInt32

var errTooLong = errors.New("pyproto: a pickle cannot be longer than 2 GiB")

// Marshal encodes v as a pickle of protocol 2 that Python 2.7 and 3 read alike. The package comment has the table of
// types.
func Marshal(v any) ([]byte, error) {
	if n := sizeHint(v, 0); n > maxScratch/2 || n < 256 {
		return Append(make([]byte, 0, n+16), v)
	}
	// A guess that is too small costs several times the result in garbage.
	p := scratch.Get().(*[]byte)
	b, err := Append((*p)[:0], v)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(b)), b...)
	if cap(b) <= maxScratch {
		*p = b
		scratch.Put(p)
	}
	return out, nil
}

// maxScratch bounds the buffers that are kept, in bytes.
const maxScratch = 256 << 10

var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Append appends the pickle of v to dst. On an error the result is nil.
func Append(dst []byte, v any) ([]byte, error) {
	start := len(dst)
	dst, err := appendValue(append(dst, opProto, 2), v, 0)
	if err != nil {
		return nil, err
	}
	if len(dst)-start >= maxEncoded {
		return nil, errTooLong
	}
	return append(dst, opStop), nil
}

// sizeHint estimates the encoded size from what is cheap to see.
func sizeHint(v any, depth int) int {
	n := 8
	switch v := v.(type) {
	case string:
		n += len(v)
	case []byte:
		n += len(v)
	case Blob:
		n += len(v) + len(globalPrefixBlob)
	case Kwargs:
		n += len(globalPrefixKwargs)
		for i := 0; depth < 2 && i < min(len(v), 16); i++ {
			n += 8 + len(v[i].Name) + sizeHint(v[i].Value, depth+1)
		}
	case Tuple:
		return sizeHint([]any(v), depth)
	case []any:
		n += 8 * len(v)
		for i := 0; depth < 2 && i < min(len(v), 16); i++ {
			n += sizeHint(v[i], depth+1)
		}
	case *Dict:
		n += 32 * v.Len()
	}
	return n
}

const (
	globalPrefixBlob      = "cmitogen.core\nBlob\n"
	globalPrefixSecret    = "cmitogen.core\nSecret\n"
	globalPrefixKwargs    = "cmitogen.core\nKwargs\n"
	globalPrefixCallError = "cmitogen.core\n_unpickle_call_error\n"
	globalPrefixContext   = "cmitogen.core\n_unpickle_context\n"
	globalPrefixSender    = "cmitogen.core\n_unpickle_sender\n"
)

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return appendText(dst, v)
	case int64:
		return appendInt(dst, v), nil
	case int:
		return appendInt(dst, int64(v)), nil
	case nil:
		return append(dst, opNone), nil
	case bool:
		if v {
			return append(dst, opNewTrue), nil
		}
		return append(dst, opNewFalse), nil
	case []byte:
		return appendBytes(dst, v)
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, opBinFloat), math.Float64bits(v)), nil
	case Tuple:
		return appendTuple(dst, v, depth)
	case []any:
		return appendList(dst, v, depth)
	case *Dict:
		return appendDict(dst, v, depth)
	}
	return appendOther(dst, v, depth)
}

// appendOther is for the types that are rarer.
func appendOther(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case Kwargs:
		return appendKwargs(dst, v, depth)
	case Blob:
		return endCall(appendBytes(append(dst, globalPrefixBlob...), v))
	case Secret:
		if !ValidText([]byte(v)) {
			return nil, errors.New("pyproto: a secret is no UTF-8")
		}
		return endCall(appendText(append(dst, globalPrefixSecret...), string(v)))
	case Context:
		return appendContext(dst, v)
	case Sender:
		dst = append(dst, globalPrefixSender...)
		dst = appendInt(appendInt(dst, int64(v.Context)), int64(v.Handle))
		return append(dst, opTuple2, opReduce), nil
	case *CallError:
		if v == nil {
			return append(dst, opNone), nil
		}
		return endCall(appendText(append(dst, globalPrefixCallError...), v.fit()))
	case *big.Int:
		if v == nil {
			return append(dst, opNone), nil
		}
		return appendBig(dst, v), nil
	}
	return appendReflect(dst, v, depth)
}

// endCall ends the call of a global with one argument.
func endCall(dst []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return append(dst, opTuple1, opReduce), nil
}

func appendContext(dst []byte, c Context) ([]byte, error) {
	if !shorter(c.Name, maxContextName) {
		return nil, fmt.Errorf("pyproto: context name %.20q... has %d characters or more", c.Name, maxContextName)
	}
	dst = appendInt(append(dst, globalPrefixContext...), int64(c.ID))
	if c.Name == "" {
		return append(dst, opNone, opTuple2, opReduce), nil
	}
	dst, err := appendText(dst, c.Name)
	if err != nil {
		return nil, err
	}
	return append(dst, opTuple2, opReduce), nil
}

func appendText(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) && !ValidText(unsafe.Slice(unsafe.StringData(s), len(s))) {
		return nil, fmt.Errorf("pyproto: string %.40q is no UTF-8; send it as []byte", s)
	}
	if len(s) >= maxEncoded {
		return nil, errTooLong
	}
	dst = append(dst, opBinUnicode, byte(len(s)), byte(len(s)>>8), byte(len(s)>>16), byte(len(s)>>24))
	return append(dst, s...), nil
}

// appendBytes writes BINSTRING: str on Python 2, and bytes on Python 3, whose peers load with encoding='bytes'.
func appendBytes(dst []byte, b []byte) ([]byte, error) {
	if len(b) < 256 {
		return append(append(dst, opShortBinString, byte(len(b))), b...), nil
	}
	if len(b) >= maxEncoded {
		return nil, errTooLong
	}
	dst = slices.Grow(dst, len(b)+16)
	dst = append(dst, opBinString, byte(len(b)), byte(len(b)>>8), byte(len(b)>>16), byte(len(b)>>24))
	return append(dst, b...), nil
}

func appendInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0 && n < 1<<8:
		return append(dst, opBinInt1, byte(n))
	case n >= 0 && n < 1<<16:
		return append(dst, opBinInt2, byte(n), byte(n>>8))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		return append(dst, opBinInt, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	// The shortest two's complement form.
	size := 8
	for size > 1 && n>>(8*size-9) == n>>63 {
		size--
	}
	dst = append(dst, opLong1, byte(size))
	for i := range size {
		dst = append(dst, byte(n>>(8*i)))
	}
	return dst
}

func appendBig(dst []byte, n *big.Int) []byte {
	if n.IsInt64() {
		return appendInt(dst, n.Int64())
	}
	// One bit more than the magnitude's, for the sign.
	size := n.BitLen()/8 + 1
	le := make([]byte, size)
	if n.Sign() >= 0 {
		n.FillBytes(le)
	} else {
		new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size))).FillBytes(le)
	}
	slices.Reverse(le)
	if size < 256 {
		dst = append(dst, opLong1, byte(size))
	} else {
		dst = binary.LittleEndian.AppendUint32(append(dst, opLong4), uint32(size))
	}
	return append(dst, le...)
}

func enter(dst []byte, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("pyproto: nested deeper than %d, or a structure that contains itself", MaxDepth)
	}
	if len(dst) >= maxEncoded {
		return errTooLong
	}
	return nil
}

func appendItems(dst []byte, items []any, depth int) (_ []byte, err error) {
	for i := range items {
		if dst, err = appendValue(dst, items[i], depth+1); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func appendTuple(dst []byte, t Tuple, depth int) ([]byte, error) {
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	if len(t) == 0 {
		return append(dst, opEmptyTuple), nil
	}
	if len(t) > 3 {
		dst = append(dst, opMark)
	}
	dst, err := appendItems(dst, t, depth)
	if err != nil {
		return nil, err
	}
	return append(dst, tupleOp(len(t))), nil
}

// tupleOp is the opcode that ends a tuple of n items; above three there is a mark below them.
func tupleOp(n int) byte {
	if n <= 3 {
		return opTuple1 + byte(n-1)
	}
	return opTuple
}

func appendList(dst []byte, l []any, depth int) ([]byte, error) {
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return append(dst, opEmptyList), nil
	}
	dst, err := appendItems(append(dst, opEmptyList, opMark), l, depth)
	if err != nil {
		return nil, err
	}
	return append(dst, opAppends), nil
}

func appendDict(dst []byte, d *Dict, depth int) (_ []byte, err error) {
	if d == nil {
		return append(dst, opNone), nil
	}
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	if d.Len() == 0 {
		return append(dst, opEmptyDict), nil
	}
	dst = append(dst, opEmptyDict, opMark)
	for i := range d.vals {
		if dst, err = appendValue(dst, d.keys.list[i], depth+1); err != nil {
			return nil, err
		}
		if dst, err = appendValue(dst, d.vals[i], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, opSetItems), nil
}

func appendKwargs(dst []byte, k Kwargs, depth int) (_ []byte, err error) {
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	dst = append(dst, globalPrefixKwargs...)
	dst = append(dst, opEmptyDict)
	if len(k) > 0 {
		dst = append(dst, opMark)
		for i := range k {
			if dst, err = appendText(dst, k[i].Name); err != nil {
				return nil, err
			}
			if dst, err = appendValue(dst, k[i].Value, depth+1); err != nil {
				return nil, err
			}
		}
		dst = append(dst, opSetItems)
	}
	return append(dst, opTuple1, opReduce), nil
}
