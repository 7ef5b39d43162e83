package bootstrap

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// hidden are the names of environment variables that hold passwords. No program that is started here has them: its code, and whoever
// may look at its environment (after su, another user), would know the password of another hop.
var hidden sync.Map // name to nil

// HideEnv keeps a variable from everything that is started from now on. [Hop.Options] calls it for password_env.
func HideEnv(name string) { hidden.Store(name, nil) }

// ownSecret matches names that are ours and say that they hold a secret, before any target has named them.
var ownSecret = regexp.MustCompile(`^MITOGEND_.*(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN)`)

// WithoutSecrets gives an environment (NAME=VALUE) without what [HideEnv] has named, and without MITOGEND_...PASSWORD and the like.
func WithoutSecrets(env []string) []string {
	secret := func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, found := hidden.Load(name)
		return found || ownSecret.MatchString(name)
	}
	if !slices.ContainsFunc(env, secret) {
		return env
	}
	return slices.DeleteFunc(slices.Clone(env), secret)
}
