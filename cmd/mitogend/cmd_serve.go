package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"mitogend/daemon"
	"mitogend/daemon/control"
	"mitogend/daemon/inventory"
	"mitogend/daemon/owned"
	"mitogend/daemon/socket"
	"mitogend/daemon/unixclient"
)

func newServe(a *app) *cobra.Command {
	f := &settingFlags{}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Hold connections for all clients of this user, in the foreground",
		Long: `serve listens on control.sock, which run, call, ps and clients in other languages use (docs/control.md). It runs until
SIGTERM or SIGINT, which lets running work end within --grace; a second one stops at once. SIGHUP reads the configuration
again. Under systemd it tells when it is ready, feeds the watchdog and takes an activated socket.

Every flag is also a key of mitogend.yaml and an environment variable: --idle-time is idle_time and $MITOGEND_IDLE_TIME.`,
		Example: `  mitogend serve
  mitogend serve --idle-time 1h --log-file ~/mitogend.log
  mitogend serve --inventory ./hosts.yaml --http 127.0.0.1:9101`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), a, f) },
	}
	f.register(cmd.Flags())
	return cmd
}

// service is a daemon that serve runs.
type service struct {
	flags    *settingFlags
	settings *settings
	server   *control.Server
	clients  *unixclient.Server
	levels   *control.Levels
	log      *zap.Logger
	stop     chan time.Duration // a client asks for the end
}

func serve(ctx context.Context, a *app, f *settingFlags) error {
	s, err := f.load()
	if err != nil {
		return err
	}
	// These may run programs, which a signal has to end.
	hosts, err := s.hosts(ctx)
	if err != nil {
		return usageError{err}
	}
	runtime, err := daemon.FindRuntime(ctx, s.runtime, s.path, nil)
	if err != nil {
		return usagef("--runtime %s: %w", s.runtime, plainDaemon(err))
	}
	signals := a.takeSignals()
	sv := &service{flags: f, settings: s, stop: make(chan time.Duration, 1)}
	log, err := newLog(s, a)
	if err != nil {
		return err
	}
	defer log.close()
	if sv.levels, err = s.levels(); err != nil {
		return usageError{err}
	}
	opt := control.Options{
		Pool: s.poolOptions(), Inventory: hosts, MaxMessage: s.maxMessage, MaxPending: s.maxPending, StallTimeout: s.stallTime, MaxClients: s.maxClients,
		Grace: s.grace, Core: log.core, Levels: sv.levels, LogErrors: log.errors.Load, Endpoint: s.otlpEndpoint, Version: version + commit(),
		OnShutdown: func(grace time.Duration) {
			select {
			case sv.stop <- grace:
			default: // it is being stopped
			}
		},
	}
	if runtime != nil { // as it was found now: what python3 says may change
		opt.Runtime = "mitogen:" + runtime.Dir
	}
	if s.trace != "" {
		t, err := newTracer(s.trace, a.console.complain)
		if err != nil {
			return err
		}
		defer t.close()
		opt.Trace = t.frame
	}
	store := newStore(sv.levels.Logger(log.core, "daemon"), s.compilers)
	defer store.Close()
	opt.Bytecode = store
	if sv.server, err = control.New(opt); err != nil {
		return err
	}
	sv.log = sv.server.Logger("control")
	// Before anything is connected.
	sv.clients = unixclient.New(sv.server.Daemon(), unixclient.Options{
		Runtime: runtime, Logger: sv.server.Logger("clients"), MaxClients: s.maxClients,
	})
	return sv.run(ctx, signals)
}

