package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"mitogend/daemon"
	"mitogend/daemon/wire"
)

// fakeCollector answers without a network, so that time in the tests is synctest's.
type fakeCollector struct {
	mu     sync.Mutex
	answer func(*http.Request) (*http.Response, error)
	names  []string // of the spans that were taken
	tries  []time.Time
}

func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Status: fmt.Sprint(code), Header: h, Body: io.NopCloser(strings.NewReader(""))}, nil
	}
}

func (c *fakeCollector) set(answer func(*http.Request) (*http.Response, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// got are the names of the spans that were taken, and when a batch was sent.
func (c *fakeCollector) got() (names []string, tries []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.names), slices.Clone(c.tries)
}

func (c *fakeCollector) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	answer := c.answer
	c.tries = append(c.tries, time.Now())
	c.mu.Unlock()
	res, err := answer(r)
	if err != nil || res.StatusCode != 200 {
		return res, err
	}
	var body struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []struct{ Name string } }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range body.ResourceSpans[0].ScopeSpans[0].Spans {
		c.names = append(c.names, s.Name)
	}
	return res, nil
}

// exporting is an exporter and what it talks to, in a synctest bubble.
type exporting struct {
	*exporter
	to      *fakeCollector
	logs    *observer.ObservedLogs
	dropped atomic.Int64
}

func export(t *testing.T, endpoint string, answer func(*http.Request) (*http.Response, error), test func(*exporting)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		x := &exporting{to: &fakeCollector{answer: answer}, logs: logs}
		x.exporter = newExporter(endpoint, "test", zap.New(core), func(n int64) { x.dropped.Add(n) })
		x.http.Transport = x.to
		go x.run()
		test(x)
		x.close(context.Background())
	})
}

func (x *exporting) call(fn string) {
	x.add(&wire.Event{Kind: wire.EventCall, Function: fn, OK: true, Target: "local:"})
}

// waiting counts the spans that wait, imports among them, and their targets.
func (x *exporting) waiting() (spans, imports, targets int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.spans), x.imports, len(x.targets)
}

// A collector that is away, or says that it is busy, gets the spans later.
func TestSpansAreSentAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(*http.Request) (*http.Response, error)
		wait   time.Duration
	}{
		{"away", func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }, spanPause},
		{"429", status(429), spanPause}, {"502", status(502), spanPause}, {"503", status(503), spanPause}, {"504", status(504), spanPause},
		{"503 with a time", status(503, "Retry-After", "20"), 20 * time.Second},
		{"503 with a long time", status(503, "Retry-After", "100000"), maxSpanPause},
		{"503 with no time", status(503, "Retry-After", "0"), spanPause},
		{"503 with nonsense", status(503, "Retry-After", "-5 apples"), spanPause},
	} {
		export(t, "http://c.example:4318", c.answer, func(x *exporting) {
			x.call("m:first")
			time.Sleep(spanPause + time.Millisecond)
			synctest.Wait()
			x.to.set(status(200))
			x.call("m:second")
			if _, tries := x.to.got(); len(tries) != 1 {
				t.Errorf("%s: %d attempts", c.name, len(tries))
			}
			time.Sleep(c.wait)
			synctest.Wait()
			names, tries := x.to.got()
			if n := x.dropped.Load(); len(names) != 2 || names[0] != "call m:first" || n != 0 {
				t.Errorf("%s: got %q, %d were dropped", c.name, names, n)
			}
			if len(tries) == 2 && tries[1].Sub(tries[0]) != c.wait {
				t.Errorf("%s: tried again after %v, not %v", c.name, tries[1].Sub(tries[0]), c.wait)
			}
			if x.logs.FilterMessage("traces cannot be sent").Len() != 1 || x.logs.FilterMessage("traces are sent again").Len() != 1 {
				t.Errorf("%s: the log has %v", c.name, x.logs.All())
			}
		})
	}
}

