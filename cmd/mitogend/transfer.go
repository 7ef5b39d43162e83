package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mitogend/daemon/transfer"
	"mitogend/daemon/work"
	"mitogend/pyproto/printable"
)

// transferCommand does the work of put, get and sync.
type transferCommand struct {
	fleetFlags
	options transfer.Options
	pull    bool // sync copies from the target

	moved atomic.Int64 // bytes, of all targets
	total int64        // 0 if it is not known
	begun time.Time
}

func newTransfer(a *app, use, short, long, example string, run func(*transferCommand, *cobra.Command, *app, []string) error) (*cobra.Command, *transferCommand) {
	c := &transferCommand{}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		RunE: withLateFlags(func(cmd *cobra.Command, args []string) error { return run(c, cmd, a, args) }),
	}
	c.register(cmd, "")
	hideImports(cmd)
	cmd.Flags().BoolVar(&c.options.Owner, "owner", false, "keep owner and group, by name where the name is known there")
	cmd.Flags().BoolVar(&c.options.HardLinks, "hard-links", false, "copy a file that has several names once, with all of them")
	cmd.Flags().BoolVar(&c.options.Xattrs, "xattrs", false, "copy extended attributes of files and directories")
	return cmd, c
}

// source looks at what is to be sent.
func (c *transferCommand) source(ctx context.Context, names []string, stdin io.Reader) (*transfer.Source, error) {
	return interruptible(ctx, func() (*transfer.Source, error) {
		if len(names) == 1 && names[0] == "-" {
			return c.spool(stdin)
		}
		s, err := transfer.NewSource(names, c.options)
		if err != nil {
			return nil, usageError{err}
		}
		return s, nil
	})
}

// spool keeps stdin in a file, from which each target takes it at its own pace.
func (c *transferCommand) spool(stdin io.Reader) (*transfer.Source, error) {
	f, err := work.Unnamed("mitogend-stdin-")
	if err == nil {
		_, err = io.Copy(f, stdin)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		return nil, commandError{fmt.Errorf("stdin: %w", cause(err)), statusRaised}
	}
	return transfer.NewFile(f, "stdin")
}

// send does the work of put and sync.
func (c *transferCommand) send(cmd *cobra.Command, a *app, verb string, sources []string, dest string) error {
	if err := noEmpty(verb, sources, dest); err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(t target) string { return verb + " " + strings.Join(sources, " ") + " " + placed(dest, t) }
	if c.dryRun && !c.dryWork {
		return fl.dryRun()
	}
	source, err := c.source(cmd.Context(), sources, cmd.InOrStdin())
	if err != nil {
		fl.discard()
		return err
	}
	c.total = source.Bytes * int64(len(fl.targets))
	return c.each(cmd.Context(), fl, func(ctx context.Context, j *job, o transfer.Options) (*transfer.Result, error) {
		return transfer.Put(ctx, j.child, source, placed(dest, j.target), o)
	})
}

