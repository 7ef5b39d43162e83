package main

import "testing"

func TestVaultLabel(t *testing.T) {
	for text, want := range map[string][2]string{
		"pw": {"", "pw"}, "prod@pw": {"prod", "pw"}, "prod@/etc/p@w": {"prod", "/etc/p@w"}, "@pw": {"", "@pw"},
		"/home/me@corp/pw": {"", "/home/me@corp/pw"}, "./me@corp": {"", "./me@corp"},
	} {
		if label, file := vaultLabel(text); label != want[0] || file != want[1] {
			t.Errorf("%s: %q, %q", text, label, file)
		}
	}
}
