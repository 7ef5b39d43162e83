package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/daemon/faults"
	"mitogend/daemon/internal/link"
	"mitogend/daemon/wire"
	"mitogend/importer"
	"mitogend/pyproto"
)

// Child is an interpreter that the daemon has connected. It is safe for concurrent use.
type Child struct {
	c      *Client
	id     pyproto.ContextID
	name   string
	python importer.Version
	shared bool
	opt    daemon.ConnectOptions
}

var _ daemon.Remote = (*Child)(nil)

var errImporter = errors.New("client: an importer cannot be used over a socket; say what is served in Options.Source")

// Connect gives the child that a target names, connected by the daemon now or for somebody else before.
func (c *Client) Connect(ctx context.Context, target string, options ...daemon.ConnectOptions) (*Child, error) {
	var opt daemon.ConnectOptions
	if len(options) > 0 {
		opt = options[0]
	}
	hops, err := bootstrap.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	return c.connect(ctx, target, hops, opt)
}

// Open implements daemon.Master.
func (c *Client) Open(ctx context.Context, name string, hops []bootstrap.Hop, opt daemon.ConnectOptions) (daemon.Remote, error) {
	child, err := c.connect(ctx, name, hops, opt)
	if err != nil {
		return nil, err
	}
	return child, nil
}

func (c *Client) connect(ctx context.Context, name string, hops []bootstrap.Hop, opt daemon.ConnectOptions) (*Child, error) {
	if opt.Importer != nil {
		return nil, errImporter
	}
	p := &wire.Connect{}
	p.Target = c.target(opt)
	var err error
	if p.Target.Target, p.Passwords, err = c.resolve(hops, opt, p.Dir); err != nil {
		return nil, &daemon.HopError{Target: name, Hops: len(hops), Err: err}
	}
	if p.Name == "" {
		p.Name = shownName(name, p.Target.Target)
	}
	var out wire.Connected
	ctx, stop := c.whileAnswering(ctx, connectTime(opt, len(hops)))
	defer stop()
	if err = c.addEnvironment(ctx, &p.Target, opt); err == nil {
		err = c.Do(ctx, "connect", p, &out)
	}
	if err != nil {
		err = c.unreached(ctx, err, name, len(hops))
		var hop *daemon.HopError
		if errors.As(err, &hop) {
			hop.Target = name
		}
		return nil, err
	}
	return &Child{
		c: c, id: pyproto.ContextID(out.Child), name: out.Name, opt: opt, shared: out.Shared,
		python: importer.Version{Major: out.Python[0], Minor: out.Python[1]},
	}, nil
}

// shownName is what the daemon is told to call a target; nothing where that is the target itself, or too long for a
// name.
func shownName(name, target string) string {
	if name == target || len(name) > maxName {
		return ""
	}
	return name
}

// maxName is the longest name that a daemon takes.
const maxName = 1000

// target gives what the daemon is told of a target, but for which one it is, and the environment.
func (c *Client) target(opt daemon.ConnectOptions) (t wire.Target) {
	for _, place := range opt.PythonFrom.Builds {
		t.PythonFrom = append(t.PythonFrom, absolute(c.opt.Dir, place))
	}
	t.PythonDir, t.KeepPython = opt.PythonFrom.Dir, opt.PythonFrom.Keep
	t.Name, t.Python, t.PreferHere, t.Bytecode, t.Fresh = opt.Name, opt.Python, opt.PreferHere, string(opt.Bytecode), c.opt.Fresh
	t.NoBytecode = opt.Bytecode == daemon.BytecodeNever
	t.ConnectTimeout = wire.Seconds(opt.Timeout.Seconds())
	t.Dir = cmp.Or(opt.Dir, c.opt.Dir, "/") // the last one where startDir lets it be, and never the daemon's own
	t.Source, t.Allow, t.Deny = c.source(), opt.Policy.Allow, opt.Policy.Deny
	return t
}

// errNoDir: nothing may run in the daemon's working directory instead.
var errNoDir = &bootstrap.Error{Step: bootstrap.StepProgram, Reason: "the working directory is gone, or cannot be read", Hint: "cd to another one; --daemon none starts Python all the same"}

