package wire

import (
	"fmt"
	"time"

	"github.com/ugorji/go/codec"

	"mitogend/internal/duration"
)

// Seconds is a duration as it is sent; 0 means none, or the default.
type Seconds float64

// CodecEncodeSelf implements codec.Selfer.
func (s *Seconds) CodecEncodeSelf(e *codec.Encoder) { e.MustEncode(float64(*s)) }

// CodecDecodeSelf implements codec.Selfer: a number of seconds, or text as everywhere else (1m30s).
func (s *Seconds) CodecDecodeSelf(d *codec.Decoder) {
	var v any
	d.MustDecode(&v)
	switch x := v.(type) {
	case nil:
		*s = 0
	case int64:
		*s = Seconds(x)
	case uint64:
		*s = Seconds(x)
	case float64:
		*s = Seconds(x)
	case string:
		length, err := duration.Parse(x)
		if err != nil {
			panic(err) // the codec makes it Decode's error
		}
		*s = Seconds(length.Seconds())
	default:
		panic(fmt.Errorf("a duration is seconds or text such as 1m30s, not %T", v))
	}
}

// Duration converts it. What is out of range becomes the longest duration.
func (s Seconds) Duration() time.Duration {
	if s >= Seconds(1<<62/time.Second) {
		return 1 << 62
	}
	return time.Duration(float64(s) * float64(time.Second))
}

// Target says which child a request is for: one that the client has connected before, or a target. The daemon
// connects a target unless it is connected already, and lets go of it when the request is done.
type Target struct {
	Child  uint32 `codec:"child,omitempty"`
	Target string `codec:"target,omitempty"`
	Connection
}

// Connection has the options of a target. Clients that give the same target and the same options share a connection.
type Connection struct {
	// Name is what logs and list call the child, and what close may; empty means the target. Clients that share the
	// child may give different names: the first is shown, and 16 of them count.
	Name   string   `codec:"name,omitempty"`
	Python []string `codec:"python,omitempty"`
	// PythonFrom are builds of Python, absolute paths on the daemon's machine. A hop that has no Python is sent one:
	// to the directory PythonDir there, or into its memory. With KeepPython it stays when the child ends. The
	// daemon's configuration says what is not given.
	PythonFrom []string `codec:"python_from,omitempty"`
	PythonDir  string   `codec:"python_dir,omitempty"`
	KeepPython bool     `codec:"keep_python,omitempty"`
	// ConnectTimeout is for each hop, in seconds.
	ConnectTimeout Seconds `codec:"connect_timeout,omitempty"`
	// Passwords are by the number of the hop, from 0, in place of password_env and password_file.
	Passwords map[int]string `codec:"passwords,omitempty"`
	// PreferHere serves a module from here even if the target has one of that name.
	PreferHere bool `codec:"prefer_here,omitempty"`
	// Bytecode is daemon.ConnectOptions.Bytecode. NoBytecode means the same as "never".
	Bytecode   string `codec:"bytecode,omitempty"`
	NoBytecode bool   `codec:"no_bytecode,omitempty"`
	// Fresh makes a connection that nobody shares.
	Fresh bool `codec:"fresh,omitempty"`
	// Source says what modules are served; nil means those of the daemon's configuration.
	Source *Source `codec:"source,omitempty"`
	// Allow and Deny further limit what is served to this child.
	Allow []string `codec:"allow,omitempty"`
	Deny  []string `codec:"deny,omitempty"`
	// Dir and Env are the working directory and the environment, NAME=VALUE, in which the first hop's program is
	// started; empty means the daemon's.
	Dir string   `codec:"dir,omitempty"`
	Env []string `codec:"env,omitempty"`
	// Environment, in place of Env, is the number of an environment that the client has sent by the method
	// environment.
	Environment uint32 `codec:"environment,omitempty"`
}

// Environment are the parameters of environment, which keeps an environment for later requests of this connection.
type Environment struct {
	Common
	Env []string `codec:"env"`
}

// NewEnvironment is its result.
type NewEnvironment struct {
	Environment uint32 `codec:"environment"`
}

