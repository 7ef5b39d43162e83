package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []Hop
	}{
		{"local:", []Hop{{Method: "local"}}},
		{"local:?python=/usr/bin/python2.7", []Hop{{Method: "local", Args: map[string]string{"python": "/usr/bin/python2.7"}}}},
		{"ssh:deploy@web1:2222?identity_file=~/.ssh/id_ed25519", []Hop{{Method: "ssh", Spec: "deploy@web1:2222", Args: map[string]string{"identity_file": "~/.ssh/id_ed25519"}}}},
		{"ssh:web1+sudo:root", []Hop{{Method: "ssh", Spec: "web1"}, {Method: "sudo", Spec: "root"}}},
		{"ssh:bastion+ssh:db1+su:postgres", []Hop{{Method: "ssh", Spec: "bastion"}, {Method: "ssh", Spec: "db1"}, {Method: "su", Spec: "postgres"}}},
		{"podman:app?username=www", []Hop{{Method: "podman", Spec: "app", Args: map[string]string{"username": "www"}}}},
		{"kubectl:pod/name", []Hop{{Method: "kubectl", Spec: "pod/name"}}},
		{"web1", []Hop{{Spec: "web1"}}},
		{"web1+sudo:", []Hop{{Spec: "web1"}, {Method: "sudo"}}},
		{"web1?python=python3,python2", []Hop{{Spec: "web1", Args: map[string]string{"python": "python3,python2"}}}},
		{"ssh:[::1]:22", []Hop{{Method: "ssh", Spec: "[::1]:22"}}},
		{"ssh:fe80::1%25eth0", []Hop{{Method: "ssh", Spec: "fe80::1%eth0"}}},
		{"ssh:h?ssh_args=-oKexAlgorithms%3D%2Bx", []Hop{{Method: "ssh", Spec: "h", Args: map[string]string{"ssh_args": "-oKexAlgorithms=+x"}}}},
		{"sudo:?password_env=PW&sudo_args=-H%20-S", []Hop{{Method: "sudo", Args: map[string]string{"password_env": "PW", "sudo_args": "-H -S"}}}},
		{"exec:nsenter%20-t%201%20--", []Hop{{Method: "exec", Spec: "nsenter -t 1 --"}}},
		{"setns:docker/app", []Hop{{Method: "setns", Spec: "docker/app"}}},
		{"web1:2222", []Hop{{Spec: "web1:2222"}}},
		{"deploy@web1:2222?python=py+sudo:", []Hop{{Spec: "deploy@web1:2222", Args: map[string]string{"python": "py"}}, {Method: "sudo"}}},
		{"[::1]:22", []Hop{{Spec: "[::1]:22"}}},
		{"deploy@[2001:db8::7]:22+sudo:", []Hop{{Spec: "deploy@[2001:db8::7]:22"}, {Method: "sudo"}}},
		{"deploy@[fe80::1%25eth0]:22", []Hop{{Spec: "deploy@[fe80::1%eth0]:22"}}},
		{"ssh://jane@web1:22", []Hop{{Method: "ssh", Spec: "//jane@web1:22"}}},
		{"ssh:prod/db1", []Hop{{Method: "ssh", Spec: "prod/db1"}}},
		{"ssh:?hostname=prod/db1", []Hop{{Method: "ssh", Args: map[string]string{"hostname": "prod/db1"}}}},
		{"sudo:jane@example.com", []Hop{{Method: "sudo", Spec: "jane@example.com"}}},
		{`su:DOM\jane doe`, []Hop{{Method: "su", Spec: `DOM\jane doe`}}},
		{"lxd:remote:c1", []Hop{{Method: "lxd", Spec: "remote:c1"}}},
	} {
		got, err := ParseTarget(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v", c.in, got)
		}
		again, err := ParseTarget(FormatTarget(got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: written as %s: %+v, %v", c.in, FormatTarget(got), again, err)
		}
	}
}

func TestParseTargetErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":       "empty",
		"+":      "hop 1",
		"ssh:a+": "hop 2",
		strings.Repeat("local:+", MaxHops) + "local:": "65 hops, and 64 is the limit",
		"ssh:a++sudo:":              "%2B",
		"ssh:a+sudo":                "colon",
		"ssh:a+b":                   "names no method",
		"web1:22x":                  "HOST:PORT",
		"web1:70000":                "no port",
		"ssh:web[1-3]":              "[1:3]",
		"web[1-3]":                  "[1:3]",
		"ssh://h/path":              "no part of an ssh address",
		"sssh:web1":                 "unknown method",
		"ssh:":                      "host is empty",
		"ssh:@h":                    "user before @",
		"ssh:u@":                    "host is empty",
		"ssh:-oProxyCommand=id":     "dash",
		"-oProxyCommand=id":         "dash",
		"ssh:h:0":                   "no port",
		"ssh:h:":                    "port after the colon is empty",
		"ssh:h:70000":               "no port",
		"ssh:a:b:c":                 "[ADDRESS]:PORT",
		"ssh:[::1":                  "ADDRESS",
		"ssh:[::1]x":                "ADDRESS",
		"ssh:a b":                   "no host name",
		"ssh:h?":                    "KEY=VALUE",
		"ssh:h?port":                "KEY=VALUE",
		"ssh:h?=1":                  "KEY=VALUE",
		"ssh:h?porrt=1":             `unknown key "porrt"`,
		"ssh:h?port=1&port=2":       "twice",
		"ssh:h?password=hunter2":    "a secret never stands in a target",
		"sudo:?become_pass=hunter2": "a secret never stands in a target",
		"docker:a?password_env=X":   "takes no password",
		"ssh:h?python=%zz":          "percent sign",
		"ssh:h?python=%ff":          "UTF-8",
		"ssh:h?python=a%00b":        "NUL",
		"ssh:h\n":                   "newline",
		"sudo:-u":                   "dash",
		"docker:-v":                 "dash",
		"kubectl:-v":                "dash",
		"setns:app":                 "KIND/CONTAINER",
		"local:x":                   "nothing after the colon",
		"?a=b":                      "no method before",
		"exec:%22open":              "exec:COMMAND",
		strings.Repeat("a", 70000):  "longer than",
	} {
		_, err := ParseTarget(in)
		if err == nil {
			t.Errorf("%q: accepted", in)
			continue
		}
		has(t, err, want)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the secret is repeated: %v", in, err)
		}
	}
}

func TestTargetRoundTrip(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("ab1+?&=%: /@~é[]{}'\"")), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		h := []Hop{{Method: "docker", Spec: "x" + text.Draw(t, "spec")}}
		for i := range rapid.IntRange(0, 2).Draw(t, "hops") {
			args := map[string]string{"python": text.Draw(t, "value"), "name": text.Draw(t, "name")}
			h = append(h, Hop{Method: []string{"sudo", "local"}[i], Args: args})
		}
		if rapid.Bool().Draw(t, "bare") {
			h[0].Method, h[0].Spec = "", "host"
		}
		got, err := ParseTarget(FormatTarget(h))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Fatalf("%s: %+v, %v", FormatTarget(h), got, err)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	f.Add("ssh:u@h:22?python=a&name=%2B+sudo:root")
	f.Fuzz(func(t *testing.T, s string) {
		hops, err := ParseTarget(s)
		if err != nil {
			return
		}
		again, err := ParseTarget(FormatTarget(hops))
		if err != nil || !reflect.DeepEqual(again, hops) {
			t.Fatalf("%q becomes %q: %+v, %v", s, FormatTarget(hops), again, err)
		}
	})
}

func TestHopOptions(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pw")
	if err := os.WriteFile(file, []byte("from file \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BOOTSTRAP_TEST_PW", "from env")
	t.Setenv("HOME", dir)
	options := func(target string) (map[string]any, error) {
		hops, err := ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		return hops[0].Options()
	}
	for target, want := range map[string]map[string]any{
		"ssh:u@[::1]:22?name=x":                 {"hostname": "::1", "username": "u", "port": "22", "name": "x"},
		"web1":                                  {"hostname": "web1"},
		"su:bob?password_env=BOOTSTRAP_TEST_PW": {"username": "bob", "password": Secret("from env")},
		"sudo:?password_file=" + file:           {"password": Secret("from file ")},
		"sudo:?password_file=~/pw":              {"password": Secret("from file ")},
		"setns:lxc/c1":                          {"kind": "lxc", "container": "c1"},
	} {
		if got, err := options(target); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", target, got, err)
		}
	}
	for target, want := range map[string]string{
		"sudo:?password_env=BOOTSTRAP_TEST_NONE":                     "BOOTSTRAP_TEST_NONE is not set",
		"sudo:?password_file=" + dir + "/none":                       "no such file",
		"sudo:?password_file=/dev/zero":                              "larger than",
		"sudo:?password_file=/dev/null":                              "is empty",
		"sudo:?password_env=BOOTSTRAP_TEST_PW&password_file=" + file: "both given",
		"ssh:h:22?port=23":                                           "port is given twice",
	} {
		if _, err := options(target); err == nil {
			t.Errorf("%s: accepted", target)
		} else {
			has(t, err, want)
		}
	}
}

// A password that can be read only once is there for the check of a target, for its connection, and for a second host.
func TestPasswordOfAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := fmt.Sprintf("/dev/fd/%d", r.Fd())
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "from a pipe")
	w.Close()
	got := make(chan error)
	for range 3 {
		go func() {
			opts, err := Hop{Method: "ssh", Spec: "web1", Args: map[string]string{"password_file": path}}.Options()
			if err == nil && opts["password"] != Secret("from a pipe") {
				err = fmt.Errorf("the options are %#v", opts)
			}
			got <- err
		}()
	}
	for range 3 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	// A regular file is read each time: it may have changed.
	file := filepath.Join(t.TempDir(), "pw")
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		opts, err := Hop{Method: "sudo", Args: map[string]string{"password_file": file}}.Options()
		if err != nil || opts["password"] != Secret(text) {
			t.Errorf("%#v, %v, want %s", opts["password"], err, text)
		}
	}
}
