package pyproto

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"reflect"
	"slices"
)

// appendReflect encodes a caller's own types.
func appendReflect(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case CallError:
		return appendOther(dst, &v, depth)
	case big.Int:
		return appendBig(dst, &v), nil
	case Dict:
		return appendDict(dst, &v, depth)
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt(dst, rv.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if n := rv.Uint(); n > 1<<63-1 {
			// Nine bytes: the sign takes one more.
			return append(binary.LittleEndian.AppendUint64(append(dst, opLong1, 9), n), 0), nil
		}
		return appendInt(dst, int64(rv.Uint())), nil
	case reflect.Float32, reflect.Float64:
		return appendValue(dst, rv.Float(), depth)
	case reflect.Bool:
		return appendValue(dst, rv.Bool(), depth)
	case reflect.String:
		return appendText(dst, rv.String())
	case reflect.Pointer, reflect.Interface:
		if rv.IsNil() {
			return append(dst, opNone), nil
		}
		if err := enter(dst, depth); err != nil {
			return nil, err
		}
		return appendValue(dst, rv.Elem().Interface(), depth+1)
	case reflect.Slice, reflect.Array:
		return appendSequence(dst, rv, depth)
	case reflect.Map:
		return appendMap(dst, rv, depth)
	case reflect.Struct:
		return appendStruct(dst, rv, depth)
	}
	return nil, fmt.Errorf("pyproto: values of Go type %T cannot be sent", v)
}

func appendSequence(dst []byte, rv reflect.Value, depth int) (_ []byte, err error) {
	if rv.Type().Elem().Kind() == reflect.Uint8 {
		b := make([]byte, rv.Len())
		reflect.Copy(reflect.ValueOf(b), rv)
		return appendBytes(dst, b)
	}
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	dst = append(dst, opEmptyList, opMark)
	for i := range rv.Len() {
		if dst, err = appendValue(dst, rv.Index(i).Interface(), depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, opAppends), nil
}

// appendMap writes the keys sorted by their encoded form, so that equal maps are equal on the wire.
func appendMap(dst []byte, rv reflect.Value, depth int) (_ []byte, err error) {
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	type pair struct {
		key []byte
		val reflect.Value
	}
	pairs := make([]pair, 0, rv.Len())
	for it := rv.MapRange(); it.Next(); {
		k := normalKey(it.Key().Interface())
		key, err := appendValue(nil, k, depth+1)
		if err != nil {
			return nil, err
		}
		if key[0] == opEmptyDict || key[0] == opEmptyList {
			return nil, fmt.Errorf("pyproto: map keys of Go type %v cannot be sent", rv.Type().Key())
		}
		pairs = append(pairs, pair{key, it.Value()})
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		// Shorter first sorts numbers by size; text of one length sorts by content.
		return cmp.Or(cmp.Compare(len(a.key), len(b.key)), bytes.Compare(a.key, b.key))
	})
	dst = append(dst, opEmptyDict, opMark)
	for _, p := range pairs {
		dst = append(dst, p.key...)
		if dst, err = appendValue(dst, p.val.Interface(), depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, opSetItems), nil
}

func appendStruct(dst []byte, rv reflect.Value, depth int) (_ []byte, err error) {
	if err := enter(dst, depth); err != nil {
		return nil, err
	}
	dst = append(dst, opEmptyDict, opMark)
	for _, f := range fieldsOf(rv.Type()) {
		fv := rv.Field(f.index)
		if f.omitEmpty && fv.IsZero() {
			continue
		}
		if dst, err = appendText(dst, f.name); err != nil {
			return nil, err
		}
		if dst, err = appendValue(dst, fv.Interface(), depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, opSetItems), nil
}
