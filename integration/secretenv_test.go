package integration

import (
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// TestPasswordsAreNotInTheEnvironment: no interpreter's environment has a variable that password_env of any target names, or that the
// inventory reads.
func TestPasswordsAreNotInTheEnvironment(t *testing.T) {
	p := pythons.Any(t)
	const name, other, secret = "SSH_SECRET_OF_TEST", "BECOME_SECRET_OF_TEST", "hunter2-of-test"
	dir := t.TempDir()
	Write(t, dir, "look.py", "import os\ndef look():\n    found = [k for k in os.environ if '"+secret+"' in os.environ[k]]\n"+
		"    with open('/proc/self/environ', 'rb') as f:\n        return found, f.read().count(b'"+secret+"'), os.environ['HONEST']\n")
	Write(t, dir, "mitogend-hosts.yaml", `all:
  hosts:
    unused: {ansible_password: "{{ lookup('env', '`+other+`') }}"}
    here: {ansible_connection: local, ansible_python_interpreter: "`+p.Path+`"}
`)
	local := "local:?python=" + p.Path
	asks := "exec:env?python=" + p.Path + "&stdio=hybrid&password_env=" + name
	targets := []string{local, local + "+local:?python=" + p.Path, asks, local + "+" + asks, "here"}
	env := []string{"HONEST=yes", name + "=" + secret, other + "=" + secret, "MITOGEND_SUDO_PASSWORD=" + secret}
	d := Serve(t)
	for _, daemon := range []bool{false, true} {
		cmd := Command(t, dir, "call", "-i", "mitogend-hosts.yaml", "look:look")
		if daemon {
			cmd.Env = d.Env()
		}
		cmd.Env = append(cmd.Env, env...)
		for _, target := range targets {
			cmd.Args = append(cmd.Args[:2:2], append([]string{"-H", target}, cmd.Args[2:]...)...)
		}
		r := runCommand(t, cmd)
		if r.Status != 0 || strings.Count(r.Stdout, `[[],0,"yes"]`) != len(targets) {
			t.Errorf("daemon %v: %v", daemon, r)
		}
	}
}
