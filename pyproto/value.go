package pyproto

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"mitogend/pyproto/printable"
)

// Tuple is a Python tuple. (A list is []any.)
type Tuple []any

// Blob is bytes that Mitogen's peers show as a size instead of their content.
type Blob []byte

// Secret is text that nothing shows: every fmt verb prints a mask.
type Secret string

const secretMask = "[secret]"

// String gives a mask.
func (Secret) String() string { return secretMask }

// GoString gives a mask.
func (Secret) GoString() string { return secretMask }

// Format writes a mask for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(secretMask)) }

// Context is a reference to an interpreter.
type Context struct {
	ID ContextID
	// Name is the context's name, shorter than 100 characters; empty stands for None.
	Name string
}

// Sender is the address of a receiver in some context. One with a reserved handle is not decoded.
type Sender struct {
	Context ContextID
	Handle  Handle
}

// Arg is one keyword argument.
type Arg struct {
	Name  string
	Value any
}

// Kwargs are keyword arguments in their order. Names that a Python 2 peer wrote as bytes are text here.
type Kwargs []Arg

// Get finds an argument by its name.
func (k Kwargs) Get(name string) (any, bool) {
	for i := range k {
		if k[i].Name == name {
			return k[i].Value, true
		}
	}
	return nil, false
}

// Set replaces the argument of that name or appends it.
func (k *Kwargs) Set(name string, v any) {
	for i := range *k {
		if (*k)[i].Name == name {
			(*k)[i].Value = v
			return
		}
	}
	*k = append(*k, Arg{name, v})
}

// MaxCallError is the length from which on Mitogen refuses the text of a CallError, in characters.
const MaxCallError = 10000

// maxContextName is the length from which on Mitogen refuses a context's name, in characters.
const maxContextName = 100

// CallError is an exception that a remote function raised. It is an error.
type CallError struct {
	// Text is "module.Class: message", a newline, and the traceback's lines. A longer text than peers accept is cut in
	// its middle when it is sent.
	Text string
}

func (e *CallError) Error() string {
	text, _ := e.split()
	return printable.Lines(text)
}

// tracebackStart begins every frame of a formatted traceback; the first one ends the message, which may itself have
// several lines.
const tracebackStart = "\n  File \""

func (e *CallError) split() (head, traceback string) {
	if i := strings.Index(e.Text, tracebackStart); i >= 0 {
		return e.Text[:i], e.Text[i+1:]
	}
	return strings.TrimSuffix(e.Text, "\n"), ""
}

// Type is the exception's class with its module, as in "builtins.ValueError", and empty when the text names none.
func (e *CallError) Type() string {
	name, _ := e.typeAndMessage()
	return name
}

// Message is the exception's text without its class.
func (e *CallError) Message() string {
	_, msg := e.typeAndMessage()
	return msg
}

// Traceback is the formatted stack of the remote interpreter, outermost frame first, and empty when none was sent.
func (e *CallError) Traceback() string {
	_, tb := e.split()
	return tb
}

func (e *CallError) typeAndMessage() (name, msg string) {
	head, _ := e.split()
	name, msg, ok := strings.Cut(head, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") {
		return "", head
	}
	return name, strings.TrimPrefix(msg, " ")
}

// fit cuts text to what a peer accepts. The end stays, since it has the innermost frames.
func (e *CallError) fit() string {
	if len(e.Text) < MaxCallError || utf8.RuneCountInString(e.Text) < MaxCallError {
		return e.Text
	}
	const gap = "\n[...]\n"
	r := []rune(e.Text)
	tail := MaxCallError / 2
	head := MaxCallError - 1 - tail - len(gap)
	return string(r[:head]) + gap + string(r[len(r)-tail:])
}

// Text gives what is text in Python 2 and 3 alike: a str of either, which is bytes where it came from 2.
func Text(v any) (text string, ok bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	}
	return "", false
}
