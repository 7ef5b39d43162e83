package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"mitogend/daemon"
)

// capture writes text in pieces of n bytes.
func capture(s *spool, text string, n int) *captured {
	c := &captured{spool: s}
	for b := []byte(text); len(b) > 0; {
		k := min(n, len(b))
		_, _ = c.Write(b[:k])
		b = b[k:]
	}
	return c
}

func TestCaptured(t *testing.T) {
	broken := &spool{err: errors.New("there is no directory for it")}
	for name, text := range map[string]string{
		"nothing": "", "little": "a\n\x1b", "one block": strings.Repeat("x", spoolBlock), "characters across blocks": strings.Repeat("aé€😀\u2028", 20000),
		"no text": strings.Repeat("x", 3*spoolBlock) + "\xff", "half a character": strings.Repeat("y", spoolBlock-1) + "\xe2\x82",
		"half a character between blocks": strings.Repeat("y", spoolBlock-1) + "\xe2\x82" + strings.Repeat("z", spoolBlock),
		"too much":                        strings.Repeat("0123456789abcdef", maxCaptured/16+1),
	} {
		for _, s := range []*spool{{}, broken} {
			for _, n := range []int{1000, spoolBlock, 1 << 20} {
				c := capture(s, text, n)
				if cap(c.tail) > 2*spoolBlock {
					t.Errorf("%s: %d bytes are in memory", name, cap(c.tail))
				}
				var line bytes.Buffer
				(&outcome{Target: "local:", OK: true, Seconds: 1, write: func(w io.Writer) { programResult(w, &daemon.ExitStatus{}, c, &captured{spool: s}) }}).writeJSON(&line)
				var got struct {
					Result struct {
						Stdout    any
						Truncated bool
					}
				}
				if err := json.Unmarshal(line.Bytes(), &got); err != nil {
					t.Fatal(name, err)
				}
				out, ok := got.Result.Stdout.(string)
				if m, isBytes := got.Result.Stdout.(map[string]any); isBytes {
					data, _ := base64.StdEncoding.DecodeString(m[keyBytes].(string))
					out, ok = string(data), true
				}
				want := text[:min(len(text), maxCaptured)]
				if !ok || out != want || got.Result.Truncated != (len(text) > maxCaptured) || bytes.IndexByte(line.Bytes(), 0x1b) >= 0 {
					t.Errorf("%s: %d bytes of %d, truncated %t", name, len(out), len(want), got.Result.Truncated)
				}
				c.release()
				if int64(len(s.free))*spoolBlock != s.end {
					t.Errorf("%s: %d blocks of %d bytes are free", name, len(s.free), s.end)
				}
			}
			if s.f != nil {
				if _, err := os.Stat(s.f.Name()); !errors.Is(err, os.ErrNotExist) {
					t.Error("the file has a name still: ", err)
				}
				if s.end > maxCaptured {
					t.Errorf("%d bytes of a file for one output", s.end)
				}
				_ = s.f.Close()
			}
		}
	}
}
