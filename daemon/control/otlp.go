package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"mitogend/daemon/wire"
)

// Spans are exported by OTLP over HTTP with JSON, https://opentelemetry.io/docs/specs/otlp/#otlphttp, as far as spans
// of calls and imports need it.
const (
	maxSpans     = 4096 // that wait to be sent; more are dropped and counted
	maxImports   = maxSpans / 2
	spanBatch    = 512
	spanPause    = 2 * time.Second
	maxSpanPause = time.Minute
	spanTimeout  = 10 * time.Second
	lastSpans    = 2 * time.Second
	maxSpanText  = 1 << 10
)

// exporter sends a span for each call and each import to an OpenTelemetry collector.
type exporter struct {
	url     string
	shown   string // of url, what may be logged: user, password, path and query may be secret
	version string
	log     *zap.Logger
	dropped func(int64)
	http    *http.Client
	more    chan struct{} // one token: a batch is full
	quit    chan struct{}
	done    chan struct{}
	ctx     context.Context // of what is sent
	cancel  context.CancelFunc

	// mu protects the following. Nothing is locked under it.
	mu      sync.Mutex
	spans   []span         // only run takes some away
	imports int            // of those
	targets map[string]int // of imports, by target
	batch   int            // the first of spans, which are being sent: they stay where they are
}

// span is OTLP's, in its JSON form.
type span struct {
	TraceID    string      `json:"traceId"`
	SpanID     string      `json:"spanId"`
	Parent     string      `json:"parentSpanId,omitempty"`
	Name       string      `json:"name"`
	Kind       int         `json:"kind"` // 3: client
	Start      string      `json:"startTimeUnixNano"`
	End        string      `json:"endTimeUnixNano"`
	Attributes []attribute `json:"attributes"`
	Status     spanStatus  `json:"status"`

	imports string // the target, of an import
}

type spanStatus struct {
	Code    int    `json:"code,omitempty"` // 2: error
	Message string `json:"message,omitempty"`
}

type attribute struct {
	Key   string         `json:"key"`
	Value map[string]any `json:"value"`
}

func textAttribute(key, value string) attribute {
	return attribute{key, map[string]any{"stringValue": value}}
}

func intAttribute(key string, value int64) attribute {
	return attribute{key, map[string]any{"intValue": strconv.FormatInt(value, 10)}}
}

// CheckEndpoint checks an OTLP endpoint: the base address, to which /v1/traces is added. Its error does not have the
// endpoint, which may hold a password.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("this is no address such as http://127.0.0.1:4318")
	}
	return nil
}

