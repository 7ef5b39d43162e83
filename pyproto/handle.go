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

// Handles of our own. Stock peers have none of them, and answer with a dead message or drop what comes.
const (
	// Ping has no handler: whoever gets a message for it, Mitogen's own children included, answers with a dead
	// message.
	Ping Handle = 99
	// Allow is plain "first:end", numbers of contexts that its recipient may announce. The hops on the way read it,
	// and refuse every other AddRoute. The recipient knows its numbers already; it refuses the handle, which does no
	// harm.
	Allow Handle = 987
	// Shared brings what several contexts behind a child of ours are sent: eight bytes with its number, four with the
	// handle there, four with the last parent on the way, which makes the message of it, and the payload. Without a
	// payload, it is that which came with the number before. Empty, to a parent: forget all of it.
	Shared Handle = 988
	// LoadCode brings bytecode ahead of its LoadModule: the name, a NUL, the four bytes of a magic number, and what
	// marshal reads, as zlib.
	LoadCode Handle = 989
	// Flow goes between neighbours in the tree: plain "id:1" asks to be sent nothing more for that context, because
	// the queue towards it is full, and "id:0" ends it.
	Flow Handle = 990
	// Connect has the master start a child behind the sender: how the runtime's Router reaches other machines. The
	// payload is a dict.
	Connect Handle = 991
)

const (
	// IsDead in Header.ReplyTo marks a dead message: nobody will answer, and the payload is the reason in UTF-8.
	IsDead Handle = 999
	// FirstDynamic is the first handle that a context may give to a receiver of its own.
	FirstDynamic Handle = 1000
)

var handleNames = [...]string{
	"GET_MODULE", "CALL_FUNCTION", "FORWARD_LOG", "ADD_ROUTE", "DEL_ROUTE", "ALLOCATE_ID", "SHUTDOWN", "LOAD_MODULE",
	"FORWARD_MODULE", "DETACHING", "CALL_SERVICE", "STUB_CALL_SERVICE", "GET_RESOURCE", "LOAD_RESOURCE",
}

var ownNames = map[Handle]string{
	Ping: "PING", Allow: "ALLOW", Shared: "SHARED", LoadCode: "LOAD_CODE", Flow: "FLOW", Connect: "CONNECT", IsDead: "IS_DEAD",
}

// Reserved reports whether h is one of the runtimes' own, on which a context, or a hop on the way to it, acts by the
// sender's authority. A peer must not choose one for an answer, which comes with the authority of whoever answers.
func (h Handle) Reserved() bool { return h >= Ping && h < 120 || h >= 980 && h < IsDead }

// String gives the protocol's name of a fixed handle, and the number of any other.
func (h Handle) String() string {
	if h >= GetModule && h <= LoadResource {
		return handleNames[h-GetModule]
	}
	if name, ok := ownNames[h]; ok {
		return name
	}
	return strconv.FormatUint(uint64(h), 10)
}

// Raw reports whether an EncMGC payload for h is plain text (or empty) rather than a pickle.
func (h Handle) Raw() bool {
	switch h {
	case GetModule, ForwardLog, AddRoute, DelRoute, AllocateID, Shutdown, ForwardModule, Detaching, Flow, Allow, Shared:
		return true
	}
	return false
}
