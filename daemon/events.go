package daemon

import (
	"bytes"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"mitogend/pyproto"
	"mitogend/pyproto/printable"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	Connected EventKind = "connected"
	Lost      EventKind = "lost"   // the connection broke
	Closed    EventKind = "closed" // it was ended from here
)

// Event is something that happened to a child.
type Event struct {
	Time   time.Time
	Kind   EventKind
	ID     pyproto.ContextID
	Target string // ConnectOptions.Name
	Chain  string // the target that it is a name of; empty if it is that itself
	Reason string
}

// Log is a record that code in a child logged.
type Log struct {
	Target  string
	Context pyproto.ContextID
	Logger  string
	Level   int // Python's: 10 debug, 20 info, 30 warning, 40 error, 50 critical
	Text    string
}

func (d *Daemon) event(kind EventKind, c *Child, reason string) {
	reason = printable.Cut(reason, MaxLogText)
	d.log.Debug(string(kind), zap.String("target", c.name), zap.Uint32("context", uint32(c.id)), zap.String("reason", reason))
	if d.opt.OnEvent != nil {
		e := Event{Time: time.Now(), Kind: kind, ID: c.id, Target: c.name, Reason: reason}
		if c.opt.chain != c.name {
			e.Chain = c.opt.chain
		}
		d.opt.OnEvent(e)
	}
}

// onLog handles FORWARD_LOG: logger, level and text between NULs. The logger "stdio" has what the child printed. c is
// nil for a context that this daemon has not connected.
func (d *Daemon) onLog(c *Child, src pyproto.ContextID, payload []byte) {
	parts := bytes.SplitN(payload, []byte{0}, 3)
	if len(parts) != 3 {
		return
	}
	parts[0] = parts[0][:min(len(parts[0]), maxChildName)]
	name := strconv.FormatUint(uint64(src), 10)
	if c != nil {
		name = c.name
	}
	if c != nil && c.runtime != nil && (string(parts[0]) == "stdout" || string(parts[0]) == "stderr") && c.opt.OnOutput != nil {
		// A stock child logs what it prints, line by line.
		c.opt.OnOutput(append(parts[2], '\n'))
		return
	}
	if string(parts[0]) == "stdio" {
		if c != nil && c.tracked.print(parts[2]) {
			return
		}
		if c != nil && c.opt.OnOutput != nil {
			c.opt.OnOutput(parts[2])
			return
		}
		parts[2] = bytes.TrimRight(parts[2], "\n")
	}
	level, err := strconv.Atoi(string(parts[1]))
	if err != nil {
		level = 20
	}
	text := printable.Cut(string(parts[2]), MaxLogText)
	if c != nil && c.opt.OnLog != nil {
		c.opt.OnLog(Log{Target: name, Context: src, Logger: string(parts[0]), Level: level, Text: text})
		return
	}
	entry := d.log.Check(zapLevel(level), text)
	if entry == nil {
		return
	}
	if s := d.streamOf(src); s != nil {
		ok, say, dropped := s.logs.Take(len(text))
		if say {
			d.log.Warn(DroppedLogs, zap.String("target", name), zap.Int("records", dropped))
		}
		if !ok {
			return
		}
	}
	entry.Write(zap.String("target", name), zap.String("logger", string(parts[0])))
}

// DroppedLogs is the line of the log that says how many records of a child a LogLimit has dropped.
const DroppedLogs = "a child logs too much; some of its records were dropped"

func zapLevel(python int) zapcore.Level {
	switch {
	case python < 20:
		return zap.DebugLevel
	case python < 30:
		return zap.InfoLevel
	case python < 40:
		return zap.WarnLevel
	}
	return zap.ErrorLevel
}
