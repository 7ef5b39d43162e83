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
	// A payload up to copyBelow is written as one piece with its header.
	copyBelow = 8 << 10
	// A payload from shareFrom on that goes on to another stream lies in its read buffer until it is written. A smaller
	// one is copied: it is not to keep a whole buffer.
	shareFrom = readBuffer / 4
	// A payload is allocated in steps as it arrives: a header alone costs no more than one step.
	growStep = 1 << 20
)

// buffer is a read buffer of either size, which the readLoop that fills it shares with the frames in it that wait in
// other streams' queues; or it has the copy of one payload.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

// buffers are unused ones, by size: memory for each copy would be much work for the collector.
var buffers = [...]struct {
	size int
	sync.Pool
}{{size: 2 * copyBelow}, {size: smallBuffer}, {size: shareFrom}, {size: readBuffer}}

func getBuffer(large bool) *buffer {
	if large {
		return bufferFor(readBuffer)
	}
	return bufferFor(smallBuffer)
}

// bufferFor gives the least buffer for n bytes, less than twice as large where they are more than copyBelow and no more
// than shareFrom.
func bufferFor(n int) *buffer {
	i := 0
	for buffers[i].size < n {
		i++
	}
	b, _ := buffers[i].Get().(*buffer)
	if b == nil {
		b = &buffer{b: make([]byte, buffers[i].size)}
	}
	b.refs.Store(1)
	return b
}

func (b *buffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	for i := range buffers {
		if buffers[i].size == len(b.b) {
			buffers[i].Put(b)
		}
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

// passFrame makes a frame of a payload in a read buffer. It keeps no more than four times its size, whatever else was in
// the buffer.
func passFrame(h pyproto.Header, payload []byte, buf *buffer) frame {
	switch f := newFrame(h, payload); {
	case f.body == nil:
		return f
	case len(payload) < shareFrom:
		f.buf = bufferFor(len(payload))
		f.body = f.buf.b[:copy(f.buf.b, payload)]
		return f
	default:
		buf.refs.Add(1)
		f.buf = buf
		return f
	}
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
