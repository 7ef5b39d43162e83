package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"syscall"

	"github.com/spf13/pflag"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/importer"
)

// daemonFlags say which daemon does the work: a running one, or none but this process.
type daemonFlags struct {
	socket string
	fresh  bool

	passedOver error // why dial gives no client though there may be a daemon: it is another user's
}

func (f *daemonFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.socket, "daemon", "", "`SOCKET` of a running daemon, or none to do without (default $MITOGEND_DAEMON, else the running one if there is one)")
}

func (f *daemonFlags) registerFresh(fs *pflag.FlagSet) {
	fs.BoolVar(&f.fresh, "fresh", false, "use connections of a running daemon that nobody shares, and end them afterwards")
}

// name is what the user has said, "" for nothing.
func (f *daemonFlags) name() string {
	if f.socket != "" {
		return f.socket
	}
	return os.Getenv("MITOGEND_DAEMON")
}

// dial gives a client of the running daemon, or nil when there is none and the user has named none.
func (f *daemonFlags) dial(ctx context.Context, opt client.Options) (*client.Client, error) {
	socket := f.name()
	if socket == "none" {
		return nil, nil
	}
	named := socket != ""
	if !named {
		var err error
		if socket, err = defaultSocket(); err != nil {
			return nil, nil // nowhere for a socket to be
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
		// XDG_RUNTIME_DIR is another user's, as after su or with sudo -E.
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
		if f.passedOver != nil {
			err = usagef("%w: is XDG_RUNTIME_DIR yours?", f.passedOver)
		}
	}
	return c, err
}

// connects matches what a script that connects children has: mitogen, but not the module mitogend.
var connects = regexp.MustCompile(`mitogen([^d]|$)`)

// clientSource is what a daemon is told to serve. The script is part of it only when something may ask for __main__: a child that
// the script itself connects. For any other, programs that differ can share a connection.
func clientSource(opt importer.Options) *importer.Options {
	if opt.Main != nil && !connects.Match(opt.Main.Source) {
		opt.Main = nil
	}
	return &opt
}

// master gives who connects the targets: the running daemon, or one of this process. Traces need the latter.
func (fl *fleet) master(ctx context.Context, opt importer.Options) (daemon.Master, error) {
	f := fl.flags
	if f.trace == "" {
		flags := f.daemonFlags
		flags.fresh = flags.fresh || f.traceImports // what a warm child has shows nothing
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
	o := daemon.Options{Logger: fl.app.logger()}
	if daemon.BytecodeUse(f.bytecode) != daemon.BytecodeNever {
		fl.store = newStore(o.Logger, f.compilers)
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
