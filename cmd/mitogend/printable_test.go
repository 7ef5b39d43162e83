package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLinesOnTerminal(t *testing.T) {
	for _, c := range []struct{ in, terminal, pipe string }{
		{"plain\nrest", "web1| plain\nweb1| rest\n", "web1| plain\nweb1| rest\n"},
		{"\x1b[31mred\x1b[0m\tx\r\n", "web1| \x1b[31mred\x1b[0m\tx\x1b[0m\n", "web1| \x1b[31mred\x1b[0m\tx\r\n"},
		{"up \x1b[1A\rweb2| forged\n", "web1| up \\x1b[1A\\rweb2| forged\n", "web1| up \x1b[1A\rweb2| forged\n"},
		{"\xff\u202e\n\n", "web1| \\xff\\u202e\nweb1| \n", "web1| \xff\u202e\nweb1| \n"},
	} {
		for _, tty := range []bool{true, false} {
			// However it is cut.
			for _, step := range []int{1, 3, 100} {
				var b bytes.Buffer
				l := newLines(&b, "web1| ")
				l.tty = tty
				for in := c.in; in != ""; {
					n := min(step, len(in))
					_, _ = l.Write([]byte(in[:n]))
					in = in[n:]
				}
				_ = l.Close()
				want := c.pipe
				if tty {
					want = c.terminal
				}
				if b.String() != want {
					t.Errorf("%q in steps of %d, terminal %v: %q, not %q", c.in, step, tty, b.String(), want)
				}
			}
		}
	}
	if l := newLines(&bytes.Buffer{}, "we\x1b[1A\nb| "); string(l.prefix) != `we\x1b[1A\nb| ` {
		t.Errorf("the prefix is %q", l.prefix)
	}
}

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
