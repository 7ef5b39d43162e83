// Package slogzap joins the loggers of those who embed mitogend, which are log/slog's, with what mitogend logs by,
// which is zap.
package slogzap

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The keys of what an entry of zap has and a record of slog has not.
const (
	NameKey  = "logger"
	StackKey = "stack"
)

// Zap gives a logger of zap that writes to l. Nil discards all, and what Slog has made becomes what it was made of.
func Zap(l *slog.Logger) *zap.Logger {
	if l == nil {
		return zap.NewNop()
	}
	if h, ok := l.Handler().(*handler); ok {
		return h.log.With(h.groups...)
	}
	return zap.New(&core{h: l.Handler()}, zap.AddCaller())
}

// core is a zapcore.Core that writes to a handler.
type core struct{ h slog.Handler }

// levelOf gives slog's level: its levels are four apart where those of zap are one apart.
func levelOf(l zapcore.Level) slog.Level { return slog.Level(l) * 4 }

func (c *core) Enabled(l zapcore.Level) bool { return c.h.Enabled(context.Background(), levelOf(l)) }

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// With splits the fields at namespaces, which are groups for all that comes behind them.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	h := c.h
	for {
		i := slices.IndexFunc(fields, isNamespace)
		if i < 0 {
			break
		}
		h = withAttrs(h, fields[:i]).WithGroup(fields[i].Key)
		fields = fields[i+1:]
	}
	return &core{h: withAttrs(h, fields)}
}

func withAttrs(h slog.Handler, fields []zapcore.Field) slog.Handler {
	if attrs := attrsOf(fields); len(attrs) > 0 {
		return h.WithAttrs(attrs)
	}
	return h
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, levelOf(e.Level), e.Message, 0)
	if e.Caller.Defined {
		// slog takes a return address, and zap gives the call's.
		r.PC = e.Caller.PC + 1
	}
	if e.LoggerName != "" {
		r.AddAttrs(slog.String(NameKey, e.LoggerName))
	}
	if e.Stack != "" {
		r.AddAttrs(slog.String(StackKey, e.Stack))
	}
	r.AddAttrs(attrsOf(fields)...)
	return c.h.Handle(context.Background(), r)
}

func (c *core) Sync() error { return nil }

func isNamespace(f zapcore.Field) bool { return f.Type == zapcore.NamespaceType }

// attrsOf gives the fields as attributes, those behind a namespace as a group.
func attrsOf(fields []zapcore.Field) []slog.Attr {
	var attrs []slog.Attr
	for i, f := range fields {
		if isNamespace(f) {
			return append(attrs, slog.Attr{Key: f.Key, Value: slog.GroupValue(attrsOf(fields[i+1:])...)})
		}
		attrs = append(attrs, attrOf(f)...)
	}
	return attrs
}

// attrOf has zap itself encode what has no short way. A field may be none, or several.
func attrOf(f zapcore.Field) []slog.Attr {
	switch f.Type {
	case zapcore.StringType:
		return []slog.Attr{slog.String(f.Key, f.String)}
	case zapcore.ErrorType:
		return []slog.Attr{slog.Any(f.Key, f.Interface)}
	}
	enc := zapcore.NewMapObjectEncoder()
	f.AddTo(enc)
	attrs := make([]slog.Attr, 0, len(enc.Fields))
	for _, key := range slices.Sorted(maps.Keys(enc.Fields)) {
		attrs = append(attrs, slog.Any(key, enc.Fields[key]))
	}
	return attrs
}

// Slog gives a logger of slog that writes to l.
func Slog(l *zap.Logger) *slog.Logger { return slog.New(&handler{log: l}) }

// handler is a slog.Handler that writes to a logger of zap.
type handler struct {
	log    *zap.Logger
	groups []zapcore.Field // namespaces in which there is nothing yet: slog leaves out groups that stay empty
}

// zapLevel rounds down. What is above slog's errors is one: zap's levels there end the process.
func zapLevel(l slog.Level) zapcore.Level {
	return zapcore.Level(max(math.MinInt8, min(int(l)>>2, int(zapcore.ErrorLevel))))
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool {
	return h.log.Core().Enabled(zapLevel(l))
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	e := zapcore.Entry{Level: zapLevel(r.Level), Time: r.Time, LoggerName: h.log.Name(), Message: r.Message}
	if ce := h.log.Core().Check(e, nil); ce != nil {
		var attrs []slog.Attr
		r.Attrs(func(a slog.Attr) bool {
			attrs = append(attrs, a)
			return true
		})
		ce.Write(h.fields(attrs)...)
	}
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := h.fields(attrs)
	if len(fields) == 0 {
		return h
	}
	return &handler{log: h.log.With(fields...)}
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &handler{log: h.log, groups: append(slices.Clip(h.groups), zap.Namespace(name))}
}

// fields gives the attributes, behind the groups that they are in; none if there are none.
func (h *handler) fields(attrs []slog.Attr) []zapcore.Field {
	fields := slices.Clip(h.groups)
	for _, a := range attrs {
		fields = append(fields, fieldsOf(a)...)
	}
	if len(fields) == len(h.groups) {
		return nil
	}
	return fields
}

// fieldsOf gives an attribute as fields: none if it is empty, and those of a group without a name.
func fieldsOf(a slog.Attr) []zapcore.Field {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		if a.Equal(slog.Attr{}) {
			return nil
		}
		return []zapcore.Field{zap.Any(a.Key, v.Any())}
	}
	var fields []zapcore.Field
	for _, member := range v.Group() {
		fields = append(fields, fieldsOf(member)...)
	}
	if len(fields) == 0 || a.Key == "" {
		return fields
	}
	return []zapcore.Field{zap.Dict(a.Key, fields...)}
}
