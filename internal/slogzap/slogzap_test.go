package slogzap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// jsonLogger gives a logger and what it has written, line by line.
func jsonLogger(level slog.Level) (*slog.Logger, func(*testing.T) []map[string]any) {
	var out bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level, AddSource: true}))
	return l, func(t *testing.T) (records []map[string]any) {
		t.Helper()
		for line := range strings.Lines(out.String()) {
			var r map[string]any
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			records = append(records, r)
		}
		return records
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

type point struct{ x, y int }

func (p point) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddInt("x", p.x)
	e.AddInt("y", p.y)
	return nil
}

func TestFields(t *testing.T) {
	l, records := jsonLogger(slog.LevelDebug)
	log := Zap(l).Named("daemon").Named("stream").With(zap.String("target", "web1"))
	log.Warn("lost", zap.Int("n", 3), zap.Error(errors.New("gone")), zap.Duration("after", time.Second), zap.Bool("ok", true),
		zap.Strings("names", []string{"a", "b"}), zap.Uint32("id", 7), zap.Skip(), zap.Object("at", point{1, 2}), zap.Inline(point{3, 4}),
		zap.ByteString("text", []byte("t")), zap.Any("map", map[string]int{"k": 1}), zap.Namespace("inner"), zap.Int("n", 4))
	r := records(t)[0]
	want := map[string]any{
		"level": "WARN", "msg": "lost", NameKey: "daemon.stream", "target": "web1", "n": 3., "error": "gone", "after": 1e9, "ok": true,
		"names": []any{"a", "b"}, "id": 7., "at": map[string]any{"x": 1., "y": 2.}, "x": 3., "y": 4., "text": "t", "map": map[string]any{"k": 1.},
		"inner": map[string]any{"n": 4.},
	}
	if _, err := time.Parse(time.RFC3339, r["time"].(string)); err != nil {
		t.Error(err)
	}
	delete(r, "time")
	delete(r, "source")
	equal(t, "record", r, want)
}

// TestSource: a handler that shows the source shows that of who has logged.
func TestSource(t *testing.T) {
	l, records := jsonLogger(slog.LevelDebug)
	_, _, line, _ := runtime.Caller(0)
	Zap(l).Info("here")
	source := records(t)[0]["source"].(map[string]any)
	if source["line"] != float64(line+1) || !strings.HasSuffix(source["function"].(string), "TestSource") {
		t.Errorf("%v, and the line is %d", source, line+1)
	}
}

func TestGroups(t *testing.T) {
	l, records := jsonLogger(slog.LevelDebug)
	Zap(l).With(zap.Int("a", 1), zap.Namespace("one"), zap.Int("b", 2), zap.Namespace("two")).With(zap.Int("c", 3)).Info("m", zap.Int("d", 4))
	r := records(t)[0]
	equal(t, "a", r["a"], 1.)
	equal(t, "one", r["one"], map[string]any{"b": 2., "two": map[string]any{"c": 3., "d": 4.}})
}

func TestLevels(t *testing.T) {
	l, records := jsonLogger(slog.LevelWarn)
	log := Zap(l)
	for _, level := range []zapcore.Level{zap.DebugLevel, zap.InfoLevel, zap.WarnLevel, zap.ErrorLevel, zap.DPanicLevel} {
		equal(t, "enabled at "+level.String(), log.Core().Enabled(level), level >= zap.WarnLevel)
		log.Log(level, level.String())
	}
	var got []string
	for _, r := range records(t) {
		got = append(got, r["msg"].(string)+" "+r["level"].(string))
	}
	equal(t, "logged", got, []string{"warn WARN", "error ERROR", "dpanic ERROR+4"})
	for level, want := range map[slog.Level]zapcore.Level{
		-1000: -128, slog.LevelDebug: zap.DebugLevel, -1: zap.DebugLevel, slog.LevelInfo: zap.InfoLevel, 3: zap.InfoLevel,
		slog.LevelWarn: zap.WarnLevel, slog.LevelError: zap.ErrorLevel, 1000: zap.ErrorLevel,
	} {
		equal(t, level.String(), zapLevel(level), want)
	}
}

// untouched fails a test when it is encoded.
type untouched struct{ t *testing.T }

func (u untouched) MarshalLogObject(zapcore.ObjectEncoder) error {
	u.t.Error("it is encoded")
	return nil
}

func (u untouched) LogValue() slog.Value {
	u.t.Error("it is resolved")
	return slog.Value{}
}

// TestDisabled: a level that is off costs no encoding, nor memory.
func TestDisabled(t *testing.T) {
	l, records := jsonLogger(slog.LevelError)
	log := Zap(l)
	log.Info("m", zap.Object("o", untouched{t}))
	Slog(log).Info("m", "o", untouched{t})
	Slog(zap.New(&core{h: l.Handler()})).Info("m", "o", untouched{t})
	if n := testing.AllocsPerRun(100, func() { log.Info("m") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	equal(t, "records", len(records(t)), 0)
	Zap(nil).Error("nobody", zap.Object("o", untouched{t}))
}

// TestBack: a logger of zap that went by slog is the same again, with what slog has added.
func TestBack(t *testing.T) {
	to, logged := observer.New(zap.InfoLevel)
	log := zap.New(to).Named("n")
	if Zap(Slog(log)) != log {
		t.Error("it is another one")
	}
	Zap(Slog(log).With("a", 1).WithGroup("g")).Info("m", zap.Int("b", 2))
	e := logged.All()[0]
	equal(t, "fields", e.ContextMap(), map[string]any{"a": int64(1), "g": map[string]any{"b": int64(2)}})
	equal(t, "name", e.LoggerName, "n")
}

// TestHandler: what Slog gives is a handler by slog's own rules.
func TestHandler(t *testing.T) {
	var out bytes.Buffer
	config := zap.NewProductionEncoderConfig()
	config.TimeKey, config.LevelKey, config.MessageKey, config.EncodeTime = slog.TimeKey, slog.LevelKey, slog.MessageKey, timeUnlessZero
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(config), zapcore.AddSync(&out), zap.DebugLevel))
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return Slog(log).Handler()
	}, func(t *testing.T) map[string]any {
		var r map[string]any
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	})
	if Slog(log).Handler().Enabled(context.Background(), slog.LevelDebug-4) {
		t.Error("a level below is enabled")
	}
}

func timeUnlessZero(at time.Time, enc zapcore.PrimitiveArrayEncoder) {
	zapcore.RFC3339TimeEncoder(at, enc)
}
