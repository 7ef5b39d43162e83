package bootstrap

import (
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"
)

var sshMethod = &Method{
	Name: "ssh",
	Spec: "[USER@]HOST[:PORT]",
	Doc:  "the system's OpenSSH client, with the user's ssh_config, agent, known_hosts and ControlMaster",
	Args: []Arg{
		{"hostname", Text, "host name, address or alias in ssh_config"},
		{"username", Text, "user on the target (default: ssh's)"},
		{"port", Number, "TCP port (default: ssh's)"},
		{"ssh_path", Words, "the client (default ssh), with words of its own where it has some"},
		{"identity_file", Text, "private key"},
		{"identities_only", Flag, "offer no other keys than identity_file (default true)"},
		{"password", Password, "the user's password"},
		{"password_prompt", Text, "the question for it, where it is none that is known"},
		{"check_host_keys", Text, "enforce, accept (unknown keys are added) or ignore (nothing is checked); default: as ssh_config says, and a key that ssh would ask about is refused"},
		{"compression", Flag, "ssh's own compression (default: ssh_config; modules are compressed anyway)"},
		{"keepalive_enabled", Flag, "notice a silent link (default true; what ssh_args says wins)"},
		{"keepalive_count", Number, "unanswered keepalives before the link counts as lost (default 3)"},
		{"keepalive_interval", Number, "seconds between keepalives (default 15)"},
		{"ssh_args", Words, "further arguments for the client, before the host"},
		{"ssh_debug_level", Number, "0 to 3: as many -v"},
	},
	spec:    sshSpec,
	specArg: "hostname",
	plan:    planSSH,
}

