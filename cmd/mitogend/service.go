package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"mitogend/daemon/control"
	"mitogend/daemon/inventory"
	"mitogend/daemon/socket"
	"mitogend/daemon/unixclient"
)

// service is the daemon that serve runs.
type service struct {
	flags    *settingFlags
	settings *settings
	server   *control.Server
	clients  *unixclient.Server
	levels   *control.Levels
	log      *zap.Logger
	stop     chan time.Duration // a client asks the daemon to stop, with this grace
}

// run listens, serves until something tells it to stop, and stops.
func (sv *service) run(ctx context.Context, signals signals) error {
	listeners, err := sv.listen()
	if err != nil {
		sv.shutdown(0, signals.end)
		return err
	}
	clients, err := sv.listenClients()
	if err != nil {
		for _, ln := range listeners {
			_ = ln.Close()
		}
		sv.shutdown(0, signals.end)
		return err
	}
	// Both sockets are there now: whoever finds one of them finds the other.
	failed := make(chan error, len(listeners)+3)
	for _, ln := range listeners {
		go func() { failed <- sv.server.Serve(ln) }()
		sv.log.Info("listening", zap.Stringer("socket", ln.Addr()))
	}
	stopClients := sv.serveClients(ctx, clients, failed)
	defer stopClients()
	if sv.settings.http != "" {
		if err := sv.serveHTTP(failed); err != nil {
			sv.shutdown(0, signals.end)
			return err
		}
	}
	if sv.settings.pprof {
		if err := sv.serveProfiles(failed); err != nil {
			sv.shutdown(0, signals.end)
			return err
		}
	}
	sv.checkLimits()
	notify(sd.SdNotifyReady)
	stopWatchdog := sv.feedWatchdog()
	defer stopWatchdog()
	grace := sv.settings.grace
	stopReloads := sv.reloads(ctx, signals.reload)
	select {
	case sig := <-signals.end:
		sv.log.Info("got a signal", zap.Stringer("signal", sig))
		grace = sv.server.Grace()
	case grace = <-sv.stop:
		sv.log.Info("a client asks for the end")
	case err = <-failed:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	stopReloads()
	notify(sd.SdNotifyStopping)
	clients.linger()
	sv.shutdown(grace, signals.end)
	sv.log.Info("stopped")
	return err
}

// shutdown stops the server. Another signal makes it stop at once.
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
			case <-signals:
				sv.server.Hurry()
			case <-done:
				return
			}
		}
	})
	sv.server.Shutdown(ctx)
}

// listen takes the sockets that systemd has given, or makes one.
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
				return nil, usageError{plain(err)}
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
		return nil, usageError{plain(err)}
	}
	return []net.Listener{ln}, nil
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

// serveProfiles serves profiles on a socket of their own: they tell what the daemon does, and cost time.
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

// reloads reads the configuration again at each SIGHUP until stop is called, which gives up what is being read.
func (sv *service) reloads(ctx context.Context, signals <-chan os.Signal) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-signals:
				// A file of the configuration may hang.
				_, _ = interruptible(ctx, func() (any, error) { sv.reload(ctx); return nil, nil })
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// reload reads the configuration again. If there is a mistake in it, or ctx ends, nothing changes. It may run programs.
func (sv *service) reload(ctx context.Context) {
	notify(sd.SdNotifyReloading + fmt.Sprintf("\nMONOTONIC_USEC=%d", monotonic()))
	defer func() {
		if ctx.Err() == nil {
			notify(sd.SdNotifyReady)
		}
	}()
	s, err := sv.flags.load()
	var hosts *inventory.Inventory
	if err == nil {
		hosts, err = s.hosts(ctx)
	}
	if err == nil {
		err = sv.server.Configure(ctx, s.poolOptions(), s.grace, hosts)
	}
	if ctx.Err() != nil {
		return // it is being stopped
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

// notify tells systemd a state, if systemd has asked for it.
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
				sv.server.Stats() // this takes every lock of the server, so it hangs if one of them does
				notify(sd.SdNotifyWatchdog)
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// checkLimits warns if the limit of open files is too low for the configuration.
func (sv *service) checkLimits() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	// Go has raised it to the hard one. Were it set here, the processes that are started would not get the first one back.
	// Each connection needs two, each client needs one, and the daemon needs some.
	need := uint64(2*sv.settings.maxConnections + sv.settings.maxClients + 50)
	if limit.Cur < need {
		sv.log.Warn("the limit of open files is lower than max_connections and max_clients need; raise it (ulimit -n, or LimitNOFILE= of the unit)",
			zap.Uint64("limit", limit.Cur), zap.Uint64("needed", need))
	}
}

// listenClients opens mitogen.sock beside the control socket.
func (sv *service) listenClients() (*lingering, error) {
	dir, err := sv.settings.socketDir()
	if err != nil {
		return nil, usageError{err}
	}
	ln, err := unixclient.Listen(filepath.Join(dir, unixclient.SocketName))
	if err != nil {
		return nil, usageError{plain(err)}
	}
	return &lingering{Listener: ln, closed: make(chan struct{})}, nil
}

// lingering is a listener that can be closed for new clients only: Accept does not tell that until Close.
type lingering struct {
	net.Listener
	closed chan struct{}
	once   sync.Once
	quiet  atomic.Bool
}

// linger takes no more clients.
func (l *lingering) linger() {
	l.quiet.Store(true)
	_ = l.Listener.Close()
}

// Accept implements net.Listener.
func (l *lingering) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil && l.quiet.Load() {
		<-l.closed
	}
	return nc, err
}

// Close implements net.Listener.
func (l *lingering) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// serveClients serves mitogen.sock until stop is called.
func (sv *service) serveClients(ctx context.Context, ln net.Listener, failed chan<- error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	sv.log.Info("listening", zap.Stringer("socket", ln.Addr()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := sv.clients.Serve(ctx, ln); err != nil {
			failed <- err
		}
	}()
	return func() { cancel(); <-done }
}

// signals are those that the daemon is told something by. Each kind waits by itself: many of one push out none of the
// other.
type signals struct {
	end    <-chan os.Signal // SIGINT and SIGTERM
	reload <-chan os.Signal // SIGHUP; while one waits, another one says nothing new
}

// daemonSignals is takeSignals for the daemon.
func (a *app) daemonSignals() signals {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	return signals{a.takeSignals(syscall.SIGINT, syscall.SIGTERM), reload}
}

// takeSignals lets this command handle signals itself. The new channel comes first, so that none of them ends the
// process in between.
func (a *app) takeSignals(wanted ...os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 4)
	signal.Notify(c, wanted...)
	signal.Stop(a.signals)
	return c
}