// Source says where modules come from.
type Source struct {
	Path  []string `codec:"path,omitempty"` // absolute
	Venv  string   `codec:"venv,omitempty"`
	Allow []string `codec:"allow,omitempty"`
	Deny  []string `codec:"deny,omitempty"`
	// Libs are absolute directories of libraries that extension modules need and a child may lack; "system" is those
	// of the daemon's machine.
	Libs []string `codec:"libs,omitempty"`
	// Wheels are directories of wheels, and Constraints files that name versions, as pip takes them; absolute.
	Wheels      []string `codec:"wheels,omitempty"`
	Constraints []string `codec:"constraints,omitempty"`
	// Requirements are the child's needs as pip takes them, RequirementFiles files of them, and FindLinks further
	// places to look. Directories and files are absolute.
	Requirements     []string `codec:"requirements,omitempty"`
	RequirementFiles []string `codec:"requirement_files,omitempty"`
	FindLinks        []string `codec:"find_links,omitempty"`
	// RequiresPython says which versions of Python the child may have, such as >=3.11.
	RequiresPython string `codec:"requires_python,omitempty"`
	// Unpack names packages whose files are laid down on the child's machine, in memory.
	Unpack []string `codec:"unpack,omitempty"`
	Main   *Main    `codec:"main,omitempty"`
}

// Main is the script that is served as __main__.
type Main struct {
	Path   string `codec:"path"`
	Source []byte `codec:"source"`
	Run    bool   `codec:"run,omitempty"`
}

// Common are parameters that every request may have.
type Common struct {
	// Timeout, in seconds, ends the request with an error of KindTimeout.
	Timeout Seconds `codec:"timeout,omitempty"`
	// Traceparent is a W3C trace context. Where traces are exported, the request becomes a part of it.
	Traceparent string `codec:"traceparent,omitempty"`
}

// Connect are the parameters of connect.
type Connect struct {
	Common
	Target
}

// Connected is its result.
type Connected struct {
	Child   uint32 `codec:"child"`
	Name    string `codec:"name"`
	Python  [2]int `codec:"python"` // major, minor
	Shared  bool   `codec:"shared"` // it was there already
	Version string `codec:"version,omitempty"`
}

// Call are the parameters of call, call_async and open.
type Call struct {
	Common
	Target
	// Function is MODULE:FUNCTION or MODULE:CLASS.METHOD.
	Function string `codec:"function"`
	Args     Value  `codec:"args"`
	Kwargs   Value  `codec:"kwargs"`
	// Chain names a call chain: once a call of it has raised, later ones raise the same until the chain is reset.
	Chain string `codec:"chain,omitempty"`
	// Exact asks for extension types in the result.
	Exact bool `codec:"exact,omitempty"`
	// Convert has the child convert what cannot be sent: words of daemon.Convert. open does not take it.
	Convert []string `codec:"convert,omitempty"`
	// Output, of call_async, asks for what the function prints. Otherwise that is logged.
	Output bool `codec:"output,omitempty"`
	// Import and Log ask for items of imports and log records.
	Import bool `codec:"import,omitempty"`
	Log    bool `codec:"log,omitempty"`
	// Read makes the answer the first read of the stream.
	Read bool `codec:"read,omitempty"`
}

// Many says on which targets call_many, run_many and open_many work, and their limits. Target has what is the same
// for all.
type Many struct {
	// Targets take the place of Target.Target and Target.Child. TargetPasswords, by the numbers of targets from 0,
	// take the place of Target.Passwords.
	Targets []string `codec:"targets"`
	// Names are what logs call each target, in place of Target.Name. Without a name it is the target.
	Names           []string               `codec:"names,omitempty"`
	TargetPasswords map[int]map[int]string `codec:"target_passwords,omitempty"`
	// Parallel is how many targets are worked on at once, Batch how many are done before the next begin (0: all),
	// Pause the time between batches.
	Parallel int     `codec:"parallel,omitempty"`
	Batch    int     `codec:"batch,omitempty"`
	Pause    Seconds `codec:"pause,omitempty"`
	// MaxFail is how many may fail before no more begin; nil means any number.
	MaxFail *int `codec:"max_fail,omitempty"`
	// Retry is how often a failed connect is tried again, Each how long one target may take.
	Retry int     `codec:"retry,omitempty"`
	Each  Seconds `codec:"each,omitempty"`
}

// CallMany are the parameters of call_many and open_many: a call on each of many targets, or a channel.
type CallMany struct {
	Call
	Many
}

// RunMany are the parameters of run_many: a program on each of many targets.
type RunMany struct {
	Run
	Many
	// TargetArgv and TargetHostVars, by the numbers of targets, take the place of Argv and HostVars for the targets
	// that they name. TargetEnv comes after Env.
	TargetArgv     map[int][]string `codec:"target_argv,omitempty"`
	TargetEnv      map[int][]string `codec:"target_env,omitempty"`
	TargetHostVars map[int][]byte   `codec:"target_host_vars,omitempty"`
}

