package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the result of a run; -json prints it.
type report struct {
	Machine machine       `json:"machine"`
	Rows    []reportRow   `json:"rows"`
	Growth  []reportCurve `json:"growth,omitempty"`
}

type machine struct {
	Date      time.Time         `json:"date"`
	Commit    string            `json:"commit"`
	CPU       string            `json:"cpu"`
	CPUs      int               `json:"cpus"`
	Kernel    string            `json:"kernel"`
	Go        string            `json:"go"`
	Versions  map[string]string `json:"versions"`
	LoadStart float64           `json:"load_start"`
	LoadEnd   float64           `json:"load_end"`
	Quick     bool              `json:"quick"`
}

type reportRow struct {
	Name    string             `json:"name"`
	What    string             `json:"what"`
	Unit    unit               `json:"unit"`
	Kind    string             `json:"kind"`
	Figures map[subject]figure `json:"figures"`
	Notes   map[subject]string `json:"notes,omitempty"`
	// Ratio is how many times better ours is than Mitogen's (for the codec: than CPython's). Wanted is the ratio that was wanted
	// on the day when the target was set.
	Ratio   *float64 `json:"ratio,omitempty"`
	Wanted  float64  `json:"wanted_ratio,omitempty"`
	Target  string   `json:"target,omitempty"`
	Limit   *float64 `json:"limit,omitempty"`
	Reached *bool    `json:"reached,omitempty"`
}

// rowsOf makes the table's rows from the samples. Rows without any figure and without a note were not measured.
func rowsOf(r *runner, rows []*row, specs map[string]*spec) []reportRow {
	all := tableRows() // a target may look at a row that is not shown
	m := func(name string, s subject) float64 {
		for _, w := range all {
			if w.name == name {
				if f := r.figure(w.spec, s, w.metricOf(s)); f != nil {
					return f.Median
				}
			}
		}
		return math.NaN()
	}
	var list []reportRow
	for _, w := range rows {
		kind := specs[w.spec].kind
		if kind == "" {
			kind = masters
		}
		out := reportRow{Name: w.name, What: w.what, Unit: w.unit, Kind: kind, Figures: map[subject]figure{},
			Notes: r.notes[w.spec], Target: w.target.text, Wanted: w.target.wanted}
		for _, s := range subjectsOf[kind] {
			if f := r.figure(w.spec, s, w.metricOf(s)); f != nil {
				out.Figures[s] = *f
			}
		}
		if len(out.Figures) == 0 && len(out.Notes) == 0 {
			continue
		}
		other := mitogen
		switch kind {
		case codecs:
			other = cpython
		case copies:
			other = rsync
		}
		ratio := m(w.name, other) / m(w.name, ours)
		if w.higher {
			ratio = 1 / ratio
		}
		out.Ratio = finite(ratio)
		if w.target.limit != nil {
			out.Limit = finite(w.target.limit(m))
		}
		if ok, known := w.reached(m); known {
			out.Reached = &ok
		}
		list = append(list, out)
	}
	return list
}

func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (w *row) metricOf(s subject) string {
	if s == floor && w.floor != "" {
		return w.floor
	}
	return w.metric
}

// cells gives a row's text: what, one cell for each subject, ratio, target, reached.
func (w reportRow) cells() []string {
	cells := []string{w.What}
	for _, s := range subjectsOf[w.Kind] {
		cell := ""
		if f, ok := w.Figures[s]; ok {
			cell = f.format(w.Unit)
		} else if note := w.Notes[s]; note != "" && note != errUnsupported.Error() {
			cell = "failed"
		}
		cells = append(cells, cell)
	}
	ratio, goal, reached := "", w.Target, ""
	if w.Ratio != nil {
		ratio = significant(*w.Ratio) + "x"
		if w.Wanted > 0 {
			ratio += fmt.Sprintf(" (%s)", significant(w.Wanted))
		}
	}
	if w.Limit != nil && !strings.Contains(goal, w.Unit.format(*w.Limit)) {
		goal += " = " + w.Unit.format(*w.Limit)
	}
	if w.Reached != nil {
		reached = map[bool]string{true: "yes", false: "NO"}[*w.Reached]
	}
	return append(cells, ratio, goal, reached)
}

func heads(kind string) []string {
	list := []string{"what"}
	for _, s := range subjectsOf[kind] {
		list = append(list, string(s))
	}
	better := "ratio to Mitogen (wanted)"
	switch kind {
	case codecs:
		better = "ratio to CPython"
	case copies:
		better = "ratio to rsync"
	}
	return append(list, better, "target", "reached")
}

