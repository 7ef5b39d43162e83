package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// This is the JSON of values, both ways. For what JSON lacks, there are objects with one key that starts with a
// dollar sign:
//
//	{"$bytes": "base64"}    bytes
//	{"$dict": [[k, v]...]}  a dict with keys that are not text, or that start with a dollar sign
//	{"$float": "nan"}       nan, inf, -inf
//	{"$context": id}        a reference to an interpreter; {"$sender": [id, handle]} to a receiver there
const (
	keyBytes   = "$bytes"
	keyDict    = "$dict"
	keyFloat   = "$float"
	keyContext = "$context"
	keySender  = "$sender"
)

// jsonWriter writes a decoded Python value.
type jsonWriter struct {
	buf bytes.Buffer
	// plain2 writes bytes as text if they are UTF-8: Python 2's plain strings arrive as bytes.
	plain2 bool
}

// toJSON gives a value on one line. python2 says that it comes from Python 2.
func toJSON(v any, python2 bool) json.RawMessage {
	w := jsonWriter{plain2: python2}
	w.value(v)
	return printable.JSON(w.buf.Bytes())
}

// jsonLimits bound a result. Digits take more than linear time, and a value that occurs many times is written each
// time.
var jsonLimits = pyproto.Limits{
	Bytes: 2 * pyproto.DefaultMaxMessage, Values: math.MaxInt, Depth: pyproto.MaxDepth, Digits: 100_000,
}

// resultJSON is toJSON for a value that may be too large.
func resultJSON(v any, python2 bool) (json.RawMessage, error) {
	if _, err := jsonLimits.Extent(v); err != nil {
		return nil, fmt.Errorf("it returned a value that cannot be shown: it has %w", err)
	}
	return toJSON(v, python2), nil
}

func (w *jsonWriter) value(v any) {
	switch v := v.(type) {
	case nil:
		w.buf.WriteString("null")
	case bool:
		w.buf.WriteString(strconv.FormatBool(v))
	case int64:
		w.buf.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		w.buf.WriteString(v.String())
	case float64:
		w.float(v)
	case string:
		w.text(v)
	case []byte:
		if w.plain2 && utf8.Valid(v) {
			w.text(string(v))
			return
		}
		w.bytes(v)
	case pyproto.Blob:
		w.bytes(v)
	case []any:
		w.list(v)
	case pyproto.Tuple:
		w.list(v)
	case *pyproto.Dict:
		w.dict(v)
	case pyproto.Kwargs:
		d := pyproto.NewDict(len(v))
		for _, arg := range v {
			_ = d.Set(arg.Name, arg.Value) // text can be a key
		}
		w.dict(d)
	case pyproto.Context:
		fmt.Fprintf(&w.buf, `{"%s":%d}`, keyContext, v.ID)
	case pyproto.Sender:
		fmt.Fprintf(&w.buf, `{"%s":[%d,%d]}`, keySender, v.Context, v.Handle)
	default:
		// Secret among them, which masks itself.
		w.text(fmt.Sprint(v))
	}
}

func (w *jsonWriter) text(s string) {
	start := w.buf.Len()
	marked := eachSurrogate(s, func(r rune) string { return fmt.Sprintf("%s%04x", lone, r) })
	enc := json.NewEncoder(&w.buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(marked) // a string and a Buffer: cannot fail
	w.buf.Truncate(w.buf.Len() - 1)
	if len(marked) != len(s) {
		out := strings.ReplaceAll(string(w.buf.Bytes()[start:]), lone, `\u`)
		w.buf.Truncate(start)
		w.buf.WriteString(out)
	}
}

func (w *jsonWriter) bytes(b []byte) {
	fmt.Fprintf(&w.buf, `{"%s":"%s"}`, keyBytes, base64.StdEncoding.EncodeToString(b))
}

func (w *jsonWriter) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		name := strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64), "+"))
		fmt.Fprintf(&w.buf, `{"%s":"%s"}`, keyFloat, name)
		return
	}
	// As Python writes it.
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		format = 'e'
	}
	s := strconv.FormatFloat(f, format, -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	w.buf.WriteString(s)
}

func (w *jsonWriter) list(items []any) {
	w.buf.WriteByte('[')
	for i, v := range items {
		if i > 0 {
			w.buf.WriteByte(',')
		}
		w.value(v)
	}
	w.buf.WriteByte(']')
}

// key gives the key of a dict as text, if it can be a key in JSON.
func (w *jsonWriter) key(k any) (string, bool) {
	s, ok := k.(string)
	if b, isBytes := k.([]byte); isBytes && w.plain2 && utf8.Valid(b) {
		s, ok = string(b), true
	}
	return s, ok && !strings.HasPrefix(s, "$")
}

