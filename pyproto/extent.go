package pyproto

import (
	"fmt"
	"math/big"
)

// Limits are what a value may come to when it is written in full at each place, as text or in another format than a
// pickle. Shared values make that far more than the pickle and the memory that it came from.
type Limits struct {
	Bytes  int // of texts, bytes and numbers, together
	Values int // nested ones included
	Depth  int
	Digits int // of one integer: writing it in decimal takes more than linear time
}

// Extent is what a value comes to, written in full at each place.
type Extent struct{ Bytes, Values int }

// Extent measures a value of the types that Unmarshal gives, and ends with an error as soon as it is beyond a limit.
func (l Limits) Extent(v any) (Extent, error) {
	e := extent{limits: l}
	err := e.add(v, 0)
	return e.Extent, err
}

type extent struct {
	Extent
	limits Limits
}

func (e *extent) add(v any, depth int) error {
	if depth > e.limits.Depth {
		return fmt.Errorf("nested deeper than %d", e.limits.Depth)
	}
	if e.Values++; e.Values > e.limits.Values {
		return fmt.Errorf("more than %d values, each counted at every place where it stands", e.limits.Values)
	}
	n := 8
	switch v := v.(type) {
	case string:
		n = len(v)
	case []byte:
		n = len(v)
	case Blob:
		n = len(v)
	case Secret:
		n = len(v)
	case Context:
		n += len(v.Name)
	case *big.Int:
		// A digit takes 3.32193 bits: that many at least, and one more at most.
		if n = int(int64(v.BitLen()) * 100000 / 332193); n == e.limits.Digits || n+1 == e.limits.Digits {
			n = len(v.String())
		}
		if n > e.limits.Digits {
			return fmt.Errorf("an int of more than %d digits", e.limits.Digits)
		}
	case []any:
		return e.list(v, depth)
	case Tuple:
		return e.list(v, depth)
	case Kwargs:
		for _, arg := range v {
			if err := e.pair(arg.Name, arg.Value, depth); err != nil {
				return err
			}
		}
	case *Dict:
		for k, val := range v.All() {
			if err := e.pair(k, val, depth); err != nil {
				return err
			}
		}
	}
	if e.Bytes += n; e.Bytes > e.limits.Bytes {
		return fmt.Errorf("more than %d bytes, each counted at every place where it stands", e.limits.Bytes)
	}
	return nil
}

func (e *extent) list(list []any, depth int) error {
	for _, v := range list {
		if err := e.add(v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (e *extent) pair(k, v any, depth int) error {
	if err := e.add(k, depth+1); err != nil {
		return err
	}
	return e.add(v, depth+1)
}
