package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"mitogend/daemon"
	"mitogend/daemon/owned"
	"mitogend/pyproto/printable"
)

// printableLog is an encoder. Its records have nothing that a terminal obeys, and no line that looks like another
// record.
type printableLog struct {
	zapcore.Encoder
	console bool // messages and names are not quoted
}

// Clone implements zapcore.Encoder.
func (e printableLog) Clone() zapcore.Encoder { return printableLog{e.Encoder.Clone(), e.console} }

// EncodeEntry implements zapcore.Encoder.
func (e printableLog) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	if e.console {
		entry.Message, entry.LoggerName = printable.Text(entry.Message), printable.Line(entry.LoggerName)
	}
	b, err := e.Encoder.EncodeEntry(entry, fields)
	if err != nil {
		return b, err
	}
	// The fields are JSON in both formats.
	if shown := printable.JSON(b.Bytes()); len(shown) != b.Len() {
		b.Reset()
		_, _ = b.Write(shown)
	}
	return b, nil
}

// Python's log levels.
const (
	levelInfo    = 20
	levelWarning = 30
	levelError   = 40
)

func levelName(level int) string {
	switch {
	case level < levelInfo:
		return "DEBUG"
	case level < levelWarning:
		return "INFO"
	case level < levelError:
		return "WARNING"
	}
	return "ERROR"
}

// leastLevel is the lowest level of children's log records that is shown.
func (a *app) leastLevel() int {
	switch {
	case a.quiet:
		return levelError
	case a.verbose == 0:
		return levelWarning
	case a.verbose == 1:
		return levelInfo
	}
	return 1
}

// childLog prints what code in a child has logged.
func (a *app) childLog(w io.Writer, l daemon.Log) {
	if l.Level >= a.leastLevel() {
		fmt.Fprintf(w, "%s %s: %s\n", levelName(l.Level), printable.Line(l.Logger), printable.Text(l.Text))
	}
}

// logger is the daemon's own log.
func (a *app) logger() *zap.Logger {
	level := zap.WarnLevel
	switch {
	case a.quiet:
		level = zap.ErrorLevel
	case a.verbose == 1:
		level = zap.InfoLevel
	case a.verbose > 1:
		level = zap.DebugLevel
	}
	enc := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		LevelKey: "l", MessageKey: "m", ConsoleSeparator: " ",
		EncodeLevel: func(l zapcore.Level, e zapcore.PrimitiveArrayEncoder) {
			e.AppendString("mitogend: " + l.String() + ":")
		},
	})
	return zap.New(zapcore.NewCore(printableLog{enc, true}, zapcore.AddSync(a.console.err), level))
}

// serviceLog is the log of serve.
type serviceLog struct {
	core   zapcore.Core
	f      *os.File // nil for stderr
	errors atomic.Int64

	complain func(format string, args ...any)
}

// newLog opens the log. Records that cannot be written are counted, so that a full disk stops nothing.
func newLog(s *settings, a *app) (*serviceLog, error) {
	l := &serviceLog{complain: a.console.complain}
	var out interface{ Write([]byte) (int, error) } = os.Stderr
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	if s.logFile != "" {
		f, err := owned.Append(s.logFile)
		if err != nil {
			return nil, usagef("--log-file %s: %w", s.logFile, cause(err))
		}
		l.f, out, tty = f, f, false
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	console := s.logFormat == "console" || s.logFormat == "auto" && tty
	if console {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02 15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	least := zap.DebugLevel
	if a.quiet {
		least = zap.WarnLevel
	}
	l.core = zapcore.NewCore(printableLog{encoder, console}, zapcore.Lock(zapcore.AddSync(&countErrors{w: out, lost: l.lost})), least)
	return l, nil
}

// lost counts a record that could not be written. The first loss is told on stderr, unless stderr is the log.
func (l *serviceLog) lost(err error) {
	if l.errors.Add(1) == 1 && l.f != nil {
		l.complain("--log-file %s: %v; records are lost, and counted (mitogend stats), until it can be written again", l.f.Name(), cause(err))
	}
}

func (l *serviceLog) close() {
	if l.f != nil {
		_ = l.f.Close()
	}
}

// countErrors writes lines, and never fails.
type countErrors struct {
	w    interface{ Write([]byte) (int, error) }
	lost func(error)
	half bool // only the beginning of a line was written
}

func (c *countErrors) Write(p []byte) (int, error) {
	line := p
	if c.half {
		line = append([]byte{'\n'}, p...)
	}
	n, err := c.w.Write(line)
	if err != nil {
		c.lost(err)
	}
	if n > 0 {
		c.half = n < len(line)
	}
	return len(p), nil
}
