package control

import (
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mitogend/daemon/wire"
)

// metric is one counter or gauge, made of Stats.
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
		counter("connects_failed_total", "Connects that have failed.", func(s *wire.Stats) int64 { return s.ConnectsFailed }),
		counter("lost_total", "Children that were lost.", func(s *wire.Stats) int64 { return s.Lost }),
		counter("closed_total", "Children that were closed.", func(s *wire.Stats) int64 { return s.Closed }),
		counter("calls_total", "Calls and programs that have ended.", func(s *wire.Stats) int64 { return s.Calls }),
		counter("calls_failed_total", "Those of them that have failed.", func(s *wire.Stats) int64 { return s.CallsFailed }),
		counter("programs_total", "Programs that were started.", func(s *wire.Stats) int64 { return s.Programs }),
		counter("modules_total", "Modules that were sent to children.", func(s *wire.Stats) int64 { return s.Modules }),
		counter("module_bytes_total", "Bytes of them.", func(s *wire.Stats) int64 { return s.ModuleBytes }),
		counter("dropped_total", "Events, and bytes of output, that did not fit into a client's queue.", func(s *wire.Stats) int64 { return s.Dropped }),
		counter("spans_dropped_total", "Spans that did not reach the collector of traces.", func(s *wire.Stats) int64 { return s.SpansDropped }),
		counter("log_errors_total", "Log records that could not be written.", func(s *wire.Stats) int64 { return s.LogErrors }),
	}}
}

// Metrics of each target, by the name that its connections were made with.
var (
	targetConnections = targetDesc("target_connections", "Connections in the pool with a target.")
	targetCalls       = targetDesc("target_calls_total", "Calls and programs on a target that have ended.")
	targetFailures    = targetDesc("target_calls_failed_total", "Those of them that have failed.")
)

func targetDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("mitogend_"+name, help, []string{"target"}, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		out <- m.desc
	}
	out <- targetConnections
	out <- targetCalls
	out <- targetFailures
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	st := c.s.Stats()
	for _, m := range c.metrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st))
	}
	for _, t := range c.s.pool.Totals() {
		out <- prometheus.MustNewConstMetric(targetConnections, prometheus.GaugeValue, float64(t.Connections), t.Target)
		out <- prometheus.MustNewConstMetric(targetCalls, prometheus.CounterValue, float64(t.Calls), t.Target)
		out <- prometheus.MustNewConstMetric(targetFailures, prometheus.CounterValue, float64(t.Failures), t.Target)
	}
}

// Handler serves /metrics for Prometheus and /healthz (200 while work is taken, 503 while the daemon is stopping).
// There is no authentication: it is for an address that only this machine reaches. A request for another host than
// this one (ownHost) is refused; name is one more name of this host.
func (s *Server) Handler(name string) http.Handler {
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r, name) {
			http.Error(w, "the Host header names another host; use an address of this machine, its name or localhost", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// ownHost tells whether a request is for this machine: by one of its addresses, as localhost, or by its name. By DNS
// rebinding, a page of another site can make a name of its own lead here; it asks for that name. A browser never
// leaves the header out.
func ownHost(r *http.Request, name string) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		return ownAddress(r, addr.WithZone("").Unmap())
	}
	if host == "" || strings.EqualFold(host, "localhost") || strings.EqualFold(host, name) {
		return true
	}
	hostname, err := os.Hostname()
	return err == nil && strings.EqualFold(host, hostname)
}

// ownAddress tells whether an address is the one that the request came to, or another one of this machine.
func ownAddress(r *http.Request, addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	if to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(to.String()); err == nil && at.Addr().WithZone("").Unmap() == addr {
			return true
		}
	}
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

// ProfileSocket is the name of the socket of profiles, beside the control socket.
const ProfileSocket = "pprof.sock"

// ProfileHandler serves /debug/pprof/.
func ProfileHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// ServeHTTP serves a handler until Shutdown closes the listener at its end.
func (s *Server) ServeHTTP(ln net.Listener, handler http.Handler) error {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
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
