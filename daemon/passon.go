package daemon

import (
	"bytes"
	"sync"

	"mitogend/pyproto"
)

// maxPassed bounds the messages of one stream that were passed on and whose answer is awaited. Some are never answered: Mitogen's
// services have methods that give no reply to callers that left a handle for one.
const maxPassed = 1 << 14

// passed are the replies that peers owe to those behind a stream, whose messages for context 0 they were given. They have to come from
// context 0.
type passed struct {
	// mu protects the following. Nothing is locked under it.
	mu    sync.Mutex
	m     map[replyKey]bool
	order []replyKey
}

type replyKey struct {
	peer   pyproto.ContextID
	dst    pyproto.ContextID
	handle pyproto.Handle
}

func (p *passed) add(k replyKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = map[replyKey]bool{}
	}
	if !p.m[k] {
		p.m[k] = true
		p.order = append(p.order, k)
	}
	for len(p.order) > maxPassed {
		delete(p.m, p.order[0])
		p.order = p.order[1:]
	}
}

// owes tells whether a message of a peer's is an answer that it gives in our place.
func (p *stream) owes(d *Daemon, h pyproto.Header) bool {
	if h.Handle < pyproto.FirstDynamic || h.Src != p.id {
		return false
	}
	out := d.streamOf(h.Dst)
	return out != nil && out.passed.take(replyKey{p.id, h.Dst, h.Handle})
}

// take tells whether a message is such a reply. Each is one message.
func (p *passed) take(k replyKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.m[k] {
		return false
	}
	delete(p.m, k)
	return true
}

// PassOn gives a message for context 0 to a peer, which answers it as if it were context 0. It never blocks.
func (p *Peer) PassOn(in *Incoming) {
	if full, _, _ := p.s.load(); full {
		in.Refuse(p.d.errStalled().Error())
		return
	}
	h := in.Header
	h.Enc, h.Dst = pyproto.EncMGC, p.s.id
	payload := in.Payload
	if in.Enc == pyproto.EncBIN {
		h.Enc, payload, _ = oldForm(in.Enc, payload, nil)
	}
	if h.ReplyTo >= pyproto.FirstDynamic {
		if from := p.d.streamOf(h.Src); from != nil {
			from.passed.add(replyKey{p.s.id, h.Src, h.ReplyTo})
		}
	}
	if err := p.s.offer(newFrame(h, bytes.Clone(payload))); err != nil {
		in.Refuse(err.Error())
	}
}
