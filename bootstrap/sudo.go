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
		{"sudo_args", Words, "further options; -S and -n are dropped, since the password goes over a terminal"},
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
	prompts := passwordPrompts("sudo", password, known, own, `(?i)(\[sudo: )?`+regexp.QuoteMeta(nonce)+`\]?( *$| [^:：\n]{0,60}`+tail+`)`)
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
	login := o.flag("login", false)
	argv := append(o.program("sudo_path", "sudo"), "-u", user)
	if o.flag("preserve_env", false) {
		argv = append(argv, "-E")
	}
	if o.flag("set_home", false) {
		argv = append(argv, "-H")
	}
	if role != "" {
		argv = append(argv, "-r", role)
	}
	if typ != "" {
		argv = append(argv, "-t", typ)
	}
	extra, extraLogin, err := sudoArgs(o.words("sudo_args"))
	if err != nil {
		return nil, err
	}
	argv = append(argv, extra...)
	if login || extraLogin {
		argv = append(argv, "-i")
		login = true
	}
	command := in.argv(b, login)
	if len(in.choose) == 0 && slices.ContainsFunc(argv, func(a string) bool { return a == "-E" || strings.HasPrefix(a, "--preserve-env") }) {
		command = append([]string{"env", "-u", promptEnv}, command...) // the chooser does so by itself
	}
	prompt := "mitogen-sudo-prompt-" + newNonce() + ":"
	p := &Plan{
		Label:    "sudo " + user,
		Argv:     slices.Concat(argv, []string{"--"}, command),
		Env:      map[string]string{promptEnv: prompt},
		Stdio:    Hybrid,
		Prompts:  sudoPrompts(prompt, password, known, o.promptPattern()),
		Failures: slices.Concat(accountFailures, sudoFailures, in.failures()),
		Hint:     byHand(argv, "true"),
	}
	if role != "" || typ != "" {
		p.Stdio = HybridPipes
	}
	return p, nil
}

// sudoFlags are the options of sudo that change how the command runs, and whether each takes a value.
var sudoFlags = map[byte]bool{'E': false, 'H': false, 'P': false, 'B': false, 'C': true, 'D': true, 'R': true, 'T': true, 'g': true, 'a': true, 'c': true, 'r': true, 't': true, 'U': true, 'h': true}

// sudoArgs sorts out sudo_args as programs written for Mitogen and Ansible give them ("-H -S -n"). What would take the password
// from the data stream, or forbid asking for it, is dropped; what would not run a command is an error.
func sudoArgs(args []string) (out []string, login bool, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case strings.HasPrefix(a, "--preserve-env"), a == "--set-home", a == "--preserve-groups":
			out = append(out, a)
			continue
		case a == "--login":
			login = true
			continue
		case a == "--stdin", a == "--non-interactive":
			continue
		case len(a) < 2 || a[0] != '-' || a[1] == '-':
			return nil, false, fmt.Errorf("sudo_args: %q is no option that can be used here", a)
		}
		for j := 1; j < len(a); j++ {
			c := a[j]
			value, ok := sudoFlags[c]
			switch {
			case c == 'S' || c == 'n':
			case c == 'i':
				login = true
			case !ok:
				return nil, false, fmt.Errorf("sudo_args: -%c cannot be used here", c)
			case !value:
				out = append(out, "-"+string(c))
			default:
				v := a[j+1:]
				if v == "" {
					if i++; i == len(args) {
						return nil, false, fmt.Errorf("sudo_args: -%c lacks its value", c)
					}
					v = args[i]
				}
				out = append(out, "-"+string(c), v)
				j = len(a)
			}
		}
	}
	return out, login, nil
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
