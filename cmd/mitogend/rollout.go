package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mitogend/pyproto/printable"
)

// rolloutFlags say how many targets are worked on at once, and when to stop.
type rolloutFlags struct {
	batch   string
	maxFail string
	retry   int
	pause   time.Duration
	dryRun  bool
	dryWork bool // the work itself looks at dryRun
}

func (f *rolloutFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.batch, "batch", "", "work on `N` targets, or N% of all, and begin the next ones when these are done")
	fs.StringVar(&f.maxFail, "max-fail", "", "begin no more targets once more than `N`, or N% of all, have failed or were not reached")
	fs.IntVar(&f.retry, "retry", 0, "if a connect fails, try up to `N` times more; what may have run is never tried again")
	durationVar(fs, &f.pause, "pause", 0, "wait between batches (default none)")
	fs.BoolVar(&f.dryRun, "dry-run", false, "show what would be done on which target, and do nothing")
}

// rollout has the values of these flags for a given number of targets.
type rollout struct {
	batch   int
	maxFail int
	pause   time.Duration
}

func (f *rolloutFlags) plan(targets int) (p rollout, err error) {
	p = rollout{batch: targets, maxFail: math.MaxInt, pause: f.pause}
	if f.batch != "" {
		if p.batch, err = amount(f.batch, targets, true); err != nil || p.batch < 1 {
			return p, usagef("--batch %s: at least 1 target, or a percentage above 0%%", f.batch)
		}
	}
	if f.maxFail != "" {
		if p.maxFail, err = amount(f.maxFail, targets, false); err != nil {
			return p, usagef("--max-fail %s: a number of targets, or a percentage", f.maxFail)
		}
	}
	switch {
	case f.retry < 0:
		return p, usagef("--retry %d: must not be negative", f.retry)
	case f.pause < 0:
		return p, usagef("--pause %v: must not be negative", f.pause)
	case f.pause > 0 && f.batch == "":
		return p, usagef("--pause is between batches: say --batch N as well")
	}
	return p, nil
}

// amount reads N or N% of a number, rounded up or down.
func amount(text string, of int, up bool) (int, error) {
	number, percent := strings.CutSuffix(text, "%")
	if !percent {
		n, err := strconv.Atoi(number)
		if err == nil && n < 0 {
			err = errors.New("negative")
		}
		return n, err
	}
	p, err := strconv.ParseFloat(number, 64)
	if err != nil || !(p >= 0 && p <= 100) {
		return 0, errors.New("no percentage")
	}
	n := p * float64(of) / 100
	if up {
		return int(math.Ceil(n)), nil
	}
	return int(math.Floor(n)), nil
}

// start begins targets, batch by batch, until all have begun, too many have failed, or ctx ends. It does not wait for
// those of the last batch.
func (fl *fleet) start(ctx context.Context, do func(context.Context, *job) *outcome) {
	slots := make(chan struct{}, fl.flags.parallel)
	for i, batch := 0, portions(len(fl.targets), fl.plan.batch); i < len(batch); i++ {
		if i > 0 && fl.plan.pause > 0 && !fl.tooMany() {
			fl.notePause(i, len(batch))
			if !wait(ctx, fl.plan.pause) {
				return
			}
		}
		for _, t := range batch[i].of(fl.targets) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				return
			}
			if fl.tooMany() {
				return
			}
			fl.tally.begin(t.name)
			fl.wg.Go(func() {
				fl.work(ctx, t, do)
				<-slots
			})
		}
		if i < len(batch)-1 {
			for range cap(slots) { // this waits for all of the batch
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
			for range cap(slots) {
				<-slots
			}
		}
	}
}

func (fl *fleet) notePause(done, batches int) {
	fl.app.console.note(fmt.Sprintf("%d of %d batches done; the next one in %v", done, batches, fl.plan.pause))
}

// tooMany tells whether --max-fail forbids more targets to begin.
func (fl *fleet) tooMany() bool { return int(fl.failed.Load()) > fl.plan.maxFail }

// span is a part of a list.
type span struct{ from, to int }

func (s span) of(targets []target) []target { return targets[s.from:s.to] }

// portions cuts n into spans of a size.
func portions(n, size int) (out []span) {
	for i := 0; i < n; i += size {
		out = append(out, span{i, min(i+size, n)})
	}
	return out
}

// wait waits for d. It gives false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dryRun shows what would be done.
func (fl *fleet) dryRun() error {
	for i, s := range portions(len(fl.targets), fl.plan.batch) {
		for _, t := range s.of(fl.targets) {
			what := fl.what(t)
			if fl.flags.json {
				writeJSON(fl.app.console.out, struct {
					Target string `json:"target"`
					Batch  int    `json:"batch"`
					Would  string `json:"would"`
				}{t.name, i + 1, what})
				continue
			}
			batch := ""
			if fl.plan.batch < len(fl.targets) {
				batch = fmt.Sprintf("batch %d: ", i+1)
			}
			fmt.Fprintf(fl.app.console.out, "%s%s: %s\n", batch, printable.Line(strings.TrimSuffix(t.name, ":")), printable.Line(what))
		}
	}
	return nil
}

// unfinished tells which targets have no outcome, for --json.
func (fl *fleet) unfinished(why string) {
	for _, t := range fl.tally.seal(fl.targets) {
		f := &failure{Kind: kindInterrupted, Message: "interrupted; it may have run"}
		if !t.begun {
			f = &failure{Kind: kindNotBegun, Message: why}
		}
		if fl.flags.json {
			out := &outcome{Target: t.target.name, Error: f}
			if t.begun {
				out.write = fl.printed(out.Target).partial()
			}
			fl.app.console.out.together(out.writeJSON)
		}
	}
}
