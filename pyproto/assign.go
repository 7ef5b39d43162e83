package pyproto

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Decode decodes a payload that is exactly one pickle into dst, a pointer to a Go value, by the rules of Assign.
func Decode(data []byte, dst any) error {
	v, err := Unmarshal(data)
	if err != nil {
		return err
	}
	return Assign(dst, v)
}

// Assign stores a decoded value in what dst points to:
//
//   - any Python value in an any, as it is;
//   - int, and bool for a bool, in Go's integers (an error when out of range), floats and *big.Int;
//   - float in floats (an error when a float32 would overflow);
//   - text, and bytes that are UTF-8 as Python 2 writes its plain strings, in a string;
//   - bytes in a []byte or byte array; the memory may be shared with v;
//   - list and tuple in slices, and in arrays of the same length;
//   - dict and keyword arguments in maps, and in structs: a field takes the key that its tag `py:"name"` names, else
//     its own name; `py:"-"` is left out; keys without a field are ignored; keys may be text or bytes;
//   - None in pointers, slices, maps and any, which become nil;
//   - the package's own types in themselves.
//
// Pointers are allocated as needed. A *CallError that is to be stored in anything but an any, an error or a *CallError
// is returned as the error. Other errors name the place of the value that does not fit.
func Assign(dst any, v any) error {
	rv := reflect.ValueOf(dst)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("pyproto: Assign to a %T, want a pointer", dst)
	}
	if done := assignFast(dst, v); done {
		return nil
	}
	if err := new(assigner).assign(rv.Elem(), v, 0); err != nil {
		if e, ok := err.(*CallError); ok {
			return e
		}
		return fmt.Errorf("pyproto: result%w", err)
	}
	return nil
}

// assigner is the state of one Assign, or of another reading of a value.
type assigner struct {
	// texts has what was made of long bytes: a pickle can name the same ones at millions of places.
	texts  map[bytesKey]string
	copied int // bytes of texts that are not in there
}

// bytesKey says which memory it is.
type bytesKey struct {
	first *byte
	n     int
}

// What is shorter than shortBytes is copied at each place, as long as that comes to no more than freeBytes.
const (
	shortBytes = 256
	freeBytes  = 16 << 20
)

// text makes text of bytes that are valid, once of those that stand at several places.
func (a *assigner) text(b []byte, valid func([]byte) bool) (string, bool) {
	if len(b) == 0 {
		return "", true
	}
	if len(b) < shortBytes && a.copied <= freeBytes {
		a.copied += len(b)
		return string(b), valid(b)
	}
	key := bytesKey{&b[0], len(b)}
	if text, ok := a.texts[key]; ok {
		return text, true
	}
	if !valid(b) {
		return "", false
	}
	if a.texts == nil {
		a.texts = map[bytesKey]string{}
	}
	text := string(b)
	a.texts[key] = text
	return text, true
}

// assignFast does the commonest pairs without reflection.
func assignFast(dst any, v any) bool {
	switch dst := dst.(type) {
	case *any:
		*dst = v
		return true
	case *string:
		if s, ok := v.(string); ok {
			*dst = s
			return true
		}
	case *int64:
		if n, ok := v.(int64); ok {
			*dst = n
			return true
		}
	case *bool:
		if b, ok := v.(bool); ok {
			*dst = b
			return true
		}
	}
	return false
}

// placeError is an error with the place where it happened, built up on the way out.
type placeError struct {
	place string
	msg   string
}

func (e *placeError) Error() string { return e.place + ": " + e.msg }

func at(place string, err error) error {
	if e, ok := err.(*placeError); ok {
		if len(e.place) < 200 {
			e.place = place + e.place
		}
		return e
	}
	return err
}

// shownKey is a key in the place of an error. Only what is short is formatted: a tuple may stand for any amount.
func shownKey(key any) string {
	switch key := key.(type) {
	case string:
		return fmt.Sprintf("%.40q", key)
	case []byte:
		return fmt.Sprintf("%.40q", clip(key))
	case int64, bool, float64:
		return fmt.Sprintf("%q", fmt.Sprint(key))
	}
	return pyType(key)
}