// ResetChain are the parameters of reset_chain.
type ResetChain struct {
	Common
	Child uint32 `codec:"child"`
	Chain string `codec:"chain"`
}

// Run are the parameters of run.
type Run struct {
	Common
	Target
	Path   string   `codec:"path"`
	Script []byte   `codec:"script"`
	Argv   []string `codec:"argv,omitempty"` // sys.argv[1:]
	// Title is what lists of running work call it; Path if it is empty.
	Title string `codec:"title,omitempty"`
	// File is the script's absolute name, and Dir the first entry of sys.path. Module says that Path is a module, run
	// as python -m does, and that there is no script. Packed says that the script is __main__.py of the directory or
	// archive Path.
	File   string `codec:"file,omitempty"`
	Dir    string `codec:"dir,omitempty"`
	Module bool   `codec:"module,omitempty"`
	Packed bool   `codec:"packed,omitempty"`
	// Env are settings NAME=VALUE of the program's environment.
	Env []string `codec:"env,omitempty"`
	// WorkDir is its working directory.
	WorkDir string `codec:"work_dir,omitempty"`
	// HostVars is JSON for mitogend.host_vars(), see daemon.RunOptions.
	HostVars []byte `codec:"host_vars,omitempty"`
	// Stdin says that the client writes standard input to the stream; otherwise it is /dev/null.
	Stdin  bool `codec:"stdin,omitempty"`
	Import bool `codec:"import,omitempty"`
	Log    bool `codec:"log,omitempty"`
	Read   bool `codec:"read,omitempty"`
}

// Transfer are the parameters of put and get. Names on the daemon's machine are absolute.
type Transfer struct {
	Common
	Target
	Sources []string `codec:"sources"`
	Dest    string   `codec:"dest"`
	// transfer.Options explains these. Checksum, Delete and DryRun are of Sync.
	Owner     bool `codec:"owner,omitempty"`
	HardLinks bool `codec:"hard_links,omitempty"`
	Xattrs    bool `codec:"xattrs,omitempty"`
	Sync      bool `codec:"sync,omitempty"`
	Checksum  bool `codec:"checksum,omitempty"`
	Delete    bool `codec:"delete,omitempty"`
	DryRun    bool `codec:"dry_run,omitempty"`
	Into      bool `codec:"into,omitempty"`
	// Progress asks for items with the number of bytes done. Files, of Sync, asks for an item for each file that is
	// sent or deleted.
	Progress bool `codec:"progress,omitempty"`
	Files    bool `codec:"files,omitempty"`
	Import   bool `codec:"import,omitempty"`
	Log      bool `codec:"log,omitempty"`
	Read     bool `codec:"read,omitempty"`
}

// Stream names one stream of the connection.
type Stream struct {
	Common
	Stream uint32 `codec:"stream"`
}

// Read are the parameters of read.
type Read struct {
	Common
	Stream uint32 `codec:"stream"`
	// Max is how many bytes of items to give at most, but at least one item; 0 means 256 KiB.
	Max int `codec:"max,omitempty"`
}

// Items is the result of read, and of requests that open a stream.
type Items struct {
	Stream uint32 `codec:"stream"`
	Items  []Item `codec:"items"`
	// End says that nothing more comes; the stream is gone.
	End bool `codec:"end"`
	// Child is set where the stream belongs to a child.
	Child *Connected `codec:"child,omitempty"`
	// Begun, of call_many and its like, is the number of targets that have begun.
	Begun int `codec:"begun,omitempty"`
}

// The kinds of items.
const (
	ItemOutput  = "output"  // Data: what a function printed
	ItemStdout  = "stdout"  // Data
	ItemStderr  = "stderr"  // Data
	ItemExit    = "exit"    // Code, Signal
	ItemResult  = "result"  // Value
	ItemError   = "error"   // Error
	ItemMessage = "message" // Value: sent by a child
	ItemEvent   = "event"   // Event
	ItemDropped = "dropped" // Count: bytes, or events, that did not fit into the queue

	// Of put and get.
	ItemProgress = "progress" // Count: bytes that are done; Total
	ItemSend     = "send"     // Data: the name of what is sent
	ItemDelete   = "delete"   // Data: the name of what is removed
)