// newExporter begins to export. CheckEndpoint has taken the endpoint.
func newExporter(endpoint, version string, log *zap.Logger, dropped func(int64)) *exporter {
	x := &exporter{
		version: version, log: log, dropped: dropped, http: &http.Client{Timeout: spanTimeout}, targets: map[string]int{},
		more: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if u, err := url.Parse(endpoint); err == nil {
		x.url, x.shown = u.JoinPath("v1/traces").String(), u.Scheme+"://"+u.Host
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	return x
}

// traceparent is a W3C trace context: version, trace id, span id, flags. A later version may add something.
var traceparent = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)

// parent reads a trace context. Without a valid one, the ids are empty and the span begins a trace. sampled is false if
// the caller wants no spans.
func parent(text string) (trace, span string, sampled bool) {
	m := traceparent.FindStringSubmatch(text)
	if m == nil || m[1] == "ff" || m[1] == "00" && m[5] != "" || strings.Trim(m[2], "0") == "" || strings.Trim(m[3], "0") == "" {
		return "", "", true
	}
	flags, _ := strconv.ParseUint(m[4], 16, 8)
	return m[2], m[3], flags&1 != 0
}

// short is a text as a span has it. It keeps nothing longer in memory.
func short(text string) string {
	if len(text) <= maxSpanText {
		return text
	}
	n := maxSpanText
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return strings.Clone(text[:n])
}

// add makes a span of an event of a call or import. It never blocks.
func (x *exporter) add(e *wire.Event) {
	if e.Kind != wire.EventCall && e.Kind != wire.EventImport {
		return
	}
	trace, above, sampled := parent(e.Trace)
	if !sampled {
		return
	}
	s := newSpan(short(e.Target), time.UnixMicro(int64(e.Time*1e6)), e.Seconds)
	if trace != "" {
		s.TraceID, s.Parent = trace, above
	}
	if e.Child != 0 {
		s.Attributes = append(s.Attributes, intAttribute("mitogend.context", int64(e.Child)))
	}
	switch {
	case e.Kind == wire.EventImport:
		s.imports = short(e.Target)
		s.Name = "import " + short(e.Module)
		s.Attributes = append(s.Attributes, textAttribute("mitogend.import.how", e.What), intAttribute("mitogend.import.bytes", int64(e.Bytes)))
	case e.What != "": // a program
		s.Name = strings.TrimSuffix(e.What+" "+short(e.Function), " ")
		if e.OK {
			s.Attributes = append(s.Attributes, intAttribute("process.exit.code", int64(e.Code)))
		}
		if e.Signal != 0 {
			s.Attributes = append(s.Attributes, intAttribute("mitogend.signal", int64(e.Signal)))
		}
	default:
		s.Name = "call " + short(e.Function)
		s.Attributes = append(s.Attributes, textAttribute("code.function.name", short(e.Function)))
	}
	if e.Kind == wire.EventCall {
		s.Status = statusOf(e)
	}
	x.keep(s)
}

func statusOf(e *wire.Event) spanStatus {
	switch {
	case !e.OK:
		return spanStatus{2, short(e.Text)}
	case e.Signal != 0:
		return spanStatus{2, fmt.Sprint("ended by signal ", e.Signal)}
	case e.Code != 0:
		return spanStatus{2, fmt.Sprint("exit status ", e.Code)}
	}
	return spanStatus{}
}

// connectFailed makes a span of a connect that has failed.
func (x *exporter) connectFailed(target string, took time.Duration, err error) {
	s := newSpan(short(target), time.Now(), took.Seconds())
	s.Name, s.Status = "connect", spanStatus{2, short(err.Error())}
	x.keep(s)
}

func newSpan(target string, end time.Time, seconds float64) span {
	return span{
		TraceID: randomID(16), SpanID: randomID(8), Kind: 3,
		Start:      strconv.FormatInt(end.Add(-time.Duration(seconds*float64(time.Second))).UnixNano(), 10),
		End:        strconv.FormatInt(end.UnixNano(), 10),
		Attributes: []attribute{textAttribute("mitogend.target", target)},
	}
}

// keep takes a span if there is room. Imports leave room for calls. Where there is no room for an import, the target that has the most
// of them loses its last one: a child causes as many as it likes.
func (x *exporter) keep(s span) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.spans) >= maxSpans || s.imports != "" && x.imports >= maxImports && !x.makeRoom(s.imports) {
		x.dropped(1)
		return
	}
	if s.imports != "" {
		x.imports++
		x.targets[s.imports]++
	}
	x.spans = append(x.spans, s)
	if len(x.spans) >= spanBatch {
		token(x.more)
	}
}

// makeRoom drops an import of the target with the most, unless the new one's has as many.
func (x *exporter) makeRoom(target string) bool {
	most := ""
	for t, n := range x.targets {
		if n > x.targets[most] {
			most = t
		}
	}
	if x.targets[target]+1 >= x.targets[most] {
		return false
	}
	for i := len(x.spans) - 1; i >= x.batch; i-- {
		if x.spans[i].imports == most {
			x.forget(x.spans[i : i+1])
			x.spans = slices.Delete(x.spans, i, i+1)
			x.dropped(1)
			return true
		}
	}
	return false
}

