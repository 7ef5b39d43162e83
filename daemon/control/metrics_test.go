package control

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"mitogend/daemon/wire"
)

// TestMetricsAreDocumented: docs/serve.md has every metric and every counter of stats, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(section, -1) {
		told[m[1]] = true
	}
	there := map[string]bool{}
	descs := make(chan *prometheus.Desc, 100)
	newCollector(nil).Describe(descs)
	close(descs)
	for d := range descs {
		there[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	var stats map[string]any
	text, _ := json.Marshal(wire.Stats{})
	if err := json.Unmarshal(text, &stats); err != nil {
		t.Fatal(err)
	}
	for name := range stats {
		there[name] = true
	}
	for name := range there {
		if !told[name] {
			t.Errorf("docs/serve.md does not have %s", name)
		}
	}
	for name := range told {
		if strings.HasPrefix(name, "mitogend_") && !there[name] {
			t.Errorf("docs/serve.md has %s, which is nowhere else", name)
		}
	}
}