// fetch does the work of get and sync --pull.
func (c *transferCommand) fetch(cmd *cobra.Command, a *app, verb string, sources []string, dest string) error {
	if err := noEmpty(verb, sources, dest); err != nil {
		return err
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	each := len(fl.targets) > 1 && !named(dest) // a directory for each
	if err := c.checkStdout(len(fl.targets), sources, dest); err != nil {
		fl.discard()
		return err
	}
	place := func(t target) string {
		switch {
		case !each:
			return placedHere(dest, t)
		case c.options.Sync:
			return filepath.Join(dest, fileName(t.name))
		}
		return filepath.Join(dest, fileName(t.name)) + "/"
	}
	if err := apart(fl.targets, place); err != nil {
		fl.discard()
		return err
	}
	fl.what = func(t target) string { return verb + " " + placed(strings.Join(sources, " "), t) + " " + place(t) }
	return c.each(cmd.Context(), fl, func(ctx context.Context, j *job, o transfer.Options) (*transfer.Result, error) {
		from := make([]string, len(sources))
		for i, s := range sources {
			from[i] = placed(s, j.target)
		}
		if dest == "-" {
			return transfer.GetTo(ctx, j.child, from[0], j.stdout, o)
		}
		return transfer.Get(ctx, j.child, from, place(j.target), o)
	})
}

// noEmpty refuses what an unset variable leaves: the current directory is written as a dot.
func noEmpty(verb string, sources []string, dest string) error {
	switch {
	case dest == "":
		return usagef("%s: DEST is empty; the current directory is .", verb)
	case slices.Contains(sources, ""):
		return usagef("%s: a SOURCE is empty; the current directory is .", verb)
	}
	return nil
}

// apart refuses targets that would write to one place.
func apart(targets []target, place func(target) string) error {
	first := map[string]target{}
	for _, t := range targets {
		at := filepath.Clean(place(t))
		if other, twice := first[at]; twice {
			return usagef("%s and %s would both write to %s; write {target} into DEST, or leave one of them out", other.name, t.name, at)
		}
		first[at] = t
	}
	return nil
}

// checkStdout refuses what cannot be written to stdout.
func (c *transferCommand) checkStdout(targets int, sources []string, dest string) error {
	switch {
	case dest != "-":
	case c.options.Sync:
		return usagef("sync what with what? Write mitogend sync --pull SOURCE DEST")
	case targets > 1 || len(sources) > 1 || c.json:
		return usagef("get ... -: stdout is for one file of one target, without --json")
	case c.gather:
		return usagef("get ... -: stdout is for the file as it is, without -b")
	}
	return nil
}

// transferRow is the result in --json.
type transferRow struct {
	Files   int        `json:"files"`
	Bytes   int64      `json:"bytes"`
	Sent    int64      `json:"sent"`
	Same    int        `json:"same"`
	Deleted int        `json:"deleted"`
	Errors  []fileText `json:"errors,omitempty"`
	transferNames
}

// transferNames are the names that sync would send and delete, or with -v has. It is safe for concurrent use.
type transferNames struct {
	mu      sync.Mutex // guards the following
	Send    []fileText `json:"send,omitempty"`
	Delete  []fileText `json:"delete,omitempty"`
	LeftOut int        `json:"left_out,omitempty"`
	bytes   int        // of all names
}

// maxListed is how many names each list has, maxListedBytes how much text both have: many targets may be previewed at
// once.
const (
	maxListed      = 10_000
	maxListedBytes = 4 << 20
)

func (n *transferNames) add(action, path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := &n.Send
	if action == "delete" {
		list = &n.Delete
	}
	if len(*list) == maxListed || n.bytes+len(path) > maxListedBytes {
		n.LeftOut++
		return
	}
	n.bytes += len(path)
	*list = append(*list, fileText(path))
}

// each copies for every target.
func (c *transferCommand) each(ctx context.Context, fl *fleet, do func(context.Context, *job, transfer.Options) (*transfer.Result, error)) error {
	c.begun = time.Now()
	fl.line = c.progress
	return fl.each(ctx, func(ctx context.Context, j *job) *outcome {
		o := c.options
		o.OnBytes = func(n int64) { c.moved.Add(n) }
		var row transferRow
		switch {
		case !c.dryRun && fl.app.verbose == 0:
		case c.json:
			o.OnFile = row.add
		default:
			o.OnFile = func(action, path string) { fmt.Fprintf(j.stdout, "%s %s\n", action, printable.Line(path)) }
		}
		r, err := do(ctx, j, o)
		out := &outcome{OK: true}
		if err != nil {
			out = failed(ctx, err)
		}
		if r != nil && c.json {
			row.Files, row.Bytes, row.Sent, row.Same, row.Deleted = r.Files, r.Bytes, r.Sent, r.Same, r.Deleted
			for _, e := range r.Errors {
				row.Errors = append(row.Errors, fileText(e))
			}
			out.write = func(w io.Writer) { writeJSON(noNewline{w}, &row) }
		}
		var incomplete *transfer.Error
		if errors.As(err, &incomplete) {
			out.Error.Message = incomplete.Error()
		}
		return out
	})
}

// progress says how far it is.
func (c *transferCommand) progress() string {
	moved, took := c.moved.Load(), time.Since(c.begun).Seconds()
	rate := float64(moved) / max(took, 0.001)
	text := fmt.Sprintf("%sB", shortBytes(moved))
	if c.total > 0 {
		text += fmt.Sprintf(" of %sB", shortBytes(c.total))
	}
	text += fmt.Sprintf(", %sB/s", shortBytes(int64(rate)))
	if c.total > moved && rate > 0 {
		text += ", " + shortTime(float64(c.total-moved)/rate) + " left"
	}
	return text
}