// sshSpec reads [USER@]HOST[:PORT], also as //[USER@]HOST[:PORT][/]. An IPv6 address with a port stands in brackets.
func sshSpec(spec string, opts map[string]any) error {
	host := spec
	if uri, ok := strings.CutPrefix(spec, "//"); ok {
		host = strings.TrimSuffix(uri, "/")
		if strings.Contains(host, "/") {
			return errors.New("what follows the host is no part of an ssh address")
		}
	}
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
	if strings.ContainsAny(host, "[]") {
		return fmt.Errorf("%q is no host name: a range of names is written [1:3], and other patterns are for names of an inventory", host)
	}
	if strings.HasPrefix(host, "-") {
		return fmt.Errorf("the host %q begins with a dash", host)
	}
	if strings.ContainsAny(host, " \t\\'\"`$;|&<>(){}*") || strings.HasPrefix(host, "/") {
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
	check := ""
	if o.has("check_host_keys") {
		check = o.oneOf("check_host_keys", "enforce", "accept", "ignore")
	}
	in := o.interpreter()
	args := o.words("ssh_args")
	if b.Mitogen {
		return planSSHAsMitogen(o, b, host, user, password, known, args, in), nil
	}
	argv := o.program("ssh_path", "ssh")
	opt := func(name string, value any) { argv = append(argv, "-o", fmt.Sprintf("%s=%v", name, value)) }
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
	hint := byHand(slices.Concat(argv, args, []string{host}), "true")
	if n := o.number("ssh_debug_level", 0, 0, 3); n > 0 {
		argv = append(argv, "-"+strings.Repeat("v", n))
	}
	// What nobody asked for, and the connection needs. A terminal would come between us and the child, and the sessions of others
	// would end with a master that is our child; one that is there is used. -T and such are not known to every wrapper.
	opt("RequestTTY", "no")
	opt("ControlMaster", "no")
	p := &Plan{Label: "ssh " + host, Stdio: Socketpair, Hint: hint}
	switch {
	case known:
		opt("BatchMode", "no")
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
	argv = append(argv, args...)
	// Last, so that ssh_args wins.
	if o.flag("keepalive_enabled", true) {
		opt("ServerAliveInterval", o.number("keepalive_interval", 15, 1, 86400))
		opt("ServerAliveCountMax", o.number("keepalive_count", 3, 1, 1000))
	}
	p.Argv = append(argv, host)
	if len(in.choose) > 0 {
		p.Argv = append(p.Argv, in.line(b))
	} else {
		// ssh joins them again; a wrapper finds `python -c ...` in its arguments.
		p.Argv = append(p.Argv, in.quoted(b)...)
	}
	p.Prompts = sshPrompts(password, known, check == "accept", o.promptPattern())
	p.Failures = slices.Concat(accountFailures, sshFailures(known), in.failures())
	return p, nil
}

// planSSHAsMitogen is planSSH with the options that Mitogen gives, in its order.
func planSSHAsMitogen(o *options, b Boot, host, user string, password Secret, known bool, args []string, in interpreter) *Plan {
	check := o.oneOf("check_host_keys", "enforce", "accept", "ignore")
	terminal := known || check == "accept"
	argv := o.program("ssh_path", "ssh")
	opt := func(text string) { argv = append(argv, "-o", text) }
	if n := o.number("ssh_debug_level", 0, 0, math.MaxInt32); n > 0 {
		argv = append(argv, "-"+strings.Repeat("v", min(n, 3)))
	} else {
		opt("LogLevel ERROR")
	}
	if user != "" {
		argv = append(argv, "-l", user)
	}
	if o.has("port") {
		argv = append(argv, "-p", strconv.Itoa(o.number("port", 0, 1, 65535)))
	}
	file := o.word("identity_file")
	if (file != "" || known) && o.flag("identities_only", true) {
		opt("IdentitiesOnly yes")
	}
	if file != "" {
		argv = append(argv, "-i", file)
	}
	if o.flag("compression", true) {
		opt("Compression yes")
	}
	if o.flag("keepalive_enabled", true) {
		opt(fmt.Sprintf("ServerAliveInterval %d", o.number("keepalive_interval", 15, 1, 86400)))
		opt(fmt.Sprintf("ServerAliveCountMax %d", o.number("keepalive_count", 3, 1, 1000)))
	}
	if !terminal {
		opt("BatchMode yes")
	}
	switch check {
	case "enforce":
		opt("StrictHostKeyChecking yes")
	case "accept":
		opt("StrictHostKeyChecking ask")
	case "ignore":
		opt("StrictHostKeyChecking no")
		opt("UserKnownHostsFile /dev/null")
		opt("GlobalKnownHostsFile /dev/null")
	}
	argv = append(append(argv, args...), host)
	p := &Plan{
		Label:    "ssh " + host,
		Argv:     append(slices.Clip(argv), in.quoted(b)...),
		Stdio:    Socketpair,
		Prompts:  sshPrompts(password, known, check == "accept", o.promptPattern()),
		Failures: slices.Concat(accountFailures, sshFailures(known), in.failures()),
		Hint:     byHand(argv, "true"),
	}
	if terminal {
		p.Stdio = Hybrid
		p.Env = map[string]string{"SSH_ASKPASS_REQUIRE": "never"}
	}
	return p
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func sshPrompts(password Secret, known, accept bool, own string) []Prompt {
	prompts := []Prompt{
		{Name: "host key", Pattern: `(?i)(continue connecting \(yes/no(/\[fingerprint\])?\)\?|please type 'yes', 'no' or the fingerprint:) *$`,
			Answer: "yes", Known: accept, Repeat: true,
			Missing: "the host key is unknown", Hint: hintHostKey},
		// An empty passphrase makes ssh go on to the next key or method.
		{Name: "key passphrase", Pattern: `^Enter passphrase for (key )?.*: *$`, Known: true, Repeat: true},
	}
	return append(prompts, passwordPrompts("the target", password, known, own, `^([^ @]+@[^ ]+'s password|\([^()@ ]+@[^() ]+\) Password): *$`, true)...)
}

const hintHostKey = "connect once by hand with ssh and check the key, or check_host_keys=accept"

// throughProxy is what ssh prints of a connection that it has from a ProxyCommand or a jump host.
const throughProxy = `(by|to|with) UNKNOWN port|stdio forwarding failed`

// keyChanged are the lines of ssh about a host key that has changed: the name that it looks up, and the file that it was in.
var (
	keyChangedName = regexp.MustCompile(`^Host key for (\S+) has changed`)
	keyChangedFile = regexp.MustCompile(`^Add correct host key in (.+) to get rid of this message`)
)

// forgetKey gives the command that takes a changed key out of the file.
func forgetKey(output []string) string {
	var file []string
	name := ""
	for _, line := range output {
		if m := keyChangedFile.FindStringSubmatch(line); m != nil {
			file = []string{"-f", m[1]}
		}
		if m := keyChangedName.FindStringSubmatch(line); m != nil {
			name = m[1]
		}
	}
	if name == "" {
		return "find out which, then take the old key out of known_hosts (ssh-keygen -R NAME)"
	}
	return "find out which, then " + shellescape.QuoteCommand(append([]string{"ssh-keygen", "-R", name}, file...))
}

// sshFailures are the messages of OpenSSH's client, which it does not translate.
func sshFailures(known bool) []Failure {
	denied := Failure{Pattern: `(?i)Permission denied \(`, Hint: "a user name, a key in the agent or identity_file, or a password (" + hintPassword + ")"}
	if known {
		denied.Hint = hintNotAsked + ": does the server take passwords (PasswordAuthentication, KbdInteractiveAuthentication)?"
	}
	return []Failure{
		{Pattern: `Permission denied \(`, With: throughProxy, Hint: "so says the jump host: a key or agent that it takes, or chain it: ssh:JUMP+ssh:HOST"},
		{Pattern: `(?i)Permission denied \(`, Sent: true, Reason: "the target has refused the password", Hint: hintRefused},
		{Pattern: `Could not resolve hostname`, Hint: "check the name, DNS, and Host lines in ~/.ssh/config"},
		{Pattern: `connect to (host|address) .*: Connection refused`, Hint: "is sshd running there, and on that port?"},
		{Pattern: `connect to (host|address) .*: (Connection|Operation) timed out|banner exchange: .*timed out`, Hint: "is the host up, and does a firewall let ssh through?"},
		{Pattern: `No route to host|Network is unreachable`, Hint: "check the address and the route to it"},
		{Pattern: `REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed`, Reason: "the host key has changed: another machine answers, or it was installed anew",
			Advise: forgetKey},
		{Pattern: `No .* host key is known for|Host key verification failed`, Reason: "the host key is unknown or could not be verified", Hint: hintHostKey},
		{Pattern: `^(kex|ssh)_exchange_identification: |^banner exchange: Connection to .*: (Broken pipe|Connection reset)|Exceeded MaxStartups|[Cc]onnection (closed|reset) .*\[preauth\]`, Unless: throughProxy, Reason: "the ssh server closed the connection before it said anything: it is busy (MaxStartups), or blocks this address",
			Hint: "fewer targets at once (--parallel), or look at the server's log", Retry: true},
		{Pattern: `^(kex|ssh)_exchange_identification: `, With: `^Connection (closed|reset) by [^U ]+ port`, Reason: "the jump host closed the connection before it said anything: it is busy (MaxStartups), or blocks this address",
			Hint: "fewer targets at once (--parallel), or look at the jump host's log", Retry: true},
		{Pattern: `[Ss]ession open refused|session request failed|open failed: (connect failed|administratively prohibited|resource shortage)`,
			Reason: "the ssh server refuses another session over this connection", Hint: "raise MaxSessions there, or ssh_args=-oControlPath=none"},
		{Pattern: `UNPROTECTED PRIVATE KEY FILE|bad permissions`, Reason: "ssh does not use a private key that others can read", Hint: "chmod 600 the key file"},
		{Pattern: `Identity file .* not accessible|Load key .*(invalid format|error in libcrypto|No such file|not found)`, Hint: "check identity_file"},
		{Pattern: `Permission denied, please try again`, Sent: true, Reason: "the password was refused", Hint: hintRefused},
		denied,
		{Pattern: `Too many authentication failures`, Hint: "name one key with identity_file, so that the agent's are not offered first"},
		{Pattern: `Unable to negotiate with|no matching .* found`, Hint: "name an algorithm both sides have, by ssh_args=-o..."},
		{Pattern: `Bad configuration option|Bad owner or permissions on|bad configuration options`, Hint: "correct ssh's configuration or ssh_args"},
		{Pattern: `Cannot execute command-line and remote command`, Reason: "ssh_config has a RemoteCommand for this host", Hint: "ssh_args=-oRemoteCommand=none"},
		{Pattern: throughProxy, Reason: "the ProxyCommand or jump host that ssh's configuration names gave no connection", Hint: "connect to the jump host by hand, or chain it: ssh:JUMP+ssh:HOST"},
		{Pattern: `unknown option|illegal option|usage: ssh`, Reason: "this ssh client does not know an option", Hint: "check ssh_args and ssh_path"},
		{Pattern: `Connection (closed|reset) by|Broken pipe`, Hint: "look at the server's log: it ended the session"},
	}
}

// failures recognises that a shell, container engine or sudo did not find the one interpreter that was named, or the sh that is
// to choose one.
func (in interpreter) failures() []Failure {
	const maxName = 255 // bytes, as in a directory
	const missing = `(\bnot found|no such file or directory|unknown command|not a directory|cannot execute|permission denied)`
	program, reason, hint := "sh", "there is no sh to look for an interpreter with", "name one interpreter by its full path: python=PATH"
	if len(in.choose) == 0 {
		program = in.command[0]
		reason, hint = "the interpreter "+program+" is not there or cannot be executed", hintPython
	}
	name := base(program)
	if len(name) > maxName {
		name = name[:maxName]
	}
	q := `(^|[ :"'/‘])` + regexp.QuoteMeta(name) + `($|[ :"'’])`
	pattern := `(?i)` + q + `.*` + missing + `|` + missing + `.*` + q
	return []Failure{
		{Pattern: pattern, Reason: reason, Hint: hint, NoPython: true, own: ownPattern(pattern)},
		{Pattern: `No module named '?zlib`, Reason: "the interpreter has no zlib, without which nothing can be sent to it", Hint: hintPython, NoPython: true},
		{Pattern: `^Could not find platform (independent|dependent) libraries|No module named '?(encodings|site)'?`, Reason: "the interpreter's own library is missing or cannot be read", Hint: "run it by hand there; is PYTHONHOME set?"},
	}
}
