package control_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/daemon/inventory"
	"mitogend/daemon/pool"
	"mitogend/daemon/wire"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// raw is a client that writes what it likes.
type raw struct {
	net.Conn
	r *wire.Reader
}

func (b *bed) raw(t testing.TB) *raw {
	t.Helper()
	nc, err := net.Dial("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &raw{nc, wire.NewReader(nc, 0)}
}

// renew sets a new limit for what comes next, which finds hangs.
func (r *raw) renew() { _ = r.SetDeadline(time.Now().Add(time.Minute)) }

func (r *raw) send(t testing.TB, id uint32, method string, params any) {
	t.Helper()
	msg, err := wire.NewRequest(nil, id, method, params)
	if err != nil {
		t.Fatal(err)
	}
	r.renew()
	if _, err := r.Write(msg); err != nil {
		t.Fatal(err)
	}
}

// reply reads one response.
func (r *raw) reply(t testing.TB) (*wire.Message, *wire.Error) {
	t.Helper()
	data, err := r.r.Next()
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if m.Error == nil {
		return m, nil
	}
	var e wire.Error
	if err := wire.Unmarshal(m.Error, &e); err != nil {
		t.Fatal(err)
	}
	return m, &e
}

func TestGarbage(t *testing.T) {
	b := newBed(t, nil)
	good := b.connect(t, "local:")
	before := b.Stats().RSSBytes
	for name, data := range map[string][]byte{
		"text":                   []byte("GET / HTTP/1.1\r\n\r\n"),
		"a Mitogen handshake":    binary.BigEndian.AppendUint32(nil, 4711),
		"zeros":                  make([]byte, 100000),
		"half a request":         {0x94, 0x00, 0x01, 0xa4, 'c', 'a'},
		"a text of 4 GB":         {0x94, 0x00, 0x01, 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
		"an array of 4 billion":  {0x94, 0x00, 0x01, 0xa4, 'c', 'a', 'l', 'l', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"type 9":                 {0x94, 0x09, 0x01, 0xa1, 'x', 0x90},
		"deep nesting":           append([]byte{0x94, 0x00, 0x01, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 100000)...),
		"a response to nothing":  {0x94, 0x01, 0x01, 0xc0, 0xc0},
		"nothing":                {},
		"a notification of junk": {0x93, 0x02, 0xa4, 'j', 'u', 'n', 'k', 0x90},
	} {
		nc := b.raw(t)
		_, _ = nc.Write(data)
		if c, ok := nc.Conn.(*net.UnixConn); ok {
			_ = c.CloseWrite()
		}
		answer, err := io.ReadAll(nc)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: not disconnected: %v", name, err)
		}
		if strings.Contains(name, "4 ") && !bytes.Contains(answer, []byte("usage")) {
			t.Errorf("%s: answered by % x", name, answer)
		}
	}
	if err := good.Call(t.Context(), "mod:pid").Err(); err != nil {
		t.Error("another client is disturbed: ", err)
	}
	if grown := b.Stats().RSSBytes - before; grown > 64<<20 {
		t.Errorf("the daemon has grown by %d bytes", grown)
	}
	if n := b.Stats().BadMessages; n < 6 {
		t.Errorf("%d bad messages were counted", n)
	}
}

func TestBadRequests(t *testing.T) {
	b := newBed(t, nil)
	c := b.raw(t)
	for i, q := range []struct {
		method string
		params any
		kind   string
		text   string
	}{
		{"nothing", nil, wire.KindUsage, `no method "nothing"`},
		{"", nil, wire.KindUsage, "no method"},
		{strings.Repeat("x", 100000), nil, wire.KindUsage, "xxx..."},
		{"connect", nil, wire.KindUsage, "it is empty"},
		{"connect", map[string]any{"target": "nope:x"}, wire.KindUsage, "unknown method"},
		{"connect", map[string]any{"target": "local:", "source": map[string]any{"requirement_files": []string{"r.txt"}}}, wire.KindUsage, "requirements file r.txt is not absolute"},
		{"connect", map[string]any{"target": "local:", "source": map[string]any{"find_links": []string{"https://x/", "links"}}}, wire.KindUsage, "find_links links is neither absolute nor an address"},
		{"connect", map[string]any{"taget": "local:"}, wire.KindUsage, "taget"},
		{"connect", map[string]any{"target": 5}, wire.KindUsage, "bad parameters"},
		{"connect", map[string]any{"target": "local:", "child": 3}, wire.KindUsage, "takes a target"},
		{"connect", map[string]any{"target": "local:", "dir": "relative"}, wire.KindUsage, "not absolute"},
		{"connect", map[string]any{"target": "local:", "source": map[string]any{"path": []string{"lib"}}}, wire.KindUsage, "not absolute"},
		{"connect", map[string]any{"target": "ssh:x?password=secret"}, wire.KindUsage, "a secret never stands in a target"},
		{"call", map[string]any{"child": 99, "function": "os:getpid"}, wire.KindUnknown, "no"},
		{"call", map[string]any{"child": 1, "target": "local:", "function": "os:getpid"}, wire.KindUsage, "exclude"},
		{"call", map[string]any{"target": "local:", "function": "os"}, wire.KindInternal, "MODULE:FUNCTION"},
		{"call", map[string]any{"target": "local:", "function": "os:getpid", "args": 7}, wire.KindUsage, "args is no array"},
		{"call", map[string]any{"target": "local:", "function": "os:getpid", "kwargs": []int{1}}, wire.KindUsage, "kwargs is no map"},
		{"call", map[string]any{"target": "local:", "function": "os:getpid", "kwargs": map[int]int{1: 2}}, wire.KindUsage, "no text"},
		{"read", map[string]any{"stream": 77}, wire.KindUnknown, "no stream 77"},
		{"write", map[string]any{"stream": 77}, wire.KindUnknown, "no stream 77"},
		{"close", nil, wire.KindUsage, "close what"},
		{"close", map[string]any{"child": 5}, wire.KindUnknown, "no"},
		{"send", map[string]any{"to": 5, "value": 1}, wire.KindUsage, "no sender"},
		{"send", map[string]any{"to": []int{9999, 1000}, "value": 1}, wire.KindUnknown, "no child of this client"},
		{"receiver", map[string]any{"child": 5}, wire.KindUnknown, "no"},
		{"subscribe", map[string]any{"kinds": []string{"parties"}}, wire.KindUsage, `"parties"`},
		{"log_level", map[string]any{"level": "loud"}, wire.KindUsage, "loud"},
		{"modules", map[string]any{"names": "mod"}, wire.KindUsage, "bad parameters"},
	} {
		c.send(t, uint32(i), q.method, q.params)
		m, e := c.reply(t)
		if m.ID != uint32(i) || e == nil || e.Kind != q.kind || !strings.Contains(e.Message, q.text) {
			t.Errorf("%.50s %v: got %+v", q.method, q.params, e)
		}
		if e != nil && strings.Contains(e.Message, "secret") && strings.Contains(e.Message, "=secret") {
			t.Errorf("a password is in the error: %s", e.Message)
		}
	}
}

func TestTimeoutsAndCancels(t *testing.T) {
	b := newBed(t, nil)
	c := b.raw(t)
	sleep := map[string]any{"target": "local:", "function": "time:sleep", "args": []int{1000}, "timeout": 0.05}
	c.send(t, 1, "call", sleep)
	if _, e := c.reply(t); e == nil || e.Kind != wire.KindTimeout {
		t.Errorf("got %+v", e)
	}
	c.send(t, 2, "call_async", map[string]any{"target": "local:", "function": "time:sleep", "args": []int{1000}, "timeout": 0.05, "read": true})
	if m, e := c.reply(t); e == nil {
		var items wire.Items
		if err := wire.Unmarshal(m.Result, &items); err != nil || len(items.Items) != 1 || items.Items[0].Error.Kind != wire.KindTimeout || !items.End {
			t.Errorf("got %+v, %v", items, err)
		}
	} else if e.Kind != wire.KindTimeout {
		t.Errorf("got %+v", e)
	}
	delete(sleep, "timeout")
	c.send(t, 3, "call", sleep)
	c.send(t, 4, "cancel", map[string]any{"request": 3})
	seen := map[uint32]string{}
	for range 2 {
		m, e := c.reply(t)
		seen[m.ID] = ""
		if e != nil {
			seen[m.ID] = e.Kind
		}
	}
	if seen[3] != wire.KindCancelled || seen[4] != "" {
		t.Errorf("got %v", seen)
	}
	// None of them stands in the way of later requests.
	c.send(t, 5, "call", map[string]any{"target": "local:", "function": "os:getpid"})
	if _, e := c.reply(t); e != nil {
		t.Error(e)
	}
	poll.Until(t, "all work has ended", func() bool { return b.Stats().Active == 0 })
}

func TestClientDiesInACall(t *testing.T) {
	b := newBed(t, nil)
	for _, q := range []struct {
		method string
		params map[string]any
	}{
		{"call", map[string]any{"target": "local:", "function": "time:sleep", "args": []int{1000}}},
		{"call_async", map[string]any{"target": "local:", "function": "time:sleep", "args": []int{1000}}},
		{"open", map[string]any{"target": "local:", "function": "mod:flood", "args": []int{1000}}},
		{"run", map[string]any{"target": "local:", "path": "x.py", "script": []byte("import time\nwhile 1:\n    print('x' * 1000)\n")}},
	} {
		c := b.raw(t)
		c.send(t, 1, q.method, q.params)
		poll.Until(t, q.method+" runs", func() bool {
			return b.Stats().Active == 1 && len(b.List().Contexts) > 0 && b.List().Contexts[0].State == "busy"
		})
		_ = c.Close()
		poll.Until(t, q.method+" has ended", func() bool { st := b.Stats(); return st.Active == 0 && st.Clients == 0 })
		poll.Until(t, q.method+" left nothing busy", func() bool {
			for _, x := range b.List().Contexts {
				if x.State == "busy" || x.State == "other" {
					return false
				}
			}
			return true
		})
	}
}

// script makes a file for sh that stands in for an interpreter.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	pythons.Program(t, path, "#!/bin/sh\n"+text)
	return path
}

func TestClientDiesInAConnectThatOthersWaitFor(t *testing.T) {
	b := newBed(t, nil)
	gate := filepath.Join(t.TempDir(), "gate")
	starts := filepath.Join(t.TempDir(), "starts")
	real, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	target := "local:?python=" + script(t, fmt.Sprintf("echo x >>%s; while [ ! -e %s ]; do sleep 0.02; done; exec %s \"$@\"\n", starts, gate, real))
	first := b.raw(t)
	first.send(t, 1, "connect", map[string]any{"target": target})
	poll.Until(t, "it is being connected", func() bool { return exists(starts) })
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			c := b.raw(t)
			c.send(t, 1, "call", map[string]any{"target": target, "function": "os:getpid"})
			if _, e := c.reply(t); e != nil {
				t.Error(e)
			}
		})
	}
	poll.Until(t, "all wait", func() bool { l := b.List().Contexts; return len(l) == 1 && l[0].Leases == 6 })
	_ = first.Close()
	poll.Until(t, "the first is gone", func() bool { return b.List().Contexts[0].Leases == 5 })
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if data, _ := os.ReadFile(starts); len(data) != 2 {
		t.Errorf("the interpreter was started %d times", len(data)/2)
	}
	// When all that wait are gone, the connect is given up.
	_ = os.Remove(gate)
	last := b.raw(t)
	last.send(t, 1, "connect", map[string]any{"target": target, "fresh": true})
	poll.Until(t, "it is being connected", func() bool { return len(b.List().Contexts) == 2 })
	_ = last.Close()
	poll.Until(t, "the connect is given up", func() bool { return len(b.List().Contexts) == 1 })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A request that gives up waiting for its turn changes nothing of the order of others.