// run listens, serves until it is told to stop, and stops.
func (sv *service) run(ctx context.Context, signals <-chan os.Signal) error {
	listeners, err := sv.listen()
	if err != nil {
		sv.shutdown(0, signals)
		return err
	}
	clients, err := sv.listenClients()
	if err != nil {
		for _, ln := range listeners {
			_ = ln.Close()
		}
		sv.shutdown(0, signals)
		return err
	}
	// Whoever finds one of the sockets finds both.
	failed := make(chan error, len(listeners)+3)
	for _, ln := range listeners {
		go func() { failed <- sv.server.Serve(ln) }()
		sv.log.Info("listening", zap.Stringer("socket", ln.Addr()))
	}
	stopClients := sv.serveClients(ctx, clients, failed)
	defer stopClients()
	if sv.settings.http != "" {
		if err := sv.serveHTTP(failed); err != nil {
			sv.shutdown(0, signals)
			return err
		}
	}
	if sv.settings.pprof {
		if err := sv.serveProfiles(failed); err != nil {
			sv.shutdown(0, signals)
			return err
		}
	}
	sv.checkLimits()
	notify(sd.SdNotifyReady)
	stopWatchdog := sv.feedWatchdog()
	defer stopWatchdog()
	grace := sv.settings.grace
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				sv.reload()
				continue
			}
			sv.log.Info("got a signal", zap.Stringer("signal", sig))
			grace = sv.server.Grace()
		case grace = <-sv.stop:
			sv.log.Info("a client asks for the end")
		case err = <-failed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		break
	}
	notify(sd.SdNotifyStopping)
	sv.shutdown(grace, signals)
	sv.log.Info("stopped")
	return err
}

// shutdown stops the server. A further signal makes it stop at once.
func (sv *service) shutdown(grace time.Duration, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(done)
	wg.Go(func() {
		for {
			select {
			case sig := <-signals:
				if sig != syscall.SIGHUP {
					sv.server.Hurry()
				}
			case <-done:
				return
			}
		}
	})
	sv.server.Shutdown(ctx)
}

// listen takes the sockets of systemd, or makes one.
func (sv *service) listen() ([]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, err
	}
	var out []net.Listener
	for _, list := range named {
		for _, ln := range list {
			if ln == nil || ln.Addr().Network() != "unix" {
				return nil, usagef("systemd has given a socket that is no Unix stream socket; the socket unit needs ListenStream=%%t/mitogend/%s", control.SocketName)
			}
			own, err := socket.Adopt(ln)
			if err != nil {
				return nil, usageError{plainControl(err)}
			}
			out = append(out, own)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	dir, err := sv.settings.socketDir()
	if err != nil {
		return nil, usageError{err}
	}
	ln, err := control.Listen(dir)
	if err != nil {
		return nil, usageError{plainControl(err)}
	}
	return []net.Listener{ln}, nil
}

// plainControl drops the package's name.
func plainControl(err error) error {
	return errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "control: "), "socket: "))
}

func plainDaemon(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "daemon: runtime mitogen: "))
}

func (sv *service) serveHTTP(failed chan<- error) error {
	ln, err := net.Listen("tcp", sv.settings.http)
	if err != nil {
		return usagef("--http %s: %w", sv.settings.http, err)
	}
	log := sv.server.Logger("http")
	if addr, ok := ln.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() {
		log.Warn("metrics are served to other machines, without authentication", zap.Stringer("address", addr))
	}
	log.Info("serving metrics", zap.Stringer("address", ln.Addr()))
	go func() {
		name, _, _ := net.SplitHostPort(sv.settings.http)
		if err := sv.server.ServeHTTP(ln, sv.server.Handler(name)); err != nil {
			failed <- err
		}
	}()
	return nil
}

// serveProfiles serves profiles on a socket beside the others: they tell what the daemon does, and cost it time.
func (sv *service) serveProfiles(failed chan<- error) error {
	dir, err := sv.settings.socketDir()
	if err != nil {
		return usageError{err}
	}
	ln, err := unixclient.Listen(filepath.Join(dir, control.ProfileSocket))
	if err != nil {
		return usageError{err}
	}
	sv.server.Logger("http").Info("serving profiles", zap.Stringer("socket", ln.Addr()))
	go func() {
		if err := sv.server.ServeHTTP(ln, control.ProfileHandler()); err != nil {
			failed <- err
		}
	}()
	return nil
}

