package pool

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mitogend/bootstrap"
	"mitogend/daemon"
	"mitogend/importer"
)

// Request says which child is wanted.
type Request struct {
	// Target is how errors and logs call it; Hops is what it means.
	Target string
	Hops   []bootstrap.Hop
	// Name is the client's name for it, say a host of an inventory; empty if it is Target. Requests that differ in it
	// only are the same.
	Name string
	// Python, PythonFrom, PreferHere, Bytecode, Policy: see daemon.ConnectOptions. What PythonFrom leaves open is as
	// in the pool's options.
	Python     []string
	PythonFrom daemon.PythonFrom
	PreferHere bool
	Bytecode   daemon.BytecodeUse
	Policy     importer.Policy
	// Timeout is for each hop; 0 means bootstrap.DefaultTimeout. Requests that differ in it only are the same.
	Timeout time.Duration
	// Passwords by the number of the hop. They win over what a hop says of a password.
	Passwords map[int]string
	// Source says what modules are served; nil is what the pool's own options say.
	Source *importer.Options
	// Dir and Env are where the first hop's program is started, for a first hop that stays on this machine; programs
	// that connect to another one get Env, and are shared whatever Dir is.
	Dir string
	Env []string
	// Fresh asks for a connection that nobody shares.
	Fresh bool
	// Since: changes of modules before this time are looked for. Those within the last 100 ms may go unnoticed if it
	// is zero.
	Since time.Time
	// Client is the process that asks, for those who want to know what runs for whom; 0 if it is not known.
	Client int
	// Watch is told what happens on the connection, beginning with the connect. May be nil.
	Watch *Watcher
	// Common, where it is set, is the same for requests that differ in Target, Hops, Passwords and Watch only.
	Common *Common
}

// Common is what requests for many targets have in common: it is looked at once for all of them. It is safe for
// concurrent use.
type Common struct {
	source, here, there func() string
}

// NewCommon looks at a request.
func NewCommon(r Request) *Common {
	return &Common{
		source: sync.OnceValue(func() string { return sourceKey(r.Source) }),
		here:   sync.OnceValue(func() string { return r.environmentKey(true) }),
		there:  sync.OnceValue(func() string { return r.environmentKey(false) }),
	}
}

func (r *Request) sourceKey() string {
	if r.Common != nil {
		return r.Common.source()
	}
	return sourceKey(r.Source)
}

// reaches are the variables that decide what the other methods reach. The agent's socket is not among them: once the
// connection is there, it does not matter who has let it in.
var reaches = []string{"HOME", "PATH", "USER", "LOGNAME", "KUBECONFIG", "KRB5CCNAME", "LXD_DIR", "INCUS_DIR",
	"XDG_CONFIG_HOME"}

// noise changes from shell to shell and from command to command, and means nothing to a program.
var noise = []string{"_", "OLDPWD", "PWD", "SHLVL", "WINDOWID", "XDG_SESSION_ID"}

func (r *Request) local() bool {
	return len(r.Hops) > 0 && r.Hops[0].OrSSH().StaysHere()
}

// environment is the part of Env that belongs to the key. local says whether the first hop stays here.
func (r *Request) environment(local bool) []string {
	var out []string
	for _, entry := range r.Env {
		name, _, _ := strings.Cut(entry, "=")
		keep := !slices.Contains(noise, name)
		if !local {
			keep = slices.Contains(reaches, name) || strings.HasPrefix(name, "DOCKER_") ||
				strings.HasPrefix(name, "CONTAINER")
		}
		if keep {
			out = append(out, entry)
		}
	}
	slices.Sort(out)
	return out
}

// salt keeps passwords from being guessed out of a key.
var salt = func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}()

// key is equal for requests that can share a connection. source is the key of what they are served.
func (r *Request) key(source string) string {
	local, dir, passwords := r.local(), "", ""
	if local {
		dir = r.Dir
	}
	if len(r.Passwords) > 0 {
		mac := hmac.New(sha256.New, salt)
		for i := range r.Hops {
			if p, ok := r.Passwords[i]; ok {
				mac.Write([]byte(strconv.Itoa(i) + "\x00" + strconv.Itoa(len(p)) + "\x00" + p))
			}
		}
		passwords = string(mac.Sum(nil))
	}
	env := ""
	switch {
	case r.Common == nil:
		env = r.environmentKey(local)
	case local:
		env = r.Common.here()
	default:
		env = r.Common.there()
	}
	b, _ := json.Marshal([]any{ // of text, lists and bool: cannot fail
		bootstrap.FormatTarget(r.hops()), r.Python, r.PythonFrom, r.PreferHere,
		cmp.Or(r.Bytecode, daemon.BytecodeAuto), source, dir, []byte(passwords), env, r.Policy,
	})
	return string(b)
}

// environmentKey is equal for environments that can share a connection.
func (r *Request) environmentKey(local bool) string {
	mac := hmac.New(sha256.New, salt)
	for _, entry := range r.environment(local) {
		mac.Write([]byte(strconv.Itoa(len(entry)) + "\x00" + entry))
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// hops gives the hops without what the passwords replace.
func (r *Request) hops() []bootstrap.Hop {
	out := slices.Clone(r.Hops)
	for i := range out {
		if _, ok := r.Passwords[i]; !ok {
			continue
		}
		args := map[string]string{}
		for k, v := range out[i].Args {
			if k != "password_env" && k != "password_file" {
				args[k] = v
			}
		}
		out[i].Args = args
	}
	return out
}

// sourceKey is equal for options that serve the same.
func sourceKey(o *importer.Options) string {
	if o == nil {
		return ""
	}
	var main []any
	if o.Main != nil {
		main = []any{o.Main.Path, sha256.Sum256(o.Main.Source), o.Main.Run}
	}
	b, _ := json.Marshal([]any{o.Path, o.Venv, o.Policy, o.Libs, o.Unpack, o.Wheels, o.Constraints, o.Requirements,
		main})
	return string(b)
}
