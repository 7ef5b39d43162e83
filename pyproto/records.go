package pyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Call is the payload of CALL_FUNCTION.
type Call struct {
	// ChainID names the call chain: after an error the later calls of a chain without replies fail as well. Empty for
	// none.
	ChainID string
	// Module and Function say what to call; Class is set when Function is a class method of it.
	Module, Class, Function string
	Args                    Tuple
	Kwargs                  Kwargs
	// Py3 is for a receiver of Python 3 only: arguments that are bytes are written as protocol 3 has them, which
	// CPython 3.8 and later reads into their place in one go.
	Py3 bool
}

// AppendPickle appends the pickle of c to dst.
func (c *Call) AppendPickle(dst []byte) ([]byte, error) {
	dst, _, err := c.pickle(dst, maxEncoded)
	return dst, err
}

// AppendParts is AppendPickle without a copy of the arguments that are []byte of at least min bytes: the pickle is
// dst and what was appended, then all of rest, which has these arguments themselves in it.
func (c *Call) AppendParts(dst []byte, min int) (_ []byte, rest [][]byte, err error) {
	dst, cuts, err := c.pickle(dst, min)
	if err != nil || len(cuts) == 0 {
		return dst, nil, err
	}
	for i, cut := range cuts {
		end := len(dst)
		if i+1 < len(cuts) {
			end = cuts[i+1].at
		}
		rest = append(rest, cut.body, dst[cut.at:end:end])
	}
	at := cuts[0].at
	return dst[:at:at], rest, nil
}

// cut is a place in a pickle where bytes belong that were left out.
type cut struct {
	at   int
	body []byte
}

func (c *Call) pickle(dst []byte, min int) (_ []byte, cuts []cut, err error) {
	dst = append(dst, opProto, 2, opMark)
	for _, s := range [...]struct {
		text string
		none bool
	}{{c.ChainID, c.ChainID == ""}, {c.Module, false}, {c.Class, c.Class == ""}, {c.Function, false}} {
		if s.none {
			dst = append(dst, opNone)
		} else if dst, err = appendText(dst, s.text); err != nil {
			return nil, nil, err
		}
	}
	if dst, cuts, err = c.appendArgs(dst, max(min, 256)); err != nil {
		return nil, nil, err
	}
	if len(c.Kwargs) == 0 {
		// Every peer takes a plain dict, and reads it quicker than the class.
		dst = append(dst, opEmptyDict)
	} else if dst, err = appendKwargs(dst, c.Kwargs, 1); err != nil {
		return nil, nil, err
	}
	total := len(dst)
	for _, cut := range cuts {
		total += len(cut.body)
	}
	if total >= maxEncoded {
		return nil, nil, errTooLong
	}
	return append(dst, opTuple, opStop), cuts, nil
}

// appendArgs is appendTuple but for arguments that are bytes: with Py3 it has another opcode for them, and it leaves
// those out that have at least min bytes, more than a short one.
func (c *Call) appendArgs(dst []byte, min int) (_ []byte, cuts []cut, err error) {
	if len(c.Args) == 0 && !c.Py3 {
		return append(dst, opEmptyTuple), nil, nil
	}
	end := byte(opTuple)
	if c.Py3 || len(c.Args) > 3 {
		dst = append(dst, opMark)
	} else {
		end = tupleOp(len(c.Args))
	}
	for _, arg := range c.Args {
		b, ok := arg.([]byte)
		if ok = ok && len(b) < maxEncoded && (c.Py3 || len(b) >= min); !ok {
			if dst, err = appendValue(dst, arg, 2); err != nil {
				return nil, nil, err
			}
			continue
		}
		op := byte(opBinString)
		if c.Py3 {
			op = opBinBytes
		}
		left := len(b) >= min
		if !left {
			dst = slices.Grow(dst, len(b)+16)
		}
		dst = binary.LittleEndian.AppendUint32(append(dst, op), uint32(len(b)))
		if left {
			cuts = append(cuts, cut{len(dst), b})
		} else {
			dst = append(dst, b...)
		}
	}
	return append(dst, end), cuts, nil
}

// ParseCall reads the payload of CALL_FUNCTION.
func ParseCall(data []byte) (*Call, error) {
	v, err := Unmarshal(data)
	if err != nil {
		return nil, err
	}
	t, ok := v.(Tuple)
	if !ok || len(t) != 6 {
		return nil, errors.New("pyproto: a call is no tuple of six")
	}
	c := new(Call)
	for _, f := range [...]struct {
		dst  *string
		v    any
		none bool
	}{{&c.ChainID, t[0], true}, {&c.Module, t[1], false}, {&c.Class, t[2], true}, {&c.Function, t[3], false}} {
		if !textOf(f.dst, f.v) && !(f.none && f.v == nil) {
			return nil, fmt.Errorf("pyproto: a call has a %s where a name belongs", pyType(f.v))
		}
	}
	switch a := t[4].(type) {
	case Tuple:
		c.Args = a
	case []any:
		c.Args = a
	default:
		return nil, fmt.Errorf("pyproto: a call has a %s in place of its arguments", pyType(a))
	}
	if d, empty := t[5].(*Dict); empty && d.Len() == 0 {
		return c, nil
	}
	if c.Kwargs, ok = t[5].(Kwargs); !ok {
		return nil, fmt.Errorf("pyproto: a call has a %s in place of its keyword arguments", pyType(t[5]))
	}
	return c, nil
}

