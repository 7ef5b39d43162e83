package control

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"mitogend/daemon"
	"mitogend/daemon/inventory"
	"mitogend/daemon/pool"
	"mitogend/daemon/socket"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/internal/slogzap"
	"mitogend/pyproto/printable"
	"mitogend/python/bytecode"
)

// Options configure a server.
type Options struct {
	// Pool says what is served to children by default, and how connections are kept. The server sets Logger and
	// Watch.
	Pool pool.Options
	// Runtime is what children run if their client sends no source and their target names no runtime: "", "embedded",
	// "mitogen" or "mitogen:DIR".
	Runtime string
	// Inventory says what names of hosts mean in targets; nil for none. Nobody else may use it, and the server closes it.
	Inventory *inventory.Inventory
	// MaxMessage, MaxPending and StallTimeout are those of daemon.Options. A client that takes nothing for
	// StallTimeout while replies wait for it is disconnected.
	MaxMessage, MaxPending int
	StallTimeout           time.Duration
	// MaxClients is how many clients there may be at once; 0 means DefaultMaxClients.
	MaxClients int
	// Grace is how long running work may take after Shutdown has begun; 0 means DefaultGrace.
	Grace time.Duration
	// Trace and Bytecode are those of daemon.Options.
	Trace    func(daemon.Frame)
	Bytecode *bytecode.Store
	// Core takes log records of all levels; nil discards them.
	Core zapcore.Core
	// Levels are those of the components; nil means info.
	Levels *Levels
	// Endpoint is where spans of calls and imports are sent by OTLP over HTTP, such as http://127.0.0.1:4318; empty
	// for none.
	Endpoint string
	// LogErrors is how many log records could not be written; may be nil.
	LogErrors func() int64
	// Version is what stats says.
	Version string
	// OnShutdown is called when a client asks for the end, with the time for running work. It must not block. If it
	// is nil, such requests are refused.
	OnShutdown func(grace time.Duration)
}

// Defaults of Options.
const (
	DefaultMaxClients = 4096
	DefaultGrace      = 10 * time.Second
)

// Server is a daemon with a control socket. It is safe for concurrent use.
type Server struct {
	// Constant after New.
	opt    Options
	d      *daemon.Daemon
	pool   *pool.Pool
	hub    *hub
	log    *zap.Logger // of component control
	start  time.Time
	levels *Levels
	// nil without an endpoint
	exporter *exporter

	counts struct {
		seen, refused, bad, requests, active, streams, connected, lost, closed, calls, failed, programs, modules, moduleBytes atomic.Int64
		connectsFailed, spansDropped                                                                                          atomic.Int64
	}

	// mu protects the following.
	mu        sync.Mutex
	grace     time.Duration
	conns     map[*conn]bool
	listeners map[net.Listener]bool
	stopping  bool
	down      bool
	idle      chan struct{} // closed when no work is left, once stopping
	closers   []func()      // of other servers, called at the end
	inv       *inventory.Inventory

	// hurried ends with Hurry.
	hurried context.Context
	hurry   context.CancelFunc

	// taking ends when Shutdown begins, with ErrShutdown.
	taking     context.Context
	stopTaking context.CancelCauseFunc

	// asking has one token, for whoever asks inv or replaces it: to ask may mean to read files and run programs.
	asking chan struct{}

	// Serve, conns, and the inventory while it is asked. Add only with mu held and down false, or from a conn's work.
	wg sync.WaitGroup
}

// New makes a server with a daemon of its own. It does not listen yet.
func New(opt Options) (*Server, error) {
	if opt.MaxClients <= 0 {
		opt.MaxClients = DefaultMaxClients
	}
	if opt.Grace <= 0 {
		opt.Grace = DefaultGrace
	}
	if opt.StallTimeout <= 0 {
		opt.StallTimeout = time.Minute
	}
	if opt.Core == nil {
		opt.Core = zapcore.NewNopCore()
	}
	if opt.Levels == nil {
		opt.Levels = NewLevels(zap.InfoLevel)
	}
	s := &Server{
		opt: opt, hub: newHub(), start: time.Now(), levels: opt.Levels, grace: opt.Grace, conns: map[*conn]bool{},
		inv: opt.Inventory, asking: make(chan struct{}, 1), listeners: map[net.Listener]bool{}, idle: make(chan struct{}),
	}
	s.hurried, s.hurry = context.WithCancel(context.Background())
	s.taking, s.stopTaking = context.WithCancelCause(context.Background())
	s.opt.Core = zapcore.NewTee(opt.Core, logCore{h: s.hub})
	s.log = s.Logger("control")
	var err error
	s.d, err = daemon.New(daemon.Options{
		Logger: slogzap.Slog(s.Logger("daemon")), MaxMessage: opt.MaxMessage, MaxPending: opt.MaxPending, StallTimeout: opt.StallTimeout, OnEvent: s.onEvent,
		Trace: opt.Trace, Bytecode: opt.Bytecode,
	})
	if err != nil {
		return nil, err
	}
	if opt.Endpoint != "" {
		if err := CheckEndpoint(opt.Endpoint); err != nil {
			return nil, fmt.Errorf("control: %w", err)
		}
		s.exporter = newExporter(opt.Endpoint, opt.Version, s.Logger("http"), func(n int64) { s.counts.spansDropped.Add(n) })
		s.hub.tap = s.exporter.add
	}
	opt.Pool.Logger = s.Logger("pool")
	children := s.Logger("children")
	opt.Pool.Watch = &pool.Watcher{
		OnOutput: s.onOutput(children), OnLog: s.onLog(children), OnImport: s.onImport, OnFailure: s.onFailure,
	}
	if s.pool, err = pool.New(s.d, opt.Pool); err != nil {
		return nil, err
	}
	if s.exporter != nil {
		go s.exporter.run()
	}
	s.opt.Pool = opt.Pool
	return s, nil
}

