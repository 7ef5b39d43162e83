package bootstrap

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the argument tables of docs/targets.md anew")

const (
	targetsPage = "../docs/targets.md"
	tablesBegin = "<!-- tables: go test ./bootstrap -run TestTargetsPage -update -->\n"
)

// TestTargetsPage keeps the user's page and the methods together: its tables are this package's.
func TestTargetsPage(t *testing.T) {
	page, err := os.ReadFile(targetsPage)
	if err != nil {
		t.Fatal(err)
	}
	head, tables, ok := strings.Cut(string(page), tablesBegin)
	if !ok {
		t.Fatalf("%s lacks the line %q", targetsPage, tablesBegin)
	}
	want := argumentTables()
	if *update {
		if err := os.WriteFile(targetsPage, []byte(head+tablesBegin+want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tables != want {
		t.Errorf("the tables of %s are not those of this package: run the command that stands there", targetsPage)
	}
	for _, line := range strings.Split(head, "\n") {
		if target, ok := strings.CutPrefix(line, "    -H "); ok {
			target, _, _ = strings.Cut(target, "  ")
			if _, err := ParseTarget(strings.Trim(target, "'")); err != nil {
				t.Errorf("an example is no target: %v", err)
			}
		}
	}
}

func argumentTables() string {
	var b strings.Builder
	table := func(args []Arg) {
		b.WriteString("\n| argument | kind | meaning |\n|---|---|---|\n")
		for _, a := range args {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", a.Name, a.Kind, a.Doc)
		}
	}
	b.WriteString("\n## Arguments of every method\n")
	table(commonArgs)
	for _, m := range Methods() {
		fmt.Fprintf(&b, "\n## `%s:%s`\n\nReaches %s.\n", m.Name, m.Spec, m.Doc)
		table(m.Args)
	}
	return b.String()
}
