package pyproto

import "strconv"

// Handle is the address of a message inside a context. The numbers below FirstDynamic are fixed by the protocol.
type Handle uint32

// The fixed handles. The payload is a pickle unless said otherwise. (107 is LoadModuleHandle, since LoadModule is the
// record that is sent to it.)
const (
	// GetModule asks for a module; the payload is its full name as plain UTF-8.
	GetModule Handle = 100
	// CallFunction calls a function in a child; the payload is a Call.
	CallFunction Handle = 101
	// ForwardLog carries a log record, plain UTF-8: logger, level number and message, separated by NUL.
	ForwardLog Handle = 102
	// AddRoute announces a context below the sender; plain text "id" or "id:name".
	AddRoute Handle = 103
	// DelRoute takes an announcement back; plain text "id".
	DelRoute Handle = 104
	// AllocateID asks the master for a block of context ids; the payload is empty, the reply is the pair (first, end).
	AllocateID Handle = 105
	// Shutdown asks a child to leave; the payload is empty.
	Shutdown Handle = 106
	// LoadModuleHandle brings a module to a child; the payload is a LoadModule.
	LoadModuleHandle Handle = 107
	// ForwardModule asks a parent to pass a module on; plain "context_id NUL fullname".
	ForwardModule Handle = 108
	// Detaching tells a parent that the sender outlives it; the payload is empty, the reply is None.
	Detaching Handle = 109
	// CallService calls a service method; the payload is (service, method, Kwargs).
	CallService Handle = 110
	// StubCallService is used by Mitogen inside one child and is never seen on the wire.
	StubCallService Handle = 111
	// GetResource asks for a data file of a package; the payload is (package, resource). Since 0.3.37.
	GetResource Handle = 112
	// LoadResource answers GetResource. Up to 0.3.40 one pickle of three values, later two pickles in a row.
	LoadResource Handle = 113
)

const (
	// Flow is ours, between neighbours: plain "id:1" asks to be sent nothing more for that context, "id:0" ends it. Stock
	// peers have no such handle and drop it.
	Flow Handle = 990
	// IsDead in Header.ReplyTo marks a dead message: nobody will answer, and the payload is the reason in UTF-8.
	IsDead Handle = 999
	// FirstDynamic is the first handle that a context may give to a receiver of its own.
	FirstDynamic Handle = 1000
)

var handleNames = [...]string{
	"GET_MODULE", "CALL_FUNCTION", "FORWARD_LOG", "ADD_ROUTE", "DEL_ROUTE", "ALLOCATE_ID", "SHUTDOWN", "LOAD_MODULE",
	"FORWARD_MODULE", "DETACHING", "CALL_SERVICE", "STUB_CALL_SERVICE", "GET_RESOURCE", "LOAD_RESOURCE",
}

// String gives the protocol's name of a fixed handle, and the number of any other.
func (h Handle) String() string {
	if h >= GetModule && h <= LoadResource {
		return handleNames[h-GetModule]
	}
	switch h {
	case Flow:
		return "FLOW"
	case IsDead:
		return "IS_DEAD"
	}
	return strconv.FormatUint(uint64(h), 10)
}

// Raw reports whether an EncMGC payload for h is plain text (or empty) rather than a pickle.
func (h Handle) Raw() bool {
	switch h {
	case GetModule, ForwardLog, AddRoute, DelRoute, AllocateID, Shutdown, ForwardModule, Detaching, Flow:
		return true
	}
	return false
}
