package integration

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is the picture in ARCHITECTURE.md: what each package of ours may import.
var allowed = map[string][]string{
	// For all: they import nothing of ours.
	"pyproto/printable": {},
	"internal/*":        {},
	"pyproto":           {},
	"python":            {},
	"importer":          {"pyproto"},
	"bootstrap":         {},
	"bootstrap/builds":  {"importer"},
	// What owns what is judged by one package for all.
	"importer/requirements": {"importer", "daemon/owned"},
	"python/bytecode":       {"python", "daemon/owned"},
	"daemon":                {"python/bytecode", "bootstrap", "bootstrap/builds", "importer", "pyproto", "python", "importer/requirements"},
	"daemon/owned":          {},
	// Ways in.
	"daemon/control":    {"daemon", "daemon/faults", "daemon/inventory", "daemon/pool", "daemon/socket", "daemon/transfer", "daemon/wire", "daemon/work", "bootstrap", "importer", "pyproto", "python/bytecode"},
	"daemon/client":     {"daemon", "daemon/faults", "daemon/internal/link", "daemon/wire", "daemon/work", "bootstrap", "importer", "pyproto"},
	"daemon/dial":       {"daemon/internal/link", "daemon/socket", "daemon/wire", "pyproto"},
	"daemon/unixclient": {"daemon", "daemon/service", "daemon/socket", "bootstrap", "pyproto"},
	// What they are made of.
	"daemon/inventory":     {"daemon/owned", "bootstrap"},
	"daemon/pool":          {"daemon", "bootstrap", "importer"},
	"daemon/service":       {"daemon", "daemon/socket", "pyproto"},
	"daemon/socket":        {},
	"daemon/transfer":      {"daemon", "python"},
	"daemon/wire":          {"pyproto"},
	"daemon/faults":        {"daemon", "daemon/wire", "bootstrap", "pyproto"},
	"daemon/internal/link": {"daemon/socket", "daemon/wire"},
	"daemon/work":          {"daemon"},
	"docs":                 {},
	"cmd/mitogend":         {"docs", "daemon", "daemon/client", "daemon/control", "daemon/inventory", "daemon/pool", "daemon/socket", "daemon/transfer", "daemon/unixclient", "daemon/wire", "daemon/work", "daemon/owned", "python/bytecode", "bootstrap", "bootstrap/builds", "importer", "pyproto", "importer/requirements"},
	"integration":          {"daemon/client", "daemon/wire", "importer", "integration/*"},
	// What tests of every package share.
	"integration/*": {"integration/*"},
	"examples/*":    {"daemon", "pyproto"},
}

func TestPackagesImportDownwards(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "mitogend/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		name := strings.TrimPrefix(words[0], "mitogend/")
		may, known := allowed[group(name)]
		if !known {
			t.Errorf("package %s is not in the picture", name)
			continue
		}
		for _, imported := range words[1:] {
			of, ours := strings.CutPrefix(imported, "mitogend/")
			if ours && of != "pyproto/printable" && !strings.HasPrefix(of, "internal/") && !slices.Contains(may, group(of)) {
				t.Errorf("%s imports %s", name, of)
			}
		}
	}
}

// group gives the key of allowed for a package.
func group(name string) string {
	if _, ok := allowed[name]; ok {
		return name
	}
	for key := range allowed {
		if prefix, ok := strings.CutSuffix(key, "*"); ok && strings.HasPrefix(name, prefix) {
			return key
		}
	}
	return name
}
