package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var sshMethod = &Method{
	Name: "ssh",
	Spec: "[USER@]HOST[:PORT]",
	Doc:  "the system's OpenSSH client, with the user's ssh_config, agent, known_hosts and ControlMaster",
	Args: []Arg{
		{"hostname", Text, "host name, address or alias in ssh_config"},
		{"username", Text, "user on the target (default: ssh's)"},
		{"port", Number, "TCP port (default: ssh's)"},
		{"ssh_path", Text, "the client (default ssh)"},
		{"identity_file", Text, "private key"},
		{"identities_only", Flag, "offer no other keys than identity_file (default true)"},
		{"password", Password, "the user's password"},
		{"check_host_keys", Text, "enforce (default), accept (unknown keys are added) or ignore (nothing is checked)"},
		{"compression", Flag, "ssh's own compression (default: ssh_config; modules are compressed anyway)"},
		{"keepalive_enabled", Flag, "notice a silent link (default true)"},
		{"keepalive_count", Number, "unanswered keepalives before the link counts as lost (default 3)"},
		{"keepalive_interval", Number, "seconds between keepalives (default 15)"},
		{"ssh_args", Words, "further arguments for the client, before the host"},
		{"ssh_debug_level", Number, "0 to 3: as many -v"},
	},
	spec: sshSpec,
	plan: planSSH,
}

// sshSpec reads [USER@]HOST[:PORT]. An IPv6 address with a port stands in brackets.
func sshSpec(spec string, opts map[string]any) error {
	host := spec
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		if i == 0 {
			return errors.New("the user before @ is empty")
		}
		opts["username"], host = host[:i], host[i+1:]
	}
	var port string
	switch {
	case strings.HasPrefix(host, "["):
		end := strings.IndexByte(host, ']')
		rest := ""
		if end >= 0 {
			rest = host[end+1:]
		}
		if end < 0 || rest != "" && rest[0] != ':' {
			return fmt.Errorf("%q is no [ADDRESS] with an optional :PORT", host)
		}
		host, port = host[1:end], strings.TrimPrefix(rest, ":")
		if rest == ":" {
			return errors.New("the port after the colon is empty")
		}
	case strings.Count(host, ":") == 1:
		host, port, _ = strings.Cut(host, ":")
		if port == "" {
			return errors.New("the port after the colon is empty")
		}
	case strings.Contains(host, ":") && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil:
		return fmt.Errorf("%q is no host; an IPv6 address with a port is written [ADDRESS]:PORT", host)
	}
	if host == "" {
		return errors.New("the host is empty")
	}
	if strings.HasPrefix(host, "-") {
		return fmt.Errorf("the host %q begins with a dash", host)
	}
	if strings.ContainsAny(host, " /\t\\'\"`$;|&<>(){}*") {
		return fmt.Errorf("%q is no host name", host)
	}
	if port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%q is no port", port)
		}
		opts["port"] = port
	}
	opts["hostname"] = host
	return nil
}

