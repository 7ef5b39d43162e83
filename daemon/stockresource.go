package daemon

import (
	"context"
	"strings"

	"go.uber.org/zap"

	"mitogend/pyproto"
)

// versionTwoPickles is the first release that takes LOAD_RESOURCE as two pickles in a row.
var versionTwoPickles = []int{0, 3, 41}

// ResourceRequest is a stock child's question for a data file of a package.
type ResourceRequest struct {
	Package, Name string
	asked         pyproto.Tuple // as it came: releases differ in whether names are bytes
}

// loadResource answers a stock child's GET_RESOURCE by LOAD_RESOURCE, or has it answered by whom ConnectOptions.MissResource asks. A
// request that can not be read has nobody to answer.
func (c *Child) loadResource(payload []byte) {
	v, err := pyproto.Unmarshal(payload)
	t, ok := v.(pyproto.Tuple)
	if err != nil || !ok || len(t) != 2 {
		c.d.opt.Logger.Warn("a request for a resource that can not be read", zap.String("target", c.name))
		return
	}
	q := ResourceRequest{asked: t}
	var ok1, ok2 bool
	q.Package, ok1 = resourceName(t[0])
	q.Name, ok2 = resourceName(t[1])
	var data []byte
	if ok1 && ok2 {
		data, err = c.responder.Resource(c.d.ctx, q.Package, q.Name)
		if err != nil && c.missesResource(q) {
			return
		}
	}
	// A stream that is lost needs no answer.
	_ = c.SendResource(c.d.ctx, q, data)
}

// missesResource has a file that is not here looked for elsewhere.
func (c *Child) missesResource(q ResourceRequest) bool {
	own := q.Package == "mitogen" || strings.HasPrefix(q.Package, "mitogen.") // the runtime's, and not there
	return c.opt.MissResource != nil && !own && c.responder.Withholds(q.Package, q.Name) == "" && c.opt.MissResource(c, q)
}

// SendResource answers a stock child's question, with data when there is room on the way there. nil, at once, is answered by None,
// which raises there.
func (c *Child) SendResource(ctx context.Context, q ResourceRequest, data []byte) error {
	var content any
	if data != nil && len(data) < c.d.opt.MaxMessage-1024 {
		content = data
	}
	reply, err := c.runtime.resourceReply(q.asked[0], q.asked[1], content)
	if err != nil {
		c.d.opt.Logger.Warn("a resource can not be sent", zap.String("target", c.name), zap.Error(err))
		return err
	}
	answer := newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: pyproto.LoadResource}, reply)
	if content == nil {
		return c.stream.offer(answer)
	}
	return c.stream.send(ctx, answer)
}

// resourceReply writes LOAD_RESOURCE.
func (r *Runtime) resourceReply(pkg, name, content any) ([]byte, error) {
	if r.before(versionTwoPickles) {
		return pyproto.Marshal(pyproto.Tuple{pkg, name, content})
	}
	out, err := pyproto.Marshal(pyproto.Tuple{pkg, name})
	if err != nil {
		return nil, err
	}
	return pyproto.Append(out, content)
}

func resourceName(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case []byte:
		return string(x), true
	}
	return "", false
}

// AsksInBytes tells whether this Mitogen names resources by bytes.
func (r *Runtime) AsksInBytes() bool { return r.before(versionPKL) }
