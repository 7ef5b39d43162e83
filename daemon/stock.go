package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.uber.org/zap"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
	"mitogend/python"
)

// runtimes are the runtimes that targets have named, and the importers that serve them.
type runtimes struct {
	found     sync.Map // the key runtime and the path to *foundRuntime
	importers sync.Map // importerKey to *importer.Importer
}

type foundRuntime struct {
	ready chan struct{} // closed when r or err is set
	r     *Runtime
	err   error
}

type importerKey struct {
	im *importer.Importer
	r  *Runtime
}

// findRuntime is FindRuntime, done once for each key and for all who wait for it; it goes on when one of them gives
// up. A failure is not kept.
func (d *Daemon) findRuntime(ctx context.Context, spec string, path []string) (*Runtime, error) {
	key := spec + "\x00" + strings.Join(path, "\x00")
	v, found := d.runtimes.found.LoadOrStore(key, &foundRuntime{ready: make(chan struct{})})
	f := v.(*foundRuntime)
	if !found {
		find := func() {
			if f.err == nil {
				f.r, f.err = FindRuntime(d.alive, spec, path, nil)
			}
			if f.err != nil {
				d.runtimes.found.CompareAndDelete(key, v)
			}
			close(f.ready)
		}
		if f.err = d.enter(); f.err != nil {
			find()
		} else {
			go func() {
				defer d.wg.Done()
				find()
			}()
		}
	}
	select {
	case <-f.ready:
		return f.r, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// importer serves what im does, with the runtime's own modules in place of ours.
func (t *runtimes) importer(im *importer.Importer, r *Runtime) (*importer.Importer, error) {
	key := importerKey{im, r}
	if v, ok := t.importers.Load(key); ok {
		return v.(*importer.Importer), nil
	}
	modules := maps.Clone(r.modules)
	hop := python.HopModule()
	modules[python.HopName] = importer.NewVirtual(hop.Path, false, func() []byte { return []byte(hop.Text()) })
	other, err := im.WithVirtual(modules)
	if err != nil {
		return nil, errorf("%s: %w", r, err)
	}
	v, _ := t.importers.LoadOrStore(key, other)
	return v.(*importer.Importer), nil
}

// mayRunThere refuses a Mitogen behind one that ends the connection at its frames.
func (c *Child) mayRunThere(s step) error {
	if c.runtime == nil || c.runtime.Old() {
		return nil
	}
	for x := c.via; x != nil; x = x.via {
		if x.runtime != nil && x.runtime.Old() {
			return &bootstrap.Error{
				Label: s.hop.String(), Step: bootstrap.StepOptions,
				Reason: fmt.Sprintf("%s cannot be behind %s, which does not know the frames of 0.3.39 and later", c.runtime, x.runtime),
				Hint:   "run another Mitogen here or before, or the embedded runtime",
			}
		}
	}
	return nil
}

// preamble is what the child's first stage reads.
func (c *Child) preamble(proc *bootstrap.Process) ([]byte, error) {
	if c.runtime == nil {
		return c.boot(proc).Preamble(c.config())
	}
	if err := c.runtime.cannotStart(proc.HexVersion); err != nil {
		return nil, err
	}
	return python.StockPreamble(c.runtime.core, c.stockConfig())
}

// ErrRuntime is the cause of an error about what a child cannot do because of its runtime.
var ErrRuntime = errors.New("not with this runtime")

// proxied is a stock child's report of a connect.
type proxied struct {
	ID      *uint32 `py:"id"`
	Name    *string `py:"name"`
	Message *string `py:"msg"`
}

// proxyConnect has a stock child start another behind it by Mitogen's own means: the methods, prompts and errors are
// Mitogen's.
func (c *Child) proxyConnect(ctx context.Context, next *Child, s step, plan *bootstrap.Plan) error {
	ctx, _, cancel := c.d.withGrace(ctx, next, launchTime(plan))
	defer cancel()
	kwargs, err := stockArgs(s)
	if err != nil {
		return err
	}
	fn := "mitogen.parent:_proxy_connect"
	request := pyproto.Kwargs{
		{Name: "name", Value: s.args["name"]}, {Name: "method_name", Value: s.hop.Method}, {Name: "kwargs", Value: kwargs},
	}
	same := next.runtime == c.runtime
	if !same {
		fn = python.HopName + ":connect"
		more, err := next.behindStock()
		if err != nil {
			return err
		}
		request = append(request, more...)
		c.arrivals.begin()
		defer c.arrivals.end()
	}
	var up proxied
	call := c.StartWith(ctx, CallOptions{}, fn, request)
	err = call.Result(ctx).Decode(&up)
	switch {
	case err != nil && !isClosed(call.Done()):
		c.disown(call)
		return err
	case err != nil:
		return err
	case up.Message != nil:
		return &bootstrap.Error{Label: s.hop.String(), Step: bootstrap.StepConnect, Reason: printable.Cut(*up.Message, maxReason)}
	case up.ID == nil:
		return errorf("%s does not say which context it has connected", c.name)
	}
	next.id = pyproto.ContextID(*up.ID)
	next.stream = c.stream
	if same {
		next.responder = c.responder
	}
	if !c.started(next.id) {
		return errorf("%s: the hop before it has not announced its route", next.name)
	}
	if !same {
		starter, err := next.newStarter()
		if err != nil {
			return err
		}
		defer starter.Close()
	}
	if _, taken := c.d.children.LoadOrStore(next.id, next); taken {
		return errorf("%s: the hop before it names context %d, which is another child", next.name, next.id)
	}
	for _, name := range c.arrivals.take(next.id) {
		next.onGetModule(name)
	}
	if next.runtime == nil {
		// For its first call.
		err = next.starter.Push(ctx, "mitogen.running")
	}
	if err == nil {
		err = next.askVersion(ctx)
	}
	if err == nil && !same {
		err = next.newResponder()
	}
	if err != nil {
		next.takeOut("it could not be connected")
		_ = c.d.post(next.id, pyproto.Shutdown, 0, nil)
		return err
	}
	c.tellOf(next, importer.Platform{Version: next.Version()})
	return nil
}

// started tells whether this stock child may have started a context that can be reached: it takes ids of its own
// blocks.
func (c *Child) started(id pyproto.ContextID) bool {
	return c.d.streamOf(id) == c.stream && c.stream.ids.owner(id) == c.id
}

// disown follows a connect that nobody waits for any more, and ends what comes of it: a stock child cannot be told to
// give it up.
func (c *Child) disown(call *Tracked) {
	if c.d.enter() != nil {
		return
	}
	go func() {
		defer c.d.wg.Done()
		var up proxied
		if call.Result(c.d.alive).Decode(&up) == nil && up.ID != nil && c.started(pyproto.ContextID(*up.ID)) {
			_ = c.d.post(pyproto.ContextID(*up.ID), pyproto.Shutdown, 0, nil)
		}
	}()
}

// behindStock is what stock_hop.py needs to start this child, whose runtime is not that of the child before it.
func (c *Child) behindStock() (pyproto.Kwargs, error) {
	core, config := "", c.config()
	if c.runtime != nil {
		core, config = c.runtime.core, c.stockConfig()
	} else {
		// The child before it has another mitogen.core to give; this one asks context 0.
		config["modules"] = 0
	}
	head, tail, err := python.Behind(core, config)
	if err != nil {
		return nil, err
	}
	return pyproto.Kwargs{
		{Name: "argv", Value: []any{"-c", python.Stub(), "mitogend:" + psName(c.name)}},
		{Name: "head", Value: head}, {Name: "tail", Value: tail},
	}, nil
}

// foreign is what launch.py needs, besides the plan, to start this child with a stock Mitogen.
func (c *Child) foreign() (map[string]any, error) {
	preamble, err := python.StockPreamble(c.runtime.core, c.stockConfig())
	if err != nil {
		return nil, err
	}
	tooNew, reason := c.runtime.tooNew()
	return map[string]any{"preamble": pyproto.Blob(preamble), "old": c.runtime.Old(), "too_new": int64(tooNew), "reason": reason}, nil
}

// stockArgs gives a hop's arguments as Mitogen's connection classes take them.
func stockArgs(s step) (pyproto.Kwargs, error) {
	args, err := bootstrap.Typed(s.hop.Method, s.args)
	if err != nil {
		return nil, err
	}
	var kwargs pyproto.Kwargs
	for name, v := range args {
		switch name {
		case "name", "runtime", "silence_timeout", "python_from", "python_dir", "keep_python":
			continue // not Mitogen's
		case "password":
			v = pyproto.Secret(v.(bootstrap.Secret))
		case "python":
			// Mitogen takes one command, and no list to choose from.
			if args["python_path"] != nil {
				continue
			}
			list := v.([]any)
			if len(list) != 1 {
				return nil, &bootstrap.Error{Label: s.hop.String(), Step: bootstrap.StepOptions,
					Reason: "behind a stock child python names exactly one interpreter"}
			}
			name, v = "python_path", list[0]
		}
		kwargs = append(kwargs, pyproto.Arg{Name: name, Value: v})
	}
	return kwargs, nil
}

// askVersion asks a child that another has started for the version of its Python.
func (c *Child) askVersion(ctx context.Context) error {
	call := pyproto.Call{Module: "sysconfig", Function: "get_python_version"}
	payload, err := call.AppendPickle(nil)
	if err != nil {
		return err
	}
	var text string
	if err := c.request(ctx, pyproto.CallFunction, payload).within(c.name, questionLimits).Decode(&text); err != nil {
		return errorf("%s does not tell its version: %w", c.name, err)
	}
	major, minor, _ := strings.Cut(text, ".")
	x, err1 := strconv.ParseUint(major, 10, 8)
	y, err2 := strconv.ParseUint(minor, 10, 8)
	if err1 != nil || err2 != nil {
		return errorf("%s says that it is Python %q", c.name, printable.Cut(text, 100))
	}
	hex := uint32(x<<24 | y<<16)
	if !bootstrap.Supported(hex) {
		return errorf("%s says that it is Python %q", c.name, printable.Cut(text, 100))
	}
	c.setVersion(hex)
	return nil
}

// oldForm makes a payload one that Mitogen before 0.3.39 reads: always a pickle.
func oldForm(enc pyproto.Enc, payload []byte, buf *buffer) (pyproto.Enc, []byte, *buffer) {
	if enc != pyproto.EncBIN {
		return pyproto.EncMGC, payload, buf
	}
	// Bytes up to the largest message that is accepted have a pickle.
	pickled, err := pyproto.Marshal(pyproto.Blob(payload))
	if err != nil {
		return pyproto.EncMGC, payload, buf
	}
	return pyproto.EncMGC, pickled, nil
}

// versionTwoPickles is the first release that takes LOAD_RESOURCE as two pickles in a row.
var versionTwoPickles = []int{0, 3, 41}

// ResourceRequest is a stock child's question for a data file of a package.
type ResourceRequest struct {
	Package, Name string
	asked         pyproto.Tuple // as it came: before 0.3.39 names are bytes
	named         bool          // both are text
}

// loadResource answers a stock child's GET_RESOURCE by LOAD_RESOURCE, or leaves the answer to
// ConnectOptions.MissResource. A request that cannot be read names nobody to answer.
func (c *Child) loadResource(payload []byte) {
	q, ok := c.resourceRequest(payload)
	if !ok {
		return
	}
	var data []byte
	if q.named {
		var err error
		data, err = c.responder.Resource(c.d.ctx, q.Package, q.Name)
		if err != nil && c.missesResource(q) {
			return
		}
	}
	// A stream that is lost needs no answer. Here nobody waits at a gate, since others wait for this goroutine.
	if c.sendResource(c.d.ctx, q, data) != nil && data != nil {
		_ = c.sendResource(c.d.ctx, q, nil)
	}
}

// resourceRequest reads a stock child's question.
func (c *Child) resourceRequest(payload []byte) (q ResourceRequest, ok bool) {
	v, err := pyproto.Unmarshal(payload)
	t, ok := v.(pyproto.Tuple)
	if err == nil {
		// It is sent back, with what it shares written in full.
		_, err = questionLimits.Extent(v)
	}
	if err != nil || !ok || len(t) != 2 {
		c.d.log.Warn("a request for a resource that cannot be read", zap.String("target", c.name))
		return q, false
	}
	var ok1, ok2 bool
	q.asked = t
	q.Package, ok1 = pyproto.Text(t[0])
	q.Name, ok2 = pyproto.Text(t[1])
	q.named = ok1 && ok2
	return q, true
}

// missesResource has a file that is not here looked for by ConnectOptions.MissResource.
func (c *Child) missesResource(q ResourceRequest) bool {
	own := q.Package == "mitogen" || strings.HasPrefix(q.Package, "mitogen.") // the runtime's, and not there
	return c.opt.MissResource != nil && !own && c.responder.Withholds(q.Package, q.Name) == "" && c.opt.MissResource(c, q)
}

// SendResource answers a stock child's question with data, when there is room on the way there. nil is sent at once,
// as None, which raises there.
func (c *Child) SendResource(ctx context.Context, q ResourceRequest, data []byte) error {
	if c.via != nil && data != nil {
		if err := c.d.waitGate(ctx, c.id); err != nil {
			return err
		}
	}
	return c.sendResource(ctx, q, data)
}

func (c *Child) sendResource(ctx context.Context, q ResourceRequest, data []byte) error {
	var content any
	if data != nil && len(data) < c.d.opt.MaxMessage-1024 {
		content = data
	}
	reply, err := c.runtime.resourceReply(q.asked[0], q.asked[1], content)
	if err != nil {
		c.d.log.Warn("a resource cannot be sent", zap.String("target", c.name), zap.Error(err))
		return err
	}
	answer := newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: pyproto.LoadResource}, reply)
	if content == nil {
		return c.stream.offer(own(answer))
	}
	return c.stream.send(ctx, answer)
}

