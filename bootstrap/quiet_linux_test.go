package bootstrap

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"mitogend/integration/poll"
)

// speakCore says a line on stderr for each byte that it gets.
const speakCore = `
import os
def main(config, source):
    os.write(1, b'MITO002\n')
    while os.read(0, 1):
        os.write(2, b'a line\n')
    os._exit(0)
`

// While a program says nothing on stderr, what reads that has no goroutine, and the handshake's memory is free. What it
// says later is heard.
func TestQuietStderr(t *testing.T) {
	python := anyPython(t)
	for _, stdio := range []Stdio{Pipes, Socketpair, Hybrid, HybridPipes} {
		t.Run(string(stdio), func(t *testing.T) {
			t.Parallel()
			var lines atomic.Int32
			var freed atomic.Bool
			plan := build(t, "local", map[string]any{"python_path": python, "stdio": string(stdio)})
			// The handshake alone has what is in the plan's environment.
			runtime.SetFinalizer(plan, func(*Plan) { freed.Store(true) })
			p := started(t, plan, StartOptions{Preamble: preambleOf(speakCore), Output: func(line string, ready bool) {
				if ready {
					lines.Add(1)
				}
			}})
			plan = nil
			poll.Until(t, "the handshake is free", func() bool {
				runtime.GC()
				return freed.Load()
			})
			e := p.errReader()
			if e == nil {
				t.Fatal("nothing reads stderr")
			}
			for said := int32(1); said <= 2; said++ {
				poll.Until(t, "its reader is parked", e.place.Parked)
				if _, err := p.Writer().Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				poll.Until(t, "the line is there", func() bool { return lines.Load() == said })
			}
			poll.Until(t, "its reader is parked", e.place.Parked)
		})
	}
}

// Close ends a parked reader, also while something else holds stderr open.
func TestQuietStderrCloses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := &Process{errFile: r}
	e := newErrReader(p, nil)
	p.stderr = e
	e.place.Begin(e)
	go e.Resume()
	poll.Until(t, "its reader is parked", e.place.Parked)
	p.closeErr()
	if p.errReader() != nil {
		t.Error("stderr is still read")
	}
	select {
	case <-e.done:
	default:
		t.Error("the reader has not ended")
	}
}
