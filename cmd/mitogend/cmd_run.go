package main

import (
	"archive/zip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mitogend/daemon"
	"mitogend/daemon/owned"
	"mitogend/importer"
	"mitogend/importer/requirements"
	"mitogend/pyproto/printable"
)

type runCommand struct {
	fleetFlags
	module, inspect bool
}

func newRun(a *app) *cobra.Command {
	c := &runCommand{}
	cmd := &cobra.Command{
		Use:   "run [flags] SCRIPT [ARG]...",
		Short: "Run a Python program on each target",
		Long: `run makes SCRIPT the main program on each target, with its own sys.argv, stdout, stderr and exit status; its imports
are served from here. stdin is the program's; of several targets, each gets all of it. SCRIPT - is read from stdin; a directory or zip file is run
by its __main__.py. With -m, SCRIPT is a module's name. With --interactive, Python's prompt
follows, on one target, where what the program has left can be looked at.`,
		Example: `  mitogend run -I examples/report -I examples/report/vendor examples/report/report.py
  mitogend run -H ssh:web1,ssh:web2 -I ./lib check.py --fast
  mitogend run --interactive -H ssh:web1 check.py
  mitogend run -m http.server 8080`,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
		ValidArgsFunction: c.completeScript,
	}
	c.register(cmd, "the script's directory")
	cmd.Flags().BoolVar(&c.inspect, "interactive", false, "give it a terminal there, and Python's prompt with its names when it has ended; on one target")
	cmd.Flags().BoolVarP(&c.module, "module", "m", false, "SCRIPT is the name of a module, which is run as python -m does")
	return cmd
}

func (c *runCommand) run(cmd *cobra.Command, a *app, args []string) error {
	if len(args) == 0 {
		return usagef("run which program? Write mitogend run SCRIPT [ARG]...")
	}
	if c.inspect && args[0] == "-" && !c.module {
		return usagef("run --interactive: what you type comes by stdin, so that the program cannot; name its file")
	}
	script, err := c.find(args[0], cmd.InOrStdin())
	if err != nil {
		return err
	}
	main := &importer.Main{Path: script.path, Source: script.source, Run: true}
	if c.module {
		main = nil
	}
	lines, python, err := requirements.Script(script.source)
	if err != nil {
		return usagef("script %s: %w", args[0], err)
	}
	c.needs.Lines, c.needs.Python = append(c.needs.Lines, lines...), python
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, script.dir, main, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return "run " + strings.Join(args, " ") }
	o := script.options
	o.Args = args[1:]
	if c.inspect {
		return fl.inspect(cmd.Context(), o)
	}
	stdin := &programInput{}
	if script.path != stdinScript {
		stdin = fl.stdin()
	}
	fl.together = fl.runTogether(o, stdin, nil, fl.hostVars)
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		o := o
		o.HostVars = fl.hostVars(j.target)
		in, done := stdin.reader()
		defer done()
		o.Stdin = in
		return fl.program(ctx, j, o)
	})
}

// inspect runs a program and then Python's prompt.
func (fl *fleet) inspect(ctx context.Context, o daemon.RunOptions) error {
	if !fl.flags.dryRun {
		if err := fl.checkTerminal("run --interactive"); err != nil {
			fl.shutdown()
			return err
		}
	}
	return fl.each(ctx, func(ctx context.Context, j *job) *outcome {
		return fl.interactive(ctx, j, true, func(env []string, rows, columns int) daemon.RunOptions {
			return daemon.TerminalAfter(o, env, j.target.label(), rows, columns)
		})
	})
}

// stdinScript is how Python calls a program that it reads from stdin.
const stdinScript = "<stdin>"

// script is what to run, and where Python looks for its modules first.
type script struct {
	path    string
	source  []byte
	dir     string
	options daemon.RunOptions
}

// maxScript bounds a script, so that a wrong path (/dev/zero) is an error and not a full memory.
const maxScript = 64 << 20

// find reads what is to be run: a file, stdin for -, __main__.py of a directory or archive; or nothing, of a module.
func (c *runCommand) find(name string, stdin io.Reader) (script, error) {
	s := script{path: name, dir: "."}
	var err error
	packed := false
	switch {
	case c.module:
		if strings.Contains(name, "/") || name == "" {
			return s, usagef("-m %s: that is no name of a module", name)
		}
	case name == "-":
		s.path = stdinScript
		s.source, err = readScript(s.path, stdin)
	default:
		if s.source, packed, err = openScript(name); packed {
			s.dir = name
		} else if real, err := filepath.EvalSymlinks(name); err == nil {
			s.dir = filepath.Dir(real)
		}
	}
	if err != nil {
		return s, err
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return s, usagef("the current directory: %w", cause(err))
	}
	s.options = daemon.RunOptions{Path: s.path, Source: s.source, Packed: packed}
	if owned.CheckDir(dir) == nil {
		// Otherwise somebody else may have put modules there.
		s.options.Dir = dir
	}
	if s.path == name && !c.module {
		s.options.File = absolute(name)
	}
	return s, nil
}

// absolute makes a name absolute as Python does: nothing but a leading ./ is cleaned.
func absolute(name string) string {
	cwd, err := os.Getwd()
	if filepath.IsAbs(name) || err != nil {
		return name
	}
	return strings.TrimSuffix(cwd, "/") + "/" + strings.TrimPrefix(name, "./")
}

