package python

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"hash/adler32"

	"github.com/klauspost/compress/zlib"
)

// maxStored is what one stored block of deflate takes.
const maxStored = 1<<16 - 1

// packed is the beginning of a zlib stream, to which a short end is added without compressing anything again: that
// would be most of what a connect costs here.
type packed struct {
	stream []byte // up to a byte boundary between two blocks
	sum    []byte // the state of the checksum there
}

func pack(data []byte) packed {
	var buf bytes.Buffer
	w, _ := zlib.NewWriterLevel(&buf, zlib.BestCompression) // fails for an invalid level only
	w.Write(data)                                           // a bytes.Buffer does not fail
	w.Flush()
	sum := adler32.New()
	sum.Write(data)
	state, _ := sum.(encoding.BinaryMarshaler).MarshalBinary() // never fails
	return packed{buf.Bytes(), state}
}

// with gives the whole stream of what was packed and then end, as stored blocks.
func (p packed) with(end []byte) []byte {
	out := append(make([]byte, 0, len(p.stream)+len(end)+16), p.stream...)
	sum := adler32.New()
	_ = sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.sum) // its own form
	sum.Write(end)
	for last := false; !last; {
		n := min(len(end), maxStored)
		last = n == len(end)
		kind := byte(0)
		if last {
			kind = 1
		}
		out = append(out, kind)
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
		out = binary.LittleEndian.AppendUint16(out, ^uint16(n))
		out = append(out, end[:n]...)
		end = end[n:]
	}
	return binary.BigEndian.AppendUint32(out, sum.Sum32())
}