// While it is away, attempts become rare, however many spans come; what there is no room for is counted.
func TestSpansWhileNobodyTakesThem(t *testing.T) {
	export(t, "http://c.example:4318", status(503), func(x *exporting) {
		for i := range 3 * maxSpans {
			x.call("m:f")
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
			}
		}
		synctest.Wait()
		if _, tries := x.to.got(); len(tries) > 4 { // after 2, 4, 8 ... seconds
			t.Errorf("%d attempts in 12 seconds", len(tries))
		}
		if n := x.dropped.Load(); n != 2*maxSpans {
			t.Errorf("%d were dropped", n)
		}
		x.to.set(status(200))
		time.Sleep(maxSpanPause)
		synctest.Wait()
		if names, _ := x.to.got(); len(names) != maxSpans {
			t.Errorf("%d were sent", len(names))
		}
	})
	export(t, "http://c.example:4318", status(400), func(x *exporting) {
		x.call("m:f")
		time.Sleep(spanPause + time.Millisecond)
		synctest.Wait()
		x.to.set(status(200))
		time.Sleep(maxSpanPause)
		synctest.Wait()
		if names, _ := x.to.got(); len(names) != 0 || x.dropped.Load() != 1 {
			t.Errorf("a refused batch: %q, %d were dropped", names, x.dropped.Load())
		}
	})
}

// However many imports children cause, calls have room, and imports of other targets, too.
func TestImportsLeaveRoom(t *testing.T) {
	export(t, "http://c.example:4318", status(503), func(x *exporting) {
		imported := func(target string) {
			x.add(&wire.Event{Kind: wire.EventImport, Module: "m", What: "refused", Target: target})
		}
		for range 3 * maxSpans {
			imported("liar")
		}
		if n, _, _ := x.waiting(); n != maxImports {
			t.Errorf("%d spans of one child wait", n)
		}
		for range 1000 {
			imported("honest")
		}
		if n, _, _ := x.waiting(); n != maxImports || x.targets["honest"] != 1000 {
			t.Errorf("%d wait, %d of another target", n, x.targets["honest"])
		}
		if n := x.dropped.Load(); n != 2*maxSpans+maxImports+1000 {
			t.Errorf("%d are dropped", n)
		}
		for i := range 3 * maxSpans {
			imported(fmt.Sprint("liar", i%100))
		}
		if n, _, _ := x.waiting(); n != maxImports {
			t.Errorf("%d imports wait", n)
		}
		x.dropped.Store(0)
		for range maxSpans - maxImports {
			x.call("m:f")
		}
		if n := x.dropped.Load(); n != 0 {
			t.Errorf("%d calls are dropped", n)
		}
		x.to.set(status(200))
		time.Sleep(maxSpanPause)
		synctest.Wait()
		names, _ := x.to.got()
		if _, imports, targets := x.waiting(); len(names) != maxSpans || imports != 0 || targets != 0 {
			t.Errorf("%d were sent, %d of %d targets are left", len(names), imports, targets)
		}
	})
}

// While a batch is being sent it stays as it is, whatever there is no room for.
func TestImportsLeaveTheBatch(t *testing.T) {
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	export(t, "http://c.example:4318", hang, func(x *exporting) {
		for i := range spanBatch + 2*maxImports {
			x.add(&wire.Event{Kind: wire.EventImport, Module: "m", What: "refused", Target: []string{"a", "b"}[min(i/spanBatch, 1)]})
			if i == spanBatch {
				time.Sleep(spanPause)
				synctest.Wait()
			}
		}
		x.add(&wire.Event{Kind: wire.EventImport, Module: "m", What: "refused", Target: "c"})
		if n, imports, _ := x.waiting(); n != maxImports || imports != n || x.targets["a"] != spanBatch || x.targets["c"] != 1 {
			t.Errorf("%d wait, %v", n, x.targets)
		}
	})
}

