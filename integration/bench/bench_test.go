package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRowsHaveSpecs(t *testing.T) {
	specs := map[string]*spec{}
	for _, sp := range tableSpecs() {
		if specs[sp.name] != nil {
			t.Errorf("two specs are called %s", sp.name)
		}
		specs[sp.name] = sp
		if sp.reps < 1 || sp.quick < 1 || sp.quick > sp.reps {
			t.Errorf("%s: %d samples, %d quick", sp.name, sp.reps, sp.quick)
		}
	}
	used := map[string]bool{}
	seen := map[string]bool{}
	for _, w := range tableRows() {
		if seen[w.name] {
			t.Errorf("two rows are called %s", w.name)
		}
		seen[w.name] = true
		used[w.spec] = true
		if specs[w.spec] == nil {
			t.Errorf("row %s wants a spec %s that is not there", w.name, w.spec)
		}
	}
	for name := range specs {
		if !used[name] {
			t.Errorf("nothing shows the spec %s", name)
		}
	}
}

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		samples      []float64
		median, half float64
	}{
		{[]float64{3}, 3, 0},
		{[]float64{4, 1, 3, 2, 5}, 3, 1},
		{[]float64{1, 2}, 1.5, 0.25},
	} {
		f := newFigure(c.samples)
		if f.Median != c.median || f.Spread != c.half {
			t.Errorf("%v: median %v spread %v", c.samples, f.Median, f.Spread)
		}
	}
	if f := newFigure(nil); !math.IsNaN(f.Median) {
		t.Errorf("no samples, median %v", f.Median)
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		u    unit
		v    float64
		want string
	}{
		{unitSeconds, 0.0821, "82.1 ms"}, {unitSeconds, 25e-6, "25 us"}, {unitSeconds, 12.345, "12.3 s"},
		{unitBytes, 18_200, "18.2 kB"}, {unitRate, 2.4e9, "2400 MB/s"}, {unitPerSec, 60_000, "60 k/s"}, {unitCount, 29, "29"},
		{unitSeconds, 0, "0 ns"},
	} {
		if got := c.u.format(c.v); got != c.want {
			t.Errorf("%v%s: %q, want %q", c.v, c.u, got, c.want)
		}
	}
}

// TestReached has one row of each direction, on both sides of its target.
func TestReached(t *testing.T) {
	at := func(v float64) medians { return func(string, subject) float64 { return v } }
	low := &row{target: atMost(10, unitCount, 20)}
	high := &row{higher: true, target: atLeast(10, unitCount, 5)}
	for _, c := range []struct {
		r         *row
		v         float64
		ok, known bool
	}{
		{low, 9, true, true}, {low, 11, false, true}, {high, 9, false, true}, {high, 11, true, true},
		{low, math.NaN(), false, false}, {&row{}, 1, false, false},
	} {
		if ok, known := c.r.reached(at(c.v)); ok != c.ok || known != c.known {
			t.Errorf("%v: %v %v", c.v, ok, known)
		}
	}
	if low.target.wanted != 2 || high.target.wanted != 2 {
		t.Errorf("wanted ratios %v and %v", low.target.wanted, high.target.wanted)
	}
}