// Logger gives the logger of a component. Subscribers see its records as well.
func (s *Server) Logger(component string) *zap.Logger { return s.levels.Logger(s.opt.Core, component) }

// Daemon is the server's daemon.
func (s *Server) Daemon() *daemon.Daemon { return s.d }

// Configure takes new options of the pool, a new grace time and a new inventory. They count for what begins after
// that. It waits while the inventory is asked, which it closes, and changes nothing if ctx ends before.
func (s *Server) Configure(ctx context.Context, p pool.Options, grace time.Duration, inv *inventory.Inventory) error {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p.Logger = s.opt.Pool.Logger
	if err := s.pool.Configure(p); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inv != nil && s.inv != inv {
		s.inv.Close()
	}
	s.inv = inv
	if grace > 0 {
		s.grace = grace
	}
	return nil
}

// onEvent is daemon.Options.OnEvent.
func (s *Server) onEvent(e daemon.Event) {
	switch e.Kind {
	case daemon.Connected:
		s.counts.connected.Add(1)
	case daemon.Lost:
		s.counts.lost.Add(1)
	case daemon.Closed:
		s.counts.closed.Add(1)
	}
	s.pool.Event(&e)
	s.hub.publish(wire.Event{Kind: string(e.Kind), Time: stamp(e.Time), Child: uint32(e.ID), Target: e.Target, Chain: e.Chain, Text: e.Reason})
}

// onOutput takes output that belongs to no call.
func (s *Server) onOutput(log *zap.Logger) func(*pool.Conn, []byte) {
	return func(c *pool.Conn, data []byte) {
		s.hub.publish(wire.Event{Kind: wire.EventOutput, Target: c.Name(), Chain: c.Chain(), Text: string(data)})
		if entry := log.Check(zap.DebugLevel, "printed"); entry != nil && mayLog(log, c, len(data)) {
			entry.Write(zap.String("target", c.Name()), chainField(c), zap.String("output", printable.Cut(string(data), daemon.MaxLogText)))
		}
	}
}

// chainField is the target of a connection that has another name.
func chainField(c *pool.Conn) zap.Field {
	if chain := c.Chain(); chain != "" {
		return zap.String("chain", chain)
	}
	return zap.Skip()
}

// mayLog tells whether a child's record is to be logged here. When too much comes, a line says that some is dropped.
func mayLog(log *zap.Logger, c *pool.Conn, n int) bool {
	ok, say, dropped := c.Logs.Take(n)
	if say {
		log.Warn(daemon.DroppedLogs, zap.String("target", c.Name()), chainField(c), zap.Int("records", dropped))
	}
	return ok
}

func (s *Server) onLog(log *zap.Logger) func(*pool.Conn, daemon.Log) {
	return func(c *pool.Conn, l daemon.Log) {
		level := zapcore.Level(min(max(l.Level/10-2, -1), 2))
		if entry := log.Check(level, l.Text); entry != nil && mayLog(log, c, len(l.Text)) {
			entry.Write(zap.String("target", c.Name()), chainField(c), zap.Uint32("context", uint32(l.Context)), zap.String("logger", l.Logger))
		}
	}
}

func (s *Server) onImport(c *pool.Conn, e importer.Event) {
	if e.Bytes > 0 && !e.Repeated {
		s.counts.modules.Add(1)
		s.counts.moduleBytes.Add(int64(e.Bytes))
	}
	if s.hub.wants(wire.EventImport) {
		s.hub.publish(importEvent(c, e))
	}
}