func planSSH(o *options, b Boot) (*Plan, error) {
	host := o.need("hostname", "host")
	user := o.word("username")
	password, known := o.secret("password")
	check := o.oneOf("check_host_keys", "enforce", "accept", "ignore")
	in := o.interpreter()

	argv := []string{o.textOr("ssh_path", "ssh")}
	opt := func(name string, value any) { argv = append(argv, "-o", fmt.Sprintf("%s=%v", name, value)) }
	if n := o.number("ssh_debug_level", 0, 0, 3); n > 0 {
		argv = append(argv, "-"+strings.Repeat("v", n))
	}
	argv = append(argv, "-T") // a RequestTTY in ssh_config would put a terminal between us and the child
	if user != "" {
		argv = append(argv, "-l", user)
	}
	if n := o.number("port", 0, 1, 65535); n > 0 {
		argv = append(argv, "-p", strconv.Itoa(n))
	}
	if file := o.word("identity_file"); file != "" {
		argv = append(argv, "-i", file)
		if o.flag("identities_only", true) {
			opt("IdentitiesOnly", "yes")
		}
	}
	if o.has("compression") {
		opt("Compression", yesNo(o.flag("compression", false)))
	}
	if o.flag("keepalive_enabled", true) {
		opt("ServerAliveInterval", o.number("keepalive_interval", 15, 1, 86400))
		opt("ServerAliveCountMax", o.number("keepalive_count", 3, 1, 1000))
	}
	switch check {
	case "enforce":
		opt("StrictHostKeyChecking", "yes")
	case "accept":
		opt("StrictHostKeyChecking", "ask") // accept-new would spare the question, but is missing before OpenSSH 7.6
	case "ignore":
		opt("StrictHostKeyChecking", "no")
		opt("UserKnownHostsFile", "/dev/null")
		opt("GlobalKnownHostsFile", "/dev/null")
	}
	p := &Plan{Label: "ssh " + host, Stdio: Socketpair}
	switch {
	case known:
		opt("NumberOfPasswordPrompts", 1)
		fallthrough
	case check == "accept":
		p.Stdio = Hybrid
		p.Env = map[string]string{"SSH_ASKPASS_REQUIRE": "never"} // ask on the terminal, not in a window
		if !known {
			opt("PasswordAuthentication", "no")
			opt("KbdInteractiveAuthentication", "no")
		}
	default:
		opt("BatchMode", "yes")
	}
	argv = append(argv, o.words("ssh_args")...)
	p.Argv = append(argv, host, in.line(b))
	p.Prompts = sshPrompts(password, known, check == "accept")
	p.Failures = slices.Concat(sshFailures(host), accountFailures, in.failures())
	if known {
		p.Failures = append([]Failure{{Pattern: `Permission denied \(`, Reason: "the target has refused the password, or takes none", Hint: hintRefused}}, p.Failures...)
	}
	p.Hint = "run it by hand: " + p.Argv[0] + " " + host + " true"
	return p, nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func sshPrompts(password Secret, known, accept bool) []Prompt {
	prompts := []Prompt{
		{Name: "host key", Pattern: `(?i)(continue connecting \(yes/no(/\[fingerprint\])?\)\?|please type 'yes', 'no' or the fingerprint:) *$`,
			Answer: "yes", Known: accept, Repeat: true,
			Missing: "the host key is unknown", Hint: hintHostKey},
		// An empty passphrase makes ssh go on to the next key or method.
		{Name: "key passphrase", Pattern: `^Enter passphrase for (key )?.*: *$`, Known: true, Repeat: true},
	}
	return append(prompts, passwordPrompts("the target", password, known, `^[^ ]+@[^ ]+'s password: *$`)...)
}

const hintHostKey = "connect once by hand with ssh and check the key, or check_host_keys=accept"

// sshFailures are the messages of OpenSSH's client, which it does not translate.
func sshFailures(host string) []Failure {
	return []Failure{
		{Pattern: `Could not resolve hostname`, Hint: "check the name, DNS, and Host lines in ~/.ssh/config"},
		{Pattern: `connect to (host|address) .*: Connection refused`, Hint: "is sshd running there, and on that port?"},
		{Pattern: `connect to (host|address) .*: (Connection|Operation) timed out|banner exchange: .*timed out`, Hint: "is the host up, and does a firewall let ssh through?"},
		{Pattern: `(No route to host|Network is unreachable)`, Hint: "check the address and the route to it"},
		{Pattern: `REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed`, Reason: "the host key has changed: another machine answers, or it was installed anew",
			Hint: "find out which, then ssh-keygen -R " + host},
		{Pattern: `No .* host key is known for|Host key verification failed`, Reason: "the host key is unknown or could not be verified", Hint: hintHostKey},
		{Pattern: `(kex|ssh)_exchange_identification: |Exceeded MaxStartups|[Cc]onnection (closed|reset) .*\[preauth\]`, Reason: "the ssh server closed the connection before it said anything: it is busy (MaxStartups), or blocks this address",
			Hint: "fewer targets at once (--parallel), or look at the server's log", Retry: true},
		{Pattern: `[Ss]ession open refused|session request failed|open failed: (connect failed|administratively prohibited|resource shortage)`,
			Reason: "the ssh server refuses another session over this connection", Hint: "raise MaxSessions there, or ssh_args=-oControlPath=none"},
		{Pattern: `UNPROTECTED PRIVATE KEY FILE|bad permissions`, Reason: "ssh does not use a private key that others can read", Hint: "chmod 600 the key file"},
		{Pattern: `Identity file .* not accessible|Load key .*(invalid format|error in libcrypto|No such file|not found)`, Hint: "check identity_file"},
		{Pattern: `Permission denied, please try again`, Reason: "the password was refused", Hint: hintRefused},
		{Pattern: `Permission denied \(`, Hint: "a user name, a key in the agent or identity_file, or a password (" + hintPassword + ")"},
		{Pattern: `Too many authentication failures`, Hint: "name one key with identity_file, so that the agent's are not offered first"},
		{Pattern: `Unable to negotiate with|no matching .* found`, Hint: "name an algorithm both sides have, by ssh_args=-o..."},
		{Pattern: `Bad configuration option|Bad owner or permissions on|bad configuration options`, Hint: "correct ssh's configuration or ssh_args"},
		{Pattern: `Cannot execute command-line and remote command`, Reason: "ssh_config has a RemoteCommand for this host", Hint: "ssh_args=-oRemoteCommand=none"},
		{Pattern: `stdio forwarding failed|UNKNOWN port`, Reason: "the jump host could not be passed", Hint: "connect to the jump host by hand, or chain it: ssh:JUMP+ssh:HOST"},
		{Pattern: `unknown option|illegal option|usage: ssh`, Reason: "this ssh client does not know an option", Hint: "check ssh_args and ssh_path"},
		{Pattern: `Connection (closed|reset) by|Broken pipe`, Hint: "look at the server's log: it ended the session"},
	}
}

// failures recognises that a shell, container engine or sudo did not find the one interpreter that was named, or the sh that is
// to choose one.
func (in interpreter) failures() []Failure {
	const missing = `(\bnot found|no such file or directory|unknown command|not a directory|cannot execute|permission denied)`
	program, reason, hint := "sh", "there is no sh to look for an interpreter with", "name one interpreter by its full path: python=PATH"
	if len(in.choose) == 0 {
		program = in.command[0]
		reason, hint = "the interpreter "+program+" is not there or cannot be executed", hintPython
	}
	q := `(^|[ :"'/])` + regexp.QuoteMeta(base(program)) + `($|[ :"'])`
	return []Failure{
		{Pattern: `(?i)` + q + `.*` + missing + `|` + missing + `.*` + q, Reason: reason, Hint: hint},
		{Pattern: `^Could not find platform (independent|dependent) libraries|No module named '?(encodings|site)'?`, Reason: "the interpreter's own library is missing or cannot be read", Hint: "run it by hand there; is PYTHONHOME set?"},
	}
}
