package daemon

import (
	"fmt"
	"log/slog"
	"time"

	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python/bytecode"
)

// Options configure a daemon. The zero value serves no modules and logs nothing.
type Options struct {
	// Path is where modules are looked up, in order: directories, zip, egg and wheel files.
	Path []string
	// Modules are trees of files that come behind Path: what this program has embedded. [importer.Tree] has an example.
	Modules []importer.Tree
	// Venv is a virtual environment whose site-packages follow Path.
	Venv string
	// Policy limits what is served to any child.
	Policy importer.Policy
	// Logger gets what the daemon and its children log; nil discards it.
	Logger *slog.Logger
	// MaxMessage is the largest payload, in bytes, sent or accepted; 0 means pyproto.DefaultMaxMessage.
	MaxMessage int
	// MaxPending bounds what waits, in bytes, for one child to read; 0 means 4 MiB. A sender waits for room; a child
	// that reads nothing for StallTimeout while it is full gets no more messages until it does, and their senders a
	// dead message. A hop waits for a minute in its place, and ends the stream of a child that is then sent a part of
	// something.
	MaxPending int
	// StallTimeout is 60 seconds if 0.
	StallTimeout time.Duration
	// Bytecode has the code of what children are served, and of the child runtime. The daemon does not close it, and
	// several may share it; it should be closed after Shutdown. Nil has children compile
	// for themselves what has no .pyc beside it.
	Bytecode *bytecode.Store
	// OnEvent is told what happens, from any goroutine; it must not block. A child's end comes before its Close returns, and before that of
	// a hop that ends because it was the last behind it. May be nil.
	OnEvent func(Event)
	// Trace is told of each frame, from any goroutine, in the order in which each of them sends or reads. Whoever sends
	// or reads waits for it. May be nil.
	Trace func(Frame)
}

func (o *Options) setDefaults() {
	if o.MaxMessage == 0 {
		o.MaxMessage = pyproto.DefaultMaxMessage
	}
	if o.MaxPending == 0 {
		o.MaxPending = 4 << 20
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = time.Minute
	}
}

// BytecodeUse says which children are sent bytecode of what is served.
type BytecodeUse string

// The uses of bytecode. A child on this machine gets what an interpreter of its release has left beside the source, if
// that is the source's without doubt, else what Options.Bytecode has; any other what that has, compressed.
const (
	// BytecodeAuto is meant by "" as well: children on this machine, and those that had taken the runtime within 10 ms.
	BytecodeAuto BytecodeUse = "auto"
	// BytecodeAlways: every child behind no other.
	BytecodeAlways BytecodeUse = "always"
	BytecodeNever  BytecodeUse = "never"
)

// ParseBytecodeUse reads one of them, or "".
func ParseBytecodeUse(s string) (BytecodeUse, error) {
	switch u := BytecodeUse(s); u {
	case "", BytecodeAuto, BytecodeAlways, BytecodeNever:
		return u, nil
	}
	return "", fmt.Errorf("%q is not %s, %s or %s", s, BytecodeAuto, BytecodeAlways, BytecodeNever)
}

// ConnectOptions configure one child. The zero value is good.
type ConnectOptions struct {
	// Name is how the child is called in logs and events; empty means its target.
	Name string
	// Python lists interpreters to try, in order, where the target names none.
	Python []string
	// PythonFrom has Python be sent to each hop that has none.
	PythonFrom PythonFrom
	// Timeout is how long each hop may take to come up; 0 means bootstrap.DefaultTimeout. While Python is sent it
	// begins anew with every piece that is taken.
	Timeout time.Duration
	// Secrets gives the password of a hop that names none, by the hop's position in the target; nil asks for none.
	Secrets func(hop int, method string) (password string, ok bool)
	// Importer serves the child's modules; nil means the daemon's.
	Importer *importer.Importer
	// Policy limits further what is served to this child.
	Policy importer.Policy
	// PreferHere serves a module from here even if the target has one of that name.
	PreferHere bool
	// Bytecode says whether the child is sent bytecode besides source. With BytecodeNever its sources are not kept either.
	Bytecode BytecodeUse
	// Runtime is the Mitogen that the child and those on the way to it run; nil means the embedded runtime. The key
	// runtime of a target wins over it.
	Runtime *Runtime
	// AsMitogen has the program of the method called with the options of Mitogen's own method, in its order; see
	// [bootstrap.Boot].
	AsMitogen bool
	// StockLevel is the level of a stock child's loggers, as Python counts; 0 means 20, info.
	StockLevel int
	// StockOverrides are prefixes of the modules that a stock child takes from here though it has them, and then it
	// takes no others from here (Mitogen's whitelist_prefix); it never asks for those of StockBlocks
	// (blacklist_prefix).
	StockOverrides, StockBlocks []string
	// LogTo is the context that gets the log records of the child and those behind it, as it would as their master; 0
	// for none.
	LogTo pyproto.ContextID
	// Miss is asked for a module that a stock child wants and that cannot be served from here. True says that Miss will
	// see to the answer, by [Child.SendModule]. It must not block.
	Miss func(c *Child, name string) bool
	// MissResource is the same for a data file of a package, which is answered by [Child.SendResource].
	MissResource func(c *Child, q ResourceRequest) bool
	// Dir and Env (NAME=VALUE) are the working directory and the environment in which the first hop's program is
	// started, and looked up; empty means those of this process.
	Dir string
	Env []string
	// OnOutput gets what the child's code prints, in order, as it comes. It must not block, nor keep the slice.
	OnOutput func(data []byte)
	// LogLevel is the level of the root logger in the child, Python's number; 0 leaves Python's own, 30 (WARNING).
	LogLevel int
	// OnLog gets the child's log records. It must not block.
	OnLog func(Log)
	// OnImport is told of each module served, before what the child answers with it. It must not block.
	OnImport func(importer.Event)

	chain string // how errors call the target, which Name is a name of
}