func TestOrderAfterATimeout(t *testing.T) {
	b := newBed(t, func(o *control.Options) { o.Pool.PerTarget = 1 })
	gate := filepath.Join(t.TempDir(), "gate")
	starts := filepath.Join(t.TempDir(), "starts")
	real, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	target := "local:?python=" + script(t, fmt.Sprintf("echo x >>%s; while [ ! -e %s ]; do sleep 0.02; done; exec %s \"$@\"\n", starts, gate, real))
	c := b.raw(t)
	note := func(id uint32, more map[string]any) {
		params := map[string]any{"target": target, "function": "mod:note", "args": []any{id}}
		for k, v := range more {
			params[k] = v
		}
		c.send(t, id, "call", params)
	}
	note(1, nil)
	note(2, map[string]any{"timeout": 0.05})
	for id := uint32(3); id < 10; id++ {
		note(id, nil)
	}
	if m, e := c.reply(t); m.ID != 2 || e == nil || e.Kind != wire.KindTimeout {
		t.Fatal(m.ID, e)
	}
	// While the first is not sent, no other one is begun.
	poll.Until(t, "it is being connected", func() bool { return exists(starts) })
	c.send(t, 10, "list", nil)
	if m, e := c.reply(t); m.ID != 10 || e != nil || b.List().Contexts[0].Leases != 1 {
		t.Errorf("%v, and %d requests have begun", e, b.List().Contexts[0].Leases)
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if _, e := c.reply(t); e != nil {
			t.Error(e)
		}
	}
	note(11, nil)
	m, _ := c.reply(t)
	var got wire.Value
	if err := wire.Unmarshal(m.Result, &got); err != nil || fmt.Sprint(got.V) != "[1 3 4 5 6 7 8 9 11]" {
		t.Error(got.V, err)
	}
}