func misfit(v any, t reflect.Type) error {
	return &placeError{msg: fmt.Sprintf("a Python %s does not fit in a %v", pyType(v), t)}
}

// pyType names the Python type of a decoded value.
func pyType(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "text"
	case []byte:
		return "bytes"
	case []any:
		return "list"
	case Tuple:
		return "tuple"
	case *Dict:
		return "dict"
	}
	return strings.TrimPrefix(strings.TrimPrefix(fmt.Sprintf("%T", v), "*"), "pyproto.")
}

func (a *assigner) assign(dst reflect.Value, v any, depth int) error {
	if depth > MaxDepth {
		return &placeError{msg: "nested too deep"}
	}
	t := dst.Type()
	if v == nil {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
			dst.SetZero()
			return nil
		}
		return misfit(v, t)
	}
	if rt := reflect.TypeOf(v); rt == t || t.Kind() == reflect.Interface && rt.Implements(t) {
		dst.Set(reflect.ValueOf(v))
		return nil
	}
	if e, ok := v.(*CallError); ok {
		return e
	}
	switch t.Kind() {
	case reflect.Pointer:
		if t == reflect.TypeFor[*big.Int]() {
			return assignBig(dst, v)
		}
		p := reflect.New(t.Elem())
		if err := a.assign(p.Elem(), v, depth+1); err != nil {
			return err
		}
		dst.Set(p)
		return nil
	case reflect.Struct:
		return a.assignStruct(dst, v, depth)
	case reflect.Map:
		return a.assignMap(dst, v, depth)
	case reflect.Slice, reflect.Array:
		return a.assignSequence(dst, v, depth)
	}
	return a.assignScalar(dst, v)
}

func assignBig(dst reflect.Value, v any) error {
	switch v := v.(type) {
	case int64:
		dst.Set(reflect.ValueOf(big.NewInt(v)))
		return nil
	case bool:
		n := int64(0)
		if v {
			n = 1
		}
		dst.Set(reflect.ValueOf(big.NewInt(n)))
		return nil
	}
	return misfit(v, dst.Type())
}

func (a *assigner) assignScalar(dst reflect.Value, v any) error {
	t := dst.Type()
	switch t.Kind() {
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			dst.SetBool(b)
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		switch n := v.(type) {
		case int64:
			if !dst.OverflowInt(n) {
				dst.SetInt(n)
				return nil
			}
			return &placeError{msg: fmt.Sprintf("%d overflows %v", n, t)}
		case *big.Int:
			return &placeError{msg: fmt.Sprintf("an int of %d bits overflows %v", n.BitLen(), t)}
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		switch n := v.(type) {
		case int64:
			if n >= 0 && !dst.OverflowUint(uint64(n)) {
				dst.SetUint(uint64(n))
				return nil
			}
			return &placeError{msg: fmt.Sprintf("%d overflows %v", n, t)}
		case *big.Int:
			if n.IsUint64() && !dst.OverflowUint(n.Uint64()) {
				dst.SetUint(n.Uint64())
				return nil
			}
			return &placeError{msg: fmt.Sprintf("an int of %d bits overflows %v", n.BitLen(), t)}
		}
	case reflect.Float32, reflect.Float64:
		if f, ok := toFloat(v); ok {
			if !math.IsInf(f, 0) && dst.OverflowFloat(f) {
				return &placeError{msg: fmt.Sprintf("%g overflows %v", f, t)}
			}
			dst.SetFloat(f)
			return nil
		}
	case reflect.String:
		switch s := v.(type) {
		case string:
			dst.SetString(s)
			return nil
		case Secret:
			dst.SetString(string(s))
			return nil
		case []byte:
			if text, ok := a.text(s, utf8.Valid); ok {
				dst.SetString(text)
				return nil
			}
			return &placeError{msg: fmt.Sprintf("bytes that are no UTF-8 do not fit in a %v", t)}
		}
	}
	return misfit(v, t)
}

func toFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	case *big.Int:
		if v.BitLen() > 1024 {
			return 0, false // without a copy of it, which may be large and stand at many places
		}
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, !math.IsInf(f, 0)
	}
	return 0, false
}

