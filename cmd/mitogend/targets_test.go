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
		"all?python=p1,p2, !w1":                         {"all?python=p1,p2", "!w1"},
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

// A name counts once, whichever groups it is in; what is written out counts as often as it is there.
func TestNamesCountOnce(t *testing.T) {
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts.ini")
	if err := os.WriteFile(hosts, []byte("[web]\nweb1\nweb2\n[prod]\nweb2\ndb1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("db1\nprod\nssh:web2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		hosts []string
		want  string
	}{
		{[]string{"web,prod"}, "web1 web2 db1"},
		{[]string{"web", "prod", "web2"}, "web1 web2 db1"},
		{[]string{"prod+sudo:", "web", "web2+sudo:"}, "web2+sudo: db1+sudo: web1 web2"},
		{[]string{"@" + file, "web"}, "db1 web2 ssh:web2 web1"},
		{[]string{"web2:22,web2:22,web2"}, "web2:22 web2"},
		{[]string{"ssh:web1,ssh:web1,local:,local:"}, "ssh:web1 ssh:web1 local: local:"},
		{[]string{"other[1:3],other2"}, "other1 other2 other3"},
	} {
		if got, err := targetNames(t, hosts, c.hosts); err != nil || got != c.want {
			t.Errorf("%q: %q, want %q (%v)", c.hosts, got, c.want, err)
		}
	}
}

// targetNames gives the names of the targets that several -H stand for, with an inventory.
func targetNames(t *testing.T, inventory string, hosts []string) (string, error) {
	f := &targetFlags{inventoryFlags: inventoryFlags{sources: []string{inventory}}, hosts: hosts}
	f.app = &app{}
	list, err := f.readAll(t.Context(), nil)
	var names []string
	for _, one := range list {
		names = append(names, one.name)
	}
	return strings.Join(names, " "), err
}

// What a ! leaves out is left out, whatever else stands for it.
func TestExclusionsCountForAll(t *testing.T) {
	dir := t.TempDir()
	hosts, file := filepath.Join(dir, "hosts.ini"), filepath.Join(dir, "file")
	if err := os.WriteFile(hosts, []byte("[web]\nw1\nw2\n[db]\nd1\nw2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("all+sudo:\nlocal:\n!w1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		hosts []string
		want  string // or what the error says
	}{
		{[]string{"local:,all,!w1"}, "local: w2 d1"},
		{[]string{"all", "!w1"}, "w2 d1"},
		{[]string{"!w1", "w1:22,web+sudo:,all?python=p1,!d1"}, "w2+sudo: w2?python=p1"},
		{[]string{"@" + file}, "w2+sudo: d1+sudo: local:"},
		{[]string{"@" + file, "!d*"}, "local:"},
		{[]string{"all:!w1,web"}, "w2 d1"},
		{[]string{"web,db", "&db"}, "w2 d1"},
		{[]string{"web,&db:!d1"}, "w2"},
		{[]string{"ssh:w1,jane@w1,w2,!w1"}, "w2"},
		{[]string{"!w1"}, "w2 d1"},
		{[]string{"!w1,&web"}, "w2"},
		{[]string{"!w1+sudo:"}, "w2+sudo: d1+sudo:"},
		{[]string{"all,!w1+sudo:"}, "it only limits the other names"},
		{[]string{"!w2,!w1+sudo:"}, "it only limits the other names"},
		{[]string{"all", "!w9"}, `no host or group fits "w9"`},
		{[]string{"local:,web,&db"}, "local: is no host of the inventory"},
		{[]string{"w1", "!w1"}, "no host is left"},
	} {
		got, err := targetNames(t, hosts, c.hosts)
		if got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: %q, want %q (%v)", c.hosts, got, c.want, err)
		}
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
