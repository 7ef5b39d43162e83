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
	return packed{buf.Bytes(), checked(data)}
}

// packHere is pack for a child on this machine, without compression: that takes milliseconds.
func packHere(data []byte) packed {
	header := []byte{0x78, 1} // of zlib: a window of 32 KiB, the fastest level
	return packed{appendStored(append(make([]byte, 0, len(data)+16), header...), data, false), checked(data)}
}

// checked gives the state of the checksum after data.
func checked(data []byte) []byte {
	sum := adler32.New()
	sum.Write(data)
	state, _ := sum.(encoding.BinaryMarshaler).MarshalBinary() // never fails
	return state
}

// with gives the whole stream of what was packed and then end, as stored blocks.
func (p packed) with(end []byte) []byte {
	out := append(make([]byte, 0, len(p.stream)+len(end)+16), p.stream...)
	sum := adler32.New()
	_ = sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.sum) // its own form
	sum.Write(end)
	return binary.BigEndian.AppendUint32(appendStored(out, end, true), sum.Sum32())
}

// appendStored appends data as blocks of deflate that are not compressed. With final, the last one ends the stream.
func appendStored(out, data []byte, final bool) []byte {
	for last := false; !last; {
		n := min(len(data), maxStored)
		last = n == len(data)
		kind := byte(0)
		if last && final {
			kind = 1
		}
		out = append(out, kind)
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
		out = binary.LittleEndian.AppendUint16(out, ^uint16(n))
		out = append(out, data[:n]...)
		data = data[n:]
	}
	return out
}
