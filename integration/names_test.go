package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mitogend/daemon/wire"
)

// A connection is shown, and closed, by the name that the user has used for the host.
func TestNamesOfTheInventory(t *testing.T) {
	dir := t.TempDir()
	chain := AnyPython(t).Target()
	other, third := chain+"&stdio=socketpair", chain+"&stdio=hybrid"
	t.Setenv("NAMES_PASSWORD", "of names")
	secret := "exec:env" + strings.TrimPrefix(chain, "local:") + "&stdio=hybrid&password_env=NAMES_PASSWORD"
	Write(t, dir, "mitogend-hosts.yaml", fmt.Sprintf("all:\n  hosts:\n    web07: {mitogend_target: %q}\n    web08: &o {mitogend_target: %q}\n    db1: *o\n"+
		"    alias1: {mitogend_target: %q}\n    secret1: &s {mitogend_target: %q}\n    secret2: *s\n", chain, other, third, secret))
	d := Serve(t, "--http", "127.0.0.1:0", "--log-level", "debug")
	mitogend := func(args ...string) Result { return d.Run(t, dir, args...) }
	contexts := func() map[string]wire.Context {
		byName := map[string]wire.Context{}
		for _, line := range strings.Split(strings.TrimSpace(mitogend("ps", "--json").Stdout), "\n") {
			var c wire.Context
			if line != "" && json.Unmarshal([]byte(line), &c) == nil {
				byName[c.Name] = c
			}
		}
		return byName
	}
	// A client without a name comes first, then several with names: the first name is shown.
	for _, hosts := range []string{third, "web07", "web08,db1"} {
		if r := mitogend("call", "-q", "-p", "1", "-H", hosts, "os:getpid"); r.Status != 0 {
			t.Fatal(r)
		}
	}
	if c := contexts()[third]; c.Chain != "" || c.ID == 0 {
		t.Errorf("a target without a name: %+v of %v", c, contexts())
	}
	found := contexts()
	if c := found["web07"]; c.Chain != chain || len(c.Names) != 1 {
		t.Errorf("web07: %+v of %v", c, found)
	}
	if c := found["web08"]; len(c.Names) != 2 || c.Names[1] != "db1" { // the same interpreter by two names
		t.Errorf("web08: %+v of %v", c, found)
	}
	if r := mitogend("ps"); !strings.Contains(r.Stdout, "CHAIN") || !strings.Contains(r.Stdout, "  web07  ") || !strings.Contains(r.Stdout, chain) {
		t.Error(r)
	}
	if r := mitogend("logs", "--kind", "log,connected", "--target", "web07"); !strings.Contains(r.Stdout, " connected ") || !strings.Contains(r.Stdout, "web07") {
		t.Error(r)
	}
	if r := mitogend("logs", "--json", "--kind", "connected", "--target", chain); !strings.Contains(r.Stdout, `"target":"web07","chain":"local:`) {
		t.Error(r)
	}
	resp, err := http.Get("http://" + httpAddress(t, d) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	for _, want := range []string{`mitogend_target_connections{target="web07"} 1`, `mitogend_target_calls_total{target="web08"} 2`, `mitogend_target_calls_failed_total{target="web07"} 0`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	mitogend("close", "web07").Want(t, 0, "", "closed 1 connection")
	mitogend("close", "db1").Want(t, 0, "", "closed 1 connection")
	mitogend("close", "web09").Want(t, 1, "", "web09: there is no such connection")
	if r := mitogend("logs", "--json", "--kind", "closed"); strings.Count(r.Stdout, `"target":"web0`) != 2 {
		t.Error(r)
	}
	// By a pattern of the inventory: nobody has used these names, but their target is connected.
	mitogend("close", "alias*").Want(t, 0, "", "closed 1 connection")
	// So is one whose target says where the password is, which is no part of what the daemon calls it.
	for _, host := range []string{"secret1", secret} {
		if r := mitogend("call", "-q", "-H", host, "os:getpid"); r.Status != 0 {
			t.Fatal(r)
		}
		mitogend("close", "secret2*").Want(t, 0, "", "closed 1 connection")
	}
}

// A number that is an id and a host's name ends neither connection.
func TestCloseOfNumbers(t *testing.T) {
	dir := t.TempDir()
	p := AnyPython(t)
	d := Serve(t)
	text := "all:\n  hosts:\n    web1: {mitogend_target: '" + p.Target() + "'}\n"
	for i := range 60 {
		text += fmt.Sprintf("    \"%d\": {mitogend_target: '%s&connect_timeout=%d'}\n", i+1, p.Target(), 100+i)
	}
	Write(t, dir, "mitogend-hosts.yaml", text)
	mitogend := func(args ...string) Result { return d.Run(t, dir, args...) }
	if r := mitogend("call", "-q", "-H", "web1,50", "os:getpid"); r.Status != 0 {
		t.Fatal(r)
	}
	id := func(name string) string {
		t.Helper()
		for line := range strings.Lines(mitogend("ps", "--json").Stdout) {
			var c wire.Context
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatal(err)
			}
			if c.Name == name {
				return fmt.Sprint(c.ID)
			}
		}
		return "none"
	}
	web1 := id("web1")
	mitogend("close", web1).Want(t, 2, "", web1+" is an id and the name of a host or group: for the id write --id "+web1)
	if got := id("web1"); got != web1 {
		t.Errorf("it is %s, was %s", got, web1)
	}
	mitogend("close", "50").Want(t, 0, "", "closed 1 connection") // no id
	mitogend("close", "--id", web1).Want(t, 0, "", "closed 1 connection")
	mitogend("close", "--id", web1).Want(t, 1, "", "there is no such connection")
	if id("web1") != "none" || id("50") != "none" {
		t.Error(mitogend("ps"))
	}
}

const hostVarsProgram = `
import sys
import mitogend

def main():
    v = mitogend.host_vars()
    print(mitogend.target(), v['app'] == {'port': 80, 'on': True, 'list': [1, 2.5, None, u'x']}, v['title'], v['db_password'], sys.argv[1:])
    for name in 'templated', 'missing', 'ansible_password':
        try:
            v[name]
        except KeyError as e:
            print('is not evaluated' in str(e) or str(e))
    if sys.version_info >= (3, 6):
        import multiprocessing
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            print(sorted(pool.apply(mitogend.host_vars)) == sorted(v))

if __name__ == '__main__':
    main()
`

// A program can read its host's variables, also those that ansible-vault has encrypted. They are not in arguments or traces.
func TestHostVariables(t *testing.T) {
	dir := t.TempDir()
	Write(t, dir, "p.py", hostVarsProgram)
	Write(t, dir, "password", "one\n")
	// "db_password: hunter2" by the password one; see the tests of package inventory for where it is from.
	Write(t, dir, "host_vars/web07.yml", vaultedPassword)
	d := Serve(t)
	EachPython(t, func(t *testing.T, p Python) {
		inv := Write(t, dir, "hosts-"+p.Version+".yml", fmt.Sprintf(`
web:
  hosts:
    web07:
      mitogend_target: %q
      ansible_password: not for you
      app: {port: 80, on: yes, list: [1, 2.5, null, x]}
      title: "{{ inventory_hostname }} of {{ site }}"
      templated: "{{ site | upper }}"
  vars: {site: north}
`, p.Target()))
		want := "web07 True web07 of north hunter2 ['a']\n"
		if p.Version == "2.7" {
			want = "('web07', True, u'web07 of north', u'hunter2', ['a'])\n"
		}
		for _, daemon := range []bool{true, false} {
			trace := filepath.Join(t.TempDir(), "trace")
			args := []string{"run", "-i", inv, "--vault-password-file", "password", "-H", "web07", "p.py", "a"}
			r := d.Run(t, dir, args...)
			if !daemon {
				r = Mitogend(t, dir, append([]string{"run", "--trace", trace}, args[1:]...)...)
			}
			if r.Status != 0 || !strings.HasPrefix(r.Stdout, want) || strings.Count(r.Stdout, "no such variable of this host") != 2 || !strings.Contains(r.Stdout, "\nTrue\n") {
				t.Fatal(r)
			}
			if p.Version != "2.7" && !strings.HasSuffix(r.Stdout, "True\n") {
				t.Error(r)
			}
			frames, _ := os.ReadFile(trace)
			for _, line := range strings.Split(string(frames), "\n") {
				if strings.Contains(line, " -> ") && strings.Contains(line, "hunter2") {
					t.Errorf("the trace has %s", line)
				}
			}
		}
	})
	Mitogend(t, dir, "run", "p.py").Want(t, 1, "", "LookupError: there are no host variables")
	Mitogend(t, dir, "hosts", "-i", "host_vars/web07.yml").Want(t, 2, "", "web07.yml:1: it is encrypted by ansible-vault; give its password")
	Write(t, dir, "hosts.yml", "web: {hosts: {web07: , web08: }}\n")
	Mitogend(t, dir, "hosts", "-i", "hosts.yml").Want(t, 2, "web08  ssh:web08\n", "host_vars/web07.yml:1: it is encrypted")
	Write(t, dir, "wrong", "two\n")
	Mitogend(t, dir, "call", "-i", "hosts.yml", "--vault-password-file", "wrong", "-H", "web07", "os:getpid").Want(t, 2, "", "the vault password is wrong")
	vars := []string{"hosts", "-i", "hosts.yml", "--vars", "web07"}
	ask := append(slices.Clone(vars), "--ask-vault-pass")
	for typed, status := range map[string]int{"one\r": 0, "two\r": 2, "\x03": 130, "\r": 2} {
		term := onTerminal(t, Command(t, dir, ask...))
		term.expect("Vault password: ")
		term.send(typed)
		if got := term.wait(); got != status || strings.Contains(term.screen(), "two") || (status == 0) != strings.Contains(term.screen(), `"***"`) || strings.Count(term.screen(), "interrupted") > 1 {
			t.Errorf("%q: status %d\n%s", typed, got, term.screen())
		}
	}
	known := `"group_names":["web"],"inventory_hostname":"web07","inventory_hostname_short":"web07"}}` + "\n"
	cmd := Command(t, dir, vars...)
	cmd.Env = append(cmd.Env, "MITOGEND_VAULT_PASSWORD=one")
	runCommand(t, cmd).Want(t, 0, `{"host":"web07","vars":{"db_password":"***",`+known, "")
	Mitogend(t, dir, append(vars, "--vault-password-file", "password", "--show-secrets")...).Want(t, 0, `{"host":"web07","vars":{"db_password":"hunter2",`+known, "")
}

const vaultedPassword = `$ANSIBLE_VAULT;1.1;AES256
30303031303230333034303530363037303830393061306230633064306530663130313131323133
3134313531363137313831393161316231633164316531660a366637643732653865363365353634
65633434326534353762383661343661333739353832666366366234613930623933616531393462
6663636661353430380a663137393363396638373062356161316134633432636132616562313833
61636135636335623762613234393035333964363436636639633566623830666136
`
