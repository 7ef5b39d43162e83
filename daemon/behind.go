package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"mitogend/bootstrap"
	"mitogend/pyproto"
	"mitogend/python"
)

// connectHandle is ours alone: code in a child asks for a child of its own (python/connect.py).
const connectHandle pyproto.Handle = 991

// behindRequest is what connectHandle takes. Beside the connection methods there are "fork", for a process that the child
// forks off itself, and "unfork" when that has failed.
type behindRequest struct {
	Method   string         `py:"method"`
	Name     *string        `py:"name"`
	Via      uint32         `py:"via"`      // who starts it: the child itself or one behind it; with unfork what was to be forked
	Launcher uint32         `py:"launcher"` // a handle of the child that asks
	Args     map[string]any `py:"args"`
}

type behindReply struct {
	ID     uint32  `py:"id"`
	Name   *string `py:"name"`
	Config string  `py:"config"` // of a process that is forked off
	Error  *string `py:"error"`
}

// behindMethods are those that connect.py has. The others run a command of the caller's choice in place of an interpreter.
var behindMethods = map[string]bool{
	"local": true, "ssh": true, "sudo": true, "su": true, "doas": true, "docker": true, "podman": true, "buildah": true, "kubectl": true,
	"lxc": true, "lxd": true, "incus": true, "jail": true, "setns": true, "machinectl": true,
}

// onConnect handles connectHandle. It runs on a readLoop.
func (d *Daemon) onConnect(m message) string {
	c, h, s := m.child, m.Header, m.s
	if len(m.payload) > maxQuestion {
		return s.reached("bytes of a request for a child", maxQuestion).Error()
	}
	var r behindRequest
	if err := pyproto.Decode(m.payload, &r); err != nil {
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
			text := err.Error()
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

// connectBehind makes a child that c's code has asked for.
func (c *Child) connectBehind(ctx context.Context, r *behindRequest) (up behindReply, err error) {
	via := c.stream.childOf(pyproto.ContextID(r.Via))
	if via == nil || !via.isBehind(c) {
		return up, fmt.Errorf("context %d is not a child of %s", r.Via, c.name)
	}
	if r.Method == "unfork" {
		if via.method == "fork" && via.via == c && c.d.children.CompareAndDelete(via.id, via) {
			c.stream.ids.takeBack(via.id)
			via.end("it could not be forked")
		}
		return up, nil
	}
	if r.Method != "fork" && !behindMethods[r.Method] {
		return up, fmt.Errorf("code in a child can not connect by the method %q", r.Method)
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
	next.name = Cut(next.name, maxChildName)
	next.opt.Name = next.name
	next.unidirectional = via.unidirectional || isTrue(r.Args["unidirectional"])
	if r.Method == "fork" {
		next.setVersion(via.hexVersion.Load())
		if up.Config, err = python.Literal(next.config()); err != nil {
			return up, err
		}
		c.stream.ids.give(next.id)
		c.d.children.Store(next.id, next)
		if c.stream.failure() != nil && c.d.children.CompareAndDelete(next.id, next) {
			// The teardown may have looked for those behind it before.
			next.end("its parent is gone")
			return up, c.stream.failure()
		}
		c.d.allow(via.id, next.id, 1)
	} else {
		plan, err := bootstrap.Build(r.Method, r.Args, bootstrap.Boot{
			Stub: python.Stub(), Args: []string{"mitogend:" + psName(next.name)}, Elsewhere: true,
		})
		if err != nil {
			return up, plain(err)
		}
		if via.runtime != nil {
			return up, fmt.Errorf("%s runs %s: %w", via.name, via.runtime, ErrRuntime)
		}
		switch spec := r.Args["runtime"]; spec {
		case nil, "", "embedded":
		default:
			return up, fmt.Errorf("runtime: a child that code starts has the embedded one, not %v; name the runtime in a target", spec)
		}
		if err := via.launch(ctx, next, plan); err != nil {
			return up, plain(err)
		}
		if plan.Silence > 0 && c.d.enter() == nil {
			go next.watchSilence(plan.Silence)
		}
	}
	c.d.event(Connected, next, "")
	up.ID, up.Name = uint32(next.id), r.Name
	return up, nil
}

// plain is an error without our package's name, for a traceback in a child.
func plain(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "bootstrap: ")) }

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

// endUnrouted ends the children behind a lost stream that have not told of their routes.
func (d *Daemon) endUnrouted(s *stream, reason string) {
	s.eachChild(func(c *Child) {
		if d.children.CompareAndDelete(c.id, c) {
			c.end(reason)
		}
	})
}
