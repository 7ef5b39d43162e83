package bootstrap

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"mitogend/pyproto/printable"
)

// MaxTarget bounds a target's length in bytes.
const MaxTarget = 64 << 10

// MaxHops bounds how many interpreters a target is behind each other: each is a process that has to be there for the next.
const MaxHops = 64

// TooManyHops is the error of a target with more than MaxHops.
func TooManyHops(n int) error {
	return fmt.Errorf("it has %d hops, and %d is the limit", n, MaxHops)
}

// Hop is one step of a target: METHOD:SPEC?KEY=VALUE&... It never holds a secret, only where one is (password_env,
// password_file).
type Hop struct {
	// Method is empty for a bare name, which is a name of the inventory, or else means ssh:NAME. Only a target's
	// first hop can be one.
	Method string
	Spec   string
	Args   map[string]string // nil when there are none
}

// secretSources are the keys that say where a password is.
const (
	keyPasswordEnv  = "password_env"
	keyPasswordFile = "password_file"
)

// ParseTarget reads the TARGET grammar:
//
//	TARGET = HOP ("+" HOP)*
//	HOP    = METHOD ":" [SPEC] ["?" KEY "=" VALUE ("&" KEY "=" VALUE)*]     or, as first hop, a bare NAME or HOST:PORT with the same "?"
//
// SPEC and VALUE are percent-decoded: + is %2B, ? is %3F, & is %26, % is %25. Methods, keys and the form of each SPEC are
// checked here; values are checked when the plan is built.
func ParseTarget(s string) ([]Hop, error) {
	bad := func(format string, args ...any) ([]Hop, error) {
		return nil, &Error{Step: StepOptions, Reason: fmt.Sprintf("target %s: %s", shorten(s), fmt.Sprintf(format, args...))}
	}
	switch {
	case s == "":
		return bad("it is empty")
	case len(s) > MaxTarget:
		return bad("it is longer than %d bytes", MaxTarget)
	case strings.ContainsAny(s, "\x00\n\r"):
		return bad("it contains a newline or a NUL byte")
	case strings.Count(s, "+") >= MaxHops:
		return bad("%v", TooManyHops(strings.Count(s, "+")+1))
	}
	var hops []Hop
	for i, part := range strings.Split(s, "+") {
		hop, err := parseHop(part, i == 0)
		if err != nil {
			return bad("hop %d (%s): %v", i+1, shorten(part), err)
		}
		hops = append(hops, hop)
	}
	return hops, nil
}

// passwordValue finds what somebody wrote into a target in spite of all.
var passwordValue = regexp.MustCompile(`(?i)(pass[^=&+]*=)[^&+]*`)

// shorten quotes s for an error, without anything that may be a secret.
func shorten(s string) string {
	return fmt.Sprintf("%q", printable.Short(passwordValue.ReplaceAllString(s, "${1}******")))
}

func parseHop(s string, first bool) (Hop, error) {
	head, query, hasQuery := strings.Cut(s, "?")
	method, spec, hasColon := strings.Cut(head, ":")
	var h Hop
	m := methods["ssh"]
	switch {
	case s == "":
		return h, errors.New("it is empty; a plus sign inside a value is written %2B")
	case !hasColon && methods[head] != nil && !first:
		return h, fmt.Errorf("%q lacks the colon that ends a method", head)
	case !hasColon && !first:
		return h, fmt.Errorf("%q names no method; a plus sign inside a value is written %%2B", head)
	case !hasColon && head == "":
		return h, errors.New("there is no method before the question mark")
	case !hasColon, methods[method] == nil && first && HasPort(head):
		spec = head // a bare name
	case methods[method] == nil:
		return h, fmt.Errorf("unknown method %q (a host with a port is HOST:PORT or ssh:HOST:PORT); one of %s", method, methodNames())
	default:
		h.Method, m = method, methods[method]
	}
	var err error
	if h.Spec, err = decode(spec); err != nil {
		return h, err
	}
	if hasQuery {
		if h.Args, err = parseArgs(query, m); err != nil {
			return h, err
		}
	}
	_, err = h.specOptions()
	return h, err
}

