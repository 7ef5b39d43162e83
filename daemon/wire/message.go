package wire

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ugorji/go/codec"
)

// Type is the first element of a message.
type Type uint8

// The types of messages.
const (
	Request Type = iota
	Response
	Notification
)

// Message is one message, its parameters and results not decoded yet.
type Message struct {
	Type   Type
	ID     uint32
	Method string
	Params codec.Raw // the map of parameters, nil if there is none
	Error  codec.Raw // nil if there is none
	Result codec.Raw
	Bytes  []byte // all of it; see Reuse
}

// nilByte is msgpack's nil.
const nilByte = 0xc0

// Parse reads the bytes of Reader.Next. Params, Error and Result share their memory.
func Parse(data []byte) (*Message, error) {
	parts, err := split(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadMessage, err)
	}
	var t uint8
	if len(parts) < 3 || Unmarshal(parts[0], &t) != nil {
		return nil, fmt.Errorf("%w: it has no type", ErrBadMessage)
	}
	m := &Message{Type: Type(t), Bytes: data}
	want, id := 4, true
	switch m.Type {
	case Request, Response:
	case Notification:
		want, id = 3, false
	default:
		return nil, fmt.Errorf("%w: its type is %d", ErrBadMessage, t)
	}
	if len(parts) != want {
		return nil, fmt.Errorf("%w: %d elements", ErrBadMessage, len(parts))
	}
	if id {
		if err := Unmarshal(parts[1], &m.ID); err != nil || present(parts[1]) == nil {
			return nil, fmt.Errorf("%w: its msgid is no unsigned number of 32 bits", ErrBadMessage)
		}
		parts = parts[1:]
	}
	if m.Type == Response {
		m.Error, m.Result = present(parts[1]), present(parts[2])
		return m, nil
	}
	if err := Unmarshal(parts[1], &m.Method); err != nil || present(parts[1]) == nil {
		return nil, fmt.Errorf("%w: its method is no text", ErrBadMessage)
	}
	return m, m.params(parts[2])
}

// params takes the map out of the array.
func (m *Message) params(data codec.Raw) error {
	list, err := split(data)
	if err != nil || len(list) > 1 {
		return fmt.Errorf("%w: params are not an array with at most one map", ErrBadMessage)
	}
	if len(list) == 1 {
		m.Params = present(list[0])
	}
	if m.Params != nil && formatOf(m.Params[0]).kind != mapping {
		return fmt.Errorf("%w: params are not an array with at most one map", ErrBadMessage)
	}
	return nil
}

// present is nil for msgpack's nil.
func present(raw codec.Raw) codec.Raw {
	if len(raw) == 0 || raw[0] == nilByte {
		return nil
	}
	return raw
}

// split gives the elements of an array, not decoded.
func split(data []byte) ([]codec.Raw, error) {
	d := decoder{data: data}
	f, n, err := d.head()
	if err != nil || f.kind != array {
		return nil, errors.New("it is no array")
	}
	if n > uint64(len(data)) {
		return nil, errShort
	}
	parts := make([]codec.Raw, n)
	for i := range parts {
		rest := d.data
		if err := d.skip(); err != nil {
			return nil, err
		}
		parts[i] = codec.Raw(rest[:len(rest)-len(d.data)])
	}
	if len(d.data) > 0 {
		return nil, fmt.Errorf("%d bytes too many", len(d.data))
	}
	return parts, nil
}

// PartialID finds the msgid at the beginning of a bad request, so that it can be answered.
func PartialID(data []byte) (id uint32, ok bool) {
	if len(data) < 3 || data[0] != 0x94 || data[1] != byte(Request) {
		return 0, false
	}
	f := formatOf(data[2])
	end := 3 + f.n
	if f.kind != plain || f.size > 0 || uint64(len(data)) < end {
		return 0, false
	}
	return id, Unmarshal(data[2:end], &id) == nil
}

// NewRequest encodes a request into out, which is empty and may have room.
func NewRequest(out []byte, id uint32, method string, params any) ([]byte, error) {
	return appendTo(slices.Grow(out, hint(params)+small), []any{uint8(Request), id, method, arguments(params)})
}

// NewNotification encodes a notification.
func NewNotification(method string, params any) ([]byte, error) {
	return Marshal([]any{uint8(Notification), method, arguments(params)})
}

func arguments(params any) []any {
	if params == nil {
		return []any{}
	}
	return []any{params}
}

// NewResponse encodes a response; err is nil for none.
func NewResponse(id uint32, err *Error, result any) ([]byte, error) {
	if err != nil {
		return Marshal([]any{uint8(Response), id, err, nil})
	}
	return marshal([]any{uint8(Response), id, nil, result}, hint(result))
}
