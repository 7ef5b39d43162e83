package control

import (
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mitogend/daemon/wire"
)

// metric is one counter or gauge that is made of Stats.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*wire.Stats) float64
}

func counter(name, help string, value func(*wire.Stats) int64) metric {
	return metric{prometheus.NewDesc("mitogend_"+name, help, nil, nil), prometheus.CounterValue, func(s *wire.Stats) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(*wire.Stats) int64) metric {
	m := counter(name, help, value)
	m.kind = prometheus.GaugeValue
	return m
}

// collector makes metrics of the server's own counters when it is asked.
type collector struct {
	s       *Server
	metrics []metric
}

func newCollector(s *Server) *collector {
	return &collector{s, []metric{
		gauge("clients", "Clients of the control socket.", func(s *wire.Stats) int64 { return int64(s.Clients) }),
		counter("clients_total", "Clients since the start.", func(s *wire.Stats) int64 { return s.ClientsSeen }),
		counter("clients_refused_total", "Clients that were sent away.", func(s *wire.Stats) int64 { return s.Refused }),
		counter("bad_messages_total", "Clients that were disconnected for a bad message.", func(s *wire.Stats) int64 { return s.BadMessages }),
		counter("requests_total", "Requests and notifications of clients.", func(s *wire.Stats) int64 { return s.Requests }),
		gauge("work", "Calls, programs and connects that are under way.", func(s *wire.Stats) int64 { return s.Active }),
		gauge("streams", "Open streams of clients.", func(s *wire.Stats) int64 { return s.Streams }),
		gauge("connections", "Connections in the pool.", func(s *wire.Stats) int64 { return int64(s.Connections) }),
		gauge("contexts", "Contexts that can be reached.", func(s *wire.Stats) int64 { return int64(s.Contexts) }),
		counter("connected_total", "Children that were connected.", func(s *wire.Stats) int64 { return s.Connected }),
		counter("lost_total", "Children that were lost.", func(s *wire.Stats) int64 { return s.Lost }),
		counter("closed_total", "Children that were closed.", func(s *wire.Stats) int64 { return s.Closed }),
		counter("calls_total", "Calls and programs that have ended.", func(s *wire.Stats) int64 { return s.Calls }),
		counter("calls_failed_total", "Those of them that have failed.", func(s *wire.Stats) int64 { return s.CallsFailed }),
		counter("programs_total", "Programs that were started.", func(s *wire.Stats) int64 { return s.Programs }),
		counter("modules_total", "Modules that were sent to children.", func(s *wire.Stats) int64 { return s.Modules }),
		counter("module_bytes_total", "Bytes of them.", func(s *wire.Stats) int64 { return s.ModuleBytes }),
		counter("dropped_total", "Events, and bytes of output, that did not fit into a client's queue.", func(s *wire.Stats) int64 { return s.Dropped }),
		counter("log_errors_total", "Log records that could not be written.", func(s *wire.Stats) int64 { return s.LogErrors }),
	}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	st := c.s.Stats()
	for _, m := range c.metrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st))
	}
}

// Handler serves /metrics for Prometheus, /healthz (200 while work is taken, 503 when the daemon is stopping) and, if profile is
// true, /debug/pprof/. There is no authentication: it is for an address that only this machine reaches.
func (s *Server) Handler(profile bool) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s.isStopping() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	if profile {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// ServeHTTP serves Handler until the listener is closed, which Shutdown does at its end.
func (s *Server) ServeHTTP(ln net.Listener, profile bool) error {
	srv := &http.Server{Handler: s.Handler(profile), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return ln.Close()
	}
	s.closers = append(s.closers, func() { _ = srv.Close() })
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