// reload reads the configuration again. A mistake in it leaves everything as it is.
func (sv *service) reload() {
	notify(sd.SdNotifyReloading + fmt.Sprintf("\nMONOTONIC_USEC=%d", monotonic()))
	defer notify(sd.SdNotifyReady)
	s, err := sv.flags.load()
	var hosts *inventory.Inventory
	if err == nil {
		hosts, err = s.hosts(context.Background())
	}
	if err == nil {
		err = sv.server.Configure(s.poolOptions(), s.grace, hosts)
	}
	if err != nil {
		sv.log.Error("the configuration was not taken", zap.Error(err))
		return
	}
	levels, _ := s.levels() // load has checked them
	for component, level := range levels.Map() {
		_ = sv.levels.Set(component, level)
	}
	for _, d := range settingList {
		if d.fixed && fmt.Sprint(shown(d, s)) != fmt.Sprint(shown(d, sv.settings)) {
			sv.log.Warn("a changed setting needs a restart", zap.String("key", d.key))
		}
	}
	sv.settings = s
	sv.log.Info("the configuration was read again")
}

// monotonic is the system's monotonic clock, in microseconds.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano() / 1000
}

// notify tells systemd, if it wants to know.
func notify(state string) { _, _ = sd.SdNotify(false, state) }

// feedWatchdog tells systemd twice in each interval that the daemon answers.
func (sv *service) feedWatchdog() (stop func()) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(interval / 2)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				sv.server.Stats() // takes every lock of the server: when one is stuck, so is this
				notify(sd.SdNotifyWatchdog)
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// checkLimits warns when the limit of open files is too low for what is configured. Go has raised the soft limit already.
func (sv *service) checkLimits() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	// Two for each connection, one for each client, and some.
	need := uint64(2*sv.settings.maxConnections + sv.settings.maxClients + 50)
	if limit.Cur < need {
		sv.log.Warn("the limit of open files is lower than max_connections and max_clients need; raise it (ulimit -n, or LimitNOFILE= of the unit)",
			zap.Uint64("limit", limit.Cur), zap.Uint64("needed", need))
	}
}

// takeSignals makes signals this command's own business.
func (a *app) takeSignals() <-chan os.Signal {
	signal.Stop(a.signals)
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	return c
}

// serviceLog is where log records go.
type serviceLog struct {
	core   zapcore.Core
	f      *os.File // nil for stderr
	errors atomic.Int64

	complain func(format string, args ...any)
}

// newLog opens the log. Records that can not be written are counted: a full disk stops nothing.
func newLog(s *settings, a *app) (*serviceLog, error) {
	l := &serviceLog{complain: a.console.complain}
	var out interface{ Write([]byte) (int, error) } = os.Stderr
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	if s.logFile != "" {
		f, err := owned.Append(s.logFile)
		if err != nil {
			return nil, usagef("--log-file %s: %w", s.logFile, cause(err))
		}
		l.f, out, tty = f, f, false
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	console := s.logFormat == "console" || s.logFormat == "auto" && tty
	if console {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	least := zap.DebugLevel
	if a.quiet {
		least = zap.WarnLevel
	}
	l.core = zapcore.NewCore(printableLog{encoder, console}, zapcore.Lock(zapcore.AddSync(&countErrors{w: out, lost: l.lost})), least)
	return l, nil
}

// lost counts a record that could not be written. The first one is told, where that is possible.
func (l *serviceLog) lost(err error) {
	if l.errors.Add(1) == 1 && l.f != nil {
		l.complain("--log-file %s: %v; records are lost, and counted (mitogend stats), until it can be written again", l.f.Name(), cause(err))
	}
}

func (l *serviceLog) close() {
	if l.f != nil {
		_ = l.f.Close()
	}
}

// countErrors is a writer of lines that never fails.
type countErrors struct {
	w    interface{ Write([]byte) (int, error) }
	lost func(error)
	half bool // of a line was written
}

func (c *countErrors) Write(p []byte) (int, error) {
	line := p
	if c.half {
		line = append([]byte{'\n'}, p...)
	}
	n, err := c.w.Write(line)
	if err != nil {
		c.lost(err)
	}
	if n > 0 {
		c.half = n < len(line)
	}
	return len(p), nil
}

// defaultSocket is where a running daemon of this user is looked for.
func defaultSocket() (string, error) {
	dir := os.Getenv("MITOGEND_LISTEN")
	if dir == "" {
		var err error
		if dir, err = control.DefaultDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, control.SocketName), nil
}
