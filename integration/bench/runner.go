package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// runner measures specs and keeps the samples: by spec, subject and metric.
type runner struct {
	bed      *bed
	quick    bool
	calm     time.Duration // how long to wait for a calm machine before each spec
	only     []subject     // if any, only these
	env      []string
	errs     io.Writer // what drivers print on stderr
	progress func(format string, args ...any)

	samples map[string]map[subject]map[string][]float64
	notes   map[string]map[subject]string // why a subject has no figure
}

func (r *runner) subjects(kind string) []subject {
	if kind == "" {
		kind = masters
	}
	var list []subject
	for _, s := range subjectsOf[kind] {
		if len(r.only) == 0 || slices.Contains(r.only, s) {
			list = append(list, s)
		}
	}
	return list
}

// argv is how a subject's driver is started.
func (r *runner) argv(sp *spec, s subject) []string {
	switch {
	case sp.under && s == ours:
		return []string{r.bed.mitogend, "master", "--", r.bed.peer, r.bed.py("mitogen_driver.py")}
	case sp.op == "process", sp.op == "copy":
		// Whole programs are timed from outside, all by the same driver.
		return []string{r.bed.self, "-driver", string(floor)}
	case s == mitogen:
		return []string{r.bed.peer, r.bed.py("mitogen_driver.py")}
	case s == execnet:
		return []string{r.bed.peer, r.bed.py("execnet_driver.py")}
	case s == cpython:
		return []string{r.bed.peer, r.bed.py("codec.py")}
	}
	return []string{r.bed.self, "-driver", string(s)}
}

func (r *runner) start(ctx context.Context, sp *spec, s subject) (*driver, error) {
	p, err := sp.params(r.bed, s)
	if err != nil {
		return nil, err
	}
	limit := sp.limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	return startDriver(ctx, string(s), r.argv(sp, s), r.env, sp.pinned, sp.op, p, limit, r.errs)
}

// run measures one spec on all subjects, a sample of each in turn.
func (r *runner) run(ctx context.Context, sp *spec) {
	reps := sp.reps
	if r.quick {
		reps = sp.quick
	}
	warm := sp.warm
	if r.quick {
		warm = min(warm, 1)
	}
	subjects := r.subjects(sp.kind)
	drivers := map[subject]*driver{}
	defer func() {
		for _, d := range drivers {
			d.stop()
		}
	}()
	leave := func(s subject, err error) {
		if d := drivers[s]; d != nil {
			d.stop()
			delete(drivers, s)
		}
		r.note(sp.name, s, err)
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(o subject) bool { return o == s })
	}
	if r.calm > 0 {
		if busy, err := waitCalm(ctx, r.calm); err != nil {
			r.progress("%-24s starts while other work takes %.0f%% of the machine: %v", sp.name, 100*busy, err)
		}
	}
	begin := time.Now()
	for i := range warm + reps {
		for _, s := range subjects {
			if ctx.Err() != nil {
				return
			}
			if drivers[s] == nil {
				d, err := r.start(ctx, sp, s)
				if err != nil {
					leave(s, err)
					continue
				}
				drivers[s] = d
			}
			m, err := drivers[s].sample(i)
			if err != nil {
				leave(s, err)
				continue
			}
			if i >= warm {
				r.keep(sp.name, s, m)
			}
			if sp.fresh {
				drivers[s].stop()
				delete(drivers, s)
			}
		}
	}
	r.progress("%-24s %2d samples each, %d warm-up, %.1f s", sp.name, reps, warm, time.Since(begin).Seconds())
}

func (r *runner) keep(name string, s subject, m metrics) {
	if r.samples[name] == nil {
		r.samples[name] = map[subject]map[string][]float64{}
	}
	if r.samples[name][s] == nil {
		r.samples[name][s] = map[string][]float64{}
	}
	for k, v := range m {
		r.samples[name][s][k] = append(r.samples[name][s][k], v)
	}
}

func (r *runner) note(name string, s subject, err error) {
	// A subject that has failed has no figure, even if some samples succeeded.
	delete(r.samples[name], s)
	if r.notes[name] == nil {
		r.notes[name] = map[subject]string{}
	}
	text := err.Error()
	if len(text) > 400 { // for example, a chain of a hundred hops
		text = text[:150] + " ... " + text[len(text)-250:]
	}
	r.notes[name][s] = text
	if !errors.Is(err, errUnsupported) {
		r.progress("%-24s %s: %v", name, s, text)
	}
}

// figure gives the measured figure, or nil if there is none.
func (r *runner) figure(name string, s subject, metric string) *figure {
	samples := r.samples[name][s][metric]
	if len(samples) == 0 {
		return nil
	}
	f := newFigure(samples)
	return &f
}
