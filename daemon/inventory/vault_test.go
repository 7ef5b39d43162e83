package inventory

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/bootstrap"
)

// Made by PyCA's cryptography with the salt 00 01 ... 1f: "s3cr3t\n" by the password one, and "hunter2" by the
// password two and the label prod.
const (
	vaultOne = `$ANSIBLE_VAULT;1.1;AES256
30303031303230333034303530363037303830393061306230633064306530663130313131323133
3134313531363137313831393161316231633164316531660a373466643763306461396666623566
32323637373436616636383461356135636433396139396162306130393761363363373932383865
3038666434313333340a653632383030396464353063323364666332626634313931383764306666
6362
`
	vaultTwo = `$ANSIBLE_VAULT;1.2;AES256;prod
30303031303230333034303530363037303830393061306230633064306530663130313131323133
3134313531363137313831393161316231633164316531660a316365346463353363646364323964
33386233663562313465626461303538346662333630396433356135646232333633353061333466
6238393734376439330a636539323330653831393135323134303837323134323337663230323764
3939
`
)

// password is one that is counted when it is asked for.
func password(label, text string, asked *int) VaultPassword {
	return VaultPassword{label, func(context.Context) (string, error) { *asked++; return text, nil }}
}

func TestVault(t *testing.T) {
	asked := 0
	one, two, no := password("", "one", &asked), password("prod", "two", &asked), password("", "no", &asked)
	for name, c := range map[string]struct {
		text      string
		passwords []VaultPassword
		want      string // or the error
	}{
		"1.1":         {vaultOne, []VaultPassword{one}, "s3cr3t\n"},
		"1.2":         {vaultTwo, []VaultPassword{no, two}, "hunter2"},
		"crlf":        {strings.ReplaceAll(vaultOne, "\n", "\r\n"), []VaultPassword{one}, "s3cr3t\n"},
		"other label": {vaultTwo, []VaultPassword{password("x", "two", &asked)}, "hunter2"},
		"none":        {vaultOne, nil, "give its password by --ask-vault-pass"},
		"wrong":       {vaultOne, []VaultPassword{no}, "the vault password is wrong"},
		"wrong label": {vaultTwo, []VaultPassword{password("prod", "x", &asked), one}, `none of the 2 vault passwords for the label "prod" fits`},
		"damaged":     {strings.Replace(vaultOne, "6362\n", "6361\n", 1), []VaultPassword{one}, "or the text is damaged"},
		"cut":         {vaultOne[:200], []VaultPassword{one}, "damaged"},
		"no digits":   {"$ANSIBLE_VAULT;1.1;AES256\nxyz\n", []VaultPassword{one}, "damaged"},
		"old":         {"$ANSIBLE_VAULT;1.0;AES\n6362\n", []VaultPassword{one}, "only 1.1 and 1.2 with AES256"},
		"head":        {"$ANSIBLE_VAULT", []VaultPassword{one}, "damaged"},
		"no file":     {vaultOne, []VaultPassword{VaultFile("", "/nonexistent/file")}, "no such file"},
	} {
		inv := newInventory()
		inv.vault.passwords = c.passwords
		got, err := inv.vault.decrypt(context.Background(), c.text)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	asked = 0
	inv := newInventory()
	inv.vault.passwords = []VaultPassword{two}
	for range 3 {
		if _, err := inv.vault.decrypt(context.Background(), vaultTwo); err != nil {
			t.Fatal(err)
		}
		_, _ = inv.vault.decrypt(context.Background(), vaultOne)
	}
	if asked != 1 {
		t.Errorf("the password was asked for %d times", asked)
	}
}

// Nothing is left of secrets one of which is a part of another.
func TestHide(t *testing.T) {
	target := &Target{Hidden: []string{"hunt", "hunter22", "22"}}
	for text, want := range map[string]string{"x-hunter22-hunt": "x-***-***", "22": "***", "port 2200": "port 2200"} {
		if got := target.Hide(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestVaultFilePasswords(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MITOGEND_VAULT_PASSWORD", "hunter2")
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"plain":      {"one two\r\n", 0o600, "one two"},
		"spaces":     {"\n\v one \ttwo\f \n", 0o600, "one \ttwo"}, // as Ansible reads a file
		"lines":      {"#!/bin/sh\nprintf '\\n\\r one \\r\\n\\n'\n", 0o700, " one "},
		"only blank": {" \t\n", 0o600, "no password in it"},
		"goes on":    {"#!/bin/sh\nsleep 5 &\necho done\n", 0o700, "done"}, // with its stdout open
		"goes wrong": {"#!/bin/sh\nsleep 5 &\nexit 1\n", 0o700, "exit status 1"},
		"program":    {"#!/bin/sh\necho from a program\n", 0o700, "from a program"},
		"no secrets": {"#!/bin/sh\necho \"${MITOGEND_VAULT_PASSWORD-not told}\"\n", 0o700, "not told"},
		"fails":      {"#!/bin/sh\necho locked >&2; exit 1\n", 0o700, "locked"},
		"empty":      {"\n", 0o600, "no password in it"},
	} {
		got, err := VaultFile("", write(t, dir, name, c.text, c.mode)).Get(context.Background())
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// indented is a text as a block of YAML.
func indented(text, by string) string {
	return "|\n" + by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by) + "\n"
}

func vaulted(t *testing.T) *Inventory {
	t.Helper()
	dir := t.TempDir()
	path := write(t, dir, "hosts.yml", `
web:
  hosts:
    web1:
      ansible_user: !vault `+indented(vaultTwo, "        ")+`
      ansible_password: !vault `+indented(vaultTwo, "        ")+`
      app: {port: 80, debug: yes, ratio: 0.5, list: [1, x, null], big: 18446744073709551615, key: !vault `+"\"$ANSIBLE_VAULT;1.1;AES256\\n6162\\n\""+`}
      title: "{{ name }} on {{ inventory_hostname }}"
      all_of_it: "{{ port_list }}"
      bad: "{{ name | upper }}"
      none:
    web2:
      ansible_user: "{{ user }}"
  vars: {name: shop, port_list: [1, 2], zip: "01234", user: !vault `+"\"$ANSIBLE_VAULT;1.1;AES256\\n6162\\n\""+`}
`, 0o600)
	write(t, dir, "group_vars/web.yml", "", 0o600)
	inv, err := Open(context.Background(), Found{Sources: []string{path}, Vault: []VaultPassword{{"prod", func(context.Context) (string, error) { return "two", nil }}}})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// What was encrypted reaches the hop, and nothing that is shown.
func TestVaultInTargets(t *testing.T) {
	inv := vaulted(t)
	target, err := inv.Target("web1")
	if err != nil {
		t.Fatal(err)
	}
	if text := bootstrap.FormatTarget(target.Hops); text != "ssh:web1?username=hunter2" || string(target.Secrets[0]) != "hunter2" {
		t.Errorf("%s, %v", text, target.Secrets)
	}
	if got := target.Hide(target.Hops[0].Args["username"]); got != "***" {
		t.Errorf("shown is %q", got)
	}
	if _, err := inv.Target("web2"); err == nil || !strings.Contains(err.Error(), "user of web2: it is encrypted by ansible-vault, and damaged") {
		t.Error(err)
	}
	// A file of groups that is encrypted as a whole is needed at once.
	path := write(t, t.TempDir(), "hosts", vaultOne, 0o600)
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+":1: it is encrypted by ansible-vault; give its password") {
		t.Error(err)
	}
}

// What an error quotes is not what was encrypted.
func TestVaultInErrors(t *testing.T) {
	inv := newInventory()
	inv.vault.passwords = []VaultPassword{{"", func(context.Context) (string, error) { return "two", nil }}}
	h := inv.host(inv.group("web"), "x")
	h.vars["ansible_connection"] = value{raw: vaultText(vaultTwo)}
	if err := inv.finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Target("x"); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "***") {
		t.Error(err)
	}
}

func TestHostVars(t *testing.T) {
	inv := vaulted(t)
	v, err := inv.Vars("web1")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(v.Known)
	want := `{"all_of_it":[1,2],"ansible_user":"hunter2","group_names":["web"],"inventory_hostname":"web1","inventory_hostname_short":"web1",` +
		`"name":"shop","none":null,"port_list":[1,2],"title":"shop on web1","zip":"01234"}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if len(v.Unknown) != 3 || !strings.Contains(v.Unknown["bad"], "is not evaluated") || !strings.Contains(v.Unknown["app"], "damaged") || !strings.Contains(v.Unknown["user"], "damaged") {
		t.Errorf("%q", v.Unknown)
	}
	if len(v.Secret) != 1 || v.Secret[0] != "ansible_user" {
		t.Errorf("%q", v.Secret)
	}
	dir := t.TempDir()
	list := load(t, write(t, dir, "h.ini", "[x]\nx a=1 b=1.5 c=True d='1' e=text f=None g=-3 h=1_0 i=0x10 j=01234 k=0 l=18446744073709551615 m=123456789012345678901 n=0.5 o=-\n[x:vars]\np=1\n", 0o600))
	if v, err = list.Vars("x"); err != nil {
		t.Fatal(err)
	}
	got, _ = json.Marshal(v.Known)
	if want := `{"a":1,"b":1.5,"c":true,"d":1,"e":"text","f":"None","g":-3,"group_names":["x"],"h":"1_0","i":"0x10","inventory_hostname":"x","inventory_hostname_short":"x",` +
		`"j":"01234","k":0,"l":18446744073709551615,"m":"123456789012345678901","n":0.5,"o":"-","p":"1"}`; string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	script := write(t, dir, "prog", `#!/bin/sh
cat <<'end'
{"web": ["y"], "_meta": {"hostvars": {"y": {"a": 1, "b": {"c": [true, null, 1.5]}, "secret": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n00\n"}}}}}
end
`, 0o700)
	if v, err = load(t, script).Vars("y"); err != nil {
		t.Fatal(err)
	}
	got, _ = json.Marshal(v.Known)
	if want := `{"a":1,"b":{"c":[true,null,1.5]},"group_names":["web"],"inventory_hostname":"y","inventory_hostname_short":"y"}`; string(got) != want || v.Unknown["secret"] == "" {
		t.Errorf("%s\nwant %s; %q", got, want, v.Unknown)
	}
}

// Variables that say billions of things are an error for the program, at once.
func TestHostVarsBombs(t *testing.T) {
	text := "all:\n  hosts: {x: }\n  vars:\n" + aliases(12, "    v0: &a0 {k: 1}\n", "    v%[1]d: &a%[1]d [%[2]s]\n", "*a%d")
	inv := load(t, write(t, t.TempDir(), "hosts.yaml", text, 0o600))
	if v, err := inv.Vars("x"); err == nil || !strings.Contains(err.Error(), "too much for a program") {
		t.Error(v, err)
	}
	inv = load(t, write(t, t.TempDir(), "hosts.yaml", "all:\n  hosts: {x: }\n  vars: {a: \"{{ b }}\", b: \"{{ c }}\", c: [\"{{ a }}\"]}\n", 0o600))
	v, err := inv.Vars("x")
	if err != nil || !strings.Contains(v.Unknown["a"], "in a circle") {
		t.Error(v, err)
	}
}

// sealed encrypts as ansible-vault does.
func sealed(t *testing.T, password, text string) string {
	t.Helper()
	salt := bytes.Repeat([]byte{7}, 32)
	keys, err := pbkdf2.Key(sha256.New, password, salt, vaultRounds, 2*vaultKey+aes.BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	pad := aes.BlockSize - len(text)%aes.BlockSize
	data := append([]byte(text), bytes.Repeat([]byte{byte(pad)}, pad)...)
	block, err := aes.NewCipher(keys[:vaultKey])
	if err != nil {
		t.Fatal(err)
	}
	cipher.NewCTR(block, keys[2*vaultKey:]).XORKeyStream(data, data)
	mac := hmac.New(sha256.New, keys[vaultKey:2*vaultKey])
	mac.Write(data)
	inner := fmt.Sprintf("%x\n%x\n%x", salt, mac.Sum(nil), data)
	return vaultMark + ";1.1;AES256\n" + hex.EncodeToString([]byte(inner)) + "\n"
}

// What is wrong with a file that is encrypted as a whole is told by its line, and not by what stands there.
func TestVaultOfWhatCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{
		"hosts":              "web1 ansible_password=hunter2\n[web:vars]\nhunter2\n",
		"hosts.ini":          "[web:hunter2]\n",
		"b/hosts.ini":        "web1 'hunter2\n",
		"hosts.yml":          "web:\n  hunter2: {}\n",
		"b/hosts.yml":        "web: [hunter2\n",
		"d/hosts.json":       `{"web": hunter2}`,
		"e/group_vars/a.yml": "a: b\nhunter2\n",
		"f/group_vars/a.yml": "a: &x hunter2\nb: *hunter2\n",
	} {
		dir := t.TempDir()
		path := write(t, dir, name, sealed(t, "two", text), 0o600)
		found := path
		if strings.Contains(name, "group_vars") {
			found = write(t, filepath.Dir(filepath.Dir(path)), "hosts", "[a]\nweb1\n", 0o600)
		}
		inv, err := Open(context.Background(), Found{Sources: []string{found}, Vault: []VaultPassword{{"", func(context.Context) (string, error) { return "two", nil }}}})
		if err == nil {
			_, err = inv.Target("web1")
		}
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ansible-vault view") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
