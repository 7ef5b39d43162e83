package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/integration/pythons"
)

// What a program prints after its context has ended is written, as without a daemon.
func TestRunPrintsUntilItsEnd(t *testing.T) {
	b := newBed(t, nil)
	pythons.Each(t, func(t *testing.T, py pythons.Python) {
		c := b.connect(t, local(py))
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("it is enough")
		var out strings.Builder
		_, err := c.Run(ctx, daemon.RunOptions{
			Path: "x.py",
			Source: []byte("import sys, time\ntry:\n    sys.stdout.write('up\\n')\n    sys.stdout.flush()\n    while 1: time.sleep(0.01)\n" +
				"except KeyboardInterrupt:\n    print('cleaned')\n    sys.exit(0)\n"),
			Stdin: strings.NewReader("x"),
			Stdout: writerFunc(func(p []byte) {
				out.Write(p)
				cancel(why)
			}),
		})
		if !errors.Is(err, why) || out.String() != "up\ncleaned\n" {
			t.Errorf("%v, %q", err, out.String())
		}
	})
}

// Nobody waits for ever for a program that is given up, nor is shown that one which nobody reads.
func TestRunThatNobodyReads(t *testing.T) {
	b := newBed(t, nil)
	c := b.connect(t, "local:")
	ctx, cancel := context.WithCancelCause(t.Context())
	began := time.Now()
	_, err := c.Run(ctx, daemon.RunOptions{
		Path: "x.py", Source: []byte("import sys, time\nwhile 1:\n    sys.stdout.write('x' * 100000)\n"),
		Stdout: writerFunc(func(p []byte) { cancel(daemon.ErrNobodyReads) }),
	})
	if !errors.Is(err, daemon.ErrNobodyReads) || time.Since(began) > time.Minute {
		t.Error(err)
	}
}

// Input that cannot be read has no end that a program could take for that of all of it.
func TestInputThatFails(t *testing.T) {
	b := newBed(t, nil)
	why := errors.New("the disk is broken")
	for name, r := range map[string]daemon.Remote{"client": b.connect(t, "local:"), "daemon": inProcess(t)} {
		var out strings.Builder
		_, err := r.Run(t.Context(), daemon.RunOptions{
			Path: "x.py", Source: []byte("import sys\nn = len(sys.stdin.read())\nprint('got all')\n"), Stdin: iotest.ErrReader(why),
			Stdout: writerFunc(func(p []byte) { out.Write(p) }),
		})
		if !errors.Is(err, why) || out.Len() > 0 {
			t.Errorf("%s: %v, %q", name, err, out.String())
		}
	}
}

func inProcess(t *testing.T) daemon.Remote {
	t.Helper()
	d, err := daemon.New(daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Shutdown(context.Background()) })
	c, err := d.Connect(t.Context(), "local:")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a generator prints between its values goes to whom the child is told.
func TestCallManyGeneratorsPrint(t *testing.T) {
	b := newBed(t, nil)
	c := b.dial(t, client.Options{})
	m := &client.Many{Places: places(t, pythons.Any(t), 1)}
	call := &client.ManyCalls{Function: "mod:chatty", Convert: daemon.ConvertResult | daemon.ConvertLines}
	var printed strings.Builder
	if err := c.CallMany(t.Context(), m, call, func(o *client.Outcome) {
		if o.Child == nil {
			t.Fatalf("%+v", o)
		}
		o.Child.OnOutput(func(data []byte) { printed.Write(data) })
		_, value := o.Value.(interface{ At(int) (any, any) }).At(0)
		if err := o.Child.Call(t.Context(), "mitogen.plain:more", value, int64(1000)).Err(); err != nil {
			t.Error(err)
		}
		if err := o.Child.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}); err != nil || printed.String() != "now 0\nnow 1\n" {
		t.Errorf("%q, %v", printed.String(), err)
	}
}
