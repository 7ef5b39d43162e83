package integration

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"mitogend/integration/pythons"
)

//go:embed testdata/corpus.txt
var corpusText string

// corpusProgram uses some of Debian's packages for real.
type corpusProgram struct {
	name     string
	packages []string
	source   string
}

func corpus() (programs []corpusProgram) {
	for _, part := range strings.Split("\n"+corpusText, "\n=== ")[1:] {
		head, source, _ := strings.Cut(part, "\n")
		name, packages, _ := strings.Cut(head, ": ")
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

// TestPackages: real packages, each used by a few lines, print served what they print from the disk. Every third program runs;
// with MITOGEND_LONG all do, and MITOGEND_PACKAGES names the file that the table is written to.
func TestPackages(t *testing.T) {
	py := clean(t, pythons.Of(t, "3.11"))
	to := os.Getenv("MITOGEND_PACKAGES")
	all := to != "" || os.Getenv("MITOGEND_LONG") != ""
	top := corpusDir()
	dir := filepath.Join(top, "usr/lib/python3/dist-packages")
	programs := corpus()
	rows := make([]string, len(programs))
	var mu sync.Mutex
	count := map[string]int{}
	t.Run("of", func(t *testing.T) {
		for i, p := range programs {
			if i%3 != 0 && !all {
				continue
			}
			t.Run(p.name, func(t *testing.T) {
				for _, name := range p.packages {
					if _, err := os.Stat(filepath.Join(top, "."+name)); err != nil {
						pythons.Missing(t, name+" is not unpacked; .ci/corpus does it")
					}
				}
				t.Parallel()
				cwd := t.TempDir()
				script := Write(t, cwd, "program.py", p.source)
				here := py.Local(t, cwd, dir, script)
				if here.Status != 0 {
					t.Fatalf("does not run from the disk: %v", here)
				}
				there := Mitogend(t, cwd, "run", "--trace-imports", "-I", dir, "-H", py.Target(), script)
				trips := "?"
				if m := roundTripsLine.FindStringSubmatch(there.Stderr); m != nil {
					trips = m[2]
				}
				outcome, note := "pass", ""
				switch {
				case there.Status == 0 && there.Stdout == here.Stdout:
				case there.Status != 0 && extensionError.MatchString(there.Stderr):
					outcome, note = "extension", "needs an extension module"
				default:
					outcome, note = "fail", "see the test"
					t.Errorf("from the disk %v\nserved %v", here, there)
				}
				mu.Lock()
				defer mu.Unlock()
				count[outcome]++
				rows[i] = fmt.Sprintf("| %s | %s | %s | %s |\n", p.name, outcome, trips, note)
			})
		}
	})
	t.Logf("%v", count)
	if to == "" {
		return
	}
	rows = slices.DeleteFunc(rows, func(row string) bool { return row == "" })
	text := "# Packages, used for real\n\nWritten by `make packages`: programs of a few lines that use packages of Debian 12 " +
		"(`integration/testdata/corpus.txt`), under Python 3.11 that\nhas none of them. Each prints the same from the disk and served. Round trips are " +
		"questions for modules that were not sent ahead.\n\n| program | | round trips | |\n|---|---|---|---|\n" + strings.Join(rows, "")
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