// forget has spans count no more.
func (x *exporter) forget(spans []span) {
	for _, s := range spans {
		if s.imports == "" {
			continue
		}
		x.imports--
		if x.targets[s.imports]--; x.targets[s.imports] == 0 {
			delete(x.targets, s.imports)
		}
	}
}

func randomID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// run sends batches until close. While the collector does not take them they stay, and are sent again after a pause.
func (x *exporter) run() {
	defer close(x.done)
	t := time.NewTimer(spanPause)
	defer t.Stop()
	var pause time.Duration // 0 while the collector answers
	for last := false; !last; {
		more := x.more
		if pause > 0 {
			more = nil
		}
		select {
		case <-t.C:
		case <-more:
		case <-x.quit:
			last = true
		}
		pause = x.sendAll(pause, last)
		t.Reset(max(pause, spanPause))
	}
}

// sendAll sends all that waits. It gives the pause before the next attempt where one is needed: until all was sent, the collector counts
// as failing. last says that there is no other attempt: what cannot be sent is dropped.
func (x *exporter) sendAll(before time.Duration, last bool) (pause time.Duration) {
	for sent := false; ; sent = true {
		batch := x.first()
		if len(batch) == 0 {
			if !sent {
				return before
			}
			if before > 0 {
				x.log.Info("traces are sent again", zap.String("endpoint", x.shown))
			}
			return 0
		}
		err := x.send(batch)
		if err == nil {
			x.remove(len(batch))
			continue
		}
		if before == 0 { // once, not for each batch
			x.log.Warn("traces cannot be sent", zap.String("endpoint", x.shown), zap.Error(err))
		}
		if !sent {
			before *= 2
		}
		pause = min(max(before, spanPause), maxSpanPause)
		drop := 0
		var no *refusal
		switch {
		case last:
			drop = maxSpans
		case errors.As(err, &no) && !no.again:
			drop = len(batch)
		case no != nil && no.after > 0:
			pause = min(max(no.after, spanPause), maxSpanPause)
		}
		x.dropped(int64(x.remove(drop)))
		return pause
	}
}

func (x *exporter) first() []span {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.batch = min(len(x.spans), spanBatch)
	return x.spans[:x.batch:x.batch]
}

// remove takes away the first n, or all, and tells how many they were. What is left of a batch waits again.
func (x *exporter) remove(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n = min(n, len(x.spans))
	x.forget(x.spans[:n])
	x.spans, x.batch = slices.Delete(x.spans, 0, n), 0
	return n
}

// refusal is an answer of the collector that is no success.
type refusal struct {
	status string
	again  bool          // the same may be sent again
	after  time.Duration // no earlier than this, if the collector says it
}

func (r *refusal) Error() string { return "the collector answers " + r.status }

func refused(res *http.Response) *refusal {
	r := &refusal{status: res.Status}
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		r.again = true
	}
	after := res.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil {
		r.after = time.Duration(min(max(seconds, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		r.after = time.Until(at)
	}
	return r
}

func (x *exporter) send(batch []span) error {
	type object = map[string]any
	body, err := json.Marshal(object{"resourceSpans": []object{{
		"resource": object{"attributes": []attribute{
			textAttribute("service.name", "mitogend"), textAttribute("service.version", x.version), intAttribute("process.pid", int64(os.Getpid())),
		}},
		"scopeSpans": []object{{"scope": object{"name": "mitogend"}, "spans": batch}},
	}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(x.ctx, spanTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := x.http.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err // without the address
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode/100 != 2 {
		return refused(res)
	}
	return nil
}

// close sends what is left, and waits for that no longer than ctx and lastSpans.
func (x *exporter) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastSpans)
	defer cancel()
	defer context.AfterFunc(ctx, x.cancel)()
	close(x.quit)
	<-x.done
	x.cancel()
	x.http.CloseIdleConnections()
}
