package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/daemon/control"
	"mitogend/daemon/work"
	"mitogend/importer"
	"mitogend/internal/slogzap"
	"mitogend/python/bytecode"
)

// daemonFlags say who does the work: a running daemon, or this process alone.
type daemonFlags struct {
	socket string
	fresh  bool

	passedOver error // why dial has not used the daemon that is there: it is another user's
}

func (f *daemonFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.socket, "daemon", "", "`SOCKET` of a running daemon, or none to do without (default $MITOGEND_DAEMON, else the running one if there is one)")
}

func (f *daemonFlags) registerFresh(fs *pflag.FlagSet) {
	fs.BoolVar(&f.fresh, "fresh", false, "use connections of a running daemon that nobody shares, and end them afterwards")
}

// name is the socket that the user has named; "" if none.
func (f *daemonFlags) name() string {
	if f.socket != "" {
		return f.socket
	}
	return os.Getenv("MITOGEND_DAEMON")
}

// dial gives a client of the running daemon. It is nil if none runs and the user has named none.
func (f *daemonFlags) dial(ctx context.Context, opt client.Options) (*client.Client, error) {
	socket := f.name()
	if socket == "none" {
		return nil, nil
	}
	named := socket != ""
	if !named {
		var err error
		if socket, err = defaultSocket(); err != nil {
			return nil, nil // there is no place for a socket
		}
	}
	opt.Fresh, opt.Traceparent = f.fresh, os.Getenv("TRACEPARENT")
	c, err := client.Dial(ctx, socket, opt)
	switch {
	case err == nil:
		return c, nil
	case !named && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EINVAL)):
		return nil, nil
	case !named && (errors.Is(err, fs.ErrPermission) || errors.Is(err, client.ErrOtherUser)):
		// XDG_RUNTIME_DIR is another user's, as it may be after su or sudo -E.
		f.passedOver = fmt.Errorf("the daemon at %s is another user's", socket)
		return nil, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, usagef("--daemon %s: no daemon serves this socket", socket)
	}
	return nil, usagef("the daemon at %s: %w; --daemon none does without", socket, err)
}

// must is dial for commands that need a daemon.
func (f *daemonFlags) must(ctx context.Context) (*client.Client, error) {
	c, err := f.dial(ctx, client.Options{})
	if err == nil && c == nil {
		where, _ := defaultSocket()
		err = usagef("no daemon runs (nobody serves %s); mitogend serve starts one", where)
		if other, file := configuredSocket(); other != "" && other != where && exists(other) {
			err = usagef("no daemon runs (nobody serves %s); serve listens where %s says, and other commands do so with --daemon %s, or MITOGEND_DAEMON", where, file, other)
		}
		if f.passedOver != nil {
			err = usagef("%w: is XDG_RUNTIME_DIR yours?", f.passedOver)
		}
	}
	return c, err
}

// connects matches a script that may connect children: it names mitogen, and not just the module mitogend.
var connects = regexp.MustCompile(`mitogen([^d]|$)`)

// clientSource says what a daemon has to serve. The script is part of it only if a child may ask for __main__, which
// the script itself connects. Other scripts can share a connection, though they differ.
func clientSource(opt importer.Options) *importer.Options {
	if opt.Main != nil && !connects.Match(opt.Main.Source) {
		opt.Main = nil
	}
	return &opt
}

// master gives the daemon that connects the targets: the running one, or one in this process. A trace needs the latter.
func (fl *fleet) master(ctx context.Context, opt importer.Options) (daemon.Master, error) {
	f := fl.flags
	if f.trace == "" {
		flags := f.daemonFlags
		flags.fresh = flags.fresh || f.traceImports // a child that has the modules already would show nothing
		c, err := flags.dial(ctx, client.Options{Source: clientSource(opt)})
		if flags.passedOver != nil {
			fl.app.console.complain("%v; going on without it", flags.passedOver)
		}
		if err != nil || c != nil {
			if err != nil {
				return nil, err
			}
			return c, nil
		}
	}
	log := fl.app.logger()
	o := daemon.Options{Logger: slogzap.Slog(log)}
	if daemon.BytecodeUse(f.bytecode) != daemon.BytecodeNever {
		fl.store = newStore(log, f.compilers)
		o.Bytecode = fl.store
	}
	if f.trace != "" {
		var err error
		if fl.tracer, err = newTracer(f.trace, fl.app.console.complain); err != nil {
			return nil, err
		}
		o.Trace = fl.tracer.frame
	}
	d, err := daemon.New(o)
	if err != nil {
		if fl.store != nil {
			fl.store.Close()
		}
		return nil, err
	}
	fl.local = true
	return d, nil
}

// defaultSocket is where we look for a running daemon of this user.
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

// configuredSocket is where serve listens by its configuration file. Commands do not read that: each of them would
// end at a mistake in it. It is "" if the file does not say.
func configuredSocket() (socket, file string) {
	s := defaultSettings()
	file, _ = new(settingFlags).path()
	if s.readFile(file) != nil || s.listen == "" {
		return "", file
	}
	return filepath.Join(s.listen, control.SocketName), file
}

// newStore gives the store of bytecode for a daemon. It has to be closed after the daemon was shut down.
func newStore(log *zap.Logger, compilers []string) *bytecode.Store {
	opt := bytecode.Options{Compilers: compilers, Logger: slogzap.Slog(log)}
	dir, err := bytecode.DefaultDir()
	if err == nil {
		opt.Dir, err = bytecode.OpenDir(dir, 0)
	}
	if err != nil {
		log.Info("bytecode is not kept for the next time", zap.Error(err))
	}
	return bytecode.New(opt)
}

// open connects a target. It tries again as often as --retry says.
func (fl *fleet) open(ctx context.Context, j *job, opt daemon.ConnectOptions) error {
	return work.Retry(ctx, fl.flags.retry, func() (err error) {
		j.child, err = fl.daemon.Open(ctx, j.target.name, j.target.hops, opt)
		return err
	})
}
