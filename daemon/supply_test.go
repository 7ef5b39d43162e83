package daemon

import (
	"bytes"
	"context"
	"testing"

	"mitogend/bootstrap"
	"mitogend/pyproto"
)

// A hop gets the answers for the child that it launches, in parts, and nothing else.
func TestSupplyPart(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Shutdown(context.Background()) }()
	data := bytes.Repeat([]byte("0123456789"), supplyPart/10+1)
	packed, renewed := 0, 0
	supply := &bootstrap.Supply{Offers: func(context.Context) ([]bootstrap.Offer, error) {
		return []bootstrap.Offer{{Hash: "abc", Pack: func(context.Context, string) ([]byte, error) { packed++; return data, nil }}}, nil
	}}
	c := &Child{d: d}
	const id = "1234"
	c.supplying.Store(pyproto.ContextID(1234), &supplying{supply: supply, renew: func() { renewed++ }})
	var got []byte
	for _, offset := range []string{"0", "1048576", "1048586", "9999999999"} {
		v, err := c.part([]string{id, "MITOSEND abc tar", offset})
		if err != nil {
			t.Fatal(err)
		}
		if len(v.([]byte)) > supplyPart {
			t.Errorf("%d bytes at once", len(v.([]byte)))
		}
		got = append(got, v.([]byte)...)
	}
	if !bytes.Equal(got, data) || packed != 1 || renewed == 0 {
		t.Errorf("%d bytes of %d, packed %d times", len(got), len(data), packed)
	}
	for _, args := range [][]string{
		{"7", "MITOSEND abc tar", "0"}, {"x", "MITOSEND abc tar", "0"}, {id, "MITOSEND abd tar", "0"}, {id, "", "0"}, {id, "MITOSEND abc tar", "-1"},
		{id, "MITOSEND abc tar", "x"}, {"-1", "MITOSEND abc tar", "0"},
	} {
		if v, err := c.part(args); err == nil {
			t.Errorf("%q: %v", args, v)
		}
	}
}