var hostAndPort = regexp.MustCompile(`^([^@]+@)?(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^:@\[\]]+):([0-9]{1,5})$`)

// HasPort tells whether a name is HOST:PORT or USER@HOST:PORT, with an IPv6 address in brackets.
func HasPort(name string) bool { return hostAndPort.MatchString(name) }

func parseArgs(query string, m *Method) (map[string]string, error) {
	args := map[string]string{}
	for _, pair := range strings.Split(query, "&") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%s is not KEY=VALUE", shorten(pair))
		}
		if err := checkKey(key, m); err != nil {
			return nil, err
		}
		if _, twice := args[key]; twice {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		v, err := decode(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		args[key] = v
	}
	return args, nil
}

// checkKey refuses keys that the method does not have, and secrets. The error must not repeat a secret's value.
func checkKey(key string, m *Method) error {
	password := false
	if m != nil {
		a, ok := m.arg("password")
		password = ok && a.Kind == Password
	}
	switch {
	case key == keyPasswordEnv || key == keyPasswordFile:
		if !password {
			return fmt.Errorf("%s: this method takes no password", key)
		}
		return nil
	case strings.Contains(strings.ToLower(key), "pass") && key != "password_prompt":
		return fmt.Errorf("%s: a secret never stands in a target; use password_env=NAME, password_file=PATH, the inventory or --ask-pass", key)
	case m == nil:
		return nil
	}
	if _, ok := m.arg(key); !ok {
		return fmt.Errorf("unknown key %q; %s takes %s", key, m.Name, argNames(m))
	}
	return nil
}

// decode undoes percent-encoding. A plus sign stays one: it cannot get here, and would not mean a space.
func decode(s string) (string, error) {
	v, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("%w: a percent sign is written %%25", err)
	}
	if strings.ContainsAny(v, "\x00\n\r") {
		return "", errors.New("it contains a newline or a NUL byte")
	}
	if !utf8.ValidString(v) {
		return "", errors.New("it is not valid UTF-8")
	}
	return v, nil
}

// String writes the hop so that ParseTarget reads the same hop again. Keys are sorted.
func (h Hop) String() string {
	var b strings.Builder
	if h.Method != "" {
		b.WriteString(h.Method + ":")
		b.WriteString(encode(h.Spec, ""))
	} else if HasPort(h.Spec) {
		b.WriteString(encode(h.Spec, ""))
	} else {
		b.WriteString(encode(h.Spec, ":"))
	}
	sep := "?"
	for _, k := range sortedKeys(h.Args) {
		b.WriteString(sep + k + "=" + encode(h.Args[k], "&"))
		sep = "&"
	}
	return b.String()
}

// FormatTarget writes hops as a target.
func FormatTarget(hops []Hop) string {
	parts := make([]string, len(hops))
	for i, h := range hops {
		parts[i] = h.String()
	}
	return strings.Join(parts, "+")
}

