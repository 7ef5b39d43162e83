package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/wire"
)

// An environment is sent once and counts for every connect of the client. One that is given with a connect counts for
// that one.
func TestEnvironment(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{Env: []string{"PATH=/usr/bin:/bin", "COLOUR=red", "MITOGEND_X_PASSWORD=secret"}})
	read := func(opt daemon.ConnectOptions) (text, secret any) {
		t.Helper()
		child, err := c.Connect(t.Context(), "local:?python=python3", opt)
		if err != nil {
			t.Fatal(err)
		}
		defer child.Close(context.Background())
		if text, err = child.Call(t.Context(), "os:getenv", "COLOUR").Value(); err == nil {
			secret, err = child.Call(t.Context(), "os:getenv", "MITOGEND_X_PASSWORD").Value()
		}
		if err != nil {
			t.Fatal(err)
		}
		return text, secret
	}
	for _, name := range []string{"", "another child"} {
		if text, secret := read(daemon.ConnectOptions{Name: name}); text != "red" || secret != nil {
			t.Errorf("the child has %v and %v", text, secret)
		}
	}
	if text, _ := read(daemon.ConnectOptions{Env: []string{"PATH=/usr/bin:/bin", "COLOUR=blue"}}); text != "blue" {
		t.Errorf("the child has %v", text)
	}

	kind := func(err error) string {
		var e *wire.Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		return e.Kind
	}
	p := &wire.Connect{}
	p.Target.Target, p.Environment = "local:?python=python3", 77
	if err := c.Do(t.Context(), "connect", p, nil); kind(err) != wire.KindUnknown {
		t.Error(err)
	}
	p.Environment, p.Env = 1, []string{"A=1"}
	if err := c.Do(t.Context(), "connect", p, nil); kind(err) != wire.KindUsage {
		t.Error(err)
	}
	large := &wire.Environment{Env: []string{"A=" + strings.Repeat("x", 1<<20)}}
	for n := 0; ; n++ {
		err := c.Do(t.Context(), "environment", large, nil)
		if err == nil && n < 5 {
			continue
		}
		if kind(err) != wire.KindOverflow || n == 0 {
			t.Errorf("after %d: %v", n, err)
		}
		break
	}
}