// A collector that takes some and refuses the next for now is failing until all was sent: it is said once, and asked no more often.
func TestSpansAreTakenSlowly(t *testing.T) {
	var n atomic.Int64
	slow := func(r *http.Request) (*http.Response, error) {
		if n.Add(1)%2 == 0 {
			return status(429)(r)
		}
		return status(200)(r)
	}
	export(t, "http://c.example:4318", slow, func(x *exporting) {
		const batches = 5
		for range batches * spanBatch {
			x.call("m:f")
		}
		for i := range batches {
			synctest.Wait()
			if names, tries := x.to.got(); len(names) != (i+1)*spanBatch || len(tries) != min(2*(i+1), 2*batches-1) {
				t.Errorf("after %d pauses, %d were sent in %d attempts", i, len(names), len(tries))
			}
			again := 0
			if i == batches-1 {
				again = 1
			}
			if x.logs.FilterMessage("traces cannot be sent").Len() != 1 || x.logs.FilterMessage("traces are sent again").Len() != again {
				t.Errorf("after %d pauses, the log has %v", i, x.logs.All())
			}
			time.Sleep(spanPause)
		}
	})
}

// A collector that takes a connection and never answers delays the end by no more than lastSpans.
func TestLastSpans(t *testing.T) {
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	for _, busy := range []bool{false, true} {
		export(t, "http://c.example:4318", hang, func(x *exporting) {
			x.call("m:f")
			if busy {
				time.Sleep(spanPause + time.Second)
			}
			synctest.Wait()
			started := time.Now()
			x.close(context.Background())
			if took := time.Since(started); took > lastSpans {
				t.Errorf("a send was under way: %v: it took %v", busy, took)
			}
			if n := x.dropped.Load(); n != 1 {
				t.Errorf("%d were dropped", n)
			}
			x.quit = make(chan struct{})
		})
	}
	export(t, "http://c.example:4318", status(200), func(x *exporting) {
		x.call("m:f")
		x.close(context.Background())
		if names, _ := x.to.got(); len(names) != 1 {
			t.Errorf("the last spans: %q", names)
		}
		x.quit = make(chan struct{})
	})
}

