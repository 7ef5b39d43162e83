package daemon

import (
	"context"
	"fmt"

	"mitogend/bootstrap"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
	"mitogend/python"
)

// behindRequest is the payload of pyproto.Connect. Beside the connection methods there are "fork", for a process that
// the child forks off itself, and "unfork" when that has failed.
type behindRequest struct {
	Method   string         `py:"method"`
	Name     *string        `py:"name"`
	Via      uint32         `py:"via"`      // its parent: the child itself or one behind it; with unfork, the fork
	Launcher uint32         `py:"launcher"` // a handle of the asking child
	Args     map[string]any `py:"args"`
}

type behindReply struct {
	ID     uint32  `py:"id"`
	Name   *string `py:"name"`
	Config string  `py:"config"` // of a process that is forked off
	Error  *string `py:"error"`
}

// behindMethods are the methods of connect.py. The others run a command of the caller's choice in place of an
// interpreter.
var behindMethods = map[string]bool{
	"local": true, "ssh": true, "sudo": true, "su": true, "doas": true, "docker": true, "podman": true, "buildah": true, "kubectl": true,
	"lxc": true, "lxd": true, "incus": true, "jail": true, "setns": true, "machinectl": true,
}

// onConnect handles pyproto.Connect. It runs on a readLoop.
func (d *Daemon) onConnect(m message) string {
	c, h, s := m.child, m.Header, m.s
	if len(m.payload) > maxQuestion {
		return s.reached("bytes of a request for a child", maxQuestion).Error()
	}
	v, err := pyproto.Unmarshal(m.payload)
	if err != nil {
		return err.Error()
	}
	// A plan has what is asked for in full, and some of it several times.
	if _, err := questionLimits.Extent(v); err != nil {
		return fmt.Sprintf("%v: it has %v", s.reached("values of a request for a child", maxQuestion), err)
	}
	var r behindRequest
	if err := pyproto.Assign(&r, v); err != nil {
		return err.Error()
	}
	if s.connecting.Add(1) > maxConnecting {
		s.connecting.Add(-1)
		return s.reached("connects under way", maxConnecting).Error()
	}
	if d.enter() != nil {
		s.connecting.Add(-1)
		return ""
	}
	go func() {
		defer d.wg.Done()
		defer s.connecting.Add(-1)
		defer s.survive("a connect")
		up, err := c.connectBehind(d.alive, &r)
		if err != nil {
			text := printable.Cut(err.Error(), maxReason)
			up.Error = &text
		}
		if reply, err := pyproto.Marshal(up.dict()); err == nil && h.ReplyTo != 0 {
			_ = d.post(h.Src, h.ReplyTo, 0, reply)
		}
	}()
	return ""
}

func (up *behindReply) dict() map[string]any {
	m := map[string]any{"id": int64(up.ID), "config": up.Config, "name": nil, "error": nil}
	if up.Name != nil {
		m["name"] = *up.Name
	}
	if up.Error != nil {
		m["error"] = *up.Error
	}
	return m
}

// connectBehind makes a child that code in c has asked for.
func (c *Child) connectBehind(ctx context.Context, r *behindRequest) (up behindReply, err error) {
	via := c.stream.childOf(pyproto.ContextID(r.Via))
	if via == nil || !via.isBehind(c) {
		return up, fmt.Errorf("context %d is not a child of %s", r.Via, c.name)
	}
	if r.Method == "unfork" {
		if via.method == "fork" && via.via == c && via.takeOut("it could not be forked") {
			c.stream.ids.takeBack(via.id)
			c.d.allow(c.id, via.id, 0)
		}
		return up, nil
	}
	if r.Method != "fork" && !behindMethods[r.Method] {
		return up, fmt.Errorf("code in a child cannot connect by the method %q", printable.Cut(r.Method, 100))
	}
	if pyproto.Handle(r.Launcher).Reserved() {
		return up, fmt.Errorf("handle %d is no launcher's", r.Launcher)
	}
	if r.Launcher != 0 {
		c.launcher.CompareAndSwap(0, r.Launcher)
	}
	switch s := via.stream; {
	case via.depth() >= maxDepth:
		return up, s.reached("children behind each other", maxDepth)
	case r.Method == "fork" && c.d.unrouted(s) >= maxConnecting:
		return up, s.reached("forks that are waited for", maxConnecting)
	default:
		if err := s.takeIDs(1); err != nil {
			return up, err
		}
	}
	id := c.d.allocateFor(c.stream)
	if id == 0 {
		return up, errNoIDs
	}
	next := c.d.makeChild(id, ConnectOptions{Importer: c.opt.Importer, Policy: c.opt.Policy, OnLog: c.opt.OnLog, OnOutput: c.opt.OnOutput}, r.Method)
	next.via, next.stream, next.responder = via, via.stream, via.responder
	next.name = fmt.Sprintf("%s+%s:", via.name, r.Method)
	if r.Name != nil {
		next.name = *r.Name
	}
	next.name = printable.Cut(next.name, maxChildName)
	next.opt.Name = next.name
	next.unidirectional = via.unidirectional || isTrue(r.Args["unidirectional"])
	if r.Method == "fork" {
		next.setVersion(via.hexVersion.Load())
		if up.Config, err = python.Literal(next.config()); err != nil {
			return up, err
		}
		c.stream.ids.give(next.id)
		c.d.children.Store(next.id, next)
		if c.stream.failure() != nil && next.takeOut("its parent is gone") {
			// The stream's teardown may have ended the children behind it before this one was among them.
			return up, c.stream.failure()
		}
		c.d.allow(via.id, next.id, 1)
	} else {
		plan, err := bootstrap.Build(r.Method, r.Args, bootstrap.Boot{
			Stub: python.Stub(), Args: []string{"mitogend:" + psName(next.name)}, Elsewhere: true,
		})
		if err != nil {
			return up, bootstrap.Plain(err)
		}
		if via.runtime != nil {
			return up, fmt.Errorf("%s runs %s: %w", via.name, via.runtime, ErrRuntime)
		}
		switch spec := r.Args["runtime"]; spec {
		case nil, "", "embedded":
		default:
			return up, fmt.Errorf("runtime: a child that code starts has the embedded one, not %s; name the runtime in a target", shownSpec(spec))
		}
		if err := via.launch(ctx, next, plan); err != nil {
			return up, bootstrap.Plain(err)
		}
		if plan.Silence > 0 && c.d.enter() == nil {
			go next.watchSilence(plan.Silence)
		}
	}
	c.d.event(Connected, next, "")
	up.ID, up.Name = uint32(next.id), r.Name
	return up, nil
}

// shownSpec is the value of an argument for an error. What is no text is not formatted: it may be large in full.
func shownSpec(v any) string {
	if text, ok := pyproto.Text(v); ok {
		return printable.Cut(text, 100)
	}
	return fmt.Sprintf("a %T", v)
}

// depth counts the children before this one.
func (c *Child) depth() (n int) {
	for ; c.via != nil; c = c.via {
		n++
	}
	return n
}

// isBehind tells whether c is x, or reached through it.
func (c *Child) isBehind(x *Child) bool {
	for ; c != nil; c = c.via {
		if c == x {
			return true
		}
	}
	return false
}