// Item is one thing that came on a stream.
type Item struct {
	Kind   string `codec:"kind"`
	Data   []byte `codec:"data,omitempty"`
	Value  *Value `codec:"value,omitempty"`
	Error  *Error `codec:"error,omitempty"`
	Code   int    `codec:"code,omitempty"`
	Signal int    `codec:"signal,omitempty"`
	Event  *Event `codec:"event,omitempty"`
	Count  int64  `codec:"count,omitempty"`
	Total  int64  `codec:"total,omitempty"` // of ItemProgress; 0 where it is not known

	// These are of call_many and its like: the number of the target, its state, the generation of its Python, the
	// time that it took, and the child that the client holds for a generator.
	Target  int     `codec:"target,omitempty"`
	State   string  `codec:"state,omitempty"`
	Python  int     `codec:"python,omitempty"`
	Seconds float64 `codec:"seconds,omitempty"`
	Child   uint32  `codec:"child,omitempty"`

	// Taken is called when the item is read or dropped. It may be nil.
	Taken func() `codec:"-"`
}

// The states of an item of call_many and its like that is an error. Results and exits have no state.
const (
	StateFailed     = "failed"       // the function has ended, or the program could not be run
	StateNotReached = "not_reached"  // it was not begun
	StateMayHaveRun = "may_have_run" // it was given up, or lost
)

// Size is about what the item takes, in bytes.
func (i *Item) Size() int {
	n := 64 + len(i.Data)
	if i.Value != nil {
		n += i.Value.Size()
	}
	if i.Error != nil {
		n += i.Error.size()
	}
	if e := i.Event; e != nil {
		n += 128 + len(e.Target) + len(e.Chain) + len(e.Text) + len(e.Logger) + len(e.Module) + len(e.What) + len(e.For) +
			len(e.Function) + len(e.Trace)
	}
	return n
}

// Write are the parameters of write: standard input of a program, or a message of a channel.
type Write struct {
	Common
	Stream uint32 `codec:"stream"`
	Data   []byte `codec:"data,omitempty"`
	Value  *Value `codec:"value,omitempty"`
	// End says that nothing more will be written.
	End bool `codec:"end,omitempty"`
	// Target, of open_many, is the number of the target whose channel this is for.
	Target *int `codec:"target,omitempty"`
	// Stop, of call_many and its like, lets no more targets begin. Cancel gives up what runs as well; the outcomes of
	// that still come.
	Stop   bool `codec:"stop,omitempty"`
	Cancel bool `codec:"cancel,omitempty"`
}

// Send are the parameters of send: a message to a receiver in a child.
type Send struct {
	Common
	To    Value  `codec:"to"` // a sender, as ExtSender or [context id, handle]
	Value *Value `codec:"value"`
	// Close tells the receiver that nothing more comes, in place of a value.
	Close bool `codec:"close,omitempty"`
}

// Receiver are the parameters of receiver.
type Receiver struct {
	Common
	// Child is the child whose messages are taken.
	Child uint32 `codec:"child"`
	Exact bool   `codec:"exact,omitempty"`
}

// NewReceiver is its result. Sender can be an argument of a call.
type NewReceiver struct {
	Stream uint32 `codec:"stream"`
	Sender *Value `codec:"sender"`
	// Context and Handle are the sender for clients without extension types.
	Context uint32 `codec:"context"`
	Handle  uint32 `codec:"handle"`
}

// Close are the parameters of close. Exactly one of the fields is set.
type Close struct {
	Common
	// Child is the child to let go of.
	Child uint32 `codec:"child,omitempty"`
	// Stream is the stream to end: its call is given up, its program killed.
	Stream uint32 `codec:"stream,omitempty"`
	// Work ends the work with this number in list: a program, or the connection of a call.
	Work uint64 `codec:"work,omitempty"`
	// Kill ends the connection of this context id, whoever uses it.
	Kill uint32 `codec:"kill,omitempty"`
	// Target ends the connections with this target, or of this name; Idle those that nobody uses; All all.
	Target string `codec:"target,omitempty"`
	Idle   bool   `codec:"idle,omitempty"`
	All    bool   `codec:"all,omitempty"`
}

// Cancel are the parameters of cancel: a request of this connection by its msgid.
type Cancel struct {
	Common
	Request uint32 `codec:"request"`
}

// Subscribe are the parameters of subscribe.
type Subscribe struct {
	Common
	// Kinds are the kinds of events; none means all but output.
	Kinds []string `codec:"kinds,omitempty"`
	// Target limits the events to those of one target; it is the target or its name.
	Target string `codec:"target,omitempty"`
	// Backlog asks for up to that many earlier events.
	Backlog int `codec:"backlog,omitempty"`
	// Until ends the stream after the backlog.
	Until bool `codec:"until,omitempty"`
}

