package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/importer"
)

type runCommand struct{ fleetFlags }

func newRun(a *app) *cobra.Command {
	c := &runCommand{}
	cmd := &cobra.Command{
		Use:   "run [flags] SCRIPT [ARG]...",
		Short: "Run a Python program on each target",
		Long: `run makes SCRIPT the main program on each target, with its own sys.argv, stdout, stderr and exit status; its imports
are served from here. For one target, stdin is the program's. SCRIPT - is read from stdin.`,
		Example: `  mitogend run examples/report/report.py
  mitogend run -H ssh:web1,ssh:web2 -I ./lib check.py --fast`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
	}
	c.register(cmd, "the script's directory")
	return cmd
}

func (c *runCommand) run(cmd *cobra.Command, a *app, args []string) error {
	if len(args) == 0 {
		return usagef("run which program? Write mitogend run SCRIPT [ARG]...")
	}
	script, err := readScript(args[0], cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, script.dir(), &importer.Main{Path: script.path, Source: script.source, Run: true}, cmd.InOrStdin())
	if err != nil {
		return err
	}
	stdin := stdinForOne(len(fl.targets))
	if script.path == stdinScript {
		stdin = nil
	}
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		o := daemon.RunOptions{Path: script.path, Source: script.source, Args: args[1:], Stdin: stdin, Stdout: j.stdout, Stderr: j.stderr}
		var stdout, stderr captured
		if c.json {
			o.Stdout, o.Stderr = &stdout, &stderr
		}
		status, err := j.child.Run(ctx, o)
		if err != nil {
			return failed(ctx, err)
		}
		out := c.outcome(status, len(fl.targets) == 1)
		if c.json {
			out.Result = programResult(status, &stdout, &stderr)
		}
		return out
	})
}

// stdinScript is how Python calls a program that it reads from stdin.
const stdinScript = "<stdin>"

type script struct {
	path   string
	source []byte
}

// maxScript bounds a script, so that a wrong path (/dev/zero) is an error and not a full memory.
const maxScript = 64 << 20

func readScript(path string, stdin io.Reader) (script, error) {
	s := script{path: path}
	var r io.Reader
	if path == "-" {
		s.path, r = stdinScript, stdin
	} else {
		// Without O_NONBLOCK, a FIFO that nobody writes to would be waited for.
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return s, usagef("there is no script %s", path)
		}
		if err != nil {
			return s, usagef("script %s: %w", path, cause(err))
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return s, usagef("script %s: it is a directory", path)
		}
		r = f
	}
	var err error
	if s.source, err = io.ReadAll(io.LimitReader(r, maxScript+1)); err != nil {
		return s, usagef("script %s: %w", path, cause(err))
	}
	if len(s.source) > maxScript {
		return s, usagef("script %s: it is larger than %d bytes", path, maxScript)
	}
	return s, nil
}

// dir is where Python looks for the script's modules first.
func (s script) dir() string {
	if s.path == stdinScript {
		return "."
	}
	if real, err := filepath.EvalSymlinks(s.path); err == nil {
		return filepath.Dir(real)
	}
	return filepath.Dir(s.path)
}

// outcome says how the program ended. The status of a single one is its own, and a signal's is what a shell makes of it.
func (c *runCommand) outcome(s daemon.ExitStatus, single bool) *outcome {
	out := &outcome{OK: s == daemon.ExitStatus{}}
	switch {
	case out.OK:
		return out
	case s.Signal != 0:
		sig := syscall.Signal(s.Signal)
		out.Error = &failure{Kind: kindCall, Message: fmt.Sprintf("the program was ended by signal %d (%v)", s.Signal, sig)}
		out.status = 128 + s.Signal
	default:
		out.Error = &failure{Kind: kindCall, Message: fmt.Sprintf("the program ended with status %d", s.Code)}
		out.status, out.silent = s.Code, single
	}
	if !single {
		out.status = statusRaised
	}
	return out
}

// maxCaptured is how much of a program's stdout, and of its stderr, --json keeps.
const maxCaptured = 16 << 20

// captured keeps the beginning of what is written to it.
type captured struct {
	bytes.Buffer
	cut bool
}

func (c *captured) Write(p []byte) (int, error) {
	keep := min(len(p), maxCaptured-c.Len())
	c.cut = c.cut || keep < len(p)
	c.Buffer.Write(p[:keep])
	return len(p), nil
}

// programResult is the result of run in --json.
func programResult(s daemon.ExitStatus, stdout, stderr *captured) []byte {
	w := jsonWriter{}
	fmt.Fprintf(&w.buf, `{"status":%d,"signal":%d,"stdout":`, s.Code, s.Signal)
	w.output(stdout)
	w.buf.WriteString(`,"stderr":`)
	w.output(stderr)
	fmt.Fprintf(&w.buf, `,"truncated":%t}`, stdout.cut || stderr.cut)
	return w.buf.Bytes()
}

// output writes what a program printed: as text where it is UTF-8.
func (w *jsonWriter) output(c *captured) {
	if utf8.Valid(c.Bytes()) {
		w.text(c.String())
		return
	}
	w.bytes(c.Bytes())
}
