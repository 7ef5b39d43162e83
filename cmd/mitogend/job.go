package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"mitogend/daemon"
	"mitogend/pyproto/printable"
)

// job is the work on one target.
type job struct {
	target target
	child  daemon.Remote
	python int // 2 or 3
	// Output goes here: byte by byte of a single target, else by lines with a prefix.
	stdout, stderr io.WriteCloser
	files          *outFiles      // nil without -o
	output         *programOutput // nil until a program has printed something
	more           bool           // log records may come behind the outcome: stdout, stderr and files stay open then
	shown          *outcome       // with more, the outcome once it was shown
}

func (fl *fleet) newJob(t target) *job {
	j := &job{target: t}
	c := fl.app.console
	var files [2]io.WriteCloser
	if fl.outDir != nil {
		var err error
		if j.files, err = fl.outDir.open(t.name); err != nil {
			c.complain("-o %s: %v", j.files.dir, cause(err))
			j.files.told = true
		}
		files = [2]io.WriteCloser{j.files.stdout, j.files.stderr}
	}
	var shown [2]io.WriteCloser
	switch {
	case fl.flags.gather:
		shown = [2]io.WriteCloser{fl.stdouts.writer(t.name), fl.stderrs.writer(t.name)}
	case fl.outDir != nil:
	case len(fl.targets) > 1:
		shown = [2]io.WriteCloser{newLines(c.out, t.name+"| "), newLines(c.err, t.name+"| ")}
	default:
		shown = [2]io.WriteCloser{keepOpen{c.out}, keepOpen{c.err}}
	}
	j.stdout, j.stderr = both(shown[0], files[0]), both(shown[1], files[1])
	return j
}

// drop ends a job that has no outcome. What its program has printed is kept for the end.
func (fl *fleet) drop(j *job) {
	if fl.flags.json && j.output != nil {
		fl.droppedMu.Lock()
		if fl.dropped == nil {
			fl.dropped = map[string][]*programOutput{}
		}
		fl.dropped[j.target.name] = append(fl.dropped[j.target.name], j.output)
		fl.droppedMu.Unlock()
	}
	_ = j.stdout.Close()
	_ = j.stderr.Close()
}

// printed gives what a program has printed that was interrupted on a target, and nil if nothing is known of that.
func (fl *fleet) printed(name string) *programOutput {
	fl.droppedMu.Lock()
	defer fl.droppedMu.Unlock()
	list := fl.dropped[name]
	if len(list) == 0 {
		return nil
	}
	fl.dropped[name] = list[1:]
	return list[0]
}

// close ends the output of a target that has an outcome. The error is that its files lack something.
func (j *job) close(out *outcome) error {
	_ = j.stdout.Close()
	_ = j.stderr.Close()
	if j.files == nil {
		return nil
	}
	reason := ""
	if out.Error != nil {
		reason = printable.Text(out.Error.String())
	}
	if err := j.files.finish(out.program(), reason); err != nil {
		return fmt.Errorf("-o %s: %w", j.files.dir, cause(err))
	}
	return nil
}

// keepOpen is for the console's streams, which no job closes.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// outcome is the result of a job.
type outcome struct {
	Target  string          `json:"target"`
	OK      bool            `json:"ok"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *failure        `json:"error,omitempty"`
	Seconds float64         `json:"seconds"`
	Imports []importRow     `json:"imports,omitempty"`

	write  func(io.Writer)    // writes a result that may be large as JSON; Result is not set then
	ended  *daemon.ExitStatus // the program's
	status int
	silent bool // nothing is printed about the error: the program's exit status tells it
	unmet  bool // --where leaves the target out
}

// program is the exit status of a program. If none has ended, the outcome's own status stands for it.
func (out *outcome) program() int {
	if out.ended != nil {
		return out.ended.Shell()
	}
	return out.status
}

// writeJSON writes the outcome's line. A large result is written piece by piece.
func (out *outcome) writeJSON(w io.Writer) {
	if out.write == nil {
		writeJSON(w, out)
		return
	}
	var head, tail bytes.Buffer
	writeJSON(&head, struct {
		Target string `json:"target"`
		OK     bool   `json:"ok"`
	}{out.Target, out.OK})
	writeJSON(&tail, struct {
		Error   *failure    `json:"error,omitempty"`
		Seconds float64     `json:"seconds"`
		Imports []importRow `json:"imports,omitempty"`
	}{out.Error, out.Seconds, out.Imports})
	_, _ = w.Write(bytes.TrimSuffix(head.Bytes(), []byte("}\n")))
	_, _ = io.WriteString(w, `,"result":`)
	out.write(w)
	_, _ = io.WriteString(w, ",")
	_, _ = w.Write(tail.Bytes()[1:])
}

// failed is the outcome of an error.
func failed(ctx context.Context, err error) *outcome {
	f := explain(ctx, err)
	return &outcome{Error: f, status: f.status()}
}
