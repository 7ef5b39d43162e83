package pyproto

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the size of a frame header in bytes. All fields are big-endian.
const HeaderLen = 26

// DefaultMaxMessage is the largest payload, in bytes, that is sent or accepted when nothing else is configured. Every
// Mitogen release has the same default.
const DefaultMaxMessage = 128 << 20

// Enc is the first field of a frame: it is the protocol's magic number and says how the payload is written.
type Enc uint16

const (
	// EncMGC ("MI") leaves the payload's form to the handle: most handles carry a pickle, some raw text. It is the only
	// value that releases before 0.3.39 know; they drop a stream on any other.
	EncMGC Enc = 0x4d49
	// EncPKL is an explicit pickle, written by releases from 0.3.39 on.
	EncPKL Enc = 0x4d4a
	// EncBIN is a payload that is the bytes value itself, without a pickle around it.
	EncBIN Enc = 0x4d4b
)

// Valid reports whether e is one of the three known encodings.
func (e Enc) Valid() bool { return e == EncMGC || e == EncPKL || e == EncBIN }

func (e Enc) String() string {
	switch e {
	case EncMGC:
		return "MGC"
	case EncPKL:
		return "PKL"
	case EncBIN:
		return "BIN"
	}
	return fmt.Sprintf("Enc(%#04x)", uint16(e))
}

// ContextID names one interpreter. 0 is the master; the master hands out all others.
type ContextID uint32

// Header is the fixed part of a frame.
type Header struct {
	Enc Enc
	// Dst is the context that the message is for, Src the one that sent it and gets the reply, Auth the one under whose
	// authority it acts.
	Dst, Src, Auth ContextID
	// Handle is the target in Dst. ReplyTo is the target in Src for the reply: 0 for none, IsDead for a dead message.
	Handle, ReplyTo Handle
	// Length is the payload's size in bytes.
	Length uint32
}

// Put writes h to the first HeaderLen bytes of b, which must be that long. It does not allocate.
func (h *Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	binary.BigEndian.PutUint16(b[0:], uint16(h.Enc))
	binary.BigEndian.PutUint32(b[2:], uint32(h.Dst))
	binary.BigEndian.PutUint32(b[6:], uint32(h.Src))
	binary.BigEndian.PutUint32(b[10:], uint32(h.Auth))
	binary.BigEndian.PutUint32(b[14:], uint32(h.Handle))
	binary.BigEndian.PutUint32(b[18:], uint32(h.ReplyTo))
	binary.BigEndian.PutUint32(b[22:], h.Length)
}

// Append appends the wire form of h to b.
func (h Header) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, HeaderLen)...)
	h.Put(b[n:])
	return b
}

// ParseHeader reads a header from the first HeaderLen bytes of b. An unknown encoding is an error that quotes the
// bytes: the stream is then out of step, or the peer speaks something else, and cannot be read any further.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("pyproto: frame header is %d bytes long, want %d", len(b), HeaderLen)
	}
	h := Header{
		Enc:     Enc(binary.BigEndian.Uint16(b[0:])),
		Dst:     ContextID(binary.BigEndian.Uint32(b[2:])),
		Src:     ContextID(binary.BigEndian.Uint32(b[6:])),
		Auth:    ContextID(binary.BigEndian.Uint32(b[10:])),
		Handle:  Handle(binary.BigEndian.Uint32(b[14:])),
		ReplyTo: Handle(binary.BigEndian.Uint32(b[18:])),
		Length:  binary.BigEndian.Uint32(b[22:]),
	}
	if !h.Enc.Valid() {
		return Header{}, fmt.Errorf("pyproto: no frame header: unknown encoding %#04x in %q", uint16(h.Enc),
			b[:HeaderLen])
	}
	return h, nil
}
