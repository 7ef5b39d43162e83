package wire

import (
	"fmt"
	"time"

	"mitogend/internal/fault"
)

// The kinds of errors.
const (
	KindCall      = "call"      // Python raised
	KindConnect   = "connect"   // the target could not be reached or started
	KindLost      = "lost"      // the connection broke, or the child has no such receiver
	KindTimeout   = "timeout"   // the request's own timeout passed
	KindCancelled = "cancelled" // by the client
	KindUsage     = "usage"     // the request is wrong
	KindUnknown   = "unknown"   // there is no such child or stream on this connection
	KindOverflow  = "overflow"  // a queue was full and something was dropped
	KindShutdown  = "shutdown"  // the daemon is stopping
	KindInternal  = "internal"
)

// Error is the error of a response. Kind and Message are always there.
type Error struct {
	Kind    string `codec:"kind"`
	Message string `codec:"message"`

	// Of KindCall: the whole text as Python sent it, and its parts.
	Type      string `codec:"type,omitempty"`
	Traceback string `codec:"traceback,omitempty"`
	Text      string `codec:"text,omitempty"`

	// Of KindLost and KindShutdown: the function may have run.
	Lost bool `codec:"lost,omitempty"`

	// Of KindConnect and KindLost; of KindShutdown where Lost is set.
	Target string `codec:"target,omitempty"`
	// Of KindConnect: which hop, from 0, of how many, and what bootstrap.Error has. Reason is also of others: the message without the name
	// of the package that it begins with.
	Hop      int      `codec:"hop,omitempty"`
	Hops     int      `codec:"hops,omitempty"`
	Label    string   `codec:"label,omitempty"`
	Step     string   `codec:"step,omitempty"`
	Reason   string   `codec:"reason,omitempty"`
	Hint     string   `codec:"hint,omitempty"`
	Output   []string `codec:"output,omitempty"`
	Status   string   `codec:"status,omitempty"`
	TimedOut bool     `codec:"timed_out,omitempty"`
}

// Error gives the message.
func (e *Error) Error() string { return e.Message }

// size is about what it takes as it is sent, in bytes. Its parts share the memory of Text, but each is sent.
func (e *Error) size() int {
	n := 64 + len(e.Message) + len(e.Type) + len(e.Traceback) + len(e.Text) + len(e.Target) + len(e.Label) + len(e.Step) +
		len(e.Reason) + len(e.Hint) + len(e.Status)
	for _, line := range e.Output {
		n += 16 + len(line)
	}
	return n
}

// Errorf makes an error of a kind.
func Errorf(kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Plain is for fault.Plain.
func (e *Error) Plain() string {
	if e.Reason == "" || e.Kind == KindConnect || e.Kind == KindLost {
		return e.Message
	}
	return e.Reason
}

// Wrap is Errorf for an error as it is.
func Wrap(kind string, err error) *Error {
	e := Errorf(kind, "%v", err)
	if text := fault.Plain(err); text != e.Message {
		e.Reason = text
	}
	return e
}

// TimeoutError is the cause of a context that a request's timeout has ended.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string { return fmt.Sprintf("not done after %v", e.After) }