func (a *assigner) assignSequence(dst reflect.Value, v any, depth int) error {
	t := dst.Type()
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case Tuple:
		items = v
	case []byte:
		return assignBytes(dst, v)
	case Blob:
		return assignBytes(dst, v)
	default:
		return misfit(v, t)
	}
	if t.Kind() == reflect.Array {
		if len(items) != t.Len() {
			return &placeError{msg: fmt.Sprintf("a %s of %d items does not fit in a %v", pyType(v), len(items), t)}
		}
	} else {
		dst.Set(reflect.MakeSlice(t, len(items), len(items)))
	}
	for i := range items {
		if err := a.assign(dst.Index(i), items[i], depth+1); err != nil {
			return at(fmt.Sprintf("[%d]", i), err)
		}
	}
	return nil
}

func assignBytes(dst reflect.Value, b []byte) error {
	t := dst.Type()
	if t.Elem().Kind() != reflect.Uint8 {
		return misfit(b, t)
	}
	if t.Kind() == reflect.Slice {
		dst.SetBytes(b)
		return nil
	}
	if len(b) != t.Len() {
		return &placeError{msg: fmt.Sprintf("%d bytes do not fit in a %v", len(b), t)}
	}
	reflect.Copy(dst, reflect.ValueOf(b))
	return nil
}

// items ranges over what a dict or keyword arguments hold.
func items(v any, yield func(key, val any) error) (ok bool, err error) {
	switch v := v.(type) {
	case *Dict:
		for key, val := range v.All() {
			if err := yield(key, val); err != nil {
				return true, err
			}
		}
	case Kwargs:
		for i := range v {
			if err := yield(v[i].Name, v[i].Value); err != nil {
				return true, err
			}
		}
	default:
		return false, nil
	}
	return true, nil
}

func (a *assigner) assignMap(dst reflect.Value, v any, depth int) error {
	t := dst.Type()
	m := reflect.MakeMap(t)
	ok, err := items(v, func(key, val any) error {
		k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		if err := a.assign(k, key, depth+1); err != nil {
			return at("(key)", err)
		}
		if t.Key().Kind() == reflect.Interface && !k.Comparable() {
			return &placeError{msg: fmt.Sprintf("a key of type %s does not fit in a %v", pyType(key), t)}
		}
		if err := a.assign(e, val, depth+1); err != nil {
			return at("["+shownKey(key)+"]", err)
		}
		m.SetMapIndex(k, e)
		return nil
	})
	if err != nil {
		return err
	}
	if !ok {
		return misfit(v, t)
	}
	dst.Set(m)
	return nil
}

func (a *assigner) assignStruct(dst reflect.Value, v any, depth int) error {
	fields := fieldsOf(dst.Type())
	ok, err := items(v, func(key, val any) error {
		for i := range fields {
			name, ok := fields[i].name, false
			switch key := key.(type) {
			case string:
				ok = key == name
			case []byte:
				ok = string(key) == name // without a copy
			}
			if ok {
				if err := a.assign(dst.Field(fields[i].index), val, depth+1); err != nil {
					return at("."+name, err)
				}
			}
		}
		return nil
	})
	if err == nil && !ok {
		return misfit(v, dst.Type())
	}
	return err
}

// field is a struct field that has a Python name.
type field struct {
	name      string
	index     int
	omitEmpty bool
}

var fieldCache sync.Map // reflect.Type to []field

func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag := sf.Tag.Get("py")
		if !sf.IsExported() || tag == "-" {
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		if name == "" {
			name = sf.Name
		}
		fields = append(fields, field{name, i, slices.Contains(strings.Split(opts, ","), "omitempty")})
	}
	fieldCache.Store(t, fields)
	return fields
}