// onFailure counts a connect that has failed.
func (s *Server) onFailure(c *pool.Conn, took time.Duration, err error) {
	s.counts.connectsFailed.Add(1)
	if s.exporter != nil {
		s.exporter.connectFailed(c.Name(), took, err)
	}
}

func importEvent(c *pool.Conn, e importer.Event) wire.Event {
	return wire.Event{
		Kind: wire.EventImport, Time: stamp(time.Now()), Target: c.Name(), Chain: c.Chain(), Module: e.Name, What: string(e.What), Bytes: e.Bytes,
		Seconds: e.Took.Seconds(), Text: e.Reason, For: e.For,
	}
}

// Serve takes clients until the listener is closed or Shutdown begins. It takes only clients of this process's user.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		_ = ln.Close()
		return nil
	}
	s.listeners[ln] = true
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	return socket.Serve(context.Background(), ln, slogzap.Slog(s.log), s.accept)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// accept begins to serve a client, or sends it away.
func (s *Server) accept(nc net.Conn) {
	peer, err := socket.PeerOf(nc)
	why := ""
	if err != nil {
		why = "the kernel does not tell who you are: " + err.Error()
	} else if err := peer.Allowed(); err != nil {
		why = err.Error()
	}
	c := newConn(s, nc, peer.PID)
	s.mu.Lock()
	switch {
	case why != "":
	case s.down || s.stopping:
		why = "the daemon is stopping"
	case len(s.conns) >= s.opt.MaxClients:
		why = fmt.Sprintf("there are %d clients already", len(s.conns))
	default:
		s.conns[c] = true
		s.wg.Add(1)
	}
	s.mu.Unlock()
	s.counts.seen.Add(1)
	if why != "" {
		s.counts.refused.Add(1)
		s.log.Warn("refused a client", zap.Int("pid", peer.PID), zap.Int("uid", peer.UID), zap.String("why", why))
		c.sendAway(why)
		return
	}
	go c.serve()
}

// begin counts work, unless the server is stopping.
func (s *Server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return daemon.ErrShutdown
	}
	s.counts.active.Add(1)
	return nil
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts.active.Add(-1) == 0 && s.stopping {
		close(s.idle)
	}
}

// Grace is how long running work may go on when the server stops.
func (s *Server) Grace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grace
}

// Shutdown stops the server. No new clients and no new work are taken, and no more targets of a plan begin; what runs
// may go on until ctx ends. Then it is cancelled, clients are disconnected, and all children are ended and reaped. When
// Shutdown returns, nothing is left but work that hangs in a call of the system (hangTime). The locks of the sockets'
// directories are kept until then. It may be called once.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.closeListeners()
	s.mu.Lock()
	s.stopping = true
	for ln := range s.listeners {
		if l, ok := ln.(*socket.Listener); ok {
			_ = l.Stop() // the lock stays
		} else {
			_ = ln.Close()
		}
	}
	if s.counts.active.Load() == 0 {
		close(s.idle)
	}
	served := len(s.listeners) > 0
	s.mu.Unlock()
	s.stopTaking(daemon.ErrShutdown)
	if served {
		s.log.Info("stopping", zap.Int64("work", s.counts.active.Load()))
	}
	select {
	case <-s.idle:
	case <-s.hurried.Done():
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.down = true
	for c := range s.conns {
		c.stop(daemon.ErrShutdown)
	}
	for _, end := range s.closers {
		end()
	}
	if s.inv != nil {
		s.inv.Close() // nobody waits for the answer of a program any more
	}
	s.mu.Unlock()
	s.pool.Shutdown(s.hurried)
	last, cancel := context.WithTimeout(s.hurried, closeTime)
	_ = s.d.Shutdown(last) // an error says only that some had to be killed
	cancel()
	ended := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(hangTime):
		s.log.Warn("stopping, although work hangs: does a file system not answer?", zap.Int64("work", s.counts.active.Load()))
		s.mu.Lock()
		for c := range s.conns {
			_ = c.nc.Close()
		}
		s.mu.Unlock()
	}
	if s.exporter != nil {
		s.exporter.close(s.hurried)
	}
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ln := range s.listeners {
		_ = ln.Close()
	}
}

// Hurry makes a Shutdown that is under way or comes later wait for nothing: work is cancelled and children are
// killed.
func (s *Server) Hurry() { s.hurry() }

// closeTime is how long children get to leave by themselves at the end.
const closeTime = 4 * time.Second

// hangTime is how long Shutdown waits, after all else, for work that does not notice that it is cancelled. A call of
// the system for a file cannot be interrupted, and may never return (NFS, FUSE); the end of the process ends it.
const hangTime = 3 * time.Second
