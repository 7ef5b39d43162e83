package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"mitogend/daemon/wire"
)

// Spans are exported by OTLP over HTTP with JSON, https://opentelemetry.io/docs/specs/otlp/#otlphttp, as far as spans
// of calls and imports need it.
const (
	maxSpans    = 4096 // that wait to be sent; more are dropped and counted
	spanBatch   = 512
	spanPause   = 2 * time.Second
	spanTimeout = 10 * time.Second
	maxSpanText = 1 << 10
)

// exporter sends a span for each call and each import to an OpenTelemetry collector.
type exporter struct {
	url     string
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
	mu    sync.Mutex
	spans []span
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

// CheckEndpoint checks an OTLP endpoint: the base address, to which /v1/traces is added.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is no address such as http://127.0.0.1:4318", endpoint)
	}
	return nil
}

func newExporter(endpoint, version string, log *zap.Logger, dropped func(int64)) *exporter {
	x := &exporter{
		url: strings.TrimSuffix(endpoint, "/") + "/v1/traces", version: version, log: log, dropped: dropped,
		http: &http.Client{Timeout: spanTimeout}, more: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	go x.run()
	return x
}

// traceparent is a W3C trace context: version, trace id, span id, flags.
var traceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$`)

// add makes a span of an event of a call or import. It never blocks.
func (x *exporter) add(e *wire.Event) {
	if e.Kind != wire.EventCall && e.Kind != wire.EventImport {
		return
	}
	end := time.UnixMicro(int64(e.Time * 1e6))
	s := span{
		TraceID: randomID(16), SpanID: randomID(8), Kind: 3,
		Start:      strconv.FormatInt(end.Add(-time.Duration(e.Seconds*float64(time.Second))).UnixNano(), 10),
		End:        strconv.FormatInt(end.UnixNano(), 10),
		Attributes: []attribute{textAttribute("mitogend.target", e.Target)},
	}
	if m := traceparent.FindStringSubmatch(e.Trace); m != nil {
		s.TraceID, s.Parent = m[1], m[2]
	}
	if e.Child != 0 {
		s.Attributes = append(s.Attributes, intAttribute("mitogend.context", int64(e.Child)))
	}
	switch e.Kind {
	case wire.EventCall:
		s.Name = "call " + e.Function
		s.Attributes = append(s.Attributes, textAttribute("code.function.name", e.Function))
		if !e.OK {
			s.Status = spanStatus{2, e.Text[:min(len(e.Text), maxSpanText)]}
		}
	case wire.EventImport:
		s.Name = "import " + e.Module
		s.Attributes = append(s.Attributes, textAttribute("mitogend.import.how", e.What), intAttribute("mitogend.import.bytes", int64(e.Bytes)))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.spans) >= maxSpans {
		x.dropped(1)
		return
	}
	x.spans = append(x.spans, s)
	if len(x.spans) >= spanBatch {
		token(x.more)
	}
}

func randomID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// run sends batches until close.
func (x *exporter) run() {
	defer close(x.done)
	t := time.NewTicker(spanPause)
	defer t.Stop()
	failing := false
	for last := false; !last; {
		select {
		case <-t.C:
		case <-x.more:
		case <-x.quit:
			last = true
		}
		for {
			batch := x.take()
			if len(batch) == 0 {
				break
			}
			err := x.send(batch)
			if err != nil {
				x.dropped(int64(len(batch)))
			}
			if (err != nil) != failing { // once for each change, not for each batch
				failing = err != nil
				if failing {
					x.log.Warn("traces cannot be sent", zap.String("endpoint", x.url), zap.Error(err))
				} else {
					x.log.Info("traces are sent again", zap.String("endpoint", x.url))
				}
			}
			if failing {
				break
			}
		}
	}
}

func (x *exporter) take() []span {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := min(len(x.spans), spanBatch)
	batch := x.spans[:n:n]
	x.spans = x.spans[n:]
	return batch
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
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", res.Status)
	}
	return nil
}

// close sends what is left, and waits for that no longer than ctx.
func (x *exporter) close(ctx context.Context) {
	defer context.AfterFunc(ctx, x.cancel)()
	close(x.quit)
	<-x.done
	x.cancel()
	x.http.CloseIdleConnections()
}
