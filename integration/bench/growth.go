package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// curve says how a cost grows along one axis.
type curve struct {
	name, title, axis string
	xunit, unit       unit
	metric            string
	xs                []float64
	spec              func(x int) *spec
}

func curves() []curve {
	children := []float64{1, 10, 100, 400}
	sizes := []float64{100, 1e3, 10e3, 100e3, 1e6, 10e6, 64e6}
	// So many messages that a sample is short, but long enough to be timed.
	bulk := func(x int) *spec { return bulkSpec(fmt.Sprintf("bulk-%d", x), x, max(1, min(500, 4_000_000/x))) }
	return append([]curve{
		{"connect", "Connecting children", "children", unitCount, unitSeconds, "seconds", children, concurrentSpec},
		{"fanout", "One call to each child", "children", unitCount, unitSeconds, "seconds", children, fanoutSpec},
		{"hops", "Call round trip through a chain", "hops", unitCount, unitSeconds, "seconds", []float64{1, 10, 100}, hopsSpec},
		{"modules", "Importing one module", "module's source", unitBytes, unitSeconds, "seconds",
			[]float64{1e3, 10e3, 100e3, 1e6}, moduleSpec},
		{"argument", "One call with an argument", "argument", unitBytes, unitSeconds, "arg_seconds", sizes, bulk},
		{"result", "One call with a result", "result", unitBytes, unitSeconds, "result_seconds", sizes, bulk},
		{"routing", "Routing between pairs of children", "pairs", unitCount, unitRate, "rate", []float64{1, 5, 10, 25, 50},
			func(x int) *spec { return routeSpec(fmt.Sprintf("route-%d", x), x, max(100, 4000/x)) }},
	}, fleetCurves()...)
}

func hopsSpec(x int) *spec {
	return &spec{name: fmt.Sprintf("hops-%d", x), op: "hops", warm: 1, reps: 5, quick: 2,
		params: local("3.11", params{"depth": x, "n": max(20, 1000/x)})}
}

func moduleSpec(x int) *spec {
	const warm, reps = 2, 15
	return &spec{name: fmt.Sprintf("module-%d", x), op: "module", warm: warm, reps: reps, quick: 3,
		params: func(b *bed, s subject) (params, error) {
			dir, prefix, err := b.modules(x, warm+reps)
			if err != nil {
				return nil, err
			}
			p, err := local("3.11", params{"prefix": prefix, "source_dir": dir})(b, s)
			if err == nil {
				p["path"] = []string{b.childDir(), dir}
			}
			return p, err
		}}
}

// reportCurve is a measured curve: for each subject a figure at each x, nil where there is none.
type reportCurve struct {
	Name    string                `json:"name"`
	Title   string                `json:"title"`
	Axis    string                `json:"axis"`
	XUnit   unit                  `json:"x_unit"`
	Unit    unit                  `json:"unit"`
	X       []float64             `json:"x"`
	Figures map[subject][]*figure `json:"figures"`
	// Stops says where subjects have no figure, and why; if several curves share measurements, the first has them.
	Stops []string `json:"stops,omitempty"`
}

func measureGrowth(ctx context.Context, r *runner, filter string) []reportCurve {
	var list []reportCurve
	done := map[string]bool{}
	for _, c := range curves() {
		if !matches(filter, c.name) {
			continue
		}
		out := reportCurve{Name: c.name, Title: c.title, Axis: c.axis, XUnit: c.xunit, Unit: c.unit, X: c.xs,
			Figures: map[subject][]*figure{}}
		for _, x := range c.xs {
			sp := c.spec(int(x))
			measure := !done[sp.name]
			if measure {
				done[sp.name] = true
				r.run(ctx, sp)
			}
			for _, s := range r.subjects(masters) {
				out.Figures[s] = append(out.Figures[s], r.figure(sp.name, s, c.metric))
				if note := r.notes[sp.name][s]; measure && note != "" && note != errUnsupported.Error() {
					out.Stops = append(out.Stops, fmt.Sprintf("%s, %s: %s", s, c.xunit.format(x), note))
				}
			}
		}
		list = append(list, out)
	}
	return list
}

func (c reportCurve) text(out io.Writer) error {
	fmt.Fprintf(out, "\n%s\n", c.Title)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	head := []string{c.Axis}
	for _, s := range subjectsOf[masters] {
		head = append(head, string(s))
	}
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for i, x := range c.X {
		cells := []string{c.XUnit.format(x)}
		for _, s := range subjectsOf[masters] {
			cell := ""
			if list := c.Figures[s]; i < len(list) && list[i] != nil {
				cell = list[i].format(c.Unit)
			}
			cells = append(cells, cell)
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	err := tw.Flush()
	for _, stop := range c.Stops {
		fmt.Fprintln(out, stop)
	}
	return err
}
