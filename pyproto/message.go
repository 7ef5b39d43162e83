package pyproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"mitogend/pyproto/printable"
)

// Message is a frame with its payload.
type Message struct {
	Header
	// Payload holds the bytes after the header. Append and WriteTo send its own length, whatever Header.Length says.
	Payload []byte
}

// DeadError is what a dead message says: the peer is gone, has no such handle, or refused.
type DeadError struct {
	// Reason is the text on the wire; it may be empty.
	Reason string
}

func (e *DeadError) Error() string {
	if e.Reason == "" {
		return "the remote end closed the channel"
	}
	return printable.Line(e.Reason)
}

// TooLargeError is a frame whose payload exceeds the limit. The payload has been skipped, the stream stays usable,
// and Header says who is to be answered.
type TooLargeError struct {
	Header Header
	// Max is the limit in bytes that was exceeded.
	Max int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("pyproto: message of %d bytes for handle %v exceeds the limit of %d bytes",
		e.Header.Length, e.Header.Handle, e.Max)
}

// IsDead reports whether m is a dead message.
func (m *Message) IsDead() bool { return m.ReplyTo == IsDead }

// Err gives the *DeadError of a dead message and nil for any other.
func (m *Message) Err() error {
	if !m.IsDead() {
		return nil
	}
	reason := m.Payload
	if !utf8.Valid(reason) {
		reason = []byte(strings.ToValidUTF8(string(reason), "\uFFFD"))
	}
	return &DeadError{Reason: string(reason)}
}

// Value decodes the payload: what EncBIN carries as it is, a pickle otherwise. A dead message is a *DeadError. The
// result of EncBIN shares the payload's memory.
func (m *Message) Value() (any, error) { return m.ValueContext(context.Background()) }

// ValueContext is Value until ctx ends, whose cause the error wraps then.
func (m *Message) ValueContext(ctx context.Context) (any, error) {
	if err := m.Err(); err != nil {
		return nil, err
	}
	if m.Enc == EncBIN {
		return m.Payload, nil
	}
	return DecodeOptions{}.UnmarshalContext(ctx, m.Payload)
}

// Append appends the whole frame to b.
func (m *Message) Append(b []byte) []byte {
	h := m.Header
	h.Length = uint32(len(m.Payload))
	return append(h.Append(b), m.Payload...)
}

// payloadStep bounds what ReadMessage allocates before the peer has sent anything for it.
const payloadStep = 1 << 20

// ReadMessage reads one frame. It reads the header in one go, so r should be buffered. A payload of more than max bytes
// is skipped and reported as *TooLargeError; the stream may be read on after that. io.EOF means an end between frames,
// io.ErrUnexpectedEOF one inside.
func ReadMessage(r io.Reader, max int) (*Message, error) {
	var b [HeaderLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	h, err := ParseHeader(b[:])
	if err != nil {
		return nil, err
	}
	if uint64(h.Length) > uint64(max) {
		if _, err := io.CopyN(io.Discard, r, int64(h.Length)); err != nil {
			return nil, inside(err)
		}
		return nil, &TooLargeError{Header: h, Max: max}
	}
	p, err := readPayload(r, int(h.Length))
	if err != nil {
		return nil, inside(err)
	}
	return &Message{Header: h, Payload: p}, nil
}

// readPayload reads n bytes; memory grows with what has arrived, since the length is only a claim of the peer.
func readPayload(r io.Reader, n int) ([]byte, error) {
	p := make([]byte, min(n, payloadStep))
	for read := 0; ; {
		m, err := io.ReadFull(r, p[read:])
		if err != nil {
			return nil, err
		}
		if read += m; read == n {
			return p, nil
		}
		grown := make([]byte, min(n, 2*len(p)))
		copy(grown, p)
		p = grown
	}
}

func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
