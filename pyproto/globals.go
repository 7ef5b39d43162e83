package pyproto

import (
	"fmt"
	"unicode/utf8"

	"mitogend/pyproto/printable"
)

// coreModule is the module whose names the pickles carry, in Mitogen's children and in ours.
const coreModule = "mitogen.core"

// global is a callable that a pickle may name. There are no others: a pickle from a peer never chooses what runs.
type global uint8

const (
	globalNone global = iota
	globalCallError
	globalContext
	globalSender
	globalBlob
	globalSecret
	globalKwargs
	globalEncode
	globalBytes
)

// lookupGlobal is the whole allow-list.
func lookupGlobal(module, name []byte) global {
	switch string(module) {
	case coreModule:
		switch string(name) {
		case "_unpickle_call_error", "CallError":
			return globalCallError
		case "_unpickle_context":
			return globalContext
		case "_unpickle_sender":
			return globalSender
		case "Blob":
			return globalBlob
		case "Secret":
			return globalSecret
		case "Kwargs":
			return globalKwargs
		}
	case "_codecs":
		// Python 3 writes bytes as text that latin1 turns back, up to protocol 2.
		if string(name) == "encode" {
			return globalEncode
		}
	case "__builtin__", "builtins":
		// ... and empty bytes as a call without arguments.
		if string(name) == "bytes" {
			return globalBytes
		}
	}
	return globalNone
}

// GlobalError is a pickle that names a class or function outside the allow-list: a value of a type that cannot be sent,
// or an attempt to run something here.
type GlobalError struct {
	// Module and Name are as in the pickle, so a Python 3 peer's builtins appear under "__builtin__".
	Module, Name string
}

func (e *GlobalError) Error() string {
	return fmt.Sprintf("pyproto: values of type %s.%s cannot be sent", printable.Line(e.Module), printable.Line(e.Name))
}

// call applies a global to its arguments.
func (d *decoder) call(g global, args []slot) (any, error) {
	if g == globalEncode {
		return d.callEncode(args)
	}
	var vals [2]any
	for i := range args {
		var err error
		if vals[i], err = d.take(args[i]); err != nil {
			return nil, err
		}
	}
	var v any
	switch len(args) {
	case 0:
		if g == globalBytes {
			v = emptyBytes
		}
	case 1:
		if dict, ok := vals[0].(*Dict); ok && g == globalKwargs {
			return d.callKwargs(dict)
		}
		v = call1(g, vals[0])
	case 2:
		v = call2(g, vals[0], vals[1])
	}
	if v == nil {
		return nil, d.errorf("bad arguments for global %v", g)
	}
	return v, nil
}

// call1 is for the globals with one argument; nil means that it does not fit.
func call1(g global, arg any) any {
	switch arg := arg.(type) {
	case []byte:
		if g == globalBlob {
			return Blob(arg)
		}
	case string:
		switch {
		case g == globalSecret:
			return Secret(arg)
		case g == globalCallError && shorter(arg, MaxCallError):
			return &CallError{Text: arg}
		}
	}
	return nil
}

func call2(g global, arg1, arg2 any) any {
	id, ok := toUint32(arg1)
	if !ok {
		return nil
	}
	switch g {
	case globalContext:
		name, isText := arg2.(string)
		if arg2 == nil || isText && shorter(name, maxContextName) {
			return Context{ID: ContextID(id), Name: name}
		}
	case globalSender:
		if handle, ok := toUint32(arg2); ok && handle > 0 && !Handle(handle).Reserved() {
			return Sender{Context: ContextID(id), Handle: Handle(handle)}
		}
	}
	return nil
}

// callEncode is _codecs.encode(text, 'latin1'). Text has not been copied yet and is turned straight into bytes.
func (d *decoder) callEncode(args []slot) (any, error) {
	if len(args) != 2 {
		return nil, d.errorf("bad arguments for global %v", globalEncode)
	}
	src, ok1 := d.rawText(args[0])
	codec, ok2 := d.rawText(args[1])
	if !ok1 || !ok2 {
		return nil, d.errorf("bad arguments for global %v", globalEncode)
	}
	switch string(codec) {
	case "latin1", "latin-1", "iso-8859-1":
	default:
		return nil, d.errorf("_codecs.encode to anything but latin1")
	}
	if args[0].kind != kindText {
		if err := d.repeat(len(src)); err != nil {
			return nil, err
		}
	}
	dst := d.scratch
	if len(dst) < len(src) {
		dst = make([]byte, len(src))
	}
	n, ok := latin1(dst, src)
	switch {
	case !ok:
		return nil, d.errorf("_codecs.encode: the text has characters beyond latin1")
	case n == 0:
		return emptyBytes, nil
	case len(dst) > maxScratch:
		return d.slice(dst[:n:n]), nil // rather half as much again in memory than another copy
	}
	d.scratch = dst
	return d.slice(d.copy(dst[:n])), nil
}

func (d *decoder) callKwargs(dict *Dict) (any, error) {
	if dict.Len() == 0 {
		return Kwargs(nil), nil
	}
	if err := d.repeat(dict.Len()); err != nil {
		return nil, err
	}
	k := make(Kwargs, 0, dict.Len())
	mixed := false
	for key, val := range dict.All() {
		switch name := key.(type) {
		case string:
			k = append(k, Arg{name, val})
		case []byte:
			if !utf8.Valid(name) {
				return nil, d.errorf("keyword argument %q is no text", clip(name))
			}
			if len(name) >= shortBytes { // no keyword is that long, and one can be named again and again
				if err := d.repeat(len(name)); err != nil {
					return nil, err
				}
			}
			k = append(k, Arg{string(name), val})
			mixed = true
		default:
			return nil, d.errorf("keyword argument has a name of type %T", key)
		}
	}
	if mixed && hasTwice(k) {
		return nil, d.errorf("a keyword argument is given both as text and as bytes")
	}
	return k, nil
}

func hasTwice(k Kwargs) bool {
	seen := make(map[string]bool, len(k))
	for i := range k {
		if seen[k[i].Name] {
			return true
		}
		seen[k[i].Name] = true
	}
	return false
}

// String names a global as the pickle does.
func (g global) String() string {
	return [...]string{
		globalNone:      "none",
		globalCallError: coreModule + "._unpickle_call_error",
		globalContext:   coreModule + "._unpickle_context",
		globalSender:    coreModule + "._unpickle_sender",
		globalBlob:      coreModule + ".Blob",
		globalSecret:    coreModule + ".Secret",
		globalKwargs:    coreModule + ".Kwargs",
		globalEncode:    "_codecs.encode",
		globalBytes:     "__builtin__.bytes",
	}[g]
}

// shorter reports whether s has fewer than n characters.
func shorter(s string, n int) bool {
	return len(s) < n || len(s) < 4*n && utf8.RuneCountInString(s) < n
}

func toUint32(v any) (uint32, bool) {
	n, ok := v.(int64)
	return uint32(n), ok && n >= 0 && n <= 1<<32-1
}