func TestThousandClients(t *testing.T) {
	b := newBed(t, nil)
	first := b.connect(t, "local:")
	if err := first.Call(t.Context(), "mod:pid").Err(); err != nil {
		t.Fatal(err)
	}
	before := b.Stats()
	const count = 1000
	clients := make([]*raw, count)
	for i := range clients {
		clients[i] = b.raw(t)
	}
	for i, c := range clients {
		c.send(t, uint32(i), "call", map[string]any{"target": "local:", "function": "mod:echo", "args": []int{i}})
	}
	for i, c := range clients {
		m, e := c.reply(t)
		var got wire.Value
		if e != nil || wire.Unmarshal(m.Result, &got) != nil || got.V != int64(i) {
			t.Fatalf("client %d got %v, %v", i, got.V, e)
		}
	}
	st := b.Stats()
	if st.Clients != count+1 || st.Connections > 4 {
		t.Errorf("%d clients, %d connections", st.Clients, st.Connections)
	}
	t.Logf("%d clients: %d goroutines, %d kB of heap for each", count, st.Goroutines-before.Goroutines, (int64(st.HeapBytes)-int64(before.HeapBytes))/count/1024)
	for _, c := range clients {
		_ = c.Close()
	}
	poll.Until(t, "all are gone", func() bool { return b.Stats().Clients == 1 })
}

