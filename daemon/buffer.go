package daemon

import (
	"sync"
	"sync/atomic"

	"mitogend/pyproto"
)

const (
	// One read takes up to this; several frames of a busy stream then cost one system call.
	readBuffer = 256 << 10
	// A frame up to this size is copied when it is forwarded, so that few bytes do not keep a whole read buffer.
	copyBelow = 8 << 10
	// A payload is allocated in steps as it arrives, so that a header alone costs no more than this.
	growStep = 1 << 20
)

// buffer is a read buffer shared by the readLoop that fills it and the frames in it that wait in other streams' queues.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, readBuffer)} }}

func getBuffer() *buffer {
	b := buffers.Get().(*buffer)
	b.refs.Store(1)
	return b
}

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		buffers.Put(b)
	}
}

// frame is one frame in a queue: head, then body. buf, if set, owns their memory.
type frame struct {
	head []byte // the header, and the payload when it is small
	body []byte
	buf  *buffer
}

func (f *frame) size() int { return len(f.head) + len(f.body) }

func (f *frame) done() {
	if f.buf != nil {
		f.buf.release()
	}
	*f = frame{}
}

// newFrame makes a frame of a header and a payload that is not changed until it is written.
func newFrame(h pyproto.Header, payload []byte) frame {
	h.Length = uint32(len(payload))
	if len(payload) > copyBelow {
		return frame{head: h.Append(make([]byte, 0, pyproto.HeaderLen)), body: payload}
	}
	return frame{head: append(h.Append(make([]byte, 0, pyproto.HeaderLen+len(payload))), payload...)}
}