// resourceReply writes LOAD_RESOURCE. A release that asks in bytes waits for an answer in text.
func (r *Runtime) resourceReply(pkg, name, content any) ([]byte, error) {
	if r.AsksInBytes() {
		pkg, name = asText(pkg), asText(name)
	}
	if r.before(versionTwoPickles) {
		return pyproto.Marshal(pyproto.Tuple{pkg, name, content})
	}
	out, err := pyproto.Marshal(pyproto.Tuple{pkg, name})
	if err != nil {
		return nil, err
	}
	return pyproto.Append(out, content)
}

// asText leaves what is no text as it is.
func asText(v any) any {
	if b, ok := v.([]byte); ok && utf8.Valid(b) {
		return string(b)
	}
	return v
}

// AsksInBytes tells whether this Mitogen names resources in bytes.
func (r *Runtime) AsksInBytes() bool { return r.before(versionPKL) }

// stockConfig is the configuration that every release from 0.2.10 on takes for its ExternalContext.
func (c *Child) stockConfig() map[string]any {
	level := c.opt.StockLevel
	if level == 0 {
		level = 20
	}
	overrides, blocks := slices.Concat([]string{}, c.opt.StockOverrides), slices.Concat([]string{}, c.opt.StockBlocks)
	whitelist := overrides
	if len(overrides) == 0 {
		whitelist = []string{""}
	}
	return map[string]any{
		"parent_ids": c.parentIDs(), "context_id": int(c.id), "debug": c.debug, "profiling": c.profiling,
		"unidirectional": c.unidirectional, "max_message_size": c.d.opt.MaxMessage,
		"version": c.runtime.version, "log_level": level, "log_levels": []int{level, level, max(level, 30)},
		// Releases before 0.3.42 read the first two.
		"whitelist": whitelist, "blacklist": blocks, "import_overrides": overrides, "import_blocks": blocks,
	}
}

// CallService calls a method of a mitogen.service in a stock child.
func (c *Child) CallService(ctx context.Context, service, method string, args pyproto.Kwargs) *Result {
	if args == nil {
		args = pyproto.Kwargs{}
	}
	payload, err := pyproto.Marshal(pyproto.Tuple{service, method, args})
	if err != nil {
		return &Result{err: errorf("%s.%s: an argument cannot be sent: %w", service, method, err)}
	}
	if err := c.Push(ctx, serviceModule(service)); err != nil {
		return &Result{err: err}
	}
	return c.request(ctx, pyproto.CallService, payload)
}

// serviceModule is the module of a service. A service's name is the full name of its class.
func serviceModule(service string) string {
	if i := strings.LastIndexByte(service, '.'); i > 0 {
		return service[:i]
	}
	return service
}