// The kinds of events.
const (
	EventConnected = "connected"
	EventLost      = "lost"
	EventClosed    = "closed"
	EventImport    = "import"
	EventLog       = "log"
	EventCall      = "call"
	EventOutput    = "output"
)

// Event is something that happened.
type Event struct {
	Kind   string  `codec:"kind" json:"kind"`
	Time   float64 `codec:"time" json:"time"` // seconds since 1970
	Child  uint32  `codec:"child,omitempty" json:"child,omitempty"`
	Target string  `codec:"target,omitempty" json:"target,omitempty"`
	// Chain is the target, where Target is a name.
	Chain string `codec:"chain,omitempty" json:"chain,omitempty"`
	// Text is the reason of a loss, the text of a log record, what was printed, or why a call failed.
	Text string `codec:"text,omitempty" json:"text,omitempty"`
	// Logger and Level (Python's numbers) are of a log record.
	Logger string `codec:"logger,omitempty" json:"logger,omitempty"`
	Level  int    `codec:"level,omitempty" json:"level,omitempty"`
	// Module, What (answered, preloaded, refused ...) and Bytes are of an import.
	Module string `codec:"module,omitempty" json:"module,omitempty"`
	What   string `codec:"what,omitempty" json:"what,omitempty"`
	For    string `codec:"for,omitempty" json:"for,omitempty"` // the module whose import it is sent for
	Bytes  int    `codec:"bytes,omitempty" json:"bytes,omitempty"`
	// Function and OK are of a call, Seconds of a call or import.
	Function string  `codec:"function,omitempty" json:"function,omitempty"`
	OK       bool    `codec:"ok,omitempty" json:"ok,omitempty"`
	Trace    string  `codec:"trace,omitempty" json:"trace,omitempty"`
	Seconds  float64 `codec:"seconds,omitempty" json:"seconds,omitempty"`
	// Code and Signal are how a program has ended. Its What is run, exec, repl or copy, and its OK says that it ran to
	// its end, whatever that is.
	Code   int `codec:"code,omitempty" json:"code,omitempty"`
	Signal int `codec:"signal,omitempty" json:"signal,omitempty"`
}

// Modules are the parameters of modules, which tells what would be served for these names.
type Modules struct {
	Common
	Names  []string `codec:"names"`
	Source *Source  `codec:"source,omitempty"`
	Python [2]int   `codec:"python,omitempty"` // for this version, {0, 0} for any
}

// LogLevel are the parameters of log_level. Without Component the level is that of all components; without Level
// nothing is set.
type LogLevel struct {
	Common
	Component string `codec:"component,omitempty"`
	Level     string `codec:"level,omitempty"`
}

// Shutdown are the parameters of shutdown.
type Shutdown struct {
	Common
	// Grace is how long running work may go on, in seconds; 0 means the configured time.
	Grace Seconds `codec:"grace,omitempty"`
}

// RequestTimeout is the request's own timeout, 0 for none.
func (c *Common) RequestTimeout() time.Duration { return c.Timeout.Duration() }

// Context describes one context of the tree, as list gives it.
type Context struct {
	ID     uint32 `codec:"id" json:"id"`
	Parent uint32 `codec:"parent" json:"parent"` // 0 is the daemon
	Name   string `codec:"name" json:"name"`
	// Chain is the target, where Name is another name. Names are all names that requests have given the child.
	Chain  string   `codec:"chain,omitempty" json:"chain,omitempty"`
	Names  []string `codec:"names,omitempty" json:"names,omitempty"`
	Method string   `codec:"method,omitempty" json:"method,omitempty"`
	// State is connecting, idle, used (somebody holds it), busy (a call or program runs), or hop (only others behind
	// it are used). A context that a program has made is other.
	State  string `codec:"state" json:"state"`
	Python string `codec:"python,omitempty" json:"python,omitempty"`
	PID    int    `codec:"pid,omitempty" json:"pid,omitempty"`
	// Age and Idle are the seconds since the connect, and since it was used last.
	Age      float64 `codec:"age" json:"age"`
	Idle     float64 `codec:"idle" json:"idle"`
	Leases   int     `codec:"leases" json:"leases"`
	Calls    int64   `codec:"calls" json:"calls"`
	Failures int64   `codec:"failures" json:"failures"`
	Running  int     `codec:"running" json:"running"`
	Programs int64   `codec:"programs" json:"programs"`
	// In and Out are bytes over the connection, which contexts behind a hop share; Queued is how many wait for the
	// child to read.
	In     int64 `codec:"in" json:"in"`
	Out    int64 `codec:"out" json:"out"`
	Queued int   `codec:"queued" json:"queued"`
	Fresh  bool  `codec:"fresh,omitempty" json:"fresh,omitempty"`
	// Work is what runs or waits for its turn, the oldest first; at most 16.
	Work []Work `codec:"work,omitempty" json:"work,omitempty"`
}

