package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/pyproto"
)

func TestSplitTargets(t *testing.T) {
	for in, want := range map[string][]string{
		"a":                               {"a"},
		"a,b":                             {"a", "b"},
		"a, b":                            {"a", "b"},
		"ssh:a,ssh:b+sudo:c,web1":         {"ssh:a", "ssh:b+sudo:c", "web1"},
		"local:?python=python3.9,python3": {"local:?python=python3.9,python3"},
		"local:?python=python3.9,python3,ssh:b,c":       {"local:?python=python3.9,python3", "ssh:b", "c"},
		"ssh:a?port=22,ssh:b?port=23,ssh:c":             {"ssh:a?port=22", "ssh:b?port=23", "ssh:c"},
		"docker:app?username=www,local:?python=p1,p2,,": {"docker:app?username=www", "local:?python=p1,p2,,"},
	} {
		if got := splitTargets(in); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestReadTargets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("\n# all\n ssh:a \r\nlocal:?python=p1,p2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{"ssh:a", "local:?python=p1,p2"}
	if got, err := readTargets(file, nil); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	if got, err := readTargets("-", strings.NewReader("ssh:a\nlocal:?python=p1,p2")); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := readTargets("-", strings.NewReader(strings.Repeat("x", bootstrap.MaxTarget+10))); err == nil {
		t.Error("an endless line was taken")
	}
}

func TestNeeds(t *testing.T) {
	for name, want := range map[string][2]bool{
		"local:": {}, "web1": {true, false}, "ssh:a+sudo:root": {true, true}, "ssh:a?password_env=HOME+su:": {false, true},
		"ssh:a?identity_file=x": {true, false}, "docker:c+doas:x?password_file=/f": {},
	} {
		hops, err := bootstrap.ParseTarget(name)
		if err != nil {
			t.Fatal(err)
		}
		targets := []target{{name: name, hops: hops}}
		if got := [2]bool{needs(targets, "ssh"), needs(targets, becomeMethods...)}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	none := context.Background()
	late, cancel := context.WithTimeoutCause(none, 0, timeoutError{3 * time.Second})
	defer cancel()
	<-late.Done()
	call := &pyproto.CallError{Text: "builtins.KeyError: 'x'\n  File \"m.py\", line 3, in f\n    d['x']\nCaused by: Traceback (most recent call last):\n  File \"m.py\", line 1, in g\nm.Bad: y\n"}
	hop := &daemon.HopError{Target: "t", Hop: 1, Hops: 2, Err: &bootstrap.Error{Label: "sudo root", Step: bootstrap.StepConnect, Reason: "no", Hint: "ask"}}
	for _, c := range []struct {
		ctx    context.Context
		err    error
		kind   string
		status int
		text   string
	}{
		{none, call, kindCall, 1, "KeyError: 'x'"},
		{none, fmt.Errorf("wrapped: %w", call), kindCall, 1, "KeyError: 'x'"},
		{none, &pyproto.CallError{Text: "m.Empty: "}, kindCall, 1, "m.Empty"},
		{none, hop, kindConnect, 3, "2 hops, failed at sudo root: no; try: ask"},
		{late, hop, kindTimeout, 4, "not done after 3s (--timeout)"},
		{late, context.DeadlineExceeded, kindTimeout, 4, "not done after 3s (--timeout)"},
		{none, &daemon.DeadError{Target: "t", Reason: "gone", Lost: true}, kindLost, 4, "gone"},
		{none, &pyproto.GlobalError{Module: "m", Name: "C"}, kindCall, 1, "it returned a value of type m.C; only None, bool, int, float, str, bytes, list, tuple and dict can be sent"},
		{none, errors.New("daemon: t: too much"), kindCall, 1, "t: too much"},
	} {
		f := explain(c.ctx, c.err)
		if f.Kind != c.kind || f.status() != c.status || f.String() != c.text {
			t.Errorf("%v: %+v %d %q", c.err, f, f.status(), f)
		}
	}
	want := "Traceback (most recent call last):\n  File \"m.py\", line 3, in f\n    d['x']\nKeyError: 'x'\n" +
		"Caused by: Traceback (most recent call last):\n  File \"m.py\", line 1, in g\nm.Bad: y\n"
	if got := explain(none, call).stack(); got != want {
		t.Errorf("got %s", got)
	}
}

func TestLines(t *testing.T) {
	var b bytes.Buffer
	l := newLines(&b, "t| ")
	for _, part := range []string{"a", "", "b\nc\n\nd", "e", "\n", "f"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil || b.String() != "t| ab\nt| c\nt| \nt| de\nt| f\n" {
		t.Errorf("%q %v", b.String(), err)
	}
	b.Reset()
	for range maxLine/1000 + 1 {
		if _, err := l.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() < maxLine || len(l.rest) >= maxLine {
		t.Errorf("a line without end stays in memory: %d, %d", b.Len(), len(l.rest))
	}
}

// Nothing that looks like a secret is in a trace.
func TestTraceMasks(t *testing.T) {
	plan := map[string]any{"prompts": []any{map[string]any{"name": "password", "answer": "hush1", "known": true}}, "argv": []any{"sudo"}}
	payload, err := pyproto.Marshal(pyproto.Tuple{nil, "mitogen.parent", nil, "launch", pyproto.Tuple{int64(2), plan},
		pyproto.Kwargs{{Name: "become_password", Value: "hush2"}, {Name: "api_token", Value: []byte("hush3")}, {Name: "s", Value: pyproto.Secret("hush4")}, {Name: "n", Value: "shown"}}})
	if err != nil {
		t.Fatal(err)
	}
	f := daemon.Frame{Peer: "local:", Out: true, Header: pyproto.Header{Enc: pyproto.EncMGC, Dst: 1, Handle: pyproto.CallFunction, ReplyTo: 1000}, Payload: payload}
	text := frameText(f)
	if strings.Contains(text, "hush") || !strings.Contains(text, "shown") || !strings.Contains(text, "-> local: CALL_FUNCTION dst=1 src=0 auth=0 reply=1000") {
		t.Error(text)
	}
	for _, payload := range []string{"", "\x80", "\x80\x02", "plain", "\x80\x02cos\nsystem\n.", strings.Repeat("x", 5000)} {
		f.Payload = []byte(payload)
		if text := frameText(f); len(text) > maxShown+300 || strings.Count(text, "\n") != 1 {
			t.Errorf("%q", text)
		}
	}
}
