package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/daemon/control"
	"mitogend/daemon/unixclient"
	"mitogend/internal/fault"
	"mitogend/internal/slogzap"
)

func newServe(a *app) *cobra.Command {
	f := &settingFlags{}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Hold connections for all clients of this user, in the foreground",
		Long: `serve listens on control.sock, which run, call, ps and clients in other languages use (docs/control.md). It runs until
SIGTERM or SIGINT. Running work may then end within --grace; a second signal stops it at once. SIGHUP reads the configuration
again. Under systemd, serve tells when it is ready, feeds the watchdog and takes an activated socket.

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

func serve(ctx context.Context, a *app, f *settingFlags) error {
	s, err := f.load()
	if err != nil {
		return err
	}
	// These may run programs. A signal has to end those, so it is not ours yet.
	hosts, err := s.hosts(ctx)
	if err != nil {
		return usageError{err}
	}
	runtime, err := daemon.FindRuntime(ctx, s.runtime, s.path, nil)
	if err != nil {
		return usagef("--runtime %s: %s", s.runtime, fault.Plain(err))
	}
	signals := a.daemonSignals()
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
	if runtime != nil { // the one that was found now: python3 may find another one later
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
	// This comes before anything is connected.
	sv.clients = unixclient.New(sv.server.Daemon(), unixclient.Options{
		Runtime: runtime, Logger: slogzap.Slog(sv.server.Logger("clients")), MaxClients: s.maxClients,
	})
	return sv.run(ctx, signals)
}
