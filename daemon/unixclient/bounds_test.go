package unixclient

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"mitogend/integration/poll"
	"mitogend/pyproto"
)

// A client can make the daemon keep so many modules, and so many bytes of them.
func TestModulesOfAClient(t *testing.T) {
	load := func(m *modules, name string, size int) bool {
		t.Helper()
		lm := pyproto.LoadModule{Name: name, Path: name + ".py", Source: make([]byte, size)}
		payload, err := lm.AppendPickle(nil)
		if err != nil {
			t.Fatal(err)
		}
		m.loaded(payload)
		return m.m[name] != nil
	}
	for _, tt := range []struct {
		what         string
		found, bytes int
		kept         bool
	}{
		{"room for one", maxModules - 1, maxModuleBytes - 2000, true},
		{"too many", maxModules, 0, false},
		{"too large", 0, maxModuleBytes - 1000, false},
	} {
		var m modules
		m.init(&client{s: &Server{log: zap.NewNop()}})
		m.asked, m.found, m.bytes = 1, tt.found, tt.bytes
		if load(&m, "one", 1000) != tt.kept {
			t.Errorf("%s: kept is %v", tt.what, !tt.kept)
		}
		if m.bytes > maxModuleBytes || m.found > maxModules {
			t.Errorf("%s: %d modules, %d bytes", tt.what, m.found, m.bytes)
		}
	}
}

// A timer that came too late to be stopped changes nothing: its request was answered, and the name may be asked for again.
func TestLateTimerOfAModule(t *testing.T) {
	var m modules
	m.init(&client{s: &Server{log: zap.NewNop()}})
	again := &module{asked: true}
	m.m["one"], m.asked = again, 1
	m.expire("one", &module{asked: true})
	m.expire("two", &module{asked: true})
	if m.asked != 1 || m.m["one"] != again {
		t.Errorf("%d requests wait, and %v", m.asked, m.m)
	}
	m.expire("one", again)
	if m.asked != 0 || len(m.m) != 0 {
		t.Errorf("%d requests wait, and %v", m.asked, m.m)
	}
}

// Beyond MaxConnects a connect is refused; when one is over, there is room again.
func TestConnectsOfAClient(t *testing.T) {
	const most = 3
	_, socket := serve(t, Options{MaxConnects: most})
	silent := filepath.Join(t.TempDir(), "silent")
	write(t, silent, "#!/bin/sh\nexec sleep 1000\n")
	c := dial(t, socket)
	connect := func(handle pyproto.Handle, timeout float64) {
		kwargs := pyproto.Kwargs{{Name: "python_path", Value: []any{"/bin/sh", silent}}, {Name: "connect_timeout", Value: timeout}}
		payload, err := pyproto.Marshal(pyproto.Tuple{nil, "mitogen.parent", nil, "_proxy_connect", pyproto.Tuple{nil, "local", kwargs}, pyproto.Kwargs{}})
		if err != nil {
			t.Fatal(err)
		}
		c.send(t, pyproto.Message{Header: c.header(pyproto.CallFunction, handle), Payload: payload})
	}
	answer := func() (pyproto.Handle, string) {
		m := c.recv(t)
		var up struct {
			Msg string `py:"msg"`
		}
		if err := pyproto.Decode(m.Payload, &up); err != nil {
			t.Fatal(m, err)
		}
		return m.Handle, up.Msg
	}
	for i := range most {
		connect(pyproto.Handle(2000+i), 3600)
	}
	connect(3000, 3600)
	if handle, text := answer(); handle != 3000 || !strings.Contains(text, fmt.Sprintf("%d connects are under way", most)) {
		t.Errorf("%d: %q", handle, text)
	}
	c.alive(t)

	// Those of another client have their own bound.
	other := c
	c = dial(t, socket)
	connect(3001, 0.1)
	if handle, text := answer(); handle != 3001 || strings.Contains(text, "under way") {
		t.Errorf("%d: %q", handle, text)
	}
	for i := range most - 1 {
		connect(pyproto.Handle(2000+i), 3600)
	}
	connect(3002, 0.1)
	_, _ = answer()
	poll.Until(t, "there is room again", func() bool {
		connect(3003, 0.1)
		_, text := answer()
		return !strings.Contains(text, "under way")
	})
	other.alive(t)
}
