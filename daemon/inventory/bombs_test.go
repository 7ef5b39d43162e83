package inventory

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// aliases gives n anchors, each of which says the one before it ten times, by way of line (with two verbs: its
// number, and its items).
func aliases(n int, first, line, item string) string {
	var b strings.Builder
	b.WriteString(first)
	for i := 1; i <= n; i++ {
		items := strings.Repeat(fmt.Sprintf(item, i-1)+", ", 10)
		fmt.Fprintf(&b, line, i, strings.TrimSuffix(items, ", "))
	}
	return b.String()
}

// many gives a text n times, with its number.
func many(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestBombs: a few lines that say billions of things are an error, at once.
func TestBombs(t *testing.T) {
	children := func(n int) string {
		var b strings.Builder
		b.WriteString("x:\n  children: &a0 {leaf: {hosts: {h: }}}\n")
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, "y%d:\n  children: &a%d {", i, i)
			for j := range 10 {
				fmt.Fprintf(&b, "g%d_%d: {children: *a%d}, ", i, j, i-1)
			}
			b.WriteString("}\n")
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"children":  children(12),
		"merge":     "all:\n  vars:\n" + aliases(12, "    v0: &a0 {k: 1}\n", "    v%[1]d: &a%[1]d {<<: [%[2]s]}\n", "*a%d") + "    <<: *a12\n",
		"host vars": "all:\n  vars:\n    base: &b {" + many("k%d: 1, ", 1000) + "}\n  hosts:\n" + strings.Repeat("    h[0:9999]: {<<: *b}\n", 100),
		"lists": "all:\n  vars:\n    l: &l [" + strings.Repeat("x, ", 10_000) + "]\n" +
			strings.Repeat("    v: *l\n", 1000),
		"itself": "all:\n  vars: &v\n    <<: *v\n    a: 1\n",
	} {
		path := write(t, t.TempDir(), "hosts.yaml", text, 0o600)
		inv, err := Load(path)
		if name == "itself" {
			if err == nil && len(inv.groups["all"].vars) > 3 {
				t.Errorf("%s: %v", name, inv.groups["all"].vars)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "more than 4194304 hosts, groups and variables") || !strings.Contains(err.Error(), "hosts.yaml:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	write(t, dir, "hosts.ini", strings.Repeat("h[0:131071]\n", 1000), 0o600)
	if _, err := Load(filepath.Join(dir, "hosts.ini")); err == nil || !strings.Contains(err.Error(), "more than 4194304") {
		t.Errorf("a range again and again: %v", err)
	}
}

// TestManyEntries: what is long without repeating itself is read.
func TestManyEntries(t *testing.T) {
	var b strings.Builder
	b.WriteString("common: &c {hosts: {}, vars: {a: 1, b: 2, c: 3}}\nall:\n  hosts:\n")
	for i := range 50_000 {
		fmt.Fprintf(&b, "    h%d: {ansible_host: a%d, <<: {x: 1, y: 2}}\n", i, i)
	}
	inv, err := Load(write(t, t.TempDir(), "hosts.yaml", b.String(), 0o600))
	if err != nil || len(inv.Hosts()) != 50_000 {
		t.Errorf("%v", err)
	}
}

// TestManyHosts: ranges, intersections, exclusions and many groups take time by their number, not by its square.
func TestManyHosts(t *testing.T) {
	var b strings.Builder
	b.WriteString("[web]\nweb[000000:131071]\n")
	for i := range 500 {
		fmt.Fprintf(&b, "[g%d:children]\nweb\n[part%d]\nweb%06d\nlone%d\n[parts:children]\npart%d\n", i, i, i, i, i)
	}
	for i := range 500 { // each is below all that come after it
		fmt.Fprintf(&b, "[d%d:children]\n", i)
		for j := max(0, i-20); j < i; j++ {
			fmt.Fprintf(&b, "d%d\n", j)
		}
	}
	inv, err := Load(write(t, t.TempDir(), "hosts.ini", b.String(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if got := inv.groups["d0"].depth; got != 500 {
		t.Errorf("the depth of d0 is %d", got)
	}
	for pattern, want := range map[string]int{
		"web[000000:131071]": 131072, "web:&all": 131072, "web:&web[000000:131071]": 131072, "all:!web": 500,
		"web[000000:131071]:!web[000001:131071]": 1, "g*": 131072, "*": 131572, "all:!parts": 131072 - 500, "ungrouped": 0, "web:!ungrouped": 131072,
		"web:&parts:!part7": 499, "~web.*7,&~web00": 3439,
	} {
		got, err := inv.Match(pattern)
		var none *NoMatchError
		if err != nil && !(want == 0 && errors.As(err, &none)) || len(got) != want {
			t.Errorf("%s: %d hosts, not %d; %v", pattern, len(got), want, err)
		}
	}
	for _, name := range inv.Hosts() {
		if _, err := inv.Target(name); err != nil {
			t.Fatal(err)
		}
		if name == "web000600" {
			break
		}
	}
}

func TestVariablesOfVariables(t *testing.T) {
	var b strings.Builder
	b.WriteString("h ansible_host='{{ v0 }}'")
	for i := range 15 {
		fmt.Fprintf(&b, " v%d='%s'", i, strings.Repeat(fmt.Sprintf("{{ v%d }}", i+1), 3))
	}
	b.WriteString(" v15=x\n")
	_, err := load(t, write(t, t.TempDir(), "a.ini", b.String(), 0o600)).Target("h")
	if err == nil || !strings.Contains(err.Error(), "too often") {
		t.Error(err)
	}
	if err != nil && len(err.Error()) > 500 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("by a signal")
	cancel(why)
	dir := t.TempDir()
	program := write(t, dir, "program", "#!/bin/sh\nsleep 60\n", 0o755)
	list := write(t, dir, "hosts.ini", "h[0:99999]\n", 0o600)
	for _, source := range []string{program, list} {
		if _, err := Open(ctx, Found{Sources: []string{source}}); !errors.Is(err, why) {
			t.Errorf("%s: %v", source, err)
		}
	}
}
