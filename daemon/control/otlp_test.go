package control_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

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
	poll.Until(t, "the loss is counted", func() bool { return b.Stats().Dropped >= 512 })
}
