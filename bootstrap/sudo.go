package bootstrap

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var sudoMethod = &Method{
	Name: "sudo",
	Spec: "[USER]",
	Doc:  "another user by sudo or sudo-rs",
	Args: []Arg{
		{"username", Text, "the user to become (default root)"},
		{"password", Password, "what sudo asks for, as a rule the password of the user who calls it"},
		{"password_prompt", Text, "PAM's question for the password, where sudo does not put its own in its place; the target can ask it, too"},
		{"sudo_path", Words, "the program (default sudo), with words of its own where it has some"},
		{"preserve_env", Flag, "-E: keep the environment"},
		{"set_home", Flag, "-H: HOME is the new user's"},
		{"login", Flag, "-i: the new user's login shell and environment"},
		{"selinux_role", Text, "-r: role of the new security context"},
		{"selinux_type", Text, "-t: type of the new security context"},
		{"sudo_args", Words, "further options, short or long; what the arguments above say wins, and -S and -n are dropped, since the password goes over a terminal"},
	},
	spec: userSpec,
	plan: planSudo,
}

// promptEnv names what sudo takes for its question. It goes over the environment, which nobody but root can read of sudo's
// process; an option would stand in argv, which everybody reads. Unlike the option it leaves PAM's other questions (a code, a new
// password) as they are.
const promptEnv = "SUDO_PROMPT"

// sudoPrompts are sudo's questions, the first of which has a nonce: what runs as the new user before our first stage (a start-up
// file of its login shell, with NOPASSWD) can ask for the password just as sudo does, but cannot know it. sudo-rs writes the question
// as "[sudo: PROMPT] ", with PAM's own after it.
func sudoPrompts(nonce string, password Secret, known bool, own string) []Prompt {
	tail := strings.TrimPrefix(passwordPattern, "(?i)")
	exact := `(?i)(\[sudo: )?` + regexp.QuoteMeta(nonce) + `\]?( *$| [^:：\n]{0,60}` + tail + `)`
	prompts := passwordPrompts("sudo", password, known, own, exact, false)
	for i := range prompts {
		if prompts[i].Pattern == exact {
			prompts[i].own = ownPattern(exact) // there is another nonce for each
		}
	}
	generic := &prompts[len(prompts)-1]
	if known {
		generic.Known, generic.Name, generic.Answer = false, "stray password", ""
		generic.Missing = "something asks for a password, and it is not sudo's own question, so it gets none"
		generic.Hint = "does a start-up file there ask it? If it is PAM's, under sudo: password_prompt=TEXT"
	}
	return prompts
}

// newNonce makes a text that cannot be guessed.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// userSpec reads [USER]: also user@domain, DOMAIN\user, and #UID for sudo.
func userSpec(spec string, opts map[string]any) error {
	if strings.HasPrefix(spec, "-") {
		return fmt.Errorf("the user %q begins with a dash", spec)
	}
	if strings.ContainsAny(spec, ":/") {
		return fmt.Errorf("%q is no user name", spec)
	}
	if spec != "" {
		opts["username"] = spec
	}
	return nil
}

func planSudo(o *options, b Boot) (*Plan, error) {
	user := o.word("username")
	if user == "" {
		user = "root"
	}
	password, known := o.secret("password")
	in := o.interpreter()
	role, typ := o.word("selinux_role"), o.word("selinux_type")
	extra, err := sudoArgs(o.words("sudo_args"))
	if err != nil {
		return nil, err
	}
	if !o.has("username") && extra.user != "" {
		user = extra.user
	}
	argv := o.program("sudo_path", "sudo")
	prompt := "mitogen-sudo-prompt-" + newNonce() + ":"
	if b.SudoPrompt && !known {
		prompt = "mitogen-sudo-prompt:" // asking it gives nothing
		argv = append(argv, "-p", prompt)
	}
	argv = append(argv, "-u", user)
	preserve := o.flag("preserve_env", extra.preserve)
	if preserve {
		argv = append(argv, "-E")
	}
	if o.flag("set_home", extra.home) {
		argv = append(argv, "-H")
	}
	login := o.flag("login", extra.login)
	if login {
		argv = append(argv, "-i")
	}
	if role == "" {
		role = extra.role
	}
	if role != "" {
		argv = append(argv, "-r", role)
	}
	if typ == "" {
		typ = extra.typ
	}
	if typ != "" {
		argv = append(argv, "-t", typ)
	}
	argv = append(argv, extra.others...)
	command := in.argv(b, login)
	if len(in.choose) == 0 && !b.Mitogen && (preserve || slices.ContainsFunc(argv, func(a string) bool { return strings.HasPrefix(a, "--preserve-env") })) {
		command = append([]string{"env", "-u", promptEnv}, command...) // the chooser does so by itself, and so does the stage of a stock child
	}
	p := &Plan{
		Label:    "sudo " + user,
		Argv:     slices.Concat(argv, []string{"--"}, command),
		Stdio:    Hybrid,
		Prompts:  sudoPrompts(prompt, password, known, o.promptPattern()),
		Failures: slices.Concat(accountFailures, sudoFailures, in.failures()),
		Hint:     byHand(argv, "true"),
	}
	if known || !b.Mitogen {
		p.Env = map[string]string{promptEnv: prompt}
	}
	if role != "" || typ != "" {
		p.Stdio = HybridPipes
	}
	return p, nil
}

