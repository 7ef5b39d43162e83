package inventory

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/bootstrap"
)

// What Ansible's inventories say, and what Ansible and Mitogen make of it.
func TestAnsibleVariables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inv := load(t, write(t, dir, "hosts.ini", `[behind]
db1 mitogen_via=bastion
db2 mitogen_via=ops@bastion
db3 mitogen_via=doas:ops@whole
db4 mitogen_via=@bastion
[front]
bastion
[behind:vars]
ansible_become_user=postgres
[front:vars]
ansible_become=true
[behind:vars]
ansible_become=yes
[other]
whole mitogend_target=docker:app
here ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"
there ansible_python_interpreter="{{ python }}" python="{{ansible_playbook_python}}"
key ansible_ssh_private_key_file="{{ inventory_dir }}/id" ansible_ssh_common_args="-F {{ inventory_file }}.conf"
plain ansible_ssh_executable=/opt/ssh ansible_ssh_timeout=9
smart ansible_connection=smart ansible_ssh_executable=/opt/ssh ansible_ssh_timeout=9
paramiko ansible_connection=paramiko_ssh ansible_ssh_executable=/opt/ssh ansible_paramiko_user=jane ansible_paramiko_private_key_file=/id ansible_paramiko_host_key_checking=no ansible_paramiko_password=hidden
gated ansible_connection=paramiko ansible_paramiko_proxy_command="ssh -W %h:%p gate"
ssh ansible_paramiko_proxy_command=other
incus ansible_connection=incus ansible_incus_executable=/bin/bash
args ansible_ssh_args="-J gate" ansible_ssh_common_args=-v ansible_ssh_extra_args=-4
number
quoted
[number:vars]
tabs=1
[tabbed:children]
front	# a comment behind a tab
`, 0o644), write(t, dir, "more.ini", `[numbers]
number
[numbers:vars]
ansible_port=2222 # nat
flag = True# yes
minus=-1.5 # x
none=None # n
text = 22a # is part of it
code=0022 # is part of it
quoted = "2222 # is part of it"
ansible_user='jane' # cut
`, 0o644))
	for host, want := range map[string]string{
		"db1":      "ssh:bastion+ssh:db1+sudo:postgres",
		"db2":      "ssh:bastion+sudo:ops+ssh:db2+sudo:postgres",
		"db3":      "docker:app+doas:ops+ssh:db3+sudo:postgres",
		"db4":      "ssh:bastion+ssh:db4+sudo:postgres",
		"bastion":  "ssh:bastion+sudo:",
		"here":     "local:",
		"there":    "ssh:there",
		"key":      "ssh:key?identity_file=" + dir + "/id&ssh_args=-F%20" + dir + "/hosts.ini.conf",
		"plain":    "ssh:plain?connect_timeout=9&ssh_path=/opt/ssh",
		"smart":    "ssh:smart?connect_timeout=9&ssh_path=/opt/ssh",
		"paramiko": "ssh:paramiko?check_host_keys=ignore&identity_file=/id&ssh_path=/opt/ssh&username=jane",
		"gated":    "ssh:gated?ssh_args='-oProxyCommand=ssh%20-W%20%25h:%25p%20gate'",
		"ssh":      "ssh:ssh",
		"incus":    "incus:incus",
		"args":     "ssh:args?ssh_args=-J%20gate%20-v%20-4",
		"number":   "ssh:number?port=2222&username=jane",
	} {
		got, err := inv.Target(host)
		if err != nil {
			t.Error(err)
		} else if text := bootstrap.FormatTarget(got.Hops); text != want {
			t.Errorf("%s is %s\n  want %s", host, text, want)
		} else if host == "paramiko" && got.Secrets[0] != "hidden" {
			t.Errorf("the password of %s is %q", host, string(got.Secrets[0]))
		}
	}
	v, err := inv.varsOf("number")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"flag": "True", "minus": "-1.5", "none": "None", "text": "22a # is part of it", "code": "0022 # is part of it",
		"quoted": "2222 # is part of it",
	} {
		if v[key].text != want {
			t.Errorf("%s is %q, want %q", key, v[key].text, want)
		}
	}
	if vars, err := inv.Vars("key"); err != nil || vars.Known["inventory_dir"] != nil ||
		vars.Known["ansible_ssh_private_key_file"] != dir+"/id" {
		t.Errorf("programs get %v, %v", vars, err)
	}
	// Of a list of names there is no file.
	if _, err := load(t, "x,").Target("x"); err != nil {
		t.Error(err)
	}
	// It is this host's own fault, when it is connected: others of its group are not held up.
	one, err := load(t, write(t, dir, "tilde.ini", "\nx ansible_python_interpreter=~/venv/bin/python\n", 0o644)).Target("x")
	if err != nil {
		t.Fatal(err)
	}
	opts, err := one.Hops[0].Options()
	if err == nil {
		_, err = bootstrap.Build(one.Hops[0].Method, opts, bootstrap.Boot{Stub: "pass"})
	}
	if err == nil || !strings.Contains(err.Error(), "~ stands for no directory") {
		t.Error(err)
	}
}

