package main

import (
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"mitogend/pyproto/printable"
)

// printableLog is an encoder whose records hold nothing that a terminal obeys, and no line that passes for another record.
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
