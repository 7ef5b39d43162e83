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
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"mitogend/internal/fault"
)

// vaultMark begins what ansible-vault has encrypted.
const vaultMark = "$ANSIBLE_VAULT"

// What ansible-vault does: a key for the cipher, one for the digest and the first counter are derived from the
// password.
const (
	vaultRounds = 10_000
	vaultKey    = 32
)

// maxVaultWrong bounds how many passwords are tried on one text: each costs some milliseconds.
const maxVaultWrong = 20

// VaultPassword is one that may decrypt what ansible-vault has encrypted.
type VaultPassword struct {
	// Label is the id that texts of format 1.2 may name. Those with the text's label are tried first, then the
	// others.
	Label string
	// Get gives the password when it is first needed. It is asked once.
	Get func(ctx context.Context) (string, error)
}

// VaultFile gives the password in a file, or, if the file can be run, the one that it prints. As for Ansible, spaces
// around the former are no part of it, nor are empty lines around the latter.
func VaultFile(label, path string) VaultPassword {
	return VaultPassword{label, func(ctx context.Context) (string, error) {
		info, err := os.Stat(path)
		if err != nil {
			return "", fileError(path, err)
		}
		var data []byte
		around := " \t\r\n\v\f"
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			data, err = runProgram(ctx, path)
			around = "\r\n"
		} else {
			data, err = readFile(path)
		}
		if err != nil {
			return "", err
		}
		password := strings.Trim(string(data), around)
		if password == "" {
			return "", errorf("%s: there is no password in it", path)
		}
		return password, nil
	}}
}

// vault decrypts. What was decrypted is kept: deriving a key is made to take long.
type vault struct {
	passwords []VaultPassword
	got       map[int]string // by number in passwords
	failed    map[int]error
	plain     map[string]string
}

var (
	errNoVaultPassword = errors.New("it is encrypted by ansible-vault; give its password by --ask-vault-pass, " +
		"--vault-password-file or $MITOGEND_VAULT_PASSWORD")
	errVaultShape = errors.New("it is encrypted by ansible-vault, and damaged")
)

// isVault tells whether ansible-vault has encrypted a text.
func isVault(text string) bool { return strings.HasPrefix(text, vaultMark) }

// decrypt gives what is encrypted in a text.
func (v *vault) decrypt(ctx context.Context, text string) (string, error) {
	if plain, ok := v.plain[text]; ok {
		return plain, nil
	}
	label, salt, sum, data, err := parseVault(text)
	if err != nil {
		return "", err
	}
	order := make([]int, len(v.passwords))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return rank(v.passwords[a].Label, label) - rank(v.passwords[b].Label, label)
	})
	tried := 0
	for _, i := range order[:min(len(order), maxVaultWrong)] {
		password, err := v.password(ctx, i)
		if err != nil {
			return "", err
		}
		tried++
		plain, ok, err := open(password, salt, sum, data)
		if err != nil {
			return "", err
		}
		if ok {
			v.plain[text] = plain
			return plain, nil
		}
	}
	of := ""
	if label != "" {
		of = " for the label " + quoted(label)
	}
	switch tried {
	case 0:
		return "", errNoVaultPassword
	case 1:
		return "", fmt.Errorf("the vault password%s is wrong, or the text is damaged", of)
	}
	return "", fmt.Errorf("none of the %d vault passwords%s fits, or the text is damaged", tried, of)
}

// rank orders passwords: those of the text's label come first.
func rank(label, wanted string) int {
	if label == wanted {
		return 0
	}
	return 1
}

func (v *vault) password(ctx context.Context, i int) (string, error) {
	if password, ok := v.got[i]; ok || v.failed[i] != nil {
		return password, v.failed[i]
	}
	password, err := v.passwords[i].Get(ctx)
	if err != nil {
		v.failed[i] = err
		return "", err
	}
	v.got[i] = password
	return password, nil
}

// parseVault reads "$ANSIBLE_VAULT;1.2;AES256;LABEL" and the lines of hexadecimal digits below it, which hold three
// such texts.
func parseVault(text string) (label string, salt, sum, data []byte, err error) {
	head, body, _ := strings.Cut(text, "\n")
	words := strings.Split(strings.TrimSpace(head), ";")
	if len(words) < 3 || words[0] != vaultMark {
		return "", nil, nil, nil, errVaultShape
	}
	if words[1] != "1.1" && words[1] != "1.2" || words[2] != "AES256" {
		return "", nil, nil, nil, fmt.Errorf(
			"it is encrypted by ansible-vault in the format %s, and only 1.1 and 1.2 with AES256 are read",
			quoted(words[1]+" "+words[2]))
	}
	if len(words) > 3 {
		label = words[3]
	}
	inner, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return "", nil, nil, nil, errVaultShape
	}
	parts := bytes.Split(inner, []byte("\n"))
	if len(parts) != 3 {
		return "", nil, nil, nil, errVaultShape
	}
	for i, to := range []*[]byte{&salt, &sum, &data} {
		if *to, err = hex.DecodeString(string(parts[i])); err != nil {
			return "", nil, nil, nil, errVaultShape
		}
	}
	return label, salt, sum, data, nil
}

// open decrypts, if the password is the one.
func open(password string, salt, sum, data []byte) (plain string, ok bool, err error) {
	keys, err := pbkdf2.Key(sha256.New, password, salt, vaultRounds, 2*vaultKey+aes.BlockSize)
	if err != nil {
		return "", false, err
	}
	mac := hmac.New(sha256.New, keys[vaultKey:2*vaultKey])
	mac.Write(data)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return "", false, nil
	}
	block, err := aes.NewCipher(keys[:vaultKey])
	if err != nil {
		return "", false, err
	}
	out := make([]byte, len(data))
	cipher.NewCTR(block, keys[2*vaultKey:]).XORKeyStream(out, data)
	if len(out) == 0 {
		return "", false, errVaultShape
	}
	pad := int(out[len(out)-1])
	if pad < 1 || pad > aes.BlockSize || pad > len(out) ||
		!bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return "", false, errVaultShape
	}
	return string(out[:len(out)-pad]), true, nil
}

// open reads a file's data, decrypted if it is encrypted as a whole. Errors in encrypted files do not show their
// text.
func (inv *Inventory) open(path string, data []byte, read func([]byte) error) error {
	if !isVault(string(data[:min(len(data), len(vaultMark))])) {
		return read(data)
	}
	text, err := inv.vault.decrypt(inv.ctx, strings.TrimRight(string(data), "\r\n"))
	if err != nil {
		return position{path, 1}.errorf("%w", trimmed(err))
	}
	inv.vaulted = true
	defer func() { inv.vaulted = false }()
	if err := read([]byte(text)); err != nil {
		return inv.unquoted(err)
	}
	return nil
}

// trimmed drops the package's name, which comes again.
func trimmed(err error) error {
	if text := fault.Plain(err); text != err.Error() {
		return errors.New(text)
	}
	return err
}
