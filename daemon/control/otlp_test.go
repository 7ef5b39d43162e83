package control_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/integration/poll"
)

// collector is an OpenTelemetry collector that keeps what it gets.
type collector struct {
	mu    sync.Mutex
	spans []map[string]any
	fail  bool
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []map[string]any }
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, rs := range body.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
}

// named finds a span.
func (c *collector) named(prefix string) map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if strings.HasPrefix(s["name"].(string), prefix) {
			return s
		}
	}
	return nil
}

func TestSpans(t *testing.T) {
	col := &collector{}
	web := httptest.NewServer(col)
	defer web.Close()
	b := newBed(t, func(o *control.Options) { o.Endpoint = web.URL })
	c := b.raw(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	c.send(t, 1, "call", map[string]any{"target": "local:", "function": "mod:fail", "args": []string{"why"}, "traceparent": "00-" + trace + "-" + parent + "-01"})
	if _, e := c.reply(t); e == nil {
		t.Fatal("no error")
	}
	poll.Until(t, "the spans are there", func() bool { return col.named("call mod:fail") != nil && col.named("import mod") != nil })
	s := col.named("call mod:fail")
	if s["traceId"] != trace || s["parentSpanId"] != parent || s["status"].(map[string]any)["code"] != 2.0 || len(s["spanId"].(string)) != 16 {
		t.Errorf("got %v", s)
	}
	// A collector that fails disturbs nobody.
	col.mu.Lock()
	col.fail = true
	col.mu.Unlock()
	started := time.Now()
	for i := range uint32(600) {
		c.send(t, 2+i, "call", map[string]any{"target": "local:", "function": "mod:pid"})
		if _, e := c.reply(t); e != nil {
			t.Fatal(e)
		}
	}
	t.Logf("600 calls in %v", time.Since(started))
	poll.Until(t, "the loss is counted", func() bool { return b.Stats().SpansDropped >= 512 })
	if n := b.Stats().Dropped; n != 0 {
		t.Errorf("%d spans count as events", n)
	}
}

// A program's end is in its span; a failed connect is counted, and has a span.
func TestSpansOfProgramsAndConnects(t *testing.T) {
	col := &collector{}
	web := httptest.NewServer(col)
	defer web.Close()
	b := newBed(t, func(o *control.Options) { o.Endpoint = web.URL })
	c := b.dial(t, client.Options{})
	child, err := c.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	st, err := child.Run(t.Context(), daemon.RunOptions{Path: "p.py", Source: []byte("import sys\nsys.exit(3)\n")})
	if err != nil || st.Code != 3 {
		t.Fatal(st, err)
	}
	if _, err := child.Run(t.Context(), daemon.Command([]string{"echo", "secret"}, nil, "")); err != nil {
		t.Fatal(err)
	}
	if err := child.Call(t.Context(), "mitogen.facts:collect").Err(); err != nil {
		t.Fatal(err)
	}
	v, err := child.CallWith(t.Context(), daemon.CallOptions{Convert: daemon.ConvertResult | daemon.ConvertLines}, "builtins:zip", []any{int64(1), int64(2)}).Value()
	number, generates := daemon.Lines(v)
	if !generates || err != nil {
		t.Fatal(v, err)
	}
	if err := child.Call(t.Context(), "mitogen.plain:more", number, int64(1000)).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connect(t.Context(), "exec:false"); err == nil {
		t.Fatal("connected")
	}
	poll.Until(t, "the spans are there", func() bool {
		return col.named("run p.py") != nil && col.named("exec echo") != nil && col.named("connect") != nil
	})
	s := col.named("run p.py")
	if text := fmt.Sprint(s["status"], s["attributes"]); !strings.Contains(text, "exit status 3") || !strings.Contains(text, "process.exit.code") {
		t.Error(text)
	}
	if s := fmt.Sprint(col.named("exec echo")); strings.Contains(s, "secret") {
		t.Error(s)
	}
	if s := col.named("connect"); s["status"].(map[string]any)["code"] != 2.0 {
		t.Error(s)
	}
	if s := col.named("call mitogen.facts"); s != nil {
		t.Error(s)
	}
	if st := b.Stats(); st.ConnectsFailed != 1 || st.Calls != 3 || st.CallsFailed != 0 { // the two programs and zip
		t.Errorf("%+v", st)
	}
}
