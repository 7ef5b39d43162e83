package bootstrap

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// plainBoot makes short argvs: with one interpreter the target needs no sh.
var plainBoot = Boot{Stub: "STUB", Args: []string{"N"}}

func TestArgv(t *testing.T) {
	type opts = map[string]any
	for _, c := range []struct {
		method string
		opts   opts
		stdio  Stdio
		want   string // words joined by |, without the interpreter's own at the end
	}{
		{"ssh", opts{"hostname": "h"}, Socketpair, "ssh|-o|RequestTTY=no|-o|ControlMaster=no|-o|BatchMode=yes|-o|ServerAliveInterval=15|-o|ServerAliveCountMax=3|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": []byte("h"), "username": "u", "port": int64(22), "ssh_path": "/x/ssh", "identity_file": "~/k", "check_host_keys": "ignore",
			"compression": true, "keepalive_enabled": false, "ssh_args": []any{"-F", "cf"}, "ssh_debug_level": 2}, Socketpair,
			"/x/ssh|-l|u|-p|22|-i|~/k|-o|IdentitiesOnly=yes|-o|Compression=yes|-o|StrictHostKeyChecking=no|-o|UserKnownHostsFile=/dev/null|-o|GlobalKnownHostsFile=/dev/null|-vv|-o|RequestTTY=no|-o|ControlMaster=no|-o|BatchMode=yes|-F|cf|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": "h", "password": "pw", "keepalive_enabled": "no", "identity_file": "k", "identities_only": false}, Hybrid,
			"ssh|-i|k|-o|RequestTTY=no|-o|ControlMaster=no|-o|BatchMode=no|-o|NumberOfPasswordPrompts=1|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": "h", "check_host_keys": "accept", "keepalive_count": "2", "keepalive_interval": 7.0}, Hybrid,
			"ssh|-o|StrictHostKeyChecking=ask|-o|RequestTTY=no|-o|ControlMaster=no|-o|PasswordAuthentication=no|-o|KbdInteractiveAuthentication=no|-o|ServerAliveInterval=7|-o|ServerAliveCountMax=2|h|py|-c|STUB|N"},
		{"sudo", opts{}, Hybrid, "sudo|-u|root|--|py|-c|STUB|N"},
		{"sudo", opts{"username": "u", "preserve_env": true, "set_home": true, "selinux_role": "r", "selinux_type": "t", "sudo_args": "-H -S -n -gwheel -C 5 --preserve-env=A"}, HybridPipes,
			"sudo|-u|u|-E|-H|-r|r|-t|t|-g|wheel|-C|5|--preserve-env=A|--|env|-u|SUDO_PROMPT|py|-c|STUB|N"},
		{"sudo", opts{"sudo_args": []string{"-iS"}}, Hybrid, "sudo|-u|root|-i|--|py|-c|STUB|N"},
		{"sudo", opts{"sudo_args": "--type=st --role sr -E --login --user u --set-home --group g --stdin"}, HybridPipes,
			"sudo|-u|u|-E|-H|-i|-r|sr|-t|st|-g|g|--|env|-u|SUDO_PROMPT|py|-c|STUB|N"},
		{"sudo", opts{"username": "v", "preserve_env": false, "set_home": true, "selinux_type": "x", "sudo_args": "-EH -tt -u u --rol r"}, HybridPipes,
			"sudo|-u|v|-H|-r|r|-t|x|--|py|-c|STUB|N"},
		{"su", opts{"username": "u", "su_path": "/bin/su"}, PTY, "/bin/su|u|-c|py -c STUB N"},
		{"su", opts{"username": "u", "su_path": "sudo su -", "su_args": "-m"}, PTY, "sudo|su|-|-m|u|-c|py -c STUB N"},
		{"doas", opts{"username": "u"}, Hybrid, "doas|-u|u|--|py|-c|STUB|N"},
		{"doas", opts{"doas_args": "-n -C /etc/d"}, Hybrid, "doas|-C|/etc/d|-u|root|--|py|-c|STUB|N"},
		{"docker", opts{"container": "c"}, Socketpair, "docker|exec|--interactive|c|py|-c|STUB|N"},
		{"docker", opts{"image": "i", "username": "u:g", "docker_path": "d"}, Socketpair, "d|run|--interactive|--user=u:g|--rm|i|py|-c|STUB|N"},
		{"podman", opts{"container": "c", "username": "u"}, Socketpair, "podman|exec|--user=u|--interactive|--|c|py|-c|STUB|N"},
		{"buildah", opts{"container": "c", "username": "u"}, Socketpair, "buildah|run|--user=u|--|c|py|-c|STUB|N"},
		{"kubectl", opts{"pod": "p", "kubectl_args": "-v 3", "namespace": "n", "container": "c", "kube_context": "k"}, Socketpair,
			"kubectl|exec|--stdin|--context=k|--namespace=n|--container=c|-v|3|p|--|py|-c|STUB|N"},
		{"lxc", opts{"container": "c"}, Socketpair, "lxc-attach|--clear-env|--name|c|--|py|-c|STUB|N"},
		{"lxd", opts{"container": "r:c"}, Socketpair, "lxc|exec|--mode=non-interactive|r:c|--|py|-c|STUB|N"},
		{"incus", opts{"container": "c", "incus_path": "x"}, Socketpair, "x|exec|--mode=non-interactive|c|--|py|-c|STUB|N"},
		{"jail", opts{"container": "j", "username": "u"}, Socketpair, "jexec|-U|u|j|py|-c|STUB|N"},
		{"machinectl", opts{"container": "m", "username": "u"}, Socketpair, "systemd-run|--machine=m|--quiet|--pipe|--wait|--collect|--uid=u|--|py|-c|STUB|N"},
		{"exec", opts{"command": []string{"nice", "-n", "5"}}, Socketpair, "nice|-n|5|py|-c|STUB|N"},
		{"exec", opts{"command": "ssh h {}"}, Socketpair, "ssh|h|py -c STUB N"},
		{"exec", opts{"command": "bash", "shell": true, "stdio": "pty"}, PTY, "bash"},
		{"local", opts{"python_path": []any{"env", []byte("A=b"), "python"}}, Pipes, "env|A=b|python|-c|STUB|N"},
	} {
		if c.opts["python_path"] == nil {
			c.opts["python"] = "py"
		}
		p, err := Build(c.method, c.opts, plainBoot)
		if err != nil {
			t.Errorf("%s %v: %v", c.method, c.opts, err)
			continue
		}
		if got := strings.Join(p.Argv, "|"); got != c.want {
			t.Errorf("%s %v:\n got %s\nwant %s", c.method, c.opts, got, c.want)
		}
		if p.Stdio != c.stdio || p.Timeout != DefaultTimeout || p.Method != c.method || p.Label == "" || p.Hint == "" {
			t.Errorf("%s: %s, %v, %q, %q", c.method, p.Stdio, p.Timeout, p.Label, p.Hint)
		}
		if c.method == "exec" && len(p.Argv) == 1 && p.Input != "exec py -c STUB N\n" {
			t.Errorf("exec: input %q", p.Input)
		}
	}
}

