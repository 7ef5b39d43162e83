package daemon

import (
	"go.uber.org/zap"

	"mitogend/pyproto"
)

// refusals counts, by kind, the messages that a stream has brought and that its sender may not send. Owned by its readLoop.
type refusals struct {
	n map[string]int64
}

// add counts a message. The first of its kind is logged; the end of the stream tells of the others.
func (r *refusals) add(s *stream, kind, reason string, h pyproto.Header) {
	s.d.refused.Add(1)
	if r.n == nil {
		r.n = map[string]int64{}
	}
	if r.n[kind]++; r.n[kind] > 1 {
		return
	}
	s.d.opt.Logger.Warn("refused a message; others of its kind are only counted", zap.String("stream", s.name), zap.String("kind", kind),
		zap.String("reason", reason), zap.Uint32("src", uint32(h.Src)), zap.Uint32("auth", uint32(h.Auth)), zap.Uint32("handle", uint32(h.Handle)))
}

// tell logs, when the stream has ended, how many messages were refused.
func (r *refusals) tell(s *stream) {
	for kind, n := range r.n {
		if n > 1 {
			s.d.opt.Logger.Warn("refused messages", zap.String("stream", s.name), zap.String("kind", kind), zap.Int64("count", n))
		}
	}
}
