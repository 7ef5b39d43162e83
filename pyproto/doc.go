// Package pyproto has the wire format of Mitogen: frames, handles, messages, and the pickles inside of them. It knows
// nothing of connections or processes, and imports nothing of this module.
//
//	bytes of a stream
//	  │ ParseHeader, ReadMessage                     frame.go, message.go
//	  ▼
//	Header{Enc, Dst, Src, Auth, Handle, ReplyTo, Length} + Payload
//	  │ by Enc and Handle: dead reason, plain text, bytes, or
//	  │ Unmarshal                                    decode.go: the machine; container.go, scalar.go: its opcodes
//	  ▼                                              globals.go: the few names that it knows
//	Go values: nil, bool, int64, string, Tuple ...   value.go, dict.go
//	  │ Assign                                       assign.go
//	  ▼
//	the caller's own structs, maps and slices
//
// Marshal goes the whole way back (encode.go, reflect.go).
//
// # A frame
//
// A child asks the master (0) for the module "os2". All numbers of the header are big-endian:
//
//	4d 49            Enc      "MI": pickle or plain text, as the handle has it
//	00 00 00 00      Dst      0, the master
//	00 00 00 05      Src      5, who asks and gets the answer
//	00 00 00 05      Auth     5, under whose authority
//	00 00 00 64      Handle   100, GET_MODULE
//	00 00 00 00      ReplyTo  none: the answer is a message to handle 107
//	00 00 00 03      Length   3 bytes follow
//	6f 73 32         "os2", plain text
//
// and the master says that there is no such module:
//
//	4d 49  00 00 00 05  00 00 00 00  00 00 00 00  00 00 00 6b  00 00 00 00  00 00 00 11
//	80 02            PROTO 2
//	28               MARK
//	58 03 00 00 00   BINUNICODE, 3 bytes (little-endian)
//	6f 73 32           "os2"
//	4e 4e 4e         NONE, NONE, NONE
//	29               EMPTY_TUPLE
//	74               TUPLE, of everything above the mark
//	2e               STOP
//
// # Values
//
// What Unmarshal gives for a Python value, and what Marshal writes:
//
//	Python             Go                     remarks
//	None               nil
//	bool               bool
//	int, long          int64, or *big.Int     *big.Int only for what int64 cannot hold
//	float              float64
//	str (3), unicode   string                 UTF-8; lone surrogates as three bytes each
//	bytes, str (2)     []byte                 so do bytearrays of protocol 5
//	list               []any
//	tuple              Tuple
//	dict               *Dict                  in order, with any hashable key
//	Kwargs             Kwargs                 keyword arguments; names in bytes become text
//	Blob               Blob                   bytes
//	Secret             Secret                 text that prints as a mask
//	Context, Sender    Context, Sender
//	CallError          *CallError             is a Go error
//
// Marshal also takes Go's other integers and floats, named types, pointers (nil is None), slices and arrays (as
// lists; of bytes, as bytes), maps (as dicts, sorted) and structs (as dicts of their exported fields; the tag
// `py:"name,omitempty"` renames a field or leaves out its zero value). Assign is the way back.
//
// A list or dict that a pickle refers to several times is one slice or *Dict in Go as well: a change in one place
// shows in the other. One that contains itself is refused. Marshal writes a value in full at each place.
//
// # Trust
//
// Pickles come from machines that may be hostile. A pickle can name a handful of constructors and nothing else, any
// other name is a *GlobalError. No input makes the decoder panic, recurse without bounds, or allocate more than a
// fixed multiple of its length; see MaxDepth and MaxShared.
//
// That holds for decoding. A value may name one text or list at millions of places, and whatever formats it, writes it
// or walks it does so at each. Who does that with a peer's value measures it first (Limits.Extent). Assign makes text of
// long bytes once.
//
// # Memory
//
// Values of one pickle share allocations: small strings, and the headers that Go puts strings and numbers behind when
// they are in an interface. One that is kept keeps up to a few KB of its neighbours. Appending to a slice never
// writes to a neighbour.
package pyproto
