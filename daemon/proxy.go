package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	"mitogend/bootstrap"
	"mitogend/importer"
	"mitogend/pyproto"
	"mitogend/python"
)

// runtimes are those that targets have named, and the importers that serve them.
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

// findRuntime is FindRuntime, done once for each key, for everybody who waits for it: it goes on when one of them gives up. A
// failure is not kept.
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

// importer serves what im does, and the runtime's own modules in place of ours.
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
		return nil, fmt.Errorf("daemon: %s: %w", r, err)
	}
	v, _ := t.importers.LoadOrStore(key, other)
	return v.(*importer.Importer), nil
}

// preamble is what the child's first stage reads.
func (c *Child) preamble(proc *bootstrap.Process) ([]byte, error) {
	if c.runtime == nil {
		return c.boot(proc).Preamble(c.config())
	}
	if err := c.runtime.refuses(proc.HexVersion); err != nil {
		return nil, err
	}
	return python.StockPreamble(c.runtime.core, c.stockConfig())
}

// ErrRuntime is the cause of what a child can not do because of the runtime that it has.
var ErrRuntime = errors.New("not with this runtime")

// proxied is what a stock child reports of a connect.
type proxied struct {
	ID      *uint32 `py:"id"`
	Name    *string `py:"name"`
	Message *string `py:"msg"`
}

// proxyConnect has a stock child start another behind it, by Mitogen's own means: the methods, prompts and errors are Mitogen's.
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
		return &bootstrap.Error{Label: s.hop.String(), Step: bootstrap.StepConnect, Reason: *up.Message}
	case up.ID == nil:
		return fmt.Errorf("daemon: %s told of no context", c.name)
	}
	next.id = pyproto.ContextID(*up.ID)
	next.stream = c.stream
	if same {
		next.responder = c.responder
	}
	if !c.started(next.id) {
		return fmt.Errorf("daemon: %s: the hop before it has not told of its route", next.name)
	}
	if _, taken := c.d.children.LoadOrStore(next.id, next); taken {
		return fmt.Errorf("daemon: %s: the hop before it names context %d, which is another child", next.name, next.id)
	}
	if next.runtime == nil {
		err = next.pushRunning(ctx)
	}
	if err == nil {
		err = next.askVersion(ctx)
	}
	if err == nil && !same {
		err = next.newResponder()
	}
	if err != nil {
		if c.d.children.CompareAndDelete(next.id, next) {
			next.end("it could not be connected")
		}
		_ = c.d.post(next.id, pyproto.Shutdown, 0, nil)
		return err
	}
	c.responder.Add(importer.Platform{Version: next.Version()})
	return nil
}

// started tells whether a context, which is reached, may have been started by this stock child: it takes ids of its own blocks.
func (c *Child) started(id pyproto.ContextID) bool {
	return c.d.streamOf(id) == c.stream && c.stream.ids.owner(id) == c.id
}

// disown follows a connect that nobody waits for any more, to end what comes of it: a stock child can not be told to give it up.
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

// behindStock is what stock_hop.py needs to start the child, which runs another runtime than the child before it.
func (c *Child) behindStock() (pyproto.Kwargs, error) {
	core, config := "", c.config()
	if c.runtime != nil {
		core, config = c.runtime.core, c.stockConfig()
	} else {
		// The child before it has another mitogen.core to give, and the like.
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

// foreign is what launch.py needs besides the plan to start the child, which runs a stock Mitogen.
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
			// Mitogen takes one command and no list to choose from.
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

// pushRunning sends what a child of ours needs for its first call, before its version is known, and with it its responder.
func (c *Child) pushRunning(ctx context.Context) error {
	r, err := importer.NewResponder(c.Importer(), sink{c.stream, c.id}, importer.ResponderOptions{MarkPackages: true})
	if err != nil {
		return err
	}
	if err := c.d.enter(); err != nil {
		return err
	}
	go func() {
		defer c.d.wg.Done()
		_ = r.Serve(c.d.ctx) // what fails here fails the push
	}()
	defer r.Close()
	return r.Push(ctx, "mitogen.running")
}

// askVersion asks a child that was started by another which Python it is.
func (c *Child) askVersion(ctx context.Context) error {
	call := pyproto.Call{Module: "sysconfig", Function: "get_python_version"}
	payload, err := call.AppendPickle(nil)
	if err != nil {
		return err
	}
	var text string
	if err := c.request(ctx, pyproto.CallFunction, payload).Decode(&text); err != nil {
		return fmt.Errorf("daemon: %s does not tell its version: %w", c.name, err)
	}
	major, minor, _ := strings.Cut(text, ".")
	x, err1 := strconv.ParseUint(major, 10, 8)
	y, err2 := strconv.ParseUint(minor, 10, 8)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("daemon: %s says that it is Python %q", c.name, text)
	}
	c.setVersion(uint32(x<<24 | y<<16))
	return nil
}

// oldForm writes a payload as Mitogen before 0.3.39 reads it: always a pickle.
func oldForm(enc pyproto.Enc, payload []byte, buf *buffer) (pyproto.Enc, []byte, *buffer) {
	if enc != pyproto.EncBIN {
		return pyproto.EncMGC, payload, buf
	}
	// Bytes up to the largest message that is accepted do have a pickle.
	pickled, err := pyproto.Marshal(pyproto.Blob(payload))
	if err != nil {
		return pyproto.EncMGC, payload, buf
	}
	return pyproto.EncMGC, pickled, nil
}