// TestDelayKeepsOrder sends through a link with delay, and checks the order and the earliest arrival; the latest arrival depends
// on the machine.
func TestDelayKeepsOrder(t *testing.T) {
	rd, wr := io.Pipe()
	const lag = 20 * time.Millisecond
	var out bytes.Buffer
	var first time.Time
	seen := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		delay(writerFunc(func(b []byte) (int, error) {
			if first.IsZero() {
				first = time.Now()
			}
			return out.Write(b)
		}), rd, lag, func(n int) { seen += n })
	}()
	var want bytes.Buffer
	begin := time.Now()
	for i := range 500 {
		line := "line " + strconv.Itoa(i) + "\n"
		want.WriteString(line)
		if _, err := io.WriteString(wr, line); err != nil {
			t.Fatal(err)
		}
	}
	_ = wr.Close()
	<-done
	if first.Sub(begin) < lag {
		t.Errorf("the first byte came after %v", first.Sub(begin))
	}
	if out.String() != want.String() || seen != want.Len() {
		t.Errorf("%d bytes seen, %d came out, %d went in", seen, out.Len(), want.Len())
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestDelayEndsWhenTheFarEndIsGone(t *testing.T) {
	delay(writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe }), endless{}, 0, nil)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestRelayCountsAndPassesTheStatus(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	// The relay works on this process' stdin and stdout, so it runs as a process of its own.
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "BENCH_TEST_RELAY="+count)
	cmd.Stdin = strings.NewReader("12345")
	out, err := cmd.Output()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 7 || string(out) != "12345" {
		t.Fatalf("%q, %v", out, err)
	}
	text, err := os.ReadFile(count)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint(len("-c")+1+len("cat; exit 7")+1, " ", 5); string(text) != want {
		t.Errorf("counted %s, want %s", text, want)
	}
}

func TestMain(m *testing.M) {
	if count := os.Getenv("BENCH_TEST_RELAY"); count != "" {
		os.Exit(relayMain([]string{"-count", count, "--", "/bin/sh", "-c", "cat; exit 7"}))
	}
	if s := os.Getenv("BENCH_TEST_DRIVER"); s != "" {
		if err := driverMain([]string{s}); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestDrivers runs a sample of the floor's call row through the line protocol.
func TestDrivers(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBed(python)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	start := func(op string) (*driver, error) {
		return startDriver(context.Background(), "floor", []string{os.Args[0]}, append(os.Environ(), "BENCH_TEST_DRIVER=floor"), false, op,
			params{"python": python, "floor_child": b.py("floor_child.py"), "n": 10}, time.Minute, os.Stderr)
	}
	d, err := start("calls")
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.sample(0)
	d.stop()
	if err != nil || m["seconds"] <= 0 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := start("hops"); err != errUnsupported {
		t.Errorf("an operation that is not there: %v", err)
	}
}

func TestPlotIsWrittenWhereThereAreFigures(t *testing.T) {
	dir := t.TempDir()
	f := newFigure([]float64{1, 2, 3})
	c := reportCurve{Name: "x", Title: "X", Axis: "n", Unit: unitSeconds, X: []float64{1, 10},
		Figures: map[subject][]*figure{ours: {&f, nil}, floor: {nil, &f}}}
	if err := c.plot(dir); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "x.svg"))
	if err != nil || strings.Count(string(svg), "<circle") != 2 || strings.Contains(string(svg), "NaN") {
		t.Errorf("%v: %s", err, svg)
	}
}

func TestSubjectsOfEachKind(t *testing.T) {
	for kind, list := range subjectsOf {
		if list[0] != ours || !slices.ContainsFunc(tableSpecs(), func(sp *spec) bool { return sp.kind == kind || sp.kind == "" && kind == masters }) {
			t.Errorf("%s: %v", kind, list)
		}
	}
}

// TestOutputIsCheckedFirst: the output is checked before anything is measured.
func TestOutputIsCheckedFirst(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-markdown", page}, {"-markdown", page + ".none"}, {"-plots", page}, {"-pprof", page}} {
		err := run(context.Background(), append(args, "-row", "none", "-peer", "/no/such/python"))
		if err == nil || !strings.HasPrefix(err.Error(), args[0]) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestMarkdownKeepsTheRest(t *testing.T) {
	name := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(name, []byte("before\n"+markBegin+"old\n"+markEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := newFigure([]float64{0.001})
	rep := report{Rows: []reportRow{{Name: "a", What: "something", Unit: unitSeconds, Kind: masters, Figures: map[subject]figure{ours: f}}}}
	if err := rep.writeMarkdown(name); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(name)
	for _, want := range []string{"before\n", "after\n", "| something | 1 ms |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Errorf("the old table is still there: %s", text)
	}
	if err := os.WriteFile(name, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rep.writeMarkdown(name); err == nil {
		t.Error("a page without marks was taken")
	}
}
