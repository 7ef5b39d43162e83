package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mitogend/daemon/transfer"
	"mitogend/daemon/work"
	"mitogend/pyproto/printable"
)

// transferCommand is put, get or sync.
type transferCommand struct {
	fleetFlags
	options transfer.Options
	pull    bool // sync from the target

	moved atomic.Int64 // bytes, of all targets
	total int64        // 0 where it is not known
	begun time.Time
}

func newTransfer(a *app, use, short, long, example string, run func(*transferCommand, *cobra.Command, *app, []string) error) (*cobra.Command, *transferCommand) {
	c := &transferCommand{}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := lateFlags(cmd, args)
			switch {
			case err != nil:
				return err
			case cmd.Flag("help").Changed:
				return cmd.Help()
			}
			return run(c, cmd, a, args)
		},
	}
	c.register(cmd, "")
	hideImports(cmd)
	cmd.Flags().BoolVar(&c.options.Owner, "owner", false, "keep owner and group, by name where the name is known there")
	cmd.Flags().BoolVar(&c.options.HardLinks, "hard-links", false, "keep files that have several names one file")
	return cmd, c
}

func newPut(a *app) *cobra.Command {
	cmd, _ := newTransfer(a, "put [flags] SOURCE... DEST", "Copy files and directories to each target",
		`put copies each SOURCE of this machine, with all that is in a directory, to DEST on each target: into it where it is a
directory there, ends with a slash, or there are several SOURCEs. Modes, times and symbolic links are kept. A file is written beside its
name, checked and renamed; what an interrupted transfer has left of a large one is gone on with. SOURCE - is stdin. In DEST, {target} and
{host} are as in exec.`,
		`  mitogend put README.md /tmp/mitogend-readme.md
  mitogend put -H web app.conf /etc/app/
  mitogend put -H @hosts site/ /srv/www
  pg_dump db | mitogend put -H backup1 - /srv/db-{host}.sql`, (*transferCommand).put)
	return cmd
}

func newGet(a *app) *cobra.Command {
	cmd, _ := newTransfer(a, "get [flags] SOURCE... DEST", "Copy files and directories from each target",
		`get copies each SOURCE of each target to DEST here: of one target as cp does, of several into a directory DEST/TARGET for
each, or to what DEST says with {target} or {host}. DEST - is stdout, for one file of one target. Modes, times and symbolic links are kept.
A file is written beside its name, checked and renamed; what an interrupted transfer has left of a large one is gone on with.`,
		`  mitogend get /etc/hostname /tmp/
  mitogend get -H web /var/log/nginx/access.log logs
  mitogend get -H ssh:web1 '~/report' .
  mitogend get -H ssh:web1 /etc/passwd - | sort`, (*transferCommand).get)
	return cmd
}

func newSync(a *app) *cobra.Command {
	cmd, c := newTransfer(a, "sync [flags] SOURCE DEST", "Make DEST on each target what SOURCE is here, sending what differs",
		`sync makes DEST on each target the same as SOURCE, a file or directory of this machine. It sends files that differ in size or
time, and of large ones the blocks of 256 KiB that differ. With --pull, SOURCE is on the target, and DEST here: of several targets
DEST/TARGET for each, or what DEST says with {target} or {host}. With --dry-run it shows what it would send and delete.`,
		`  mitogend sync --dry-run docs /tmp/docs
  mitogend sync -H web --delete site /srv/www
  mitogend sync -H web --pull /etc/nginx nginx`, (*transferCommand).sync)
	f := cmd.Flags()
	c.options.Sync, c.dryWork = true, true
	f.BoolVar(&c.options.Checksum, "checksum", false, "compare what files hold, and not their sizes and times")
	f.BoolVar(&c.pull, "pull", false, "SOURCE is on the target, and DEST here")
	f.BoolVar(&c.options.Delete, "delete", false, "delete in DEST what is not in SOURCE")
	return cmd
}

// source reads what is to be sent.
func (c *transferCommand) source(ctx context.Context, names []string, stdin io.Reader) (*transfer.Source, error) {
	return interruptible(ctx, func() (*transfer.Source, error) {
		if len(names) == 1 && names[0] == "-" {
			return c.spool(stdin)
		}
		s, err := transfer.NewSource(names, c.options)
		if err != nil {
			return nil, usageError{err}
		}
		if len(s.Errors) > 0 && c.options.Delete {
			return nil, usagef("%s; nothing is deleted while something can not be read", s.Errors[0])
		}
		return s, nil
	})
}