// startDir refuses a target that sees its working directory if this process has none. What else is started on this machine
// only reaches others.
func (c *Client) startDir(hops []bootstrap.Hop, opt daemon.ConnectOptions) error {
	if opt.Dir == "" && c.opt.Dir == "" && len(hops) > 0 && hops[0].OrSSH().StaysHere() {
		return errNoDir
	}
	return nil
}

// connectTime is what connecting through so many hops may take.
func connectTime(opt daemon.ConnectOptions, hops int) time.Duration {
	limit := opt.Timeout
	if limit <= 0 {
		limit = bootstrap.DefaultTimeout
	}
	return time.Duration(max(hops, 1)) * limit
}

// addEnvironment adds the environment, once the passwords of the hops are read, and their variables known.
func (c *Client) addEnvironment(ctx context.Context, t *wire.Target, opt daemon.ConnectOptions) (err error) {
	if len(opt.Env) > 0 {
		t.Env = bootstrap.WithoutSecrets(opt.Env)
	} else {
		t.Environment, t.Env, err = c.environment(ctx, bootstrap.WithoutSecrets(c.opt.Env))
	}
	return err
}

// environment gives the number by which the daemon knows an environment, which is sent once; or the environment itself.
// One without a variable that has turned out to hold a password is another one.
func (c *Client) environment(ctx context.Context, env []string) (uint32, []string, error) {
	select {
	case c.envTurn <- struct{}{}:
		defer func() { <-c.envTurn }()
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	if c.envSpelt || len(env) == 0 {
		return 0, env, nil
	}
	if c.envNumber != 0 && slices.Equal(c.env, env) {
		return c.envNumber, nil, nil
	}
	var out wire.NewEnvironment
	err := c.Do(ctx, "environment", &wire.Environment{Env: env}, &out)
	var refused *wire.Error
	if errors.As(err, &refused) && (refused.Kind == wire.KindUsage || refused.Kind == wire.KindOverflow) {
		c.envSpelt = true
		return 0, env, nil
	}
	if err != nil {
		return 0, nil, toGo(err)
	}
	c.env, c.envNumber = env, out.Environment
	return c.envNumber, nil, nil
}

// errSilent ends a request that the daemon leaves unanswered while it answers nothing else, either.
var errSilent = errors.New("the daemon does not answer")

// silent is what it means for a target.
func silent(name string, hops int) error {
	return &daemon.HopError{Target: name, Hops: hops, Err: &bootstrap.Error{Step: bootstrap.StepProgram, TimedOut: true,
		Reason: errSilent.Error(), Hint: "is its process stopped? --daemon none does without"}}
}

// unreached is an error of what reaches a target. A target was not reached if the daemon of ctx, from whileAnswering,
// says nothing or does not serve this client.
func (c *Client) unreached(ctx context.Context, err error, name string, hops int) error {
	var refused *RefusedError
	switch {
	case errors.Is(context.Cause(ctx), errSilent):
		return silent(name, hops)
	case errors.As(err, &refused):
		return &daemon.HopError{Target: name, Hops: hops, Err: &bootstrap.Error{
			Step: bootstrap.StepProgram, Reason: refused.Error(), Hint: "--daemon none does without",
		}}
	}
	return toGo(err)
}

// answerTime is how long a running daemon is silent at most that was asked something, on a machine that is very busy,
// too.
const answerTime = 5 * time.Second

// whileAnswering gives a context that ends when the daemon, after limit has passed, is pinged and says nothing at all.
// What it is busy with may take as long as it likes, and the answer waits behind others.
func (c *Client) whileAnswering(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.NewTimer(limit)
	go func() {
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			if !c.answers(ctx) {
				cancel(errSilent)
				return
			}
			t.Reset(limit)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// answers pings the daemon, and is false when nothing comes from it for answerTime.
func (c *Client) answers(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { // it ends with the answer, or the connection, should the daemon not even read
		_ = c.link.Request(ctx, "ping", nil, nil)
		close(done)
	}()
	t := time.NewTicker(answerTime)
	defer t.Stop()
	for heard := c.link.Heard(); ; {
		select {
		case <-done:
			return true
		case <-t.C:
		}
		now := c.link.Heard()
		if now == heard {
			return false
		}
		heard = now
	}
}

// source is what a child is served; nil is the daemon's own.
func (c *Client) source() *wire.Source {
	o := c.opt.Source
	if o == nil {
		return nil
	}
	s := &wire.Source{Allow: o.Policy.Allow, Deny: o.Policy.Deny, Unpack: o.Unpack}
	for _, dir := range o.Path {
		s.Path = append(s.Path, absolute(c.opt.Dir, dir))
	}
	if o.Venv != "" {
		s.Venv = absolute(c.opt.Dir, o.Venv)
	}
	for _, dir := range o.Libs {
		if dir != importer.LibsSystem {
			dir = absolute(c.opt.Dir, dir)
		}
		s.Libs = append(s.Libs, dir)
	}
	for _, dir := range o.Wheels {
		s.Wheels = append(s.Wheels, absolute(c.opt.Dir, dir))
	}
	for _, file := range o.Constraints {
		s.Constraints = append(s.Constraints, absolute(c.opt.Dir, file))
	}
	s.Requirements, s.RequiresPython = o.Requirements.Lines, o.Requirements.Python
	for _, file := range o.Requirements.Files {
		s.RequirementFiles = append(s.RequirementFiles, absolute(c.opt.Dir, file))
	}
	for _, place := range o.Requirements.Links {
		if !strings.Contains(place, "://") {
			place = absolute(c.opt.Dir, place)
		}
		s.FindLinks = append(s.FindLinks, place)
	}
	if o.Main != nil {
		s.Main = &wire.Main{Path: o.Main.Path, Source: o.Main.Source, Run: o.Main.Run}
	}
	return s
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// TargetText is what the daemon calls the target that hops lead to, where nobody has given it a name.
func (c *Client) TargetText(hops []bootstrap.Hop) string {
	out := make([]bootstrap.Hop, len(hops))
	for i, hop := range hops {
		out[i] = withoutPassword(withPaths(hop, i, c.opt.Dir))
	}
	return bootstrap.FormatTarget(out)
}

// withPaths gives a hop with the paths that this process knows and the daemon does not: relative ones begin in dir.
func withPaths(hop bootstrap.Hop, i int, dir string) bootstrap.Hop {
	hop = hop.OrSSH()
	args := map[string]string{}
	for k, v := range hop.Args {
		if i == 0 && k == "identity_file" && v != "" && v[0] != '~' {
			v = absolute(dir, v)
		}
		if mitogen, ok := strings.CutPrefix(v, "mitogen:"); ok && k == "runtime" && mitogen != "" && mitogen[0] != '~' {
			v = "mitogen:" + absolute(dir, mitogen)
		}
		if k == "python_from" && v != "" {
			places := strings.Split(v, ",")
			for i, place := range places {
				if !strings.HasPrefix(place, "~") {
					places[i] = absolute(dir, place)
				}
			}
			v = strings.Join(places, ",")
		}
		args[k] = v
	}
	return bootstrap.Hop{Method: hop.Method, Spec: hop.Spec, Args: args}
}

// withoutPassword drops where the password is, from a hop of withPaths.
func withoutPassword(hop bootstrap.Hop) bootstrap.Hop {
	if hop.Args["password_env"] != "" || hop.Args["password_file"] != "" {
		delete(hop.Args, "password_env")
		delete(hop.Args, "password_file")
	}
	return hop
}

// resolve gives the target, and what this process knows and the daemon does not: passwords, and where relative paths begin.
func (c *Client) resolve(hops []bootstrap.Hop, opt daemon.ConnectOptions, dir string) (target string, passwords map[int]string, err error) {
	if err := c.startDir(hops, opt); err != nil {
		return "", nil, err
	}
	passwords = map[int]string{}
	out := make([]bootstrap.Hop, len(hops))
	for i, hop := range hops {
		out[i] = withPaths(hop, i, dir)
		if hop.Args["password_env"] != "" || hop.Args["password_file"] != "" {
			all, err := hop.OrSSH().Options()
			if err != nil {
				return "", nil, err
			}
			if secret, ok := all["password"].(bootstrap.Secret); ok {
				passwords[i] = string(secret)
			}
			out[i] = withoutPassword(out[i])
		} else if opt.Secrets != nil {
			if password, ok := opt.Secrets(i, hop.OrSSH().Method); ok {
				passwords[i] = password
			}
		}
	}
	return bootstrap.FormatTarget(out), passwords, nil
}

// ID is the child's context id.
func (c *Child) ID() pyproto.ContextID { return c.id }

// Name is what the daemon calls the child in its logs.
func (c *Child) Name() string { return c.name }

// String is Name.
func (c *Child) String() string { return c.name }

// Version is the child's Python.
func (c *Child) Version() importer.Version { return c.python }

// Shared tells whether the child was there already.
func (c *Child) Shared() bool { return c.shared }

// Close gives the child back, also when ctx has ended or as many calls wait as may.
func (c *Child) Close(ctx context.Context) error {
	p := &wire.Close{Child: uint32(c.id)}
	asked, err := c.c.link.Begin(ctx, "close", p)
	if err != nil && ctx.Err() != nil {
		go c.giveBack(p) // something else was just being written
		return context.Cause(ctx)
	}
	if err == nil {
		// When ctx ends, the request goes on.
		var m *wire.Message
		if m, err = asked.Answer(ctx); err == nil {
			err = link.Decode(m, nil)
		}
	}
	if errors.Is(err, ErrDisconnected) {
		return nil
	}
	return err
}

// giveBack closes the child when the daemon reads again.
func (c *Child) giveBack(p *wire.Close) { _ = c.c.link.Request(context.Background(), "close", p, nil) }

// params are those of a call.
func (c *Child) params(fn string, args []any) *wire.Call {
	p := &wire.Call{Function: fn, Exact: true}
	p.Traceparent = c.c.opt.Traceparent
	p.Child = uint32(c.id)
	if n := len(args); n > 0 {
		if kwargs, ok := args[n-1].(pyproto.Kwargs); ok {
			p.Kwargs.V, args = kwargs, args[:n-1]
		}
	}
	p.Args.V = args
	return p
}

// Call implements daemon.Remote.
func (c *Child) Call(ctx context.Context, fn string, args ...any) *daemon.Result {
	return c.ChainCall(ctx, "", fn, args...)
}

// ChainCall is Call as part of a call chain; see daemon.CallOptions.
func (c *Child) ChainCall(ctx context.Context, chain, fn string, args ...any) *daemon.Result {
	return c.CallWith(ctx, daemon.CallOptions{Chain: chain}, fn, args...)
}

// CallWith implements daemon.Remote.
func (c *Child) CallWith(ctx context.Context, o daemon.CallOptions, fn string, args ...any) *daemon.Result {
	if o.Output != nil || o.Room != nil {
		return daemon.NewResult(nil, errors.New("client: Output and Room of a call cannot be used over a socket"))
	}
	p := c.params(fn, args)
	p.Chain, p.Convert = o.Chain, o.Convert.Words()
	if c.opt.OnOutput == nil && c.opt.OnLog == nil && c.opt.OnImport == nil {
		var v wire.Value
		err := c.c.Do(ctx, "call", p, &v)
		return daemon.NewResult(v.V, toGo(err))
	}
	p.Output, p.Log, p.Import, p.Read = c.opt.OnOutput != nil, c.opt.OnLog != nil, c.opt.OnImport != nil, true
	s := &stream{c: c.c, ctx: ctx}
	var value any
	err := s.open("call_async", p, func(item *wire.Item) error {
		switch item.Kind {
		case wire.ItemOutput:
			c.output(item.Data)
		case wire.ItemDropped:
			c.output(droppedText(item.Count))
		case wire.ItemEvent:
			c.event(item.Event)
		case wire.ItemResult:
			if item.Value != nil {
				value = item.Value.V
			}
		}
		return nil
	})
	return daemon.NewResult(value, err)
}

// droppedText stands for what a function has printed and nobody could take.
func droppedText(n int64) []byte {
	return fmt.Appendf(nil, "\n[mitogend: %d bytes of output were dropped]\n", n)
}

// OnOutput sets who is told what functions print in calls that begin later, as ConnectOptions.OnOutput is; for the child
// of an Outcome. No call may be beginning meanwhile.
func (c *Child) OnOutput(tell func(data []byte)) { c.opt.OnOutput = tell }

func (c *Child) output(data []byte) {
	if c.opt.OnOutput != nil {
		c.opt.OnOutput(data)
	}
}

// event gives a log record or an import to whom ConnectOptions names.
func (c *Child) event(e *wire.Event) {
	switch {
	case e.Kind == wire.EventLog && c.opt.OnLog != nil:
		c.opt.OnLog(daemon.Log{Target: c.name, Context: pyproto.ContextID(e.Child), Logger: e.Logger, Level: e.Level, Text: e.Text})
	case e.Kind == wire.EventImport && c.opt.OnImport != nil:
		c.opt.OnImport(importer.Event{
			Name: e.Module, What: importer.What(e.What), Bytes: e.Bytes, Reason: e.Text, For: e.For, Took: time.Duration(e.Seconds * float64(time.Second)),
		})
	}
}

// ResetChain ends a call chain: its next call runs whatever the earlier ones did.
func (c *Child) ResetChain(ctx context.Context, chain string) error {
	return toGo(c.c.Do(ctx, "reset_chain", &wire.ResetChain{Child: uint32(c.id), Chain: chain}, nil))
}

// Notify implements daemon.Remote.
func (c *Child) Notify(ctx context.Context, fn string, args ...any) error {
	msg, err := wire.NewNotification("call", c.params(fn, args))
	if err != nil {
		return err
	}
	return c.c.link.Write(ctx, msg)
}

// runParams are those of a program.
func runParams(o *daemon.RunOptions) *wire.Run {
	return &wire.Run{
		Path: o.Path, Title: o.Title, Script: o.Source, File: o.File, Dir: o.Dir, Module: o.Source == nil, Packed: o.Packed, Argv: o.Args, Env: o.Env,
		WorkDir: o.WorkDir, HostVars: o.HostVars,
		Stdin: o.Stdin != nil,
	}
}

// Run implements daemon.Remote.
func (c *Child) Run(ctx context.Context, o daemon.RunOptions) (daemon.ExitStatus, error) {
	p := runParams(&o)
	p.Log, p.Import = c.opt.OnLog != nil, c.opt.OnImport != nil
	p.Child, p.Traceparent = uint32(c.id), c.c.opt.Traceparent
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	// It ends after ctx: what the program prints while it is being ended is read.
	reading, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	watched := func() bool { return true }
	defer func() { watched() }()
	s := &stream{c: c.c, ctx: ctx, lent: true}
	s.onOpen = func() {
		s.ctx = reading
		watched = context.AfterFunc(ctx, func() { s.giveUp(ctx, end) })
		if o.Stdin != nil {
			go s.feed(ctx, o.Stdin, func(err error) { giveUp(&inputError{err}) })
		}
	}
	var status daemon.ExitStatus
	err := s.open("run", p, func(item *wire.Item) error {
		var w io.Writer
		switch item.Kind {
		case wire.ItemStdout:
			w = o.Stdout
		case wire.ItemStderr:
			w = o.Stderr
		case wire.ItemExit:
			status = daemon.ExitStatus{Code: item.Code, Signal: item.Signal}
		case wire.ItemEvent:
			c.event(item.Event)
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(item.Data)
		return err
	})
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = context.Cause(ctx) // the daemon was told to
	}
	return status, failedInput(ctx, err)
}

// giveUp has the daemon end a program, and ends the reading of what it prints if the daemon takes too long for that.
func (s *stream) giveUp(ctx context.Context, end context.CancelCauseFunc) {
	why := context.Cause(ctx)
	limit, cancel := context.WithTimeout(s.ctx, killTime)
	defer cancel()
	if errors.Is(why, daemon.ErrNobodyReads) || s.c.link.Request(limit, "write", &wire.Write{Stream: s.id, Cancel: true}, nil) != nil {
		end(why) // there is nobody to read it, or the daemon is older
		return
	}
	<-limit.Done()
	end(why)
}

// inputError says that standard input cannot be read.
type inputError struct{ err error }

func (e *inputError) Error() string { return "standard input cannot be read: " + e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// failedInput is err, or why standard input could not be read, for which what ran was given up.
func failedInput(ctx context.Context, err error) error {
	var input *inputError
	if errors.As(context.Cause(ctx), &input) {
		return input
	}
	return err
}

// stream is what the daemon has for this client by and by.
type stream struct {
	c      *Client
	ctx    context.Context
	id     uint32
	onOpen func()
	lent   bool // output that is taken is used only until take returns
}

// open makes a stream by a request and takes all its items, up to its end. An item of kind error is the error.
func (s *stream) open(method string, params any, take func(*wire.Item) error) error {
	var got wire.Items
	if err := s.c.Do(s.ctx, method, params, &got); err != nil {
		return toGo(err)
	}
	s.id = got.Stream
	s.c.streams.Add(1)
	defer s.c.streams.Add(-1)
	if s.onOpen != nil {
		s.onOpen()
	}
	return s.each(got, func(*wire.Items) {}, func(item *wire.Item) error {
		if item.Kind == wire.ItemError {
			return faults.ToError(item.Error)
		}
		err := take(item)
		if err != nil {
			s.close()
		}
		return err
	})
}

// each takes the items that have come, and all that come, up to the end. An error of take ends it.
func (s *stream) each(got wire.Items, head func(*wire.Items), take func(*wire.Item) error) error {
	var msg []byte // what got lies in
	for {
		var next chan answer
		if !got.End {
			// The next items come while these are taken.
			next = make(chan answer, 1)
			go s.read(next)
		}
		head(&got)
		output := s.lent
		for i := range got.Items {
			item := &got.Items[i]
			if err := take(item); err != nil {
				return err
			}
			output = output && (item.Kind == wire.ItemStdout || item.Kind == wire.ItemStderr)
		}
		if output {
			wire.Reuse(msg)
		}
		if got.End {
			return nil
		}
		a := <-next
		if a.err != nil {
			s.close()
			return toGo(a.err)
		}
		got, msg = a.items, a.msg
	}
}

// answer is that of a read.
type answer struct {
	items wire.Items
	msg   []byte // the items' memory
	err   error
}

// readBytes is how much is asked for at once of all streams together, and one read takes no more than maxRead and no
// less than minRead.
const (
	readBytes = 8 << 20
	maxRead   = 1 << 20
	minRead   = 16 << 10
)

func (s *stream) read(to chan<- answer) {
	var a answer
	share := max(minRead, min(maxRead, readBytes/int(max(s.c.streams.Load(), 1))))
	a.msg, a.err = s.c.link.Borrow(s.ctx, "read", &wire.Read{Stream: s.id, Max: share}, &a.items)
	to <- a
}

// killTime is how long a program that is given up is waited for.
const killTime = 5 * time.Second

// close gives the stream up.
func (s *stream) close() {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	_ = s.c.link.Request(ctx, "close", &wire.Close{Stream: s.id}, nil)
}

// feedChunk is how much standard input is sent at once, and feedAhead how many of these before the daemon has taken the
// first.
const (
	feedChunk = 256 << 10
	feedAhead = 4
)

// feed sends standard input. It ends with the input, or when a read returns after the program or ctx has ended. With ctx
// the input has no end, nor with a failure, of which fail is told: what came before is not all of it.
func (s *stream) feed(ctx context.Context, r io.Reader, fail func(error)) {
	var chunk daemon.InputBuffer
	var sent []*link.Asked
	for {
		buf := chunk.Next(feedChunk)
		n, err := r.Read(buf)
		chunk.Read(n)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, io.EOF) {
			fail(err)
			return
		}
		a, failed := s.c.link.Begin(ctx, "write", &wire.Write{Stream: s.id, Data: buf[:n], End: err != nil})
		if failed != nil {
			return
		}
		sent = append(sent, a)
		for len(sent) == feedAhead || err != nil && len(sent) > 0 {
			if sent[0].Wait(s.ctx, nil) != nil {
				return
			}
			sent = sent[1:]
		}
		if err != nil {
			return
		}
	}
}
