package daemon

import (
	"go.uber.org/zap"

	"mitogend/pyproto"
)

// versionTwoPickles is the first release that takes LOAD_RESOURCE as two pickles in a row.
var versionTwoPickles = []int{0, 3, 41}

// loadResource answers a stock child's GET_RESOURCE by LOAD_RESOURCE, in the form that its release reads. What there is not is
// answered by None, which raises there; a request that can not be read has nobody to answer.
func (c *Child) loadResource(payload []byte) {
	v, err := pyproto.Unmarshal(payload)
	t, ok := v.(pyproto.Tuple)
	if err != nil || !ok || len(t) != 2 {
		c.d.opt.Logger.Warn("a request for a resource that can not be read", zap.String("target", c.name))
		return
	}
	pkg, ok1 := resourceName(t[0])
	name, ok2 := resourceName(t[1])
	var content any
	if ok1 && ok2 {
		if data, err := c.responder.Resource(c.d.ctx, pkg, name); err == nil && len(data) < c.d.opt.MaxMessage-1024 {
			content = data
		}
	}
	reply, err := c.runtime.resourceReply(t[0], t[1], content)
	if err != nil {
		c.d.opt.Logger.Warn("a resource can not be sent", zap.String("target", c.name), zap.Error(err))
		return
	}
	// A stream that is lost needs no answer.
	_ = c.stream.send(c.d.ctx, newFrame(pyproto.Header{Enc: pyproto.EncMGC, Dst: c.id, Handle: pyproto.LoadResource}, reply))
}

// resourceReply writes LOAD_RESOURCE. The names go back as they came: releases differ in whether they are bytes.
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