func (w *jsonWriter) dict(d *pyproto.Dict) {
	seen := make(map[string]bool, d.Len())
	for k := range d.All() {
		s, ok := w.key(k)
		if !ok || seen[s] { // u'é' and its UTF-8 are two keys of one dict in Python 2
			w.pairs(d)
			return
		}
		seen[s] = true
	}
	w.buf.WriteByte('{')
	first := true
	for k, v := range d.All() {
		if !first {
			w.buf.WriteByte(',')
		}
		first = false
		s, _ := w.key(k)
		w.text(s)
		w.buf.WriteByte(':')
		w.value(v)
	}
	w.buf.WriteByte('}')
}

func (w *jsonWriter) pairs(d *pyproto.Dict) {
	fmt.Fprintf(&w.buf, `{"%s":[`, keyDict)
	first := true
	for k, v := range d.All() {
		if !first {
			w.buf.WriteByte(',')
		}
		first = false
		w.list([]any{k, v})
	}
	w.buf.WriteString("]}")
}

// writeJSON writes one line. There is nothing in it that a terminal obeys.
func writeJSON(w io.Writer, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("mitogend: %T does not fit into JSON: %v", v, err)) // never: our own types and checked numbers fit
	}
	_, _ = w.Write(printable.JSON(b.Bytes())) // the console notes a failure
}

// jsonReader reads values. Of the objects that stand for what JSON lacks, the child has to read some (see
// convert.py). If there is one of these, the child reads all that are not literal.
type jsonReader struct {
	child bool // the child reads the values, too
	typed bool // it has to
}

// typedKeys are the keys that the child reads, beside keyDict.
var typedKeys = []string{"$datetime", "$date", "$time", "$timedelta", "$decimal", "$fraction", "$uuid", "$path", "$set", "$frozenset",
	"$tuple", "$bytearray", "$complex"}

// read gives the Python value that a JSON value stands for.
func (r *jsonReader) read(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not valid UTF-8")
	}
	if !json.Valid([]byte(text)) {
		return nil, errors.New("not valid JSON")
	}
	dec := json.NewDecoder(strings.NewReader(hideLone(text)))
	dec.UseNumber()
	v, err := r.value(dec)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func (r *jsonReader) value(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case json.Number:
		return number(tok.String())
	case json.Delim:
		if tok == '[' {
			return r.list(dec)
		}
		return r.object(dec)
	case string:
		return showLone(tok), nil
	}
	return tok, nil
}

func (r *jsonReader) list(dec *json.Decoder) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := r.value(dec)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

func (r *jsonReader) object(dec *json.Decoder) (any, error) {
	d := pyproto.NewDict(0)
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := r.value(dec)
		if err != nil {
			return nil, err
		}
		if err := d.Set(showLone(k.(string)), v); err != nil { // a key is text
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if d.Len() == 1 {
		if k, v := d.At(0); strings.HasPrefix(k.(string), "$") {
			return r.special(k.(string), v)
		}
	}
	return d, nil
}

// number keeps integers of any size exact.
func number(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if errors.Is(err, strconv.ErrRange) {
			err = nil // it is infinite, as for Python
		}
		return f, err
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, fmt.Errorf("bad number %s", s)
	}
	return n, nil
}

// special reads the objects that stand for what JSON lacks.
func (r *jsonReader) special(key string, v any) (any, error) {
	text, isText := v.(string)
	list, isList := v.([]any)
	switch {
	case key == keyBytes && isText:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyBytes, err)
		}
		return b, nil
	case key == keyFloat && isText:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no float", keyFloat, text)
		}
		return f, nil
	case key == keyDict && isList:
		d := pyproto.NewDict(len(list))
		for _, item := range list {
			pair, ok := item.([]any)
			if !ok || len(pair) != 2 {
				return nil, fmt.Errorf("%s: an item is no pair of key and value", keyDict)
			}
			if l, isList := pair[0].([]any); isList {
				pair[0] = pyproto.Tuple(l) // a list cannot be a key
			}
			if err := d.Set(pair[0], pair[1]); err != nil {
				return nil, fmt.Errorf("%s: %w", keyDict, err)
			}
		}
		if r.child {
			return pyproto.DictOf(keyDict, v), nil // the child may have to read one of its keys
		}
		return d, nil
	case slices.Contains(typedKeys, key):
		r.typed = true
	}
	// It is a key of the user's own.
	return pyproto.DictOf(key, v), nil
}
