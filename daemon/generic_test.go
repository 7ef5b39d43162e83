package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"mitogend/integration/pythons"
	"mitogend/pyproto"
)

// TestCallOf: a call's result is of the type that is asked for, and an error comes with no value.
func TestCallOf(t *testing.T) {
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := connect(t, newDaemon(t, Options{}), target(py))
		ctx := t.Context()
		if s, err := Call[string](ctx, c, "posixpath:join", "a", "b"); s != "a/b" || err != nil {
			t.Errorf("%q, %v", s, err)
		}
		if l, err := Call[[]string](ctx, c, "posixpath:split", "a/b"); fmt.Sprint(l) != "[a b]" || err != nil {
			t.Errorf("%q, %v", l, err)
		}
		if n, err := Call[int](ctx, c, "posixpath:join", "a", "b"); n != 0 || err == nil {
			t.Errorf("text as a number: %v, %v", n, err)
		}
		// Of what is read in part nothing is given.
		if l, err := Call[[]int](ctx, c, "copy:copy", []any{1, "two"}); l != nil || err == nil {
			t.Errorf("%v, %v", l, err)
		}
		var raised *pyproto.CallError
		if s, err := Call[string](ctx, c, "os:listdir", "/nowhere"); s != "" || !errors.As(err, &raised) {
			t.Errorf("%q, %v", s, err)
		}
		if fmt.Sprint(c) != c.Name() {
			t.Errorf("%v", c)
		}
	})
}

// TestLogger: what a child logs comes to the logger of who embeds the daemon, and nothing below its level.
func TestLogger(t *testing.T) {
	var out bytes.Buffer
	d, err := New(Options{Logger: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, d, "local:", ConnectOptions{Name: "web1", LogLevel: 10})
	for _, level := range []string{"debug", "info", "error"} {
		if err := c.Call(t.Context(), "logging:"+level, "a text").Err(); err != nil {
			t.Error(err)
		}
	}
	if err := d.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	var record map[string]any
	if err := json.Unmarshal(out.Bytes(), &record); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	delete(record, "time")
	if got, want := fmt.Sprint(record), "map[level:ERROR logger:root msg:a text target:web1]"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}