func (rep *report) text(out io.Writer) error {
	fmt.Fprintln(out, rep.Machine.line())
	for _, kind := range []string{masters, copies, codecs} {
		tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		any := false
		for _, w := range rep.Rows {
			if w.Kind != kind {
				continue
			}
			if !any {
				any = true
				fmt.Fprintln(tw)
				fmt.Fprintln(tw, strings.Join(append([]string{"row"}, heads(kind)...), "\t"))
			}
			fmt.Fprintln(tw, strings.Join(append([]string{w.Name}, w.cells()...), "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	for _, c := range rep.Growth {
		if err := c.text(out); err != nil {
			return err
		}
	}
	return rep.footnotes(out, "")
}

const (
	markBegin = "<!-- bench: begin -->\n"
	markEnd   = "<!-- bench: end -->\n"
)

// aroundMarks gives the text before and after the marks of a file that can be written.
func aroundMarks(name string) (head, foot string, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	old, err := io.ReadAll(f)
	if err != nil {
		return "", "", err
	}
	head, rest, ok := strings.Cut(string(old), markBegin)
	_, foot, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return "", "", fmt.Errorf("%s: no lines %q and %q", name, strings.TrimSpace(markBegin), strings.TrimSpace(markEnd))
	}
	return head, foot, nil
}

// writeMarkdown replaces the text between the marks of a file.
func (rep *report) writeMarkdown(name string) error {
	head, foot, err := aroundMarks(name)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := rep.markdown(&b); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(head+markBegin+"\n"+b.String()+"\n"+markEnd+foot), 0o644)
}

// markdown is the form for docs/performance.md.
func (rep *report) markdown(out io.Writer) error {
	fmt.Fprintf(out, "%s\n", rep.Machine.line())
	for _, kind := range []string{masters, copies, codecs} {
		any := false
		for _, w := range rep.Rows {
			if w.Kind != kind {
				continue
			}
			if !any {
				any = true
				h := heads(kind)
				for i := range h {
					h[i] = strings.ReplaceAll(h[i], "|", `\|`)
				}
				fmt.Fprintf(out, "\n| %s |\n|%s\n", strings.Join(h, " | "), strings.Repeat("---|", len(h)))
			}
			fmt.Fprintf(out, "| %s |\n", strings.Join(w.cells(), " | "))
		}
	}
	return rep.footnotes(out, "\n")
}

func (rep *report) footnotes(out io.Writer, before string) error {
	seen := map[string]bool{}
	for _, w := range rep.Rows {
		for _, s := range subjectsOf[w.Kind] {
			note := w.Notes[s]
			line := fmt.Sprintf("%s, %s: %s", w.Name, s, strings.TrimSpace(note))
			if note == "" || note == errUnsupported.Error() || seen[note] {
				continue
			}
			seen[note] = true
			if _, err := fmt.Fprintf(out, "%s%s\n", before, line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (rep *report) json(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", " ")
	return e.Encode(rep)
}

func (m machine) line() string {
	s := fmt.Sprintf("%s, commit %s. %s, %d CPUs, Linux %s, %s", m.Date.Format("2006-01-02 15:04 MST"), m.Commit, m.CPU, m.CPUs,
		m.Kernel, m.Go)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		s += ", " + name + " " + m.Versions[name]
	}
	s += fmt.Sprintf(". Load average %.2f at the start, %.2f at the end.", m.LoadStart, m.LoadEnd)
	if m.Quick {
		s += " Quick run: few samples."
	}
	return s
}

func describe(b *bed, root string, env []string) machine {
	m := machine{Date: time.Now().UTC(), Go: runtime.Version(), CPUs: runtime.NumCPU(), Versions: map[string]string{}}
	output := func(argv ...string) string {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = root, env
		out, err := cmd.Output()
		if err != nil {
			return "?"
		}
		return strings.TrimSpace(string(out))
	}
	m.Commit = output("git", "rev-parse", "--short", "HEAD")
	if output("git", "status", "--porcelain", "--untracked-files=no") != "" {
		m.Commit += " with changes"
	}
	m.Kernel = output("uname", "-r")
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	m.Versions["Mitogen"] = output(b.peer, "-c", "import os, sys; sys.path[:0] = filter(None, [os.environ.get('BENCH_MITOGEN')]); "+
		"import mitogen; print('.'.join(map(str, mitogen.__version__)))")
	m.Versions["execnet"] = output(b.peer, "-c", "import execnet; print(execnet.__version__)")
	m.Versions["their Python"] = output(b.peer, "-c", "import platform; print(platform.python_version())")
	m.LoadStart = load()
	return m
}

// load is the load average of the last minute.
func load() float64 {
	var v float64
	text, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(text), &v)
	return v
}
