package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "-relay":
			os.Exit(relayMain(os.Args[2:]))
		case "-driver":
			if err := driverMain(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench driver:", err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(2)
	}
}

func driverMain(args []string) error {
	if len(args) != 1 {
		return errors.New("want one subject")
	}
	switch subject(args[0]) {
	case floor:
		return serveDriver(floorExperiments)
	case ours:
		return serveDriver(oursExperiments)
	case ogrek, gopickle:
		return serveDriver(map[string]experimentFunc{"codec": newCodec})
	}
	return fmt.Errorf("no subject %q", args[0])
}

type options struct {
	rows, subjects        string
	quick, json, list     bool
	growth, verbose       bool
	calm                  time.Duration
	pprof                 string
	peer, mitogen         string
	peers                 int
	root, markdown, plots string
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.rows, "row", "", "measure only these rows and curves: shell patterns, comma-separated (-list names them)")
	f.StringVar(&o.subjects, "subject", "", "measure only these subjects, comma-separated")
	f.BoolVar(&o.quick, "quick", false, "few samples: to see that all works, not to quote")
	f.BoolVar(&o.json, "json", false, "print JSON with all samples")
	f.BoolVar(&o.list, "list", false, "list the rows and their targets")
	f.BoolVar(&o.growth, "growth", false, "measure how cost grows, too (children, sizes, pairs, hops)")
	f.IntVar(&o.peers, "peers", 100, "measure the peers in fleet-* with at most `N` interpreters")
	f.BoolVar(&o.verbose, "v", false, "show what the drivers print")
	f.DurationVar(&o.calm, "calm", 0, "wait up to this long before each measurement until nothing else runs")
	f.StringVar(&o.pprof, "pprof", "", "write CPU profiles of our drivers to this directory")
	f.StringVar(&o.peer, "peer", "/usr/bin/python3", "interpreter that has mitogen and execnet as packages")
	f.StringVar(&o.mitogen, "mitogen", "", "directory with another Mitogen to measure instead of the packaged one")
	f.StringVar(&o.root, "root", "../..", "mitogend's checkout")
	f.StringVar(&o.markdown, "markdown", "", "write the table as markdown, too: into this file, between its two marks")
	f.StringVar(&o.plots, "plots", "", "write SVG plots of -growth to this directory")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for _, p := range strings.Split(o.rows, ",") {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("-row %s: %w", p, err)
		}
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("what is %q?", f.Arg(0))
	}
	return o, nil
}

// checkOutput tells, before a quarter of an hour of measuring, whether its files can be written.
func (o *options) checkOutput() error {
	if o.markdown != "" {
		if _, _, err := aroundMarks(o.markdown); err != nil {
			return fmt.Errorf("-markdown: %w", err)
		}
	}
	for name, dir := range map[string]string{"-plots": o.plots, "-pprof": o.pprof} {
		if dir == "" {
			continue
		}
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = unix.Access(dir, unix.W_OK)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", name, dir, err)
		}
	}
	return nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	rows := slices.DeleteFunc(tableRows(), func(w *row) bool { return !matches(o.rows, w.name) })
	if o.list {
		for _, w := range rows {
			fmt.Printf("%-28s %-70s %s\n", w.name, w.what, w.target.text)
		}
		for _, c := range curves() {
			fmt.Printf("%-28s %s (with -growth)\n", c.name, c.title)
		}
		return nil
	}
	if err := o.checkOutput(); err != nil {
		return err
	}
	b, err := newBed(o.peer)
	if err != nil {
		return err
	}
	defer b.close()
	b.most = o.peers
	r, err := newRunner(b, o)
	if err != nil {
		return err
	}
	if err := b.buildMitogend(ctx, o.root); err != nil {
		r.progress("%v", err)
	}

	rep := report{Machine: describe(b, o.root, r.env)}
	rep.Machine.Quick = o.quick
	specs := map[string]*spec{}
	for _, sp := range tableSpecs() {
		specs[sp.name] = sp
		if slices.ContainsFunc(rows, func(w *row) bool { return needs(w, sp.name) }) {
			r.run(ctx, sp)
		}
	}
	if o.growth {
		rep.Growth = measureGrowth(ctx, r, o.rows)
	}
	rep.Rows = rowsOf(r, rows, specs)
	rep.Machine.LoadEnd = load()
	if ctx.Err() != nil {
		// The samples so far may still be useful to the user, but not as a page.
		return errors.Join(rep.text(os.Stdout), errors.New("interrupted: the last row has fewer samples"))
	}
	return output(&rep, o)
}

// needs is true where the row's figure, or its target, comes from the spec.
func needs(w *row, spec string) bool {
	return w.spec == spec || w.target.limit != nil && strings.TrimSuffix(w.spec, "-delayed") == spec
}

func newRunner(b *bed, o *options) (*runner, error) {
	r := &runner{bed: b, quick: o.quick, calm: o.calm, samples: map[string]map[subject]map[string][]float64{},
		notes: map[string]map[subject]string{}, errs: io.Discard}
	r.progress = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if o.verbose {
		r.errs = os.Stderr
	}
	for _, s := range strings.FieldsFunc(o.subjects, func(c rune) bool { return c == ',' }) {
		known := slices.Concat(subjectsOf[masters], subjectsOf[copies], subjectsOf[codecs])
		if !slices.Contains(known, subject(s)) {
			return nil, fmt.Errorf("no subject %q; there are %v", s, known)
		}
		r.only = append(r.only, subject(s))
	}
	var extra []string
	if o.mitogen != "" {
		dir, err := filepath.Abs(o.mitogen)
		if err != nil {
			return nil, err
		}
		extra = append(extra, "BENCH_MITOGEN="+dir)
	}
	if o.pprof != "" {
		dir, err := filepath.Abs(o.pprof)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return nil, err
		}
		extra = append(extra, "BENCH_PPROF="+dir)
	}
	r.env = b.environ(extra...)
	return r, nil
}

// matches is true where name fits one of the comma-separated shell patterns, and for an empty list.
func matches(patterns, name string) bool {
	return patterns == "" || slices.ContainsFunc(strings.Split(patterns, ","), func(p string) bool {
		ok, _ := path.Match(p, name) // parse has checked the patterns
		return ok
	})
}

// output prints before it writes: what was measured is not lost when a file cannot be written.
func output(rep *report, o *options) error {
	show := rep.text
	if o.json {
		show = rep.json
	}
	err := show(os.Stdout)
	if o.plots != "" {
		for _, c := range rep.Growth {
			err = errors.Join(err, c.plot(o.plots))
		}
	}
	if o.markdown != "" {
		err = errors.Join(err, rep.writeMarkdown(o.markdown))
	}
	return err
}
