package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/owned"
	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// tracer writes one line for each frame: the time, the direction, the peer, the header, and the payload as JSON.
type tracer struct {
	start    time.Time
	path     string
	complain func(format string, args ...any)
	ended    atomic.Bool // the file could not be written

	mu sync.Mutex
	f  *os.File
}

// newTracer makes the file of --trace. Only the user can read it.
func newTracer(path string, complain func(format string, args ...any)) (*tracer, error) {
	f, err := owned.Replace(path)
	if err != nil {
		return nil, usagef("--trace %s: %w", path, cause(err))
	}
	return &tracer{start: time.Now(), path: path, complain: complain, f: f}, nil
}

// frame is daemon.Options.Trace.
func (t *tracer) frame(f daemon.Frame) {
	if t.ended.Load() {
		return
	}
	text := frameText(f)
	t.mu.Lock()
	defer t.mu.Unlock()
	// Each line is written at once: somebody may watch the file, and a killed process has told everything.
	_, err := fmt.Fprintf(t.f, "%9.3f ms %s", milliseconds(time.Since(t.start)), text)
	t.failed(err)
}

// failed ends a trace that cannot be written, on a full disk say, and tells that once. The work itself goes on.
func (t *tracer) failed(err error) {
	if err != nil && !t.ended.Swap(true) {
		t.complain("--trace %s: %v; the trace ends here", t.path, cause(err))
	}
}

func (t *tracer) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed(t.f.Close())
}

func frameText(f daemon.Frame) string {
	arrow := "<-"
	if f.Out {
		arrow = "->"
	}
	h := f.Header
	reply := h.ReplyTo.String()
	if h.ReplyTo == 0 {
		reply = "none"
	}
	return fmt.Sprintf("%s %s %v dst=%d src=%d auth=%d reply=%s enc=%v %d bytes  %s\n", arrow, printable.Line(f.Peer), h.Handle, h.Dst, h.Src, h.Auth,
		reply, h.Enc, len(f.Payload), printable.Line(clip(payloadText(h, f.Payload))))
}

// maxShown is how much of a payload a trace shows, in bytes.
const maxShown = 500

func clip(text string) string {
	if len(text) > maxShown {
		return strings.ToValidUTF8(text[:maxShown], "") + "..."
	}
	return text
}

// payloadText decodes a payload.
func payloadText(h pyproto.Header, payload []byte) string {
	switch {
	case len(payload) == 0:
		return ""
	case h.ReplyTo == pyproto.IsDead || h.Enc == pyproto.EncBIN || h.Enc == pyproto.EncMGC && h.Handle.Raw():
		return quoted(payload)
	}
	v, err := pyproto.Unmarshal(payload)
	if err != nil {
		if payload[0] != 0x80 { // no pickle at all
			return quoted(payload)
		}
		return strings.Join(strings.Fields(pyproto.Disassemble(payload)), " ") + " (" + err.Error() + ")"
	}
	if e, ok := v.(*pyproto.CallError); ok {
		return "CallError " + quoted([]byte(e.Text))
	}
	if _, err := traceLimits.Extent(v); err != nil {
		return "a value with " + err.Error()
	}
	return string(toJSON(masked(v), false))
}

// traceLimits bound the work for a payload, of which little is shown.
var traceLimits = pyproto.Limits{Bytes: pyproto.DefaultMaxMessage, Values: 1 << 20, Depth: pyproto.MaxDepth, Digits: 10_000}

func quoted(b []byte) string { return fmt.Sprintf("%q", b[:min(len(b), maxShown)]) }

// secretKey matches names of what may be a secret. The launcher of a hop gets answers to prompts under "answer".
var secretKey = regexp.MustCompile(`(?i)pass|secret|token|^answer$`)

const mask = "******"

// masked gives a value in which a mask replaces secrets, which it finds by their names. Long bytes are replaced by
// their length.
func masked(v any) any {
	switch v := v.(type) {
	case []any:
		return maskedList(v)
	case pyproto.Tuple:
		return maskedList(v)
	case []byte:
		return blobText(v)
	case pyproto.Blob:
		return blobText(v)
	case pyproto.Kwargs:
		d := pyproto.NewDict(len(v))
		for _, arg := range v {
			_ = d.Set(arg.Name, maskedItem(arg.Name, arg.Value)) // text can be a key
		}
		return d
	case *pyproto.Dict:
		d := pyproto.NewDict(v.Len())
		for key, value := range v.All() {
			_ = d.Set(key, maskedItem(key, value)) // it was a key before
		}
		return d
	}
	return v
}

func maskedList(items []any) []any {
	out := make([]any, len(items))
	for i, v := range items {
		out[i] = masked(v)
	}
	return out
}

func maskedItem(key, value any) any {
	name, _ := key.(string)
	if b, ok := key.([]byte); ok {
		name = string(b)
	}
	switch value.(type) {
	case string, []byte, pyproto.Blob:
		if secretKey.MatchString(name) {
			return mask
		}
	}
	return masked(value)
}

// blobText keeps a trace readable: sources are compressed, and long.
func blobText(b []byte) any {
	if len(b) <= 64 {
		return b
	}
	return fmt.Sprintf("(%d bytes)", len(b))
}
