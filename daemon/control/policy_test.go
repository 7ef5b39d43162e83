package control_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/daemon"
	"mitogend/daemon/client"
	"mitogend/importer"
)

// The options of a connect narrow what is served, over the socket as in process, even where the client or the daemon
// allows more.
func TestPolicyOfConnectNarrows(t *testing.T) {
	b := newBed(t, nil)
	lib := t.TempDir()
	if err := os.WriteFile(filepath.Join(lib, "mod.py"), []byte("def pid():\n    return 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		source *importer.Options
		policy importer.Policy
	}{
		"deny, of what the daemon serves":       {nil, importer.Policy{Deny: []string{"mod"}}},
		"allow, of what the daemon serves":      {nil, importer.Policy{Allow: []string{"other"}}},
		"deny, of the client's own":             {&importer.Options{Path: []string{lib}}, importer.Policy{Deny: []string{"mod"}}},
		"allow, beside what the client allows":  {&importer.Options{Path: []string{lib}, Policy: importer.Policy{Allow: []string{"mod"}}}, importer.Policy{Allow: []string{"other"}}},
		"allow, and what the client denies":     {&importer.Options{Path: []string{lib}, Policy: importer.Policy{Deny: []string{"mod"}}}, importer.Policy{Allow: []string{"mod"}}},
		"both, where only the client allows it": {&importer.Options{Path: []string{lib}, Policy: importer.Policy{Allow: []string{"mod", "other"}}}, importer.Policy{Allow: []string{"other"}, Deny: []string{"x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := b.dial(t, client.Options{Source: row.source})
			narrow, err := c.Connect(t.Context(), "local:", daemon.ConnectOptions{Policy: row.policy})
			if err != nil {
				t.Fatal(err)
			}
			if err := narrow.Call(t.Context(), "mod:pid").Err(); err == nil || !strings.Contains(err.Error(), "the policy") {
				t.Errorf("the call gave %v", err)
			}
			if row.source != nil && len(row.source.Policy.Deny) > 0 {
				return
			}
			wide, err := c.Connect(t.Context(), "local:")
			if err != nil {
				t.Fatal(err)
			}
			if wide.ID() == narrow.ID() {
				t.Error("both have the same child")
			}
			if err := wide.Call(t.Context(), "mod:pid").Err(); err != nil {
				t.Error(err)
			}
		})
	}
}