// encode percent-encodes what has a meaning in a target; more names further bytes that have one at this place.
func encode(s, more string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < 0x20 || c == 0x7f || strings.IndexByte("+?% "+more, c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// OrSSH gives the hop with a method: a bare name that the inventory does not know means ssh.
func (h Hop) OrSSH() Hop {
	if h.Method == "" {
		h.Method = "ssh"
	}
	return h
}

// staysHere are the methods whose child sees the directory and the environment that they were started in.
var staysHere = []string{"local", "sudo", "su", "doas", "exec", "setns"}

// StaysHere tells whether a first hop's child sees the directory and the environment that it was started in.
func (h Hop) StaysHere() bool { return slices.Contains(staysHere, h.Method) }

// specOptions gives what SPEC says as arguments.
func (h Hop) specOptions() (map[string]any, error) {
	opts := map[string]any{}
	name := h.OrSSH().Method
	m := methods[name]
	switch {
	case m == nil:
		return nil, fmt.Errorf("unknown method %q; one of %s", name, methodNames())
	case m.spec == nil && h.Spec != "":
		return nil, fmt.Errorf("%s: takes nothing after the colon, got %q", name, h.Spec)
	case m.spec == nil:
		return opts, nil
	}
	if h.Spec == "" && m.specArg != "" && h.Args[m.specArg] != "" {
		return opts, nil
	}
	if err := m.spec(h.Spec, opts); err != nil {
		return nil, fmt.Errorf("%w; write %s:%s", err, name, m.Spec)
	}
	return opts, nil
}

// Host is the name of the machine or the container that the hop leads to; empty for one that stays where it is.
func (h Hop) Host() string {
	opts, err := h.specOptions()
	if err != nil {
		return ""
	}
	for _, key := range []string{"hostname", "container", "pod", "name"} {
		if name := h.Args[key]; name != "" {
			return name
		}
		if name, ok := opts[key].(string); ok {
			return name
		}
	}
	return ""
}

// Options gives the arguments for [Build]: those of SPEC, those after the question mark, and the password, read from the
// environment or the file that the hop names. An argument that SPEC gives too is an error.
func (h Hop) Options() (map[string]any, error) {
	opts, err := h.specOptions()
	if err != nil {
		return nil, &Error{Label: h.String(), Step: StepOptions, Reason: err.Error(), Err: err}
	}
	for _, k := range sortedKeys(h.Args) {
		v := h.Args[k]
		switch k {
		case keyPasswordEnv, keyPasswordFile:
			secret, err := readSecret(k, v)
			if err != nil {
				return nil, &Error{Label: h.String(), Step: StepOptions, Reason: err.Error(), Err: err}
			}
			if opts["password"] != nil {
				return nil, &Error{Label: h.String(), Step: StepOptions, Reason: "password_env and password_file are both given"}
			}
			opts["password"] = secret
		default:
			if _, twice := opts[k]; twice {
				return nil, &Error{Label: h.String(), Step: StepOptions, Reason: k + " is given twice, after the colon and after the question mark"}
			}
			opts[k] = v
		}
	}
	return opts, nil
}

// maxSecret bounds a password file, so that a wrong path (/dev/zero) is an error and not a full memory.
const maxSecret = 64 << 10

// readSecret reads a password. A file's one trailing newline is not part of it.
func readSecret(key, where string) (Secret, error) {
	if key == keyPasswordEnv {
		v, ok := os.LookupEnv(where)
		if !ok {
			return "", argErrorf("password_env", "the environment variable %s is not set", where)
		}
		HideEnv(where)
		return Secret(v), nil
	}
	path := where
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", argErrorf("password_file", "%w", err)
		}
		path = home + "/" + rest
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", argErrorf("password_file", "%w", err)
	}
	// What has a name can be read again, and may hold another password then.
	if info.Mode().IsRegular() || !strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/proc/") {
		return readSecretFile(where, path)
	}
	return readSecretOnce(where, path, info)
}

func readSecretFile(where, path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", argErrorf("password_file", "%w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", argErrorf("password_file", "%w", err)
	}
	if len(b) > maxSecret {
		return "", argErrorf("password_file", "%s is larger than %d bytes", where, maxSecret)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if text == "" {
		return "", argErrorf("password_file", "%s is empty", where)
	}
	return Secret(text), nil
}

// once are the passwords of files that can be read only once, a pipe of <(command) say: a target is checked before it
// is connected, and several may name the same file.
var once struct {
	mu    sync.Mutex // for the map
	files map[onceKey]*onceSecret
}

type onceKey struct {
	path     string
	dev, ino uint64
}

type onceSecret struct {
	mu   sync.Mutex // held while the file is read
	text Secret
}

func readSecretOnce(where, path string, info os.FileInfo) (Secret, error) {
	key := onceKey{path: path}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		key.dev, key.ino = uint64(st.Dev), uint64(st.Ino)
	}
	once.mu.Lock()
	if once.files == nil {
		once.files = map[onceKey]*onceSecret{}
	}
	s := once.files[key]
	if s == nil {
		s = &onceSecret{}
		once.files[key] = s
	}
	once.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text != "" {
		return s.text, nil
	}
	text, err := readSecretFile(where, path)
	s.text = text
	return text, err
}