// sudoFlags are the options of sudo that change how the command runs, and whether each takes a value.
var sudoFlags = map[byte]bool{'E': false, 'H': false, 'P': false, 'B': false, 'C': true, 'D': true, 'R': true, 'T': true, 'g': true, 'a': true,
	'c': true, 'r': true, 't': true, 'U': true, 'h': true, 'i': false, 'S': false, 'n': false, 'u': true}

// sudoLong are their long names.
var sudoLong = map[string]byte{
	"preserve-env": 'E', "set-home": 'H', "preserve-groups": 'P', "bell": 'B', "close-from": 'C', "chdir": 'D', "chroot": 'R',
	"command-timeout": 'T', "group": 'g', "auth-type": 'a', "login-class": 'c', "role": 'r', "type": 't', "other-user": 'U', "host": 'h',
	"login": 'i', "stdin": 'S', "non-interactive": 'n', "user": 'u',
}

// longOption finds a long name, or the only one that begins so.
func longOption(name string) (c byte, ok bool) {
	if c, ok = sudoLong[name]; ok {
		return c, true
	}
	n := 0
	for long, x := range sudoLong {
		if name != "" && strings.HasPrefix(long, name) {
			c, n = x, n+1
		}
	}
	return c, n == 1
}

// sudoOptions are what sudo_args says.
type sudoOptions struct {
	user, role, typ       string
	preserve, home, login bool
	others                []string
}

// sudoArgs reads sudo_args as programs written for Mitogen and Ansible give them ("-H -S -n", --type=T). What would take the password
// from the data stream, or forbid asking for it, is dropped; what would not run a command is an error.
func sudoArgs(args []string) (out sudoOptions, err error) {
	value := func(what string, i *int) (string, error) {
		if *i++; *i == len(args) {
			return "", argErrorf("sudo_args", "%s lacks its value", what)
		}
		return args[*i], nil
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, v, hasValue := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		switch {
		case strings.HasPrefix(a, "--preserve-env="):
			out.others = append(out.others, a)
		case strings.HasPrefix(a, "--"):
			c, ok := longOption(name)
			if takes := sudoFlags[c]; !ok || hasValue && !takes {
				return out, argErrorf("sudo_args", "%q is no option that can be used here", a)
			} else if takes && !hasValue {
				if v, err = value(a, &i); err != nil {
					return out, err
				}
			}
			out.set(c, v)
		case len(a) < 2 || a[0] != '-':
			return out, argErrorf("sudo_args", "%q is no option that can be used here", a)
		default:
			for j := 1; j < len(a); j++ {
				takes, ok := sudoFlags[a[j]]
				if !ok {
					return out, argErrorf("sudo_args", "-%c cannot be used here", a[j])
				}
				v := ""
				c := a[j]
				if takes {
					v, j = a[j+1:], len(a)
					if v == "" {
						if v, err = value("-"+string(c), &i); err != nil {
							return out, err
						}
					}
				}
				out.set(c, v)
			}
		}
	}
	return out, nil
}

// set takes one option; the last of a kind counts, as for sudo.
func (s *sudoOptions) set(c byte, value string) {
	switch c {
	case 'S', 'n':
	case 'u':
		s.user = value
	case 'r':
		s.role = value
	case 't':
		s.typ = value
	case 'E':
		s.preserve = true
	case 'H':
		s.home = true
	case 'i':
		s.login = true
	default:
		s.others = append(s.others, "-"+string(c))
		if sudoFlags[c] {
			s.others = append(s.others, value)
		}
	}
}

var sudoFailures = []Failure{
	{Pattern: `(?i)is not in the sudoers file|not allowed to (execute|run)|may not run sudo|I'm sorry .*I'm afraid I can't do that`,
		Reason: "sudo's rules do not allow it", Hint: "sudo -l on the target shows what this user may do"},
	{Pattern: `(?i)sorry, try again|incorrect (password|authentication) attempt|authentication failed|maximum .*attempts`, Sent: true,
		Reason: "sudo has refused the password", Hint: hintRefused},
	{Pattern: `(?i)sorry, try again|incorrect (password|authentication) attempt|authentication failed|maximum .*attempts`,
		Reason: "sudo has let nobody in", Hint: hintNotAsked},
	{Pattern: `(?i)a password is required|interactive authentication is required|no password was provided`,
		Reason: "sudo asks for a password and none was given", Hint: hintPassword},
	{Pattern: `(?i)no tty present|must have a tty|a terminal is required|unable to allocate pty`,
		Reason: "sudo wants a terminal and does not accept the one it has", Hint: "look for requiretty in sudoers, and for a missing /dev/pts"},
	{Pattern: `(?i)unknown user|user .* (not found|does not exist)`, Reason: "there is no such user", Hint: "getent passwd on the target lists them"},
	{Pattern: `(?i)effective uid is not 0|must be (setuid root|owned by uid 0)|no new privileges|setuid bit`,
		Reason: "sudo cannot become root here", Hint: "a file system mounted nosuid, a container without privileges, or a broken installation"},
	{Pattern: `(?i)not allowed to preserve the environment`, Hint: "leave out preserve_env, or allow SETENV in sudoers"},
	{Pattern: `(?i)(syntax|parse) error (in|near)|no valid sudoers|/etc/sudoers.*(is world writable|is owned by|is mode)`, Reason: "sudo's configuration is broken", Hint: "visudo -c on the target"},
	{Pattern: `(?i)sudo: (unrecognized|invalid) option|usage: sudo`, Reason: "this sudo does not know an option", Hint: "check sudo_args; sudo-rs has no -E"},
	{Pattern: `(?i)unable to set .*context|SELinux`, Hint: "check selinux_role and selinux_type"},
}
