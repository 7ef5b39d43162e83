package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"mitogend/daemon"
	"mitogend/pyproto/printable"
)

// checkCommand refuses what cannot be given to a command.
func checkCommand(dir string, env, args []string) error {
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usagef("--env %s: not NAME=VALUE", e)
		}
	}
	for _, s := range slices.Concat([]string{dir}, env, args) {
		if strings.Contains(s, "\x00") {
			return usagef("%q: no argument of a command can hold a zero byte", s)
		}
	}
	return nil
}

// programOutput is where the output of a program goes.
type programOutput struct {
	stdout, stderr   io.Writer
	outKept, errKept *captured // nil without --json
}

// output gives the place for the output of a job's program.
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

// release drops the output that was kept.
func (p *programOutput) release() {
	if p != nil && p.outKept != nil {
		p.outKept.release()
		p.errKept.release()
	}
}

// partial gives the result of a program that has no status, for --json: it was given up, interrupted or lost. It is nil
// if the program has printed nothing.
func (p *programOutput) partial() func(io.Writer) {
	if p == nil || p.outKept == nil {
		return nil
	}
	p.outKept.seal()
	p.errKept.seal()
	if p.outKept.size+p.errKept.size == 0 {
		return nil
	}
	return func(w io.Writer) { programResult(w, nil, p.outKept, p.errKept) }
}

// setting tells a program the name of its target, as the user knows it. This is no more than its arguments may hold.
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
		out.write = func(w io.Writer) { programResult(w, &status, p.outKept, p.errKept) }
	}
	return out
}

// programOutcome says how a program ended. On a single target the exit status is the program's own; for a signal it
// is the one that a shell gives.
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

// programResult writes the result of a program for --json. s is nil if nobody knows how it has ended.
func programResult(w io.Writer, s *daemon.ExitStatus, stdout, stderr *captured) {
	if s == nil {
		_, _ = io.WriteString(w, `{"status":null,"signal":null,"stdout":`)
	} else {
		fmt.Fprintf(w, `{"status":%d,"signal":%d,"stdout":`, s.Code, s.Signal)
	}
	writeOutput(w, stdout)
	_, _ = io.WriteString(w, `,"stderr":`)
	writeOutput(w, stderr)
	fmt.Fprintf(w, `,"truncated":%t}`, stdout.cut || stderr.cut)
}

// writeOutput writes what a program has printed, as text if it is UTF-8. If the kept output cannot be read any more, it
// counts as cut off.
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