// Work is a call, a channel's function or a program.
type Work struct {
	ID     uint64 `codec:"id" json:"id"`
	Method string `codec:"method" json:"method"` // call, open or run
	What   string `codec:"what" json:"what"`     // the function, or the program's name
	Target string `codec:"target" json:"target"` // what the request called it
	// Client is the process that has asked for it, and Program that process's name. They are 0 and empty once nobody
	// waits for it any more.
	Client  int     `codec:"client,omitempty" json:"client,omitempty"`
	Program string  `codec:"program,omitempty" json:"program,omitempty"`
	Seconds float64 `codec:"seconds" json:"seconds"` // since it was begun
}

// List is the result of list.
type List struct {
	Contexts []Context `codec:"contexts" json:"contexts"`
}

// Stats is the result of stats. Counts are since the start.
type Stats struct {
	Version     string  `codec:"version" json:"version"`
	PID         int     `codec:"pid" json:"pid"`
	Uptime      float64 `codec:"uptime" json:"uptime"` // seconds
	Stopping    bool    `codec:"stopping" json:"stopping"`
	Clients     int     `codec:"clients" json:"clients"`
	ClientsSeen int64   `codec:"clients_seen" json:"clients_seen"`
	Refused     int64   `codec:"refused" json:"refused"` // clients of others, or too many
	BadMessages int64   `codec:"bad_messages" json:"bad_messages"`
	Requests    int64   `codec:"requests" json:"requests"`
	Active      int64   `codec:"active" json:"active"`
	Streams     int64   `codec:"streams" json:"streams"`
	Connections int     `codec:"connections" json:"connections"`
	Contexts    int     `codec:"contexts" json:"contexts"`
	Connected   int64   `codec:"connected" json:"connected"`
	// ConnectsFailed are connects that targets did not answer, or refused.
	ConnectsFailed int64   `codec:"connects_failed" json:"connects_failed"`
	Lost           int64   `codec:"lost" json:"lost"`
	Closed         int64   `codec:"closed" json:"closed"`
	Calls          int64   `codec:"calls" json:"calls"`
	CallsFailed    int64   `codec:"calls_failed" json:"calls_failed"`
	Programs       int64   `codec:"programs" json:"programs"`
	Modules        int64   `codec:"modules" json:"modules"`             // sent
	ModuleBytes    int64   `codec:"module_bytes" json:"module_bytes"`   // of those
	Dropped        int64   `codec:"dropped" json:"dropped"`             // events, and bytes of output
	SpansDropped   int64   `codec:"spans_dropped" json:"spans_dropped"` // that did not reach the collector
	LogErrors      int64   `codec:"log_errors" json:"log_errors"`       // log records that could not be written
	Goroutines     int     `codec:"goroutines" json:"goroutines"`
	HeapBytes      uint64  `codec:"heap_bytes" json:"heap_bytes"`
	RSSBytes       int64   `codec:"rss_bytes" json:"rss_bytes"`
	Descriptors    int     `codec:"descriptors" json:"descriptors"`
	MaxFiles       uint64  `codec:"max_files" json:"max_files"`
	CPUSeconds     float64 `codec:"cpu_seconds" json:"cpu_seconds"`
}

// Described is the result of modules: an element of package importer's Description for each name.
type Described struct {
	Modules []any `codec:"modules"`
}

// Levels is the result of log_level: the level of each component.
type Levels struct {
	Levels map[string]string `codec:"levels" json:"levels"`
}

// Ping asks for a sign of life or, with Limits, for the bounds that the daemon was started with.
type Ping struct {
	Limits bool `codec:"limits,omitempty"`
	Common
}

// Limits is the result of ping with limits.
type Limits struct {
	MaxMessage int `codec:"max_message"` // the largest request, in bytes
}

// Closed is the result of close.
type Closed struct {
	Closed int `codec:"closed"`
}
