package unixclient

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
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
	if m.asked != 1 || m.m["one"] != again { // the client may still answer
		t.Errorf("%d requests wait, and %v", m.asked, m.m)
	}
}

// late is a client that answers late, and a child of it.
func late(t *testing.T) (c *client, child *daemon.Child, asked func() *pyproto.Message) {
	t.Helper()
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Shutdown(context.Background()) })
	if child, err = d.Connect(t.Context(), "local:"); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "client")
	t.Cleanup(func() { _ = theirs.Close() })
	peer, err := d.Attach(os.NewFile(uintptr(fds[0]), "daemon"), "client", func(pyproto.ContextID) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	c = newClient(t.Context(), New(d, Options{ModuleTimeout: time.Hour}), os.Getpid())
	c.attached(peer)
	return c, child, func() *pyproto.Message {
		_ = theirs.SetReadDeadline(time.Now().Add(time.Minute))
		m, err := pyproto.ReadMessage(theirs, pyproto.DefaultMaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

// A client is asked once for a name. If it takes too long, those who ask later wait for the same answer, which counts
// whenever it comes.
func TestLateModule(t *testing.T) {
	c, child, asked := late(t)
	t1 := &c.modules
	want := func(name string) {
		t.Helper()
		if !t1.want(child, name) {
			t.Errorf("%s is refused", name)
		}
	}
	want("one")
	m := t1.m["one"]
	t1.expire("one", m)
	if t1.m["one"] != m || len(m.waiting) != 0 {
		t.Fatalf("%d wait, for %v", len(m.waiting), t1.m)
	}
	m.timer.Stop()
	want("one")
	want("two")
	if first, second := string(asked().Payload), string(asked().Payload); first != "one" || second != "two" {
		t.Errorf("it was asked for %s and %s", first, second)
	}
	if len(m.waiting) != 1 || !m.timer.Stop() {
		t.Error("nobody waits, or for ever")
	}
	t1.expire("one", m)
	lm := pyproto.LoadModule{Name: "one", Path: "one.py", Source: []byte("x")}
	payload, err := lm.AppendPickle(nil)
	if err != nil {
		t.Fatal(err)
	}
	t1.loaded(payload)
	want("one")
	if m.payload == nil || t1.asked != 1 || t1.found != 1 {
		t.Errorf("%d are found, %d asked for", t1.found, t1.asked)
	}
	t1.asked = maxModules
	if t1.want(child, "three") {
		t.Error("a client that answers nothing is asked without end")
	}
}

// Questions for files are bounded, also those that nobody waits for any more, until the client answers or who has asked
// first is gone.
func TestQuestionsForResources(t *testing.T) {
	c, child, asked := late(t)
	t1 := &c.resources
	want := func(name string) bool {
		return t1.want(child, daemon.ResourceRequest{Package: "pkg", Name: name})
	}
	for _, name := range []string{"one", "one", "two"} { // one is asked for twice
		if !want(name) {
			t.Errorf("%s is refused", name)
		}
	}
	if want(strings.Repeat("x", maxResourceName)) {
		t.Error("a long name is not refused")
	}
	for _, name := range []string{"one", "two"} {
		if m := asked(); !strings.Contains(string(m.Payload), name) {
			t.Errorf("it was asked for %q", m.Payload)
		}
	}
	one, two := t1.m[resourceKey{"pkg", "one"}], t1.m[resourceKey{"pkg", "two"}]
	for _, r := range []*resource{one, two} {
		r.waiting = nil // as expire leaves them
		r.timer.Stop()
	}
	clear(t1.of)
	t1.count = 0
	if !want("one") || len(t1.m) != 2 || !one.timer.Stop() {
		t.Errorf("%d questions, or one waits for ever", len(t1.m))
	}
	t1.asked[child] = maxChildResources
	if want("three") {
		t.Error("a client that answers nothing is asked without end")
	}
	t1.forget(child)
	if len(t1.m) != 1 || len(t1.asked) != 0 || one.by != nil {
		t.Errorf("%d questions, %d of the child", len(t1.m), t1.asked[child])
	}
	one.waiting = nil
	t1.remove(resourceKey{"pkg", "one"}, one)
	if len(t1.m) != 0 || len(t1.asked) != 0 {
		t.Errorf("%d questions, %d of the child", len(t1.m), t1.asked[child])
	}
}

// One connection does not use up what all may ask a client for that answers nothing.
func TestUnansweredModules(t *testing.T) {
	c, child, asked := late(t)
	other, err := c.s.d.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	t1 := &c.modules
	names := 0
	want := func(child *daemon.Child) bool {
		names++
		return t1.want(child, fmt.Sprint("name", names))
	}
	for range maxUnanswered {
		if !want(child) {
			t.Fatalf("name %d is refused", names)
		}
	}
	if want(child) || !want(other) {
		t.Error("one has no bound, or another has the same")
	}
	first := string(asked().Payload)
	payload, err := pyproto.Marshal(pyproto.Tuple{first, nil, nil, nil, pyproto.Tuple{}})
	if err != nil {
		t.Fatal(err)
	}
	t1.loaded(payload)
	if !want(child) || want(child) {
		t.Error("an answer makes no room, or room for more than one")
	}
	t1.forget(child.ID())
	t1.forget(other.ID())
	if len(t1.open) != 0 {
		t.Errorf("%d connections are remembered", len(t1.open))
	}
	t1.end()
}

// Nothing stays of a child that is gone, whenever it has asked.
func TestQuestionsOfTheGone(t *testing.T) {
	c, child, _ := late(t)
	other, err := c.s.d.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	t1 := &c.resources
	q := func(name string) daemon.ResourceRequest { return daemon.ResourceRequest{Package: "pkg", Name: name} }
	for _, name := range []string{"one", "two"} {
		if !t1.want(child, q(name)) {
			t.Fatalf("%s is refused", name)
		}
	}
	one, two := resourceKey{"pkg", "one"}, resourceKey{"pkg", "two"}
	for _, r := range t1.m {
		r.waiting = nil // as expire leaves them
	}
	if err := child.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if t1.want(child, q("three")) {
		t.Error("a child that is gone may ask")
	}
	for i := range maxResources - len(t1.m) {
		t1.m[resourceKey{"full", fmt.Sprint(i)}] = &resource{by: other, waiting: make([]resourceWaiter, 1), timer: t1.m[two].timer}
	}
	if !t1.want(other, q("four")) || t1.m[one] != nil || t1.m[two] != nil || t1.asked[child] != 0 {
		t.Error("what it has asked for uses up the bound")
	}
	for _, r := range t1.m {
		r.timer.Stop()
	}
	t1.m = nil // nobody has asked like this
}

// Beyond MaxConnects a connect is refused; when one is over, there is room again.
func TestConnectsOfAClient(t *testing.T) {
	const most = 3
	_, socket := serve(t, Options{MaxConnects: most, Runtime: stock(t)})
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
