package daemon

import (
	"bytes"

	"mitogend/pyproto"
)

// Frame is a frame that was read from a stream or is about to be written to one.
type Frame struct {
	Peer   string // the child at the other end of the stream
	Out    bool   // to the peer
	Header pyproto.Header
	// Payload must not be changed, nor kept after the call. It may hold secrets in clear.
	Payload []byte
}

// traceOut shows a frame that is on its way out.
func (s *stream) traceOut(f frame) {
	h, err := pyproto.ParseHeader(f.head)
	if err != nil {
		return
	}
	payload := f.body
	if len(payload) == 0 {
		payload = f.head[pyproto.HeaderLen:]
	}
	if len(f.rest) > 0 {
		payload = bytes.Join(append([][]byte{payload}, f.rest...), nil)
	}
	s.d.opt.Trace(Frame{s.name, true, h, payload})
}
