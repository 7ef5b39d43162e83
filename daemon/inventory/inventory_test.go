package inventory

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/bootstrap"
	"mitogend/integration/pythons"
)

func write(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if mode == 0o755 {
		pythons.Program(t, path, text)
	} else if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, sources ...string) *Inventory {
	t.Helper()
	inv, err := Load(sources...)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

const ini = `# a comment
jump ansible_host=192.0.2.1 ansible_user=ops

[web]
web[01:03] ansible_port=2222
"web09"    ansible_host=10.0.0.9   # the odd one
[web:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyCommand="ssh -W %h:%p gate"'
ansible_password = "it's # a secret"
[db]
db-[a:c].example:5022 ansible_become=yes ansible_become_user=postgres ansible_become_method=su
[prod:children]
web
db
[prod:vars]
ansible_user=prod
ansible_python_interpreter=/usr/bin/python3
[containers]
app ansible_connection=docker mitogen_via=jump
deep ansible_connection=community.general.lxd mitogen_via=doas:root@app ansible_lxd_remote=far
[all:vars]
ansible_timeout=7
`

const yamlText = `
all:
  vars: {ansible_timeout: 7}
  hosts:
    jump: {ansible_host: 192.0.2.1, ansible_user: ops}
  children:
    prod:
      vars: &prod
        ansible_user: prod
        ansible_python_interpreter: /usr/bin/python3
      children:
        web:
          hosts:
            web[01:03]: {ansible_port: 2222}
            web09: {ansible_host: 10.0.0.9}
          vars:
            ansible_user: deploy
            ansible_ssh_common_args: -o ProxyCommand="ssh -W %h:%p gate"
            ansible_password: "it's # a secret"
        db:
          hosts:
            db-[a:c].example:5022:
              ansible_become: yes
              ansible_become_user: postgres
              ansible_become_method: su
    containers:
      hosts:
        app: {ansible_connection: docker, mitogen_via: jump}
        deep:
          ansible_connection: community.general.lxd
          mitogen_via: doas:root@app
          ansible_lxd_remote: far
`

const script = `#!/bin/sh
case $1 in
--list) cat <<'X'
{"web": {"hosts": ["web01", "web02", "web03", "web09"],
  "vars": {"ansible_user": "deploy", "ansible_ssh_common_args": "-o ProxyCommand=\"ssh -W %h:%p gate\"", "ansible_password": "it's # a secret"}},
 "db": ["db-a.example", "db-b.example", "db-c.example"],
 "prod": {"children": ["web", "db"], "vars": {"ansible_user": "prod", "ansible_python_interpreter": "/usr/bin/python3"}},
 "containers": {"hosts": ["app", "deep"]},
 "all": {"hosts": ["jump"], "vars": {"ansible_timeout": 7}}META}
X
;;
--host) case $2 in
  web09) echo '{"ansible_host": "10.0.0.9"}' ;;
  web0*) echo '{"ansible_port": 2222}' ;;
  db-*) echo '{"ansible_port": 5022, "ansible_become": true, "ansible_become_user": "postgres", "ansible_become_method": "su"}' ;;
  app) echo '{"ansible_connection": "docker", "mitogen_via": "jump"}' ;;
  deep) echo '{"ansible_connection": "community.general.lxd", "mitogen_via": "doas:root@app", "ansible_lxd_remote": "far"}' ;;
  jump) echo '{"ansible_host": "192.0.2.1", "ansible_user": "ops"}' ;;
  esac ;;
esac
`

const metaText = `, "_meta": {"hostvars": {"web01": {"ansible_port": 2222}, "web02": {"ansible_port": 2222}, "web03": {"ansible_port": 2222},
 "web09": {"ansible_host": "10.0.0.9"}, "jump": {"ansible_host": "192.0.2.1", "ansible_user": "ops"},
 "db-a.example": {"ansible_port": 5022, "ansible_become": true, "ansible_become_user": "postgres", "ansible_become_method": "su"},
 "app": {"ansible_connection": "docker", "mitogen_via": "jump"},
 "deep": {"ansible_connection": "community.general.lxd", "mitogen_via": "doas:root@app", "ansible_lxd_remote": "far"}}}`

// Each form says the same.
func TestFormsAgree(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"ini":            write(t, dir, "hosts", ini, 0o644),
		"yaml":           write(t, dir, "hosts.yml", yamlText, 0o644),
		"yaml unnamed":   write(t, dir, "more", "\n# y\n---"+yamlText, 0o644),
		"script by host": write(t, dir, "ask", strings.Replace(script, "META", "", 1), 0o755),
		"script":         write(t, dir, "all", strings.Replace(script, "META", metaText, 1), 0o755),
	} {
		t.Run(name, func(t *testing.T) {
			inv := load(t, path)
			for host, want := range map[string]string{
				"jump":         "ssh:192.0.2.1?connect_timeout=7&username=ops",
				"web02":        `ssh:web02?connect_timeout=7&port=2222&python=/usr/bin/python3&ssh_args=-o%20ProxyCommand="ssh%20-W%20%25h:%25p%20gate"&username=deploy`,
				"web09":        `ssh:10.0.0.9?connect_timeout=7&python=/usr/bin/python3&ssh_args=-o%20ProxyCommand="ssh%20-W%20%25h:%25p%20gate"&username=deploy`,
				"db-a.example": "ssh:db-a.example?connect_timeout=7&port=5022&python=/usr/bin/python3&username=prod+su:postgres?connect_timeout=7&python=/usr/bin/python3",
				"app":          "ssh:192.0.2.1?connect_timeout=7&username=ops+docker:app?connect_timeout=7",
				"deep":         "ssh:192.0.2.1?connect_timeout=7&username=ops+docker:app?connect_timeout=7+doas:root?connect_timeout=7+lxd:far:deep?connect_timeout=7",
			} {
				got, err := inv.Target(host)
				if err != nil {
					t.Error(err)
					continue
				}
				if text := bootstrap.FormatTarget(got.Hops); text != want {
					t.Errorf("%s is %s\n  want %s", host, text, want)
				}
				if _, err := bootstrap.ParseTarget(bootstrap.FormatTarget(got.Hops)); err != nil {
					t.Error(err)
				}
				if secret := got.Secrets[0]; strings.HasPrefix(host, "web") != (string(secret) == "it's # a secret") {
					t.Errorf("the password of %s is %q", host, string(secret))
				}
			}
			for pattern, want := range map[string]string{
				"web":                   "web01 web02 web03 web09",
				"prod:!web":             "db-a.example db-b.example db-c.example",
				"prod:&web:!web0[2:3]":  "web01 web09",
				"prod,!db,!web01":       "web02 web03 web09",
				"web0[1-2]":             "web01 web02",
				"db-*:web[-1]":          "db-a.example db-b.example db-c.example web09",
				"web[0:1]":              "web01 web02",
				"~(app|de+p)$":          "app deep",
				"!prod:!containers":     "jump",
				"ungrouped":             "jump",
				"web0[!19]":             "web02 web03",
				"web[01:02]":            "web01 web02",
				"all:!all":              "",
				"web:&db":               "",
				"c*ain*s":               "app deep",
				"db-[b:c].example:jump": "db-b.example db-c.example jump",
			} {
				list, err := inv.Match(pattern)
				var none *NoMatchError
				if err != nil && !(want == "" && errors.As(err, &none)) {
					t.Error(err)
				}
				slices.Sort(list)
				words := strings.Fields(want)
				slices.Sort(words)
				if !slices.Equal(list, words) {
					t.Errorf("%s fits %v, want %v", pattern, list, words)
				}
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "inv/hosts.yml", `
all: {vars: {a: all, b: all, c: all, d: all, e: all, f: all}}
low: {hosts: h, vars: {b: low, c: low}}
top: {children: {low: , other: }, vars: {b: top, f: top}}
other: {hosts: {h: {d: host, e: host}}, vars: {c: other}}
`, 0o644)
	write(t, dir, "inv/ignored.bak", "not read at all", 0o644)
	write(t, dir, "inv/group_vars/low.yml", "c: file\n", 0o644)
	write(t, dir, "inv/group_vars/all/x.yml", "a: dir\n", 0o644)
	write(t, dir, "inv/host_vars/h", "{\"e\": \"file\"}", 0o644)
	v, err := load(t, filepath.Join(dir, "inv")).varsOf("h")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"a": "dir", "b": "low", "c": "file", "d": "host", "e": "file", "f": "top", "inventory_hostname": "h"} {
		if got := v[key].text; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("INVENTORY_TEST_PASSWORD", "from env")
	path := write(t, dir, "hosts", `a mitogend_password_env=X mitogend_become_password_file=become ansible_become=1 ansible_become_password=unused
b ansible_password="{{ lookup('env', 'INVENTORY_TEST_PASSWORD') }}" ansible_become=true ansible_become_pass="{{ other }}" other="s{{third}}" third=3
c mitogend_target=local:+sudo:root?password_env=Y
`, 0o644)
	inv := load(t, path)
	for host, want := range map[string]string{
		"a": "ssh:a?password_env=X+sudo:?password_file=" + filepath.Join(dir, "become"),
		"b": "ssh:b+sudo:",
		"c": "local:+sudo:root?password_env=Y",
	} {
		got, err := inv.Target(host)
		if err != nil {
			t.Error(err)
		} else if text := bootstrap.FormatTarget(got.Hops); text != want {
			t.Errorf("%s is %s, want %s", host, text, want)
		} else if host == "b" && (string(got.Secrets[0]) != "from env" || string(got.Secrets[1]) != "s3") {
			t.Errorf("the passwords are %q and %q", string(got.Secrets[0]), string(got.Secrets[1]))
		}
	}
}

// Every error says where.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ file, text, host, want string }{
		"section":      {"a.ini", "x\n[web\n", "", "a.ini:2: "},
		"kind":         {"a.ini", "[web:children:x]\n", "", "a.ini:1: "},
		"word":         {"a.ini", "\n\nx ansible_port\n", "", `a.ini:3: "ansible_port" is not KEY=VALUE`},
		"quote":        {"a.ini", "x a='b\n", "", "a.ini:1: a quote is not closed"},
		"range":        {"a.ini", "x[5:1]\n", "", "a.ini:1: "},
		"huge":         {"a.ini", "x[1:99999999]\n", "", "stands for more than"},
		"yaml":         {"a.yml", "all:\n  hosts: {x: [}\n", "", "a.yml:"},
		"part":         {"a.yml", "all:\n  host:\n    x:\n", "", `a.yml:2: group all has no part "host"`},
		"cycle":        {"a.yml", "a: {children: {b: {children: {a: }}}}\n", "", "its own children"},
		"port":         {"a.yml", "all: {hosts: {x: {\n ansible_port: {a: b}}}}\n", "x", "a.yml:2: ansible_port of x: text is wanted here"},
		"bad port":     {"a.ini", "\nx ansible_port=high\n", "x", "a.ini:2: ansible_port of x: "},
		"bad spec":     {"a.ini", "\nx ansible_connection=setns\n", "x", "host x: "},
		"vault":        {"a.yml", "all: {hosts: {x: {\n ansible_password: !vault abc}}}\n", "x", "a.yml:2: ansible_password of x: "},
		"template":     {"a.yml", "all: {hosts: {x: {\n ansible_user: '{{ a | b }}'}}}\n", "x", "is not evaluated"},
		"circle":       {"a.ini", "x ansible_user='{{ ansible_user }}'\n", "x", "in a circle"},
		"connection":   {"a.ini", "\nx ansible_connection=winrm\n", "x", `a.ini:2: ansible_connection of x: the connection "winrm" is not known`},
		"become":       {"a.ini", "x ansible_become=1 ansible_become_method=runas\n", "x", "a.ini:1: "},
		"maybe":        {"a.ini", "x ansible_become=maybe\n", "x", "neither yes nor no"},
		"via":          {"a.ini", "x mitogen_via=y\n", "x", `a.ini:1: mitogen_via of x: there is no host "y"`},
		"via circle":   {"a.ini", "x mitogen_via=y\ny mitogen_via=x\n", "x", "x > y > x"},
		"target":       {"a.ini", "x mitogend_target=nope:y\n", "x", "a.ini:1: mitogend_target of x"},
		"binary":       {"a", "\x7fELF\x00\x01", "", "a:1: "},
		"option-like":  {"a.ini", "-oProxyCommand=x\n", "", "a.ini:1: "},
		"no such host": {"a.ini", "x\n", "y", `no host "y"`},
	} {
		t.Run(name, func(t *testing.T) {
			inv, err := Load(write(t, dir, c.file, c.text, 0o644))
			if err == nil && c.host != "" {
				_, err = inv.Target(c.host)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "inventory: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
		})
	}
	for name, c := range map[string][2]string{
		"fails":    {"#!/bin/sh\necho first >&2; echo the reason >&2; exit 3\n", "the reason"},
		"no json":  {"#!/bin/sh\necho hello\n", "no inventory in JSON"},
		"no shell": {"hello\n", "needs a #! line"},
	} {
		if _, err := Load(write(t, dir, name, c[0], 0o755)); err == nil || !strings.Contains(err.Error(), c[1]) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv(Environment, "")
	if got := Find(); got != nil {
		t.Errorf("found %v", got)
	}
	write(t, dir, "config/mitogend/hosts.yaml", "all:\n", 0o644)
	if got := Find(); len(got) != 1 || filepath.Base(got[0]) != "hosts.yaml" {
		t.Errorf("found %v", got)
	}
	write(t, dir, "mitogend-hosts", "#!/bin/sh\n", 0o755)
	if got := Find(); filepath.Base(got[0]) != "hosts.yaml" {
		t.Errorf("a program in the current directory is found: %v", got)
	}
	write(t, dir, "mitogend-hosts.ini", "a\n", 0o644)
	if got := Find(); got[0] != "mitogend-hosts.ini" {
		t.Errorf("found %v", got)
	}
	t.Setenv(Environment, "a:b")
	if got := Find(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("found %v", got)
	}
	if list, err := load(t, "x1,x[2:3],").Match("x*"); err != nil || len(list) != 3 {
		t.Errorf("%v, %v", list, err)
	}
}

func FuzzSources(f *testing.F) {
	f.Add(ini, "web:&prod:!db*")
	f.Add(yamlText, "web[0:1],~x")
	f.Add("a: {<<: [{b: }], hosts: [x[1:3]]}", "[")
	f.Fuzz(func(t *testing.T, text, pattern string) {
		for _, read := range []func(*Inventory) error{
			func(inv *Inventory) error { return inv.readINI("x", []byte(text)) },
			func(inv *Inventory) error { return inv.readYAML("x", []byte(text)) },
		} {
			inv := newInventory()
			if read(inv) != nil || inv.finish() != nil {
				continue
			}
			_, _ = inv.Match(pattern)
			for _, name := range inv.order[:min(5, len(inv.order))] {
				if target, err := inv.Target(name); err == nil {
					_ = bootstrap.FormatTarget(target.Hops)
				}
				if v, err := inv.Vars(name); err == nil {
					if _, err := json.Marshal(v); err != nil {
						t.Errorf("%#v: %v", v, err)
					}
				}
			}
		}
	})
}

// What names of one -H mean: ports, ranges without hosts of these names, and patterns that look like them.
func TestNamesAndRanges(t *testing.T) {
	inv := load(t, write(t, t.TempDir(), "hosts.ini", `[web]
web1
web2
web3 ansible_become=yes ansible_become_method=su ansible_become_exe='sudo su -' ansible_become_flags=-m ansible_become_user=jane@example.com
box ansible_connection=docker
[2200]
x
`, 0o644))
	resolve := func(name, want string) {
		t.Helper()
		list, err := inv.Resolve(name)
		var got []string
		for _, target := range list {
			got = append(got, bootstrap.FormatTarget(target.Hops))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != want && (err == nil || !strings.Contains(text, want)) {
			t.Errorf("%s: %q, want %q", name, text, want)
		}
	}
	resolve("web1:2222", "ssh:web1?port=2222")
	resolve("web1:2222+sudo:", "ssh:web1?port=2222+sudo:")
	resolve("web1:2200", "ssh:web1 ssh:x") // a pattern that fits
	resolve("other:2222", "")
	resolve("box:22", "has no port")
	resolve("web[1:2]", "ssh:web1 ssh:web2")
	resolve("web[1-2]", "ssh:web1 ssh:web2") // one character of a name, not some of the group
	resolve("web[-1]", "docker:box")         // of the group
	resolve("db[1:3]", "")
	resolve("bo[w:y]", "bow docker:box boy") // those that it does not have are ssh hosts
	resolve("bo[w:x]:22", "has no port")
	resolve("bo[x:y]+sudo:", "docker:box+sudo: boy+sudo:")
	resolve("web[1:4]", `no host or group fits "web4"`) // is it some of the group?
	resolve("web[8:9]", `no host or group fits "web[8:9]": the group has 4 hosts`)
	resolve("web[1:2]:2222", "ssh:web1?port=2222 ssh:web2?port=2222")
	resolve("db[1-3]", "written [N:M]")
	resolve("web3", "ssh:web3+su:jane@example.com?su_args=-m&su_path=sudo%20su%20-")
	if none, err := (*Inventory)(nil).Resolve("web[1:3]"); none != nil || err != nil {
		t.Error(none, err)
	}
	for name, want := range map[string]string{
		"db[08:10]": "db08 db09 db10", "u@db[1:2]:22+sudo:": "u@db1:22+sudo: u@db2:22+sudo:", "db[1:2]?port=[1:2]": "db1?port=[1:2] db2?port=[1:2]", "db": "db",
		"[::1]:22": "[::1]:22", "local:?python=a[1:2]": "local:?python=a[1:2]", "db[2:1]": "db[2:1]",
	} {
		if got := strings.Join(Names(name), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