func TestTooManyClients(t *testing.T) {
	b := newBed(t, func(o *control.Options) { o.MaxClients = 2 })
	one, two := b.raw(t), b.raw(t)
	one.send(t, 1, "ping", nil)
	one.reply(t)
	two.send(t, 1, "ping", nil)
	two.reply(t)
	c, err := client.Dial(t.Context(), b.path, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Shutdown(context.Background()) }()
	var refused *client.RefusedError
	if _, err := c.Stats(t.Context()); !errors.As(err, &refused) || refused.Error() != "the daemon refuses: there are 2 clients already" {
		t.Error(err)
	}
	// Nothing has run then, and no target was reached.
	var hop *daemon.HopError
	if _, err := c.Connect(t.Context(), "local:"); !errors.As(err, &hop) || !strings.Contains(err.Error(), "2 clients already") {
		t.Error(err)
	}
	m := &client.Many{Places: places(t, pythons.Any(t), 2)}
	if err := c.CallMany(t.Context(), m, &client.ManyCalls{Function: "os:getpid"}, func(*client.Outcome) {}); !errors.As(err, &hop) {
		t.Error(err)
	}
}

// TestForeignClient runs this test program again as another user.
func TestForeignClient(t *testing.T) {
	if path := os.Getenv("CONTROL_TEST_SOCKET"); path != "" {
		nc, err := net.Dial("unix", path)
		if err != nil {
			fmt.Println("dial:", err)
			os.Exit(0)
		}
		answer, _ := io.ReadAll(nc)
		fmt.Printf("answer: %q\n", answer)
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		pythons.Missing(t, "only root can be another user as well")
	}
	b := newBed(t, nil)
	// The directory alone keeps others out.
	as := func(path string) string {
		exe := filepath.Join(os.TempDir(), fmt.Sprintf("control-test-%d", os.Getpid()))
		defer os.Remove(exe)
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		pythons.Program(t, exe, string(self))
		cmd := exec.Command(exe, "-test.run=^TestForeignClient$")
		cmd.Env = []string{"CONTROL_TEST_SOCKET=" + path}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if got := as(b.path); !strings.Contains(got, "permission denied") {
		t.Errorf("the socket's directory lets others in: %s", got)
	}
	// Where a directory does not, the check of the peer does.
	dir, err := os.MkdirTemp("/tmp", "control-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "open.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if os.Chmod(dir, 0o755) != nil || os.Chmod(path, 0o777) != nil {
		t.Fatal("chmod")
	}
	go func() { _ = b.Serve(ln) }()
	if got := as(path); !strings.Contains(got, "refused") || !strings.Contains(got, "you are user 65534") {
		t.Errorf("another user is served: %s", got)
	}
	if b.Stats().Refused != 1 {
		t.Error("not counted")
	}
	_ = ln.Close()
}

func TestClientThatNeverReads(t *testing.T) {
	b := newBed(t, func(o *control.Options) { o.StallTimeout = time.Second })
	other := b.connect(t, "local:")
	if err := other.Call(t.Context(), "mod:pid").Err(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	before := b.Stats().HeapBytes
	c := b.raw(t)
	if err := c.Conn.(*net.UnixConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	// The client asks for 1 GB of replies.
	peak := uint64(0)
	started := time.Now()
	for i := range uint32(1000) {
		msg, err := wire.NewRequest(nil, i, "call", map[string]any{"target": "local:", "function": "builtins:bytes", "args": []int{1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(msg); err != nil {
			break // disconnected
		}
		peak = max(peak, b.Stats().HeapBytes)
	}
	poll.Until(t, "it is disconnected", func() bool { peak = max(peak, b.Stats().HeapBytes); return b.Stats().Clients == 1 })
	t.Logf("disconnected after %v; the heap grew by %d MB", time.Since(started).Round(time.Millisecond), (int64(peak)-int64(before))>>20)
	if peak > before+200<<20 {
		t.Errorf("the heap grew by %d MB", (peak-before)>>20)
	}
	if err := other.Call(t.Context(), "mod:pid").Err(); err != nil {
		t.Error("another client is disturbed: ", err)
	}
}

func TestResponsesWait(t *testing.T) {
	b := newBed(t, nil)
	c := b.raw(t)
	if err := c.Conn.(*net.UnixConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	before, peak := b.Stats().HeapBytes, uint64(0)
	// The client asks for 120 MB of results before it reads anything.
	const count, size = 120, 1 << 20
	for i := range uint32(count) {
		method := []string{"call", "call_async"}[i%2]
		p := map[string]any{"target": fmt.Sprintf("local:?connect_timeout=%d", 30+i%8), "function": "builtins:bytes", "args": []int{size}}
		if method == "call_async" {
			p["read"] = true
		}
		c.send(t, i, method, p)
	}
	other := b.connect(t, "local:")
	seen := map[uint32]bool{}
	for range count {
		if err := other.Call(t.Context(), "mod:pid").Err(); err != nil {
			t.Fatal("another client is disturbed: ", err)
		}
		m, e := c.reply(t)
		if e != nil || len(m.Result) < size || seen[m.ID] {
			t.Fatalf("%d of %d responses came, and then %v with %d bytes", len(seen), count, e, len(m.Result))
		}
		seen[m.ID] = true
		if b.Stats().HeapBytes > peak {
			runtime.GC() // what nobody holds is not meant
			peak = max(peak, b.Stats().HeapBytes)
		}
	}
	t.Logf("the heap grew by %d MB", (int64(peak)-int64(before))>>20)
	if peak > before+80<<20 {
		t.Errorf("the heap grew by %d MB", (peak-before)>>20)
	}
}

func TestProgramWaitsForItsReader(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	taken := 0
	hold := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context(), daemon.RunOptions{
			Path: "x.py", Source: []byte("import os\nfor _ in range(64):\n    os.write(1, b'x' * 1048576)\n"),
			Stdout: writerFunc(func(p []byte) {
				if taken == 0 {
					<-hold
				}
				taken += len(p)
			}),
		})
		done <- err
	}()
	poll.Until(t, "the program runs", func() bool { return b.Stats().Programs == 1 })
	var in int64
	same := 0
	poll.Until(t, "the program waits", func() bool {
		now := b.List().Contexts[0].In
		if now == in && now > 1<<20 {
			same++
		} else {
			same = 0
		}
		in = now
		return same > 50
	})
	if in > 8<<20 {
		t.Errorf("%d bytes of its output are in the daemon", in)
	}
	close(hold)
	if err := <-done; err != nil || taken != 64<<20 {
		t.Error(taken, err)
	}
}

func TestShutdownTellsEverybody(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	idle := b.raw(t)
	idle.send(t, 1, "ping", nil)
	idle.reply(t)
	result := make(chan error, 1)
	go func() { result <- c.Call(t.Context(), "time:sleep", 1000).Err() }()
	// Active may still count the connect.
	poll.Until(t, "the call runs", func() bool { return b.List().Contexts[0].Running == 1 })
	stopped := make(chan struct{})
	go func() {
		b.stop(3 * time.Second) // in which there is time for a question, on a busy machine too
		close(stopped)
	}()
	poll.Until(t, "it is stopping", func() bool { return b.Stats().Stopping })
	idle.send(t, 2, "call", map[string]any{"target": "local:", "function": "os:getpid"})
	if _, e := idle.reply(t); e == nil || e.Kind != wire.KindShutdown {
		t.Errorf("new work while stopping: %+v", e)
	}
	if err := <-result; !errors.Is(err, daemon.ErrShutdown) && !errors.Is(err, client.ErrDisconnected) {
		t.Errorf("the call that ran: %v", err)
	}
	<-stopped
	if n := len(b.Daemon().Children()); n != 0 {
		t.Errorf("%d children are left", n)
	}
}

// What runs when the daemon ends may have run, and its client learns that.
func TestCutOffMayHaveRun(t *testing.T) {
	b := newBed(t, nil)
	var clients []*raw
	for method, params := range map[string]map[string]any{
		"call":       {"function": "time:sleep", "args": []any{1000}},
		"call_async": {"function": "time:sleep", "args": []any{1000}, "read": true},
		"open":       {"function": "mod:pump", "args": []any{1}, "read": true},
		"run":        {"path": "x.py", "script": []byte("import time; time.sleep(1000)"), "read": true},
	} {
		c := b.raw(t)
		params["target"], params["fresh"] = "local:", true
		c.send(t, 1, method, params)
		clients = append(clients, c)
	}
	poll.Until(t, "all run", func() bool {
		n := 0
		for _, c := range b.List().Contexts {
			n += c.Running + int(c.Programs)
		}
		return n == len(clients)
	})
	b.stop(0)
	for _, c := range clients {
		m, e := c.reply(t)
		if e == nil {
			var got wire.Items
			if err := wire.Unmarshal(m.Result, &got); err != nil || len(got.Items) != 1 || got.Items[0].Error == nil {
				t.Errorf("%+v, %v", got, err)
				continue
			}
			e = got.Items[0].Error
		}
		if e.Kind != wire.KindShutdown || !e.Lost || e.Target != "local:" {
			t.Errorf("%+v", e)
		}
	}
}

// While the daemon stops, it takes no clients, and nobody else takes its place.
func TestLockUntilTheEnd(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	result := make(chan error, 1)
	go func() { result <- c.Call(t.Context(), "time:sleep", 1000).Err() }()
	poll.Until(t, "the call runs", func() bool { return b.List().Contexts[0].Running == 1 })
	stopped := make(chan struct{})
	go func() {
		b.stop(time.Minute)
		close(stopped)
	}()
	poll.Until(t, "nobody can come", func() bool { return !exists(b.path) })
	var used *control.InUseError
	if _, err := control.Listen(b.dir); !errors.As(err, &used) || used.PID != os.Getpid() {
		t.Error(err)
	}
	b.Hurry()
	<-stopped
	if <-result == nil {
		t.Error("no error")
	}
	ln, err := control.Listen(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}

// The program of an inventory holds up neither a request beyond its timeout, nor the end. It ends with the daemon.
func TestInventoryThatHangs(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	inv, err := inventory.Load(script(t, fmt.Sprintf(`case $1 in
--list) echo '{"g": {"hosts": ["one", "two"]}}' ;;
*) echo $$ >%s.new; mv %s.new %s; exec sleep 1000 ;;
esac
`, pid, pid, pid)))
	if err != nil {
		t.Fatal(err)
	}
	logged, logs := observer.New(zap.WarnLevel)
	b := newBed(t, func(o *control.Options) { o.Inventory, o.Core = inv, logged })
	slow := b.raw(t)
	slow.send(t, 1, "connect", map[string]any{"target": "one"})
	poll.Until(t, "the program runs", func() bool { return exists(pid) })
	other := b.raw(t)
	other.send(t, 1, "call", map[string]any{"target": "two", "function": "os:getpid", "timeout": 0.05})
	if _, e := other.reply(t); e == nil || e.Kind != wire.KindTimeout {
		t.Error(e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Configure(ctx, pool.Options{}, 0, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Neither does it hold up its own request.
	slow.send(t, 2, "cancel", map[string]any{"request": 1})
	for range 2 {
		if m, e := slow.reply(t); m.ID == 1 && (e == nil || e.Kind != wire.KindCancelled) {
			t.Error(e)
		}
	}
	b.stop(time.Minute)
	for _, entry := range logs.All() {
		t.Error(entry.Message)
	}
	data, _ := os.ReadFile(pid)
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if err := syscall.Kill(n, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", n, err)
	}
}

func TestStaleAndLiveSockets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	var used *control.InUseError
	if _, err := control.Listen(dir); !errors.As(err, &used) || used.PID != os.Getpid() {
		t.Errorf("a second daemon: %v", err)
	}
	// This is what a crash leaves.
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if !exists(ln.Path()) {
		t.Fatal("no stale socket")
	}
	again, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(again.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	_ = again.Close()
	// Another program serves this socket, and knows nothing of the lock.
	other, err := net.Listen("unix", filepath.Join(dir, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := control.Listen(dir); !errors.As(err, &used) {
		t.Errorf("a socket that is served: %v", err)
	}
}
