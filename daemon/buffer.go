package daemon

import (
	"sync"
	"sync/atomic"

	"mitogend/pyproto"
)

const (
	// One read takes up to readBuffer, so that several frames of a busy stream cost one system call. A stream that
	// has not filled a smallBuffer gets that: each of a thousand quiet streams may hold one for a frame that is there
	// in part.
	readBuffer  = 256 << 10
	smallBuffer = 32 << 10
	// A frame up to this size is copied when it goes on to another stream, so that few bytes do not keep a whole read
	// buffer.
	copyBelow = 8 << 10
	// A payload is allocated in steps as it arrives: a header alone costs no more than one step.
	growStep = 1 << 20
)

// buffer is a read buffer of either size. The readLoop that fills it shares it with the frames in it that wait in
// other streams' queues.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

var (
	largeBuffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, readBuffer)} }}
	smallBuffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, smallBuffer)} }}
)

func getBuffer(large bool) *buffer {
	pool := &smallBuffers
	if large {
		pool = &largeBuffers
	}
	b := pool.Get().(*buffer)
	b.refs.Store(1)
	return b
}

func (b *buffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	if len(b.b) == readBuffer {
		largeBuffers.Put(b)
	} else {
		smallBuffers.Put(b)
	}
}

// frame is one frame in a queue: head, then body, then rest. buf, if set, owns their memory.
type frame struct {
	head []byte // the header, and the payload when it is small
	body []byte
	rest [][]byte // nil, but for a call with long arguments; this frame's own slice
	buf  *buffer
	own  int // what it counts of stream.owed
}

func (f *frame) size() int { return len(f.head) + len(f.body) + sizeOf(f.rest) }

func sizeOf(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// shift takes n bytes off the front, as many as there are, and gives the rest of n.
func (f *frame) shift(n int) int {
	for {
		k := min(n, len(f.head))
		f.head, n = f.head[k:], n-k
		if k = min(n, len(f.body)); k > 0 {
			f.body, n = f.body[k:], n-k
		}
		if len(f.head) > 0 || len(f.body) > 0 || len(f.rest) == 0 {
			return n
		}
		f.body, f.rest = f.rest[0], f.rest[1:]
	}
}

func (f *frame) done() {
	if f.buf != nil {
		f.buf.release()
	}
	*f = frame{}
}

// newFrame makes a frame of a header and a payload. Nobody may change the payload until it is written.
func newFrame(h pyproto.Header, payload []byte) frame {
	h.Length = uint32(len(payload))
	if len(payload) > copyBelow {
		return frame{head: h.Append(make([]byte, 0, pyproto.HeaderLen)), body: payload}
	}
	return frame{head: append(h.Append(make([]byte, 0, pyproto.HeaderLen+len(payload))), payload...)}
}

// borrowFrom is the size from which an argument's bytes are written from where they are. Below it, a copy costs less
// than writing more parts.
const borrowFrom = 64 << 10

// parts is a payload in several pieces.
type parts struct {
	head []byte
	rest [][]byte
}

func (p parts) size() int { return len(p.head) + sizeOf(p.rest) }

func (p parts) frame(h pyproto.Header) frame {
	if len(p.rest) == 0 {
		return newFrame(h, p.head)
	}
	h.Length = uint32(p.size())
	return frame{head: append(h.Append(make([]byte, 0, pyproto.HeaderLen+len(p.head))), p.head...), rest: p.rest}
}