// textOf stores text, or what Python 2 wrote as a plain string.
func textOf(dst *string, v any) bool {
	switch v := v.(type) {
	case string:
		*dst = v
		return true
	case []byte:
		*dst = string(v)
		return ValidText(v)
	}
	return false
}

// LoadModule is the payload of LOAD_MODULE.
type LoadModule struct {
	// Name is the module's full name.
	Name string
	// IsPkg tells a package from a plain module. Pkg lists the names of its direct children, the last component only. A
	// Pkg that is not nil makes a package as well.
	IsPkg bool
	Pkg   []string
	// Path is the file on the side that serves; the child shows it with a prefix.
	Path string
	// Source is the module's source, compressed by zlib.
	Source []byte
	// Related names modules that the child will want next.
	Related []string
	// Missing makes the record a negative answer. Only Name and Path are sent then. Our own runtime finds the reason
	// in Path, which stays empty for other peers.
	Missing bool
}

// AppendPickle appends the pickle of m to dst.
func (m *LoadModule) AppendPickle(dst []byte) (_ []byte, err error) {
	dst, err = appendText(append(dst, opProto, 2, opMark), m.Name)
	if err != nil {
		return nil, err
	}
	if m.Missing {
		if dst = append(dst, opNone); m.Path == "" {
			dst = append(dst, opNone)
		} else if dst, err = appendText(dst, m.Path); err != nil {
			return nil, err
		}
		return append(dst, opNone, opEmptyTuple, opTuple, opStop), nil
	}
	if m.IsPkg || m.Pkg != nil {
		dst, err = appendNames(dst, m.Pkg)
	} else {
		dst = append(dst, opNone)
	}
	if err != nil {
		return nil, err
	}
	if dst, err = appendText(dst, m.Path); err != nil {
		return nil, err
	}
	if dst, err = appendOther(dst, Blob(m.Source), 1); err != nil {
		return nil, err
	}
	if dst, err = appendNames(dst, m.Related); err != nil {
		return nil, err
	}
	if len(dst) >= maxEncoded {
		return nil, errTooLong
	}
	return append(dst, opTuple, opStop), nil
}

func appendNames(dst []byte, names []string) (_ []byte, err error) {
	dst = append(dst, opEmptyList)
	if len(names) == 0 {
		return dst, nil
	}
	dst = append(dst, opMark)
	for _, n := range names {
		if dst, err = appendText(dst, n); err != nil {
			return nil, err
		}
	}
	return append(dst, opAppends), nil
}

// ParseLoadModule reads the payload of LOAD_MODULE, as a stock client that serves its own modules sends it. Source
// shares the memory of data.
func ParseLoadModule(data []byte) (*LoadModule, error) {
	v, err := DecodeOptions{Alias: true}.Unmarshal(data)
	if err != nil {
		return nil, err
	}
	// Releases from 0.3.4x on may append fields; the first five are the same in all.
	t, ok := v.(Tuple)
	if !ok || len(t) < 5 {
		return nil, errors.New("pyproto: a module record is no tuple of five")
	}
	m := new(LoadModule)
	if !textOf(&m.Name, t[0]) {
		return nil, fmt.Errorf("pyproto: a module record has a %s for its name", pyType(t[0]))
	}
	if t[3] == nil {
		m.Missing = true
		textOf(&m.Path, t[2])
		return m, nil
	}
	if t[1] != nil {
		m.IsPkg = true
		if m.Pkg, err = names(t[1]); err != nil {
			return nil, fmt.Errorf("pyproto: module record of %s: children: %w", m.Name, err)
		}
	}
	if !textOf(&m.Path, t[2]) {
		return nil, fmt.Errorf("pyproto: module record of %s: path is a %s", m.Name, pyType(t[2]))
	}
	switch src := t[3].(type) {
	case Blob:
		m.Source = src
	case []byte:
		m.Source = src
	default:
		return nil, fmt.Errorf("pyproto: module record of %s: source is a %s", m.Name, pyType(t[3]))
	}
	if m.Related, err = names(t[4]); err != nil {
		return nil, fmt.Errorf("pyproto: module record of %s: related: %w", m.Name, err)
	}
	return m, nil
}

func names(v any) ([]string, error) {
	var list []any
	switch v := v.(type) {
	case []any:
		list = v
	case Tuple:
		list = v
	default:
		return nil, fmt.Errorf("a %s is no list", pyType(v))
	}
	out := make([]string, len(list))
	var a assigner
	for i := range list {
		text, ok := list[i].(string)
		if b, isBytes := list[i].([]byte); isBytes {
			text, ok = a.text(b, ValidText)
		}
		if out[i] = text; !ok {
			return nil, fmt.Errorf("a %s is no name", pyType(list[i]))
		}
	}
	return out, nil
}
