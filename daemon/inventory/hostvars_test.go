package inventory

import "testing"

func TestPasswordsAreNoVariables(t *testing.T) {
	t.Parallel()
	secret := []string{
		"ansible_password", "ansible_pass", "ansible_ssh_pass", "ansible_ssh_password", "ansible_become_pass", "ansible_become_password", "ansible_sudo_pass",
		"ansible_ssh_private_key_passphrase", "mitogend_password", "mitogend_become_password", "mitogen_password", "mitogen_ssh_password",
	}
	given := []string{"ansible_user", "ansible_ssh_private_key_file", "mitogend_password_env", "mitogend_become_password_file", "password", "db_pass", "ansible_passport"}
	text := "all: {hosts: {x: {"
	for i, name := range append(secret[:len(secret):len(secret)], given...) {
		if i > 0 {
			text += ", "
		}
		text += name + ": value"
	}
	v, err := load(t, write(t, t.TempDir(), "hosts.yml", text+"}}}\n", 0o644)).Vars("x")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range secret {
		if v.Known[name] != nil || v.Unknown[name] != "" {
			t.Errorf("%s is given", name)
		}
	}
	for _, name := range given {
		if v.Known[name] != "value" {
			t.Errorf("%s is not given", name)
		}
	}
}