// Neither the log nor an error has what may be secret of the endpoint.
func TestEndpointIsNotShown(t *testing.T) {
	refuse := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
	export(t, "http://who:pass-word@c.example:4318/path-key/?token=query-key", refuse, func(x *exporting) {
		if want := "http://who:pass-word@c.example:4318/path-key/v1/traces?token=query-key"; x.url != want {
			t.Errorf("spans go to %s, not %s", x.url, want)
		}
		x.call("m:f")
		time.Sleep(spanPause + time.Millisecond)
		synctest.Wait()
		x.to.set(status(200))
		time.Sleep(spanPause)
		synctest.Wait()
		if x.logs.Len() != 2 {
			t.Errorf("the log has %v", x.logs.All())
		}
		for _, l := range x.logs.All() {
			said := fmt.Sprint(l.Message, l.ContextMap())
			if !strings.Contains(said, "http://c.example:4318") || strings.Contains(said, "who") || strings.Contains(said, "pass-word") || strings.Contains(said, "-key") {
				t.Error(said)
			}
		}
	})
	for _, endpoint := range []string{"http://who:pass-word@", "who:pass-word@c.example", "http://who:pass-word@c.example:x", "ftp://who:pass-word@c.example"} {
		if err := CheckEndpoint(endpoint); err == nil || strings.Contains(err.Error(), "pass-word") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestTraceparent(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for text, want := range map[string]struct {
		valid, sampled bool
	}{
		"00-" + trace + "-" + span + "-01":                    {true, true},
		"00-" + trace + "-" + span + "-03":                    {true, true},
		"00-" + trace + "-" + span + "-00":                    {true, false},
		"00-" + trace + "-" + span + "-02":                    {true, false},
		"00-" + trace + "-" + span + "-01-more":               {false, true},
		"01-" + trace + "-" + span + "-01":                    {true, true},
		"cc-" + trace + "-" + span + "-01-more":               {true, true},
		"cc-" + trace + "-" + span + "-01more":                {false, true},
		"cc-" + trace + "-" + span + "-00-more":               {true, false},
		"ff-" + trace + "-" + span + "-01":                    {false, true},
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":  {false, true},
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01": {false, true},
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":   {false, true},
		"": {false, true}, "nonsense": {false, true},
	} {
		gotTrace, gotSpan, sampled := parent(text)
		if valid := gotTrace == trace && gotSpan == span; valid != want.valid || sampled != want.sampled || !valid && gotTrace+gotSpan != "" {
			t.Errorf("%q: %q, %q, %v", text, gotTrace, gotSpan, sampled)
		}
	}
	export(t, "http://c.example:4318", status(200), func(x *exporting) {
		x.add(&wire.Event{Kind: wire.EventCall, Function: "m:f", OK: true, Trace: "00-" + trace + "-" + span + "-00"})
		if n, _, _ := x.waiting(); n != 0 || x.dropped.Load() != 0 {
			t.Error("a span that the caller does not want is exported, or counted")
		}
	})
}

// A span keeps no longer text in memory than it has.
func TestSpanTexts(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	got := short("x" + long)
	if len(got) != maxSpanText-1 || !strings.HasSuffix(got, "é") {
		t.Errorf("%d bytes, ending in %q", len(got), got[len(got)-2:])
	}
	text := long + "!"
	if unsafe.StringData(short(text)) == unsafe.StringData(text) {
		t.Error("the whole text is kept")
	}
	export(t, "http://c.example:4318", status(200), func(x *exporting) {
		x.add(&wire.Event{Kind: wire.EventCall, Function: long, Text: long, Target: long})
		x.add(&wire.Event{Kind: wire.EventImport, Module: long, Target: long})
		for _, s := range x.spans {
			text, err := json.Marshal(s)
			if err != nil || len(text) > 5*maxSpanText {
				t.Errorf("a span of %d bytes, %v", len(text), err)
			}
		}
	})
}

func TestSpanNames(t *testing.T) {
	for _, c := range []struct {
		e      wire.Event
		name   string
		status int
		has    string
	}{
		{wire.Event{Function: "m:f", OK: true}, "call m:f", 0, `"code.function.name"`},
		{wire.Event{Function: "m:f", Text: "no"}, "call m:f", 2, `"message":"no"`},
		{wire.Event{What: "run", Function: "p.py", OK: true}, "run p.py", 0, `{"key":"process.exit.code","value":{"intValue":"0"}}`},
		{wire.Event{What: "run", Function: "p.py", OK: true, Code: 3}, "run p.py", 2, `{"key":"process.exit.code","value":{"intValue":"3"}}`},
		{wire.Event{What: "exec", Function: "sleep", OK: true, Signal: 9}, "exec sleep", 2, `"ended by signal 9"`},
		{wire.Event{What: "exec", Function: "sleep", Text: "lost"}, "exec sleep", 2, `"message":"lost"`},
		{wire.Event{What: "copy", OK: true}, "copy", 0, ""},
	} {
		c.e.Kind = wire.EventCall
		export(t, "http://c.example:4318", status(200), func(x *exporting) {
			x.add(&c.e)
			s := x.spans[0]
			text, _ := json.Marshal(s)
			if s.Name != c.name || s.Status.Code != c.status || !strings.Contains(string(text), c.has) {
				t.Errorf("%+v: %s", c.e, text)
			}
		})
	}
	script := daemon.RunOptions{Path: "p.py", Source: []byte("x = 1\n"), Args: []string{"secret"}}
	for _, c := range []struct {
		o          daemon.RunOptions
		what, name string
	}{
		{script, "run", "p.py"},
		{daemon.Command([]string{"curl", "-u", "me:secret"}, nil, ""), "exec", "curl"},
		{daemon.Command([]string{"repl"}, nil, ""), "exec", "repl"},
		{daemon.Terminal([]string{"bash"}, nil, "", "", 24, 80), "exec", "bash"},
		{daemon.Terminal([]string{"repl", "x"}, nil, "", "", 24, 80), "exec", "repl"},
		{daemon.Terminal(nil, nil, "", "", 24, 80), "repl", ""},
		{daemon.TerminalAfter(script, nil, "", 24, 80), "run", "p.py"},
		{daemon.Prompt(nil, ""), "repl", ""},
		{daemon.RunOptions{Path: daemon.PathTransfer, Title: "put a b"}, "copy", ""},
	} {
		if what, name := programName(&wire.Run{Path: c.o.Path, Title: c.o.Title}); what != c.what || name != c.name {
			t.Errorf("%s %q: %s %s", c.o.Path, c.o.Title, what, name)
		}
	}
}