// spool keeps stdin in a file, since each target takes it at its own pace.
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

func (c *transferCommand) put(cmd *cobra.Command, a *app, args []string) error {
	if len(args) < 2 {
		return usagef("put what where? Write mitogend put SOURCE... DEST")
	}
	sources, dest := args[:len(args)-1], args[len(args)-1]
	c.options.Into = len(sources) > 1
	if sources[0] == "-" && (len(sources) > 1 || strings.HasSuffix(dest, "/")) {
		return usagef("put -: stdin has no name; say DEST as the name of a file, and nothing beside -")
	}
	return c.send(cmd, a, "put", sources, dest)
}

func (c *transferCommand) sync(cmd *cobra.Command, a *app, args []string) error {
	if len(args) != 2 || args[0] == "-" {
		return usagef("sync what with what? Write mitogend sync SOURCE DEST")
	}
	c.options.DryRun = c.dryRun
	if c.pull {
		return c.fetch(cmd, a, "sync --pull", args[:1], args[1])
	}
	return c.send(cmd, a, "sync", args[:1], args[1])
}

// send does put and sync.
func (c *transferCommand) send(cmd *cobra.Command, a *app, verb string, sources []string, dest string) error {
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
		return err
	}
	c.total = source.Bytes * int64(len(fl.targets))
	return c.each(cmd.Context(), fl, func(ctx context.Context, j *job, o transfer.Options) (*transfer.Result, error) {
		return transfer.Put(ctx, j.child, source, placed(dest, j.target), o)
	})
}

func (c *transferCommand) get(cmd *cobra.Command, a *app, args []string) error {
	if len(args) < 2 {
		return usagef("get what, and to where? Write mitogend get SOURCE... DEST")
	}
	return c.fetch(cmd, a, "get", args[:len(args)-1], args[len(args)-1])
}

// fetch does get and sync --pull.
func (c *transferCommand) fetch(cmd *cobra.Command, a *app, verb string, sources []string, dest string) error {
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	each := len(fl.targets) > 1 && placed(dest, target{}) == dest // a directory for each
	if dest == "-" && c.options.Sync {
		return usagef("sync what with what? Write mitogend sync --pull SOURCE DEST")
	}
	if dest == "-" && (len(fl.targets) > 1 || len(sources) > 1 || c.json) {
		return usagef("get ... -: stdout is for one file of one target, without --json")
	}
	place := func(t target) string {
		switch {
		case !each:
			return placed(dest, t)
		case c.options.Sync:
			return filepath.Join(dest, fileName(t.name))
		}
		return filepath.Join(dest, fileName(t.name)) + "/"
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

// transferRow is the result in --json.
type transferRow struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Sent    int64    `json:"sent"`
	Same    int      `json:"same"`
	Deleted int      `json:"deleted"`
	Errors  []string `json:"errors,omitempty"`
}

// each copies for every target.
func (c *transferCommand) each(ctx context.Context, fl *fleet, do func(context.Context, *job, transfer.Options) (*transfer.Result, error)) error {
	c.begun = time.Now()
	fl.line = c.progress
	return fl.each(ctx, func(ctx context.Context, j *job) *outcome {
		o := c.options
		o.OnBytes = func(n int64) { c.moved.Add(n) }
		if c.dryRun || fl.app.verbose > 0 {
			o.OnFile = func(action, path string) {
				if !c.json {
					fmt.Fprintf(j.stdout, "%s %s\n", action, printable.Line(path))
				}
			}
		}
		r, err := do(ctx, j, o)
		out := &outcome{OK: true}
		if err != nil {
			out = failed(ctx, err)
		}
		if r != nil && c.json {
			out.write = func(w io.Writer) {
				writeJSON(noNewline{w}, transferRow{r.Files, r.Bytes, r.Sent, r.Same, r.Deleted, r.Errors})
			}
		}
		var incomplete *transfer.Error
		if errors.As(err, &incomplete) {
			out.Error.Message = incomplete.Error()
		}
		return out
	})
}

// noNewline drops the newline at the end of a line.
type noNewline struct{ w io.Writer }

func (n noNewline) Write(p []byte) (int, error) {
	_, err := n.w.Write([]byte(strings.TrimSuffix(string(p), "\n")))
	return len(p), err
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
