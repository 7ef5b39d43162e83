package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/daemon/inventory"
)

// vaultFlags say how to decrypt what ansible-vault has encrypted.
type vaultFlags struct {
	ask   bool
	files []string
}

func (f *vaultFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.ask, "ask-vault-pass", false, "ask for the password of what ansible-vault has encrypted in the inventory, when it is needed")
	cmd.Flags().StringArrayVar(&f.files, "vault-password-file", nil, "`FILE` with that password, or a program that prints it; LABEL@FILE for texts of that label; repeatable (default $MITOGEND_VAULT_PASSWORD_FILE, $ANSIBLE_VAULT_PASSWORD_FILE)")
}

// Variables of the environment. The first has a password, and no process that we start gets it. The others have
// files, with colons between them as in PATH.
const (
	vaultPasswordEnv = "MITOGEND_VAULT_PASSWORD"
	vaultFileEnv     = "MITOGEND_VAULT_PASSWORD_FILE"
	ansibleVaultEnv  = "ANSIBLE_VAULT_PASSWORD_FILE"
)

func (f *vaultFlags) passwords() []inventory.VaultPassword {
	files := f.files
	if len(files) == 0 {
		files = filepath.SplitList(os.Getenv(vaultFileEnv))
	}
	list := vaultPasswords(files)
	if f.ask {
		list = append(list, inventory.VaultPassword{Get: func(ctx context.Context) (string, error) {
			return askPassword(ctx, "--ask-vault-pass", "Vault password: ", "--vault-password-file FILE")
		}})
	}
	return list
}

// vaultPasswords gives the passwords of files and of the environment.
func vaultPasswords(files []string) []inventory.VaultPassword {
	if len(files) == 0 {
		files = filepath.SplitList(os.Getenv(ansibleVaultEnv))
	}
	var list []inventory.VaultPassword
	for _, file := range files {
		list = append(list, inventory.VaultFile(vaultLabel(file)))
	}
	if password := os.Getenv(vaultPasswordEnv); password != "" {
		list = append(list, inventory.VaultPassword{Get: func(context.Context) (string, error) { return password, nil }})
	}
	return list
}

// vaultLabel parts LABEL@FILE. A slash before the @ is one of a path: /home/me@corp/password has no label.
func vaultLabel(text string) (label, file string) {
	label, file, found := strings.Cut(text, "@")
	if !found || label == "" || strings.Contains(label, "/") {
		return "", text
	}
	return label, file
}