// For programs that were written for Mitogen a method's program is called as Mitogen calls it.
func TestArgvAsMitogen(t *testing.T) {
	type opts = map[string]any
	for _, c := range []struct {
		method string
		opts   opts
		stdio  Stdio
		want   string
	}{
		{"ssh", opts{"hostname": "h"}, Socketpair, "ssh|-o|LogLevel ERROR|-o|Compression yes|-o|ServerAliveInterval 15|-o|ServerAliveCountMax 3|-o|BatchMode yes|-o|StrictHostKeyChecking yes|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": "h", "username": "u", "port": int64(22), "ssh_path": "/x y/ssh", "identity_file": "~/k", "check_host_keys": "ignore",
			"compression": false, "keepalive_enabled": false, "ssh_args": []any{"-F", "cf"}, "ssh_debug_level": int64(5)}, Socketpair,
			"/x y/ssh|-vvv|-l|u|-p|22|-o|IdentitiesOnly yes|-i|~/k|-o|BatchMode yes|-o|StrictHostKeyChecking no|-o|UserKnownHostsFile /dev/null|-o|GlobalKnownHostsFile /dev/null|-F|cf|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": "h", "password": Secret("pw"), "check_host_keys": "accept", "compression": false}, Hybrid,
			"ssh|-o|LogLevel ERROR|-o|IdentitiesOnly yes|-o|ServerAliveInterval 15|-o|ServerAliveCountMax 3|-o|StrictHostKeyChecking ask|h|py|-c|STUB|N"},
		{"ssh", opts{"hostname": "h", "check_host_keys": "accept", "identities_only": false, "identity_file": "k", "keepalive_count": int64(2), "keepalive_interval": int64(7)}, Hybrid,
			"ssh|-o|LogLevel ERROR|-i|k|-o|Compression yes|-o|ServerAliveInterval 7|-o|ServerAliveCountMax 2|-o|StrictHostKeyChecking ask|h|py|-c|STUB|N"},
		{"sudo", opts{}, Hybrid, "sudo|-p|mitogen-sudo-prompt:|-u|root|--|py|-c|STUB|N"},
		{"sudo", opts{"password": Secret("p"), "sudo_path": "a b", "preserve_env": true}, Hybrid, "a b|-u|root|-E|--|py|-c|STUB|N"},
		{"sudo", opts{"sudo_args": []any{"--type", "st", "--role", "sr", "--user", "u", "-E", "-n"}}, HybridPipes, "sudo|-p|mitogen-sudo-prompt:|-u|u|-E|-r|sr|-t|st|--|py|-c|STUB|N"},
		{"su", opts{"su_path": "a b"}, PTY, "a b|root|-c|py -c STUB N"},
		{"doas", opts{"username": "u"}, Hybrid, "doas|-u|u|--|py|-c|STUB|N"},
		{"docker", opts{"container": "c", "username": "u"}, Socketpair, "docker|exec|--interactive|--user=u|c|py|-c|STUB|N"},
		{"docker", opts{"image": "i"}, Socketpair, "docker|run|--interactive|--rm|i|py|-c|STUB|N"},
		{"podman", opts{"container": "c"}, Socketpair, "podman|exec|--interactive|--|c|py|-c|STUB|N"},
		{"buildah", opts{"container": "c"}, Socketpair, "buildah|run|--|c|py|-c|STUB|N"},
		{"kubectl", opts{"pod": "p", "kubectl_args": []any{"-n", "x"}}, Socketpair, "kubectl|-n|x|exec|-it|p|--|py|-c|STUB|N"},
		{"lxc", opts{"container": "c"}, Socketpair, "lxc-attach|--clear-env|--name|c|--|py|-c|STUB|N"},
		{"lxd", opts{"container": "c"}, Socketpair, "lxc|exec|--mode=noninteractive|c|--|py|-c|STUB|N"},
		{"incus", opts{"container": "c"}, Socketpair, "incus|exec|--mode=non-interactive|c|--|py|-c|STUB|N"},
		{"jail", opts{"container": "j", "username": "u"}, Socketpair, "/usr/sbin/jexec|-U|u|j|py|-c|STUB|N"},
		{"local", opts{"python_path": "/a b/python"}, Pipes, "/a b/python|-c|STUB|N"},
	} {
		if c.opts["python_path"] == nil {
			c.opts["python_path"] = []any{"py"}
		}
		b := plainBoot
		b.Mitogen, b.SudoPrompt = true, true
		p, err := Build(c.method, c.opts, b)
		if err != nil {
			t.Errorf("%s %v: %v", c.method, c.opts, err)
			continue
		}
		if got := strings.Join(p.Argv, "|"); got != c.want || p.Stdio != c.stdio {
			t.Errorf("%s %v:\n got %s, %s\nwant %s, %s", c.method, c.opts, got, p.Stdio, c.want, c.stdio)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	type opts = map[string]any
	for _, c := range []struct {
		method string
		opts   opts
		want   string
	}{
		{"telnet", nil, "unknown connection method"},
		{"ssh", nil, "no host"},
		{"ssh", opts{"hostname": "-oProxyCommand=id"}, "dash"},
		{"ssh", opts{"hostname": "h", "username": "-l"}, "dash"},
		{"ssh", opts{"hostname": "h", "port": 0}, "between 1 and 65535"},
		{"ssh", opts{"hostname": "h", "port": 22.5}, "whole number"},
		{"ssh", opts{"hostname": "h", "port": "ssh"}, "whole number"},
		{"ssh", opts{"hostname": 5}, "wanted text, got int"},
		{"ssh", opts{"hostname": "h\x00"}, "NUL"},
		{"ssh", opts{"hostname": "h", "check_host_keys": "maybe"}, "enforce, accept, ignore"},
		{"ssh", opts{"hostname": "h", "compression": "si"}, "true or false"},
		{"ssh", opts{"hostname": "h", "password": "a\nb"}, "newline"},
		{"ssh", opts{"hostname": "h", "ssh_args": "'"}, "ssh_args"},
		{"ssh", opts{"hostname": "h", "ssh_args": []any{1}}, "got a int"},
		{"ssh", opts{"hostname": "h", "connect_timeout": "soon"}, "no duration"},
		{"ssh", opts{"hostname": "h", "connect_timeout": -1}, "greater than 0"},
		{"ssh", opts{"hostname": "h", "container": "c"}, `takes no argument "container"`},
		{"sudo", opts{"sudo_args": "-l"}, "-l cannot be used"},
		{"sudo", opts{"sudo_args": "id"}, "no option"},
		{"sudo", opts{"sudo_args": "--list"}, "no option"},
		{"sudo", opts{"sudo_args": "--preserve"}, "no option"},
		{"sudo", opts{"sudo_args": "--login=x"}, "no option"},
		{"sudo", opts{"sudo_args": "--type"}, "lacks its value"},
		{"sudo", opts{"sudo_args": "-g"}, "lacks its value"},
		{"docker", nil, "container and image"},
		{"docker", opts{"container": "c", "image": "i"}, "container and image"},
		{"setns", opts{"container": "c", "kind": "x"}, "docker, incus, lxc, lxd, machinectl, podman"},
		{"exec", nil, "no command"},
		{"exec", opts{"command": "c", "password": "x"}, "no terminal"},
		{"exec", opts{"command": "c", "password": "x", "stdio": "pipes"}, "no terminal"},
		{"local", opts{"stdio": "tape"}, "none of pipes"},
		{"local", opts{"python": "-c"}, "dash"},
		{"ssh", opts{"hostname": "h", "python": "~/venv/bin/python"}, "~ stands for no directory"},
		{"ssh", opts{"hostname": "h", "python": "python3,~me/bin/python"}, "~ stands for no directory"},
		{"local", opts{"python_path": "~/venv/bin/python -s"}, "~ stands for no directory"},
	} {
		if _, err := Build(c.method, c.opts, plainBoot); err == nil {
			t.Errorf("%s %v: accepted", c.method, c.opts)
		} else {
			has(t, err, c.want)
		}
	}
	for _, b := range []Boot{{}, {Stub: "a'b"}, {Stub: "a$b"}, {Stub: "a\nb"}, {Stub: "a", Args: []string{"x y"}}, {Stub: "a", Args: []string{""}}} {
		if _, err := Build("local", nil, b); err == nil {
			t.Errorf("%+v: accepted", b)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, v := range []any{90, int64(90), uint64(90), 90.0, "90", "90.0", "1m30s", []byte("90"), 90 * time.Second} {
		if p := build(t, "local", map[string]any{"connect_timeout": v}); p.Timeout != 90*time.Second {
			t.Errorf("%v (%T): %v", v, v, p.Timeout)
		}
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	p := build(t, "sudo", map[string]any{"password": "hunter2"})
	text := fmt.Sprintf("%v %+v %#v %s %q %x", p, *p, p.Prompts, p.Prompts[2].Answer, p.Prompts[2].Answer, p.Prompts[2].Answer)
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if text += string(j) + strings.Join(p.Argv, " "); strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74657232") {
		t.Errorf("the password shows: %s", text)
	}
	found := false
	for _, q := range p.Map()["prompts"].([]any) {
		found = found || q.(map[string]any)["answer"] == "hunter2"
	}
	if !found {
		t.Error("the launcher's map lacks the password")
	}
}

// TestMapIsPlain checks that a plan holds nothing but what pickle, msgpack and JSON have in common.
func TestMapIsPlain(t *testing.T) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch x := v.(type) {
		case string, bool, float64:
		case []any:
			for i, e := range x {
				walk(fmt.Sprintf("%s[%d]", path, i), e)
			}
		case map[string]any:
			for k, e := range x {
				walk(path+"."+k, e)
			}
		default:
			t.Errorf("%s is a %T", path, v)
		}
	}
	plan := build(t, "ssh", map[string]any{"hostname": "h", "password": "x"})
	walk("plan", plan.Map())
	if got := plan.Map()["timeout"]; !reflect.DeepEqual(got, 30.0) {
		t.Errorf("timeout %v", got)
	}
}

// TestPatternsAreTheSameInPython runs every prompt pattern of every method through re of each generation, on the texts of the
// prompt table: the child's launcher must see what Go sees.
// TestPatternsAreLinear: a hop's launcher searches what a program prints, which may be made to be slow to search.
func TestPatternsAreLinear(t *testing.T) {
	var patterns []string
	for _, m := range []string{"ssh", "sudo", "su", "doas"} {
		opts := map[string]any{}
		if m == "ssh" {
			opts["hostname"] = "h"
		}
		for _, q := range build(t, m, opts).Prompts {
			if !slices.Contains(patterns, q.Pattern) {
				patterns = append(patterns, q.Pattern)
			}
		}
	}
	units := []string{"(@", "(", "@", " ", ": ", "password", "password ", "password:", "password: x", "code", "pin ", "[sudo: ", "[sudo: ]", "a", "?", ":\t"}
	for _, text := range promptTexts()[:20] {
		if text = strings.TrimRight(text, " :\n"); text != "" {
			units = append(units, text)
		}
	}
	input, err := json.Marshal(map[string]any{"patterns": patterns, "units": units})
	if err != nil {
		t.Fatal(err)
	}
	const check = `
import json, re, sys, time
clock = getattr(time, 'process_time', None) or time.clock
given = json.load(getattr(sys.stdin, 'buffer', sys.stdin))
def cost(pattern, text):
    start = clock()
    pattern.search(text)
    return clock() - start
for source in given['patterns']:
    pattern = re.compile(source, re.UNICODE)
    for unit in given['units']:
        for start in u'', u'(', u'password', u'[sudo: ':
            small, large = [start + unit * (n // len(unit)) + u'x' for n in (2000, 16000)]
            # The least of several: other processes run, too.
            if min(cost(pattern, large) for _ in range(3)) < 0.01:
                continue
            ratio = min(cost(pattern, large) / (cost(pattern, small) + 0.0005) for _ in range(5))
            if ratio > 24:
                sys.exit('%r takes %.0f times as long for 8 times as many of %r' % (source, ratio, unit))
`
	all := interpreters(t)
	for _, py := range []string{all[0], all[len(all)-1]} {
		cmd := exec.Command(py, "-c", check)
		cmd.Stdin = strings.NewReader(string(input))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", py, err, out)
		}
	}
}

func TestPatternsAreTheSameInPython(t *testing.T) {
	type row struct {
		Pattern, Text string
		Want          bool
	}
	var rows []row
	seen := map[string]bool{}
	for _, m := range []string{"ssh", "sudo", "su", "doas"} {
		opts := map[string]any{}
		if m == "ssh" {
			opts["hostname"] = "h"
		}
		p := build(t, m, opts)
		for _, q := range p.Prompts {
			if seen[q.Pattern] {
				continue
			}
			seen[q.Pattern] = true
			for _, text := range promptTexts() {
				n := normalise(text)
				rows = append(rows, row{q.Pattern, n, matches(nil, q.Pattern, n)})
			}
		}
	}
	input, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	const check = `
import json, re, sys
for r in json.load(getattr(sys.stdin, 'buffer', sys.stdin)):
    if bool(re.search(r['Pattern'], r['Text'], re.UNICODE)) != r['Want']:
        sys.exit(repr(r))
`
	for _, py := range interpreters(t) {
		cmd := exec.Command(py, "-c", check)
		cmd.Stdin = strings.NewReader(string(input))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", py, err, out)
		}
	}
}
