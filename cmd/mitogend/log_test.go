package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLogIsPrintable(t *testing.T) {
	const bad = "a\x1b[31m\u009b\x7f\u202e\nmitogend: forged\xff"
	for _, console := range []bool{true, false} {
		config := zapcore.EncoderConfig{MessageKey: "m", NameKey: "n", LevelKey: "l", EncodeLevel: zapcore.LowercaseLevelEncoder, ConsoleSeparator: " "}
		enc := zapcore.NewJSONEncoder(config)
		if console {
			enc = zapcore.NewConsoleEncoder(config)
		}
		var b bytes.Buffer
		log := zap.New(zapcore.NewCore(printableLog{enc, console}, zapcore.AddSync(&b), zap.DebugLevel))
		log.Named(bad).With(zap.String("with", bad)).Warn(bad, zap.String("k"+bad, bad), zap.ByteString("b", []byte(bad)), zap.Strings("s", []string{bad}))
		log.Info("plain é", zap.Int("n", 1))
		for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
			if strings.HasPrefix(line, "mitogend:") || strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x202e }) {
				t.Errorf("line %d: %q", i, line)
			}
		}
		if !strings.Contains(b.String(), "plain é") || !strings.Contains(b.String(), `\u009b`) {
			t.Errorf("the log is %q", b.String())
		}
	}
}