func TestDirectoriesOfVariables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"hosts.yml":                         "all: {hosts: {h: {vars: }}}\nweb: {hosts: h}\ndb: {hosts: h}\n",
		"group_vars/all/a":                  "a: a\n",
		"group_vars/all/prod/x.yml":         "b: below\nc: below\n",
		"group_vars/all/prod/z/y.json":      `{"c": "deep"}`,
		"group_vars/all/prod.old/x.yml":     "b: old\n",
		"group_vars/all/vault.yml.example":  "password: <fill in>: x\n",
		"group_vars/all/key.pem":            "-----BEGIN: X: -----\n",
		"group_vars/all/README.md":          "# a: b: c\n",
		"group_vars/all/z.yml~":             "a: backup\n",
		"group_vars/all/.hidden.yml":        "a: hidden\n",
		"group_vars/all/.git/x.yml":         "a: hidden\n",
		"group_vars/all.yml":                "a: second\n",
		"group_vars/web/x.yml":              "d: directory\n",
		"group_vars/web.yml":                "d: file\ne: file\n",
		"group_vars/db.yaml":                "f: yaml\n",
		"group_vars/db.yml":                 "f: yml\n",
		"host_vars/h.yml/x.yaml":            "g: named as a file\n",
		"host_vars/h.json":                  `{"g": "json"}`,
		"group_vars/ungrouped/settings.ini": "not: read: at all\n",
	} {
		write(t, dir, name, text, 0o644)
	}
	v, err := load(t, dir).varsOf("h")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"a": "a", "b": "below", "c": "deep", "d": "directory", "e": "", "f": "yml", "g": "named as a file",
	} {
		if v[key].text != want {
			t.Errorf("%s is %q, want %q", key, v[key].text, want)
		}
	}
	if err := os.Symlink("..", filepath.Join(dir, "group_vars/all/loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, dir).varsOf("h"); err == nil || !strings.Contains(err.Error(), "nested more than 20 deep") {
		t.Error(err)
	}
}

func TestDirectoriesOfSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const program = "#!/bin/sh\necho '{\"ec2\": [\"cloud\"]}'\n"
	write(t, dir, "a.ini", "one\n", 0o644)
	write(t, dir, "ec2.py", strings.Replace(program, "}'", `, "_meta": {}}'`, 1), 0o755)
	write(t, dir, "ec2.ini", "[ec2]\nregions = all\n", 0o644)
	write(t, dir, "notes.rst", "Title\n=====\n", 0o644)
	write(t, dir, "below/deep/hosts", "two where={{inventory_dir}}\n", 0o644)
	write(t, dir, "below/group_vars/all.yml", "not: a source\n", 0o644)
	write(t, dir, "host_vars/one.yml", "not: a source\n", 0o644)
	write(t, dir, "vars_plugins/x.py", "import this\n", 0o755)
	write(t, dir, ".git/config", "[core]\nx = y = z\n", 0o644)
	write(t, dir, "old.orig/hosts", "three\n", 0o644)
	inv := load(t, dir)
	if got := strings.Join(inv.Hosts(), " "); got != "one two cloud" {
		t.Errorf("the hosts are %s", got)
	}
	v, err := inv.varsOf("two")
	if err != nil || v["inventory_dir"].text != filepath.Join(dir, "below/deep") || v["not"].text != "" {
		t.Errorf("%v, %v", v, err)
	}
	_, err = Load(write(t, dir, "cloud/aws_ec2.yml", "# AWS\nplugin: amazon.aws.aws_ec2\nregions: [eu-west-1]\n", 0o644))
	if err == nil || !strings.Contains(err.Error(), "aws_ec2.yml:2: ") ||
		!strings.Contains(err.Error(), `plugin "amazon.aws.aws_ec2"`) ||
		!strings.Contains(err.Error(), "ansible-inventory -i FILE --list") {
		t.Error(err)
	}
	if got := load(t, write(t, dir, "group.yml", "plugin: {hosts: x}\n", 0o644)).Hosts(); !slices.Equal(got, []string{"x"}) {
		t.Error(got)
	}
}

// A program is asked for the hosts that it lists, and several programs for one that all of them list.
func TestProgramsAreAskedForTheirOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const program = `#!/bin/sh
case "$1 $2" in
"--list ") echo '{"NAME": ["NAME1", "both", "listed"]}';;
"--host NAME1"|"--host both") echo '{"NAME": 1, "port": "NAME"}';;
"--host listed") echo '{}';;
*) echo "no host $2" >&2; exit 1;;
esac
`
	inv := load(t, write(t, dir, "hosts.ini", "other\nlisted\n", 0o644),
		write(t, dir, "x", strings.ReplaceAll(program, "NAME", "x"), 0o755),
		write(t, dir, "y", strings.ReplaceAll(program, "NAME", "y"), 0o755))
	for host, want := range map[string]string{"other": "", "listed": "", "x1": "x:1 port:x", "y1": "y:1 port:y", "both": "x:1 y:1 port:y"} {
		v, err := inv.varsOf(host)
		if err != nil {
			t.Error(err)
			continue
		}
		var got []string
		for _, key := range []string{"x", "y", "port"} {
			if text := v[key].text; text != "" {
				got = append(got, key+":"+text)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s has %s, want %s", host, text, want)
		}
	}
}

// Each part of a pattern fits something, or it is an error that names it.
func TestPartsThatFitNothing(t *testing.T) {
	t.Parallel()
	inv := load(t, write(t, t.TempDir(), "hosts.ini", "[web]\nweb1\nweb2\n[empty]\n[db]\nmain\nspare\nlast\n", 0o644))
	for pattern, part := range map[string]string{
		"web:gone": "gone", "web:!gone": "gone", "web:&gone": "gone", "!go*": "go*", "web:!empty": "", "web1": "",
		"web:!web[9]": "web[9]", "web:!web[8:9]": "web[8:9]", "db[-4]": "db[-4]", "db[-3]": "", "db[1:9]": "", "db[2:1]": "db[2:1]", "empty[0]": "empty[0]",
		"db[99999999999999999999]": "db[99999999999999999999]", "db[3:99999999999999999999]": "db[3:99999999999999999999]", "db[2:99999999999999999999]": "",
		"web[1:4]": "web3", "all:!web[1:4]": "web3", "web[1:2]": "",
	} {
		_, err := inv.Match(pattern)
		var none *NoMatchError
		if got := errors.As(err, &none); got != (part != "") || got && none.Part != part {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}
