package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/kisielk/og-rek"
	"github.com/nlpodyssey/gopickle/pickle"

	"mitogend/pyproto"
)

// pickled are the values of py/codec.py.
var pickled = []struct{ name, what string }{
	{"call", "of a call tuple"},
	{"module", "of a 20 kB module record"},
	{"mixed", "of 8,700 mixed values"},
	{"bytes", "of 1 MB bytes"},
}

func writePickles(python, script, dir string) error {
	if out, err := exec.Command(python, script, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("codec.py: %w: %s", err, out)
	}
	return nil
}

// library is one codec: loads gives a value that dumps accepts. dumps is nil if the library has none.
type library struct {
	loads func(data []byte) (any, error)
	dumps func(v any) ([]byte, error)
}

var libraries = map[subject]library{
	ours: {pyproto.Unmarshal, pyproto.Marshal},
	ogrek: {
		func(data []byte) (any, error) {
			// As ours does, PyDict keeps keys that Go's maps cannot hold, and StrictUnicode distinguishes text and bytes.
			return ogórek.NewDecoderWithConfig(bytes.NewReader(data), &ogórek.DecoderConfig{StrictUnicode: true, PyDict: true}).Decode()
		},
		func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := ogórek.NewEncoderWithConfig(&b, &ogórek.EncoderConfig{Protocol: 2, StrictUnicode: true}).Encode(v)
			return b.Bytes(), err
		},
	},
	gopickle: {loads: func(data []byte) (any, error) {
		u := pickle.NewUnpickler(bytes.NewReader(data))
		u.FindClass = gopickleClass
		return u.Load()
	}},
}

// gopickleClass has the globals that the pickles name.
func gopickleClass(module, name string) (any, error) {
	switch module + "." + name {
	case "_codecs.encode":
		return callable(func(args []any) (any, error) {
			text, ok := args[0].(string)
			if !ok {
				return nil, errors.New("_codecs.encode wants text")
			}
			b := make([]byte, 0, len(text))
			for _, r := range text {
				b = append(b, byte(r))
			}
			return b, nil
		}), nil
	case "mitogen.core.Blob", "mitogen.core.Kwargs":
		return callable(func(args []any) (any, error) { return args[0], nil }), nil
	}
	return nil, fmt.Errorf("global %s.%s", module, name)
}

type callable func(args []any) (any, error)

func (f callable) Call(args ...any) (any, error) { return f(args) }

func newCodec(p params) (experiment, error) {
	lib, ok := libraries[subject(p.str("library"))]
	if !ok {
		return nil, errUnsupported
	}
	c := codec{lib: lib, data: map[string][]byte{}, values: map[string]any{}}
	for _, w := range pickled {
		data, err := os.ReadFile(filepath.Join(p.str("dir"), w.name+".pickle"))
		if err != nil {
			return nil, err
		}
		v, err := lib.loads(data)
		if err != nil {
			return nil, fmt.Errorf("loads %s: %w", w.what, err)
		}
		c.data[w.name], c.values[w.name] = data, v
		if err := c.check(v); err != nil {
			return nil, fmt.Errorf("%s: %w", w.what, err)
		}
	}
	return c, nil
}

type codec struct {
	lib    library
	data   map[string][]byte
	values map[string]any
}

// check fails for a codec that is quick because it loses something: its output, read and written again, must be the same.
func (c codec) check(v any) error {
	if c.lib.dumps == nil {
		return nil
	}
	once, err := c.lib.dumps(v)
	if err != nil {
		return err
	}
	w, err := c.lib.loads(once)
	if err != nil {
		return err
	}
	twice, err := c.lib.dumps(w)
	if err != nil {
		return err
	}
	if len(once) != len(twice) {
		return fmt.Errorf("%d bytes became %d after a round trip", len(once), len(twice))
	}
	return nil
}

func (c codec) sample(int) (metrics, error) {
	m := metrics{}
	for name, data := range c.data {
		var err error
		m["loads_"+name] = timed(func() {
			if _, e := c.lib.loads(data); e != nil {
				err = e
			}
		})
		if v := c.values[name]; c.lib.dumps != nil {
			m["dumps_"+name] = timed(func() {
				if _, e := c.lib.dumps(v); e != nil {
					err = e
				}
			})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return m, nil
}

func (c codec) close() error { return nil }

// timed gives the seconds of one f(), by as many rounds as fill 60 ms, as py/codec.py does, with the garbage collections that
// happen.
func timed(f func()) float64 {
	for rounds := 1; ; {
		t := time.Now()
		for range rounds {
			f()
		}
		spent := time.Since(t).Seconds()
		if spent > 0.06 {
			return spent / float64(rounds)
		}
		rounds = max(rounds*2, int(float64(rounds)*0.08/max(spent, 1e-9)))
	}
}