// openScript reads a script, or __main__.py of a directory or archive.
func openScript(name string) (source []byte, packed bool, err error) {
	// Without O_NONBLOCK, a FIFO that nobody writes to would be waited for.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if !strings.ContainsAny(name, "/.") {
			return nil, false, usagef("there is no script %s; a command is run by mitogend exec -- %s", name, name)
		}
		return nil, false, usagef("there is no script %s", name)
	}
	if err != nil {
		return nil, false, usagef("script %s: %w", name, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		main := filepath.Join(name, mainFile)
		if source, _, err = openScript(main); err != nil {
			return nil, false, usagef("script %s: it is a directory without %s", name, mainFile)
		}
		return source, true, nil
	case info.Mode().IsRegular():
		if zr, err := zip.NewReader(f, info.Size()); err == nil {
			main, err := zr.Open(mainFile)
			if err != nil {
				return nil, false, usagef("script %s: it is an archive without %s", name, mainFile)
			}
			source, err = readScript(name, main)
			return source, true, err
		}
	}
	source, err = readScript(name, f)
	return source, false, err
}

// mainFile is what runs of a directory or archive.
const mainFile = "__main__.py"

func readScript(name string, r io.Reader) ([]byte, error) {
	source, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err != nil {
		return nil, usagef("script %s: %w", name, cause(err))
	}
	if len(source) > maxScript {
		return nil, usagef("script %s: it is larger than %d bytes", name, maxScript)
	}
	return source, nil
}

// programOutput is where what a program prints goes.
type programOutput struct {
	stdout, stderr   io.Writer
	outKept, errKept *captured // nil without --json
}

// output gives that of a job's program.
func (fl *fleet) output(j *job) *programOutput {
	if j.output != nil {
		return j.output
	}
	j.output = &programOutput{stdout: j.stdout, stderr: j.stderr}
	if p := j.output; fl.flags.json {
		p.outKept, p.errKept = &captured{spool: &fl.spool}, &captured{spool: &fl.spool}
		p.stdout, p.stderr = io.MultiWriter(p.outKept, j.stdout), io.MultiWriter(p.errKept, j.stderr)
		if j.files == nil {
			p.stdout, p.stderr = p.outKept, p.errKept
		}
	}
	return j.output
}

// release gives up what was kept.
func (p *programOutput) release() {
	if p != nil && p.outKept != nil {
		p.outKept.release()
		p.errKept.release()
	}
}

// setting tells a program where it is, by the name that the user knows; what a target's name may hold, its arguments could already.
func (t target) setting() string {
	return "MITOGEND_TARGET=" + strings.ReplaceAll(t.name, "\x00", "")
}

// program runs a program on one target and tells how it ended.
func (fl *fleet) program(ctx context.Context, j *job, o daemon.RunOptions) *outcome {
	p := fl.output(j)
	o.Stdout, o.Stderr = p.stdout, p.stderr
	o.Env = slices.Concat(o.Env, []string{j.target.setting()})
	status, err := j.child.Run(ctx, o)
	if err != nil {
		return failed(ctx, err)
	}
	return fl.programEnded(j, status)
}

// programEnded tells how a program ended.
func (fl *fleet) programEnded(j *job, status daemon.ExitStatus) *outcome {
	out := programOutcome(status, len(fl.targets) == 1)
	if p := fl.output(j); fl.flags.json {
		out.write = func(w io.Writer) { programResult(w, status, p.outKept, p.errKept) }
	}
	return out
}

// programOutcome says how a program ended. The status of a single one is its own, and a signal's is what a shell makes of it.
func programOutcome(s daemon.ExitStatus, single bool) *outcome {
	out := &outcome{OK: s == daemon.ExitStatus{}, ended: &s}
	switch {
	case out.OK:
		return out
	case s.Signal != 0:
		sig := syscall.Signal(s.Signal)
		out.Error = &failure{Kind: kindCall, Message: fmt.Sprintf("the program was ended by signal %d (%v)", s.Signal, sig)}
		out.status = s.Shell()
	default:
		out.Error = &failure{Kind: kindCall, Message: fmt.Sprintf("the program ended with status %d", s.Code)}
		out.status, out.silent = s.Code, single
	}
	if !single {
		out.status = statusRaised
	}
	return out
}

// programResult writes the result of run in --json.
func programResult(w io.Writer, s daemon.ExitStatus, stdout, stderr *captured) {
	fmt.Fprintf(w, `{"status":%d,"signal":%d,"stdout":`, s.Code, s.Signal)
	writeOutput(w, stdout)
	_, _ = io.WriteString(w, `,"stderr":`)
	writeOutput(w, stderr)
	fmt.Fprintf(w, `,"truncated":%t}`, stdout.cut || stderr.cut)
}

// writeOutput writes what a program printed: as text where it is UTF-8. What can not be read back any more counts as cut off.
func writeOutput(w io.Writer, c *captured) {
	if c.eachText(func(string) error { return nil }) == nil {
		_, _ = io.WriteString(w, `"`)
		err := c.eachText(func(text string) error {
			var piece jsonWriter
			piece.text(text)
			quoted := printable.JSON(piece.buf.Bytes())
			_, err := w.Write(quoted[1 : len(quoted)-1])
			return err
		})
		c.cut = c.cut || err != nil
		_, _ = io.WriteString(w, `"`)
		return
	}
	fmt.Fprintf(w, `{"%s":"`, keyBytes)
	enc := base64.NewEncoder(base64.StdEncoding, w)
	err := c.each(func(data []byte) error { _, err := enc.Write(data); return err })
	c.cut = c.cut || err != nil
	_ = enc.Close()
	_, _ = io.WriteString(w, `"}`)
}
