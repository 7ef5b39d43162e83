package integration

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"mitogend/integration/pythons"
)

//go:embed testdata/corpus.txt
var corpusText string

// corpusProgram uses some of Debian's packages.
type corpusProgram struct {
	name     string
	packages []string
	source   string
}

func corpus() (programs []corpusProgram) {
	for _, part := range strings.Split("\n"+corpusText, "\n=== ")[1:] {
		head, source, _ := strings.Cut(part, "\n")
		name, packages, _ := strings.Cut(head, ":")
		programs = append(programs, corpusProgram{name, strings.Fields(packages), source + "\n"})
	}
	return programs
}

// corpusDir is where .ci/corpus unpacks packages.
func corpusDir() string {
	top := os.Getenv("MITOGEND_TREE")
	if top == "" {
		top = "/var/cache/mitogend-tests"
	}
	return filepath.Join(top, "corpus")
}

var (
	roundTripsLine = regexp.MustCompile(`imports: (\d+) messages?, (\d+) round trips?, (\d+) bytes`)
	extensionError = regexp.MustCompile(`is an extension module`)
)

// corpusVersions are the columns of the table; every program has to run under the second one.
var corpusVersions = []string{"3.8", "3.11", "3.13"}

// TestPackages: programs of a few lines, which use real packages and Python's own functions for packages, print the same served and from
// the disk. Every third one runs, under Python 3.11; with MITOGEND_LONG all do, and under other versions if their source allows it.
// MITOGEND_PACKAGES names the file for the table.
func TestPackages(t *testing.T) {
	to := os.Getenv("MITOGEND_PACKAGES")
	all := to != "" || os.Getenv("MITOGEND_LONG") != ""
	programs := corpus()
	table := newCorpusTable(len(programs))
	t.Run("of", func(t *testing.T) {
		for _, version := range corpusVersions {
			if version != "3.11" && !all {
				continue
			}
			t.Run(version, func(t *testing.T) {
				py := clean(t, pythons.Of(t, version))
				for i, p := range programs {
					if i%3 == 0 || all {
						t.Run(p.name, func(t *testing.T) { table.set(i, version, p.run(t, py)) })
					}
				}
			})
		}
	})
	t.Logf("%v", table.count)
	if to != "" {
		if err := os.WriteFile(to, []byte(table.text(programs)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// corpusResult is the result of one program under one Python.
type corpusResult struct{ outcome, trips, note string }

// run runs the program from the disk and served.
func (p corpusProgram) run(t *testing.T, py Python) corpusResult {
	top := corpusDir()
	for _, name := range p.packages {
		if _, err := os.Stat(filepath.Join(top, "."+name)); err != nil {
			pythons.Missing(t, name+" is not unpacked; .ci/corpus does it")
		}
	}
	t.Parallel()
	features, err := filepath.Abs("testdata/features")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "usr/lib/python3/dist-packages")
	cwd := t.TempDir()
	script := Write(t, cwd, "program.py", p.source)
	here := py.Local(t, cwd, features+":"+dir, script)
	if here.Status != 0 && py.Version != "3.11" {
		return corpusResult{"-", "", ""}
	}
	if here.Status != 0 {
		t.Fatalf("does not run from the disk: %v", here)
	}
	there := Mitogend(t, cwd, "run", "--trace-imports", "-I", features, "-I", dir, "-H", py.Target(), script)
	trips := "?"
	if m := roundTripsLine.FindStringSubmatch(there.Stderr); m != nil {
		trips = m[2]
	}
	switch {
	case there.Status == 0 && there.Stdout == here.Stdout:
		return corpusResult{"pass", trips, ""}
	case there.Status != 0 && extensionError.MatchString(there.Stderr):
		return corpusResult{"extension", trips, "needs an extension module"}
	}
	t.Errorf("from the disk %v\nserved %v", here, there)
	return corpusResult{"fail", trips, "see the test"}
}

// corpusTable writes docs/packages.md.
type corpusTable struct {
	mu    sync.Mutex
	rows  []map[string]corpusResult
	count map[string]int
}

func newCorpusTable(programs int) *corpusTable {
	return &corpusTable{rows: make([]map[string]corpusResult, programs), count: map[string]int{}}
}

func (c *corpusTable) set(i int, version string, r corpusResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows[i] == nil {
		c.rows[i] = map[string]corpusResult{}
	}
	c.rows[i][version] = r
	c.count[version+" "+r.outcome]++
}

func (c *corpusTable) text(programs []corpusProgram) string {
	var b strings.Builder
	b.WriteString("# Packages that were tested\n\n`make packages` writes this page. Programs of a few lines (`integration/testdata/corpus.txt`) use packages of Debian 12, and " +
		"Python's own functions\nfor packages, under Pythons that have none of them. \"pass\" means that a program prints the same from the disk and served. A dash " +
		"means that\nit does not run from the disk either: Debian's packages are for its own 3.11. Round trips are questions for modules that were not sent\nahead, under 3.11.\n\n| program |")
	for _, version := range corpusVersions {
		b.WriteString(" " + version + " |")
	}
	b.WriteString(" round trips | |\n|---|" + strings.Repeat("---|", len(corpusVersions)) + "---|---|\n")
	for i, p := range programs {
		fmt.Fprintf(&b, "| %s |", p.name)
		for _, version := range corpusVersions {
			fmt.Fprintf(&b, " %s |", c.rows[i][version].outcome)
		}
		r := c.rows[i]["3.11"]
		fmt.Fprintf(&b, " %s | %s |\n", r.trips, r.note)
	}
	return b.String()
}
