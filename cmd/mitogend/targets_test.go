package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/bootstrap"
)

func TestSplitTargets(t *testing.T) {
	for in, want := range map[string][]string{
		"a":                               {"a"},
		"a,b":                             {"a", "b"},
		"a, b":                            {"a", "b"},
		"ssh:a,ssh:b+sudo:c,web1":         {"ssh:a", "ssh:b+sudo:c", "web1"},
		"local:?python=python3.9,python3": {"local:?python=python3.9,python3"},
		"local:?python=python3.9,python3,ssh:b,c":       {"local:?python=python3.9,python3", "ssh:b", "c"},
		"ssh:a?port=22,ssh:b?port=23,ssh:c":             {"ssh:a?port=22", "ssh:b?port=23", "ssh:c"},
		"docker:app?username=www,local:?python=p1,p2,,": {"docker:app?username=www", "local:?python=p1,p2,,"},
	} {
		if got := splitTargets(in); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestReadTargets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("\n# all\n ssh:a \r\nlocal:?python=p1,p2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{"ssh:a", "local:?python=p1,p2"}
	if got, err := readTargets(file, nil); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	if got, err := readTargets("-", strings.NewReader("ssh:a\nlocal:?python=p1,p2")); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := readTargets("-", strings.NewReader(strings.Repeat("x", bootstrap.MaxTarget+10))); err == nil {
		t.Error("an endless line was taken")
	}
}

func TestNeeds(t *testing.T) {
	for name, want := range map[string][2]bool{
		"local:": {}, "web1": {true, false}, "ssh:a+sudo:root": {true, true}, "ssh:a?password_env=HOME+su:": {false, true},
		"ssh:a?identity_file=x": {true, false}, "docker:c+doas:x?password_file=/f": {},
	} {
		hops, err := bootstrap.ParseTarget(name)
		if err != nil {
			t.Fatal(err)
		}
		targets := []target{{name: name, hops: hops}}
		if got := [2]bool{needs(targets, "ssh"), needs(targets, becomeMethods...)}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
