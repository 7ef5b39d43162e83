package inventory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"mitogend/bootstrap"
)

// Target is what a host means.
type Target struct {
	Host string // with what Resolve was told to add
	// Known is the inventory's name of the host.
	Known string
	Hops  []bootstrap.Hop
	// Secrets are passwords that the inventory gives as text, by position in Hops.
	Secrets map[int]bootstrap.Secret
	// Own is the hop that reaches the host itself; another one after it becomes another user there.
	Own int
	// Hidden are texts that ansible-vault had encrypted, and that are part of Hops.
	Hidden []string
}

// Hide puts *** into a text where it has something that was encrypted.
func (t *Target) Hide(text string) string { return hide(t.Hidden, text) }

// minHidden is the shortest text that is hidden within others: a port, say, could be anywhere.
const minHidden = 4

func hide(secrets []string, text string) string {
	// The longest first: one may be a part of another.
	for _, s := range slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) }) {
		switch {
		case text == s:
			return "***"
		case len(s) >= minHidden:
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return text
}

// Target gives the chain of hops to a host.
func (inv *Inventory) Target(name string) (*Target, error) {
	if inv.hosts[name] == nil {
		return nil, errorf("there is no host %s", quoted(name))
	}
	t := &Target{Host: name, Known: name, Secrets: map[int]bootstrap.Secret{}}
	if err := inv.chain(t, name, nil, nil); err != nil {
		return t, err
	}
	return t, t.check()
}

// check finds a target that is too long, though none of its parts is.
func (t *Target) check() error {
	if n := len(t.Hops); n > bootstrap.MaxHops {
		return errorf("host %s: %w", t.Host, bootstrap.TooManyHops(n))
	}
	return nil
}

// become is how mitogen_via may name the user on the way: METHOD:USER@.
type become struct{ method, user string }

// chain appends the hops to a host: those of mitogen_via first, then its own, then that of become.
func (inv *Inventory) chain(t *Target, name string, as *become, path []string) error {
	if slices.Contains(path, name) {
		return errorf("mitogen_via leads back to where it began: %s",
			strings.Join(append(path, name), " > "))
	}
	if len(path) >= bootstrap.MaxHops {
		return errorf("mitogen_via of %s: %w", path[0], bootstrap.TooManyHops(len(path)+1))
	}
	v, err := inv.varsOf(name)
	if err != nil {
		return err
	}
	r := &reader{inv: inv, vars: v, host: name}
	defer func() { t.Hidden = append(t.Hidden, r.vaulted...) }()
	if whole := r.text("mitogend_target"); whole != "" {
		if err := inv.whole(t, r, whole); err != nil || as == nil {
			return err
		}
		r.becomeHop(t, as.method, as.user)
		return r.err
	}
	if via := r.text("mitogen_via"); via != "" && r.err == nil {
		next, user := via, (*become)(nil)
		if i := strings.LastIndexByte(via, '@'); i >= 0 {
			next, user = via[i+1:], &become{user: via[:i]}
			if method, name, ok := strings.Cut(via[:i], ":"); ok {
				user.method, user.user = method, name
			}
			if i == 0 {
				user = nil // @HOST: nobody is named
			}
		}
		if inv.hosts[next] == nil {
			return v["mitogen_via"].at.errorf("mitogen_via of %s: there is no host %s", name, quoted(next))
		}
		if err := inv.chain(t, next, user, append(path, name)); err != nil {
			return err
		}
	}
	t.Own = len(t.Hops)
	r.connection(t)
	if as != nil {
		r.becomeHop(t, as.method, as.user)
	} else if len(path) == 0 && r.flag("ansible_become") {
		// On the way to another host, only mitogen_via says who becomes whom, as under Mitogen.
		r.becomeHop(t, "", "")
	}
	return r.err
}

// whole takes a target that is written out.
func (inv *Inventory) whole(t *Target, r *reader, whole string) error {
	at := r.vars["mitogend_target"].at
	hops, err := bootstrap.ParseTarget(whole)
	if err == nil && r.err != nil {
		err = r.err
	}
	if err != nil {
		return at.errorf("mitogend_target of %s: %w", r.host, bootstrap.Plain(err))
	}
	hops[0] = hops[0].OrSSH()
	t.Hops = append(t.Hops, hops...)
	t.Own = len(t.Hops) - 1
	return nil
}

// reader looks variables up by name. The first error is kept.
type reader struct {
	inv     *Inventory
	vars    vars
	host    string
	secret  bool     // what is read is a password
	vaulted []string // texts that were encrypted, but for passwords
	refs    int      // so far
	size    int      // of texts
	err     error
}

func (r *reader) fail(key, format string, args ...any) {
	if r.err == nil {
		err := fmt.Errorf(format, args...)
		if text := err.Error(); hide(r.vaulted, text) != text {
			err = errors.New(hide(r.vaulted, text))
		}
		r.err = r.vars[key].at.errorf("%s of %s: %w", key, r.host, err)
	}
}

// plainText gives a variable's text, decrypted where it is encrypted.
func (r *reader) plainText(key string, v value) string {
	text := v.text
	if encrypted, ok := v.raw.(vaultText); ok {
		plain, err := r.inv.vault.decrypt(r.inv.ctx, string(encrypted))
		if err != nil {
			r.fail(key, "%w", trimmed(err))
		}
		text, v.vaulted = plain, true
	}
	if v.vaulted && !r.secret && text != "" {
		r.vaulted = append(r.vaulted, text)
	}
	return text
}

// first gives the first of some names that is set, and its text.
func (r *reader) first(names ...string) (key, text string) {
	for _, name := range names {
		v, ok := r.vars[name]
		switch {
		case !ok || v.other == nothing:
			continue
		case v.other != "":
			r.fail(name, "text is wanted here, not %s", v.other)
			return name, ""
		case v.list != nil:
			words := make([]string, len(v.list))
			for i, w := range v.list {
				words[i] = r.expand(name, w, 0)
				if v.vaulted {
					r.vaulted = append(r.vaulted, words[i])
				}
			}
			return name, strings.Join(words, ",")
		}
		if text := r.expand(name, r.plainText(name, v), 0); text != "" {
			return name, text
		}
	}
	return "", ""
}

func (r *reader) text(names ...string) string {
	_, text := r.first(names...)
	return text
}

func quoteWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// words gives a list as text that is split as a shell would split it.
func (r *reader) words(name string) string {
	if v := r.vars[name]; v.list != nil && v.other == "" {
		quotes := make([]string, len(v.list))
		for i, w := range v.list {
			quotes[i] = quoteWord(r.expand(name, w, 0))
		}
		return strings.Join(quotes, " ")
	}
	return r.text(name)
}

func (r *reader) flag(names ...string) bool {
	key, text := r.first(names...)
	switch strings.ToLower(text) {
	case "", "no", "false", "off", "0", "n", "f":
		return false
	case "yes", "true", "on", "1", "y", "t":
		return true
	}
	r.fail(key, "%s is neither yes nor no", quoted(text))
	return false
}

var (
	template  = regexp.MustCompile(`\{\{.*?\}\}|\{%.*?%\}`)
	reference = regexp.MustCompile(`^\{\{\s*([A-Za-z_]\w*)\s*\}\}$`)
	lookupEnv = regexp.MustCompile(
		`^\{\{\s*lookup\(\s*['"](?:ansible\.builtin\.)?env['"]\s*,\s*['"](\w+)['"]\s*\)\s*\}\}$`)
)

// maxExpand bounds how deep variables refer to variables; maxRefs and maxText bound, for one host, how often they do
// and how much text that gives.
const (
	maxExpand = 20
	maxRefs   = 10_000
	maxText   = 1 << 20
)

// expand replaces references to variables and to the environment.
func (r *reader) expand(key, text string, depth int) string {
	if r.size += len(text); r.size > maxText || r.refs > maxRefs {
		r.fail(key, "variables refer to each other too often: more than %d times, or more than %d bytes", maxRefs,
			maxText)
	}
	if r.err != nil || !strings.Contains(text, "{{") && !strings.Contains(text, "{%") {
		return text
	}
	return template.ReplaceAllStringFunc(text, func(part string) string {
		if m := lookupEnv.FindStringSubmatch(part); m != nil {
			v, ok := os.LookupEnv(m[1])
			if !ok {
				r.fail(key, "the environment variable %s is not set", m[1])
			}
			if r.secret {
				bootstrap.HideEnv(m[1])
			}
			return v
		}
		m := reference.FindStringSubmatch(part)
		if m == nil {
			r.fail(key, "the template %s is not evaluated: only {{ NAME }} and {{ lookup('env', 'NAME') }} are",
				quoted(part))
			return ""
		}
		v, ok := r.vars[m[1]]
		switch {
		case !ok && m[1] == "ansible_playbook_python" && key == pythonKey:
			return "auto" // Ansible's own interpreter; there is none here
		case !ok || v.other != "" || v.list != nil:
			r.fail(key, "it refers to %s, which is no text of this host", m[1])
			return ""
		case depth == maxExpand:
			r.fail(key, "variables refer to each other in a circle")
			return ""
		}
		if r.refs++; r.err != nil {
			return ""
		}
		return r.expand(key, r.plainText(m[1], v), depth+1)
	})
}

// hop collects the arguments of one hop.
type hop struct {
	r      *reader
	method *bootstrap.Method
	args   map[string]string
	from   map[string]string // the variable that an argument is of
	secret bootstrap.Secret
}

func (r *reader) newHop(method string) *hop {
	h := &hop{r: r, args: map[string]string{}, from: map[string]string{}}
	for _, m := range bootstrap.Methods() {
		if m.Name == method {
			h.method = m
		}
	}
	return h
}

func (h *hop) takes(arg string) bool {
	return slices.ContainsFunc(h.method.AllArgs(), func(a bootstrap.Arg) bool { return a.Name == arg })
}

// set gives an argument the first of some variables that is set.
func (h *hop) set(arg string, names ...string) {
	if !h.takes(arg) {
		return
	}
	if key, text := h.r.first(names...); text != "" {
		h.args[arg], h.from[arg] = text, key
	}
}

// password takes it from where the variables say that it is, or as text.
func (h *hop) password(env, file string, names ...string) {
	if !h.takes("password") {
		return
	}
	if text := h.r.text(env); text != "" {
		h.args["password_env"] = text
		return
	}
	if key, text := h.r.first(file); text != "" {
		if !filepath.IsAbs(text) && !strings.HasPrefix(text, "~/") {
			text = filepath.Join(filepath.Dir(h.r.vars[key].at.file), text)
		}
		h.args["password_file"] = text
		return
	}
	h.r.secret = true
	h.secret = bootstrap.Secret(h.r.text(names...))
	h.r.secret = false
}

const pythonKey = "ansible_python_interpreter"

// python sets the interpreter, unless it is left to be found.
func (h *hop) python() {
	text, arg := h.r.text(pythonKey), "python"
	if text == "" || strings.HasPrefix(text, "auto") {
		return
	}
	if strings.Contains(text, " ") {
		arg = "python_path"
	}
	h.args[arg], h.from[arg] = text, pythonKey
}

// own sets every argument that a variable mitogen_ARG or mitogen_METHOD_ARG names.
func (h *hop) own() {
	for _, a := range h.method.AllArgs() {
		if a.Kind == bootstrap.Password || a.Name == "name" {
			continue
		}
		for _, name := range []string{"mitogen_" + a.Name, "mitogen_" + h.method.Name + "_" + a.Name} {
			if _, set := h.r.vars[name]; !set {
				continue
			}
			text := ""
			if a.Kind == bootstrap.Words {
				text = h.r.words(name)
			} else {
				text = h.r.text(name)
			}
			if text != "" {
				h.args[a.Name], h.from[a.Name] = text, name
			}
		}
	}
}

// add puts the hop at the end of the target. spec names the argument that stands after the colon.
func (h *hop) add(t *Target, spec string) {
	if h.secret != "" {
		t.Secrets[len(t.Hops)] = h.secret
	}
	out := bootstrap.Hop{Method: h.method.Name, Spec: spec}
	if len(h.args) > 0 {
		out.Args = h.args
	}
	h.check(out)
	t.Hops = append(t.Hops, out)
}

// check finds values that bootstrap would refuse, while it is known where they come from.
func (h *hop) check(out bootstrap.Hop) {
	values := map[string]string{}
	for arg, text := range h.args {
		switch {
		case arg == "password_env" || arg == "password_file":
		case strings.HasPrefix(arg, "python") && strings.HasPrefix(text, "~"):
			// To Ansible it is a path. It is refused when this host is connected, and others are not held up.
		default:
			values[arg] = text
		}
	}
	opts, err := bootstrap.Hop{Method: out.Method, Spec: out.Spec, Args: values}.Options()
	if err == nil {
		_, err = bootstrap.Build(out.Method, opts, bootstrap.Boot{Stub: "pass"})
	}
	if err == nil || h.r.err != nil {
		return
	}
	var bad *bootstrap.ArgError
	if errors.As(err, &bad) && h.from[bad.Arg] != "" {
		h.r.fail(h.from[bad.Arg], "%w", bootstrap.Plain(err))
		return
	}
	h.r.err = errorf("host %s: %w", h.r.host, bootstrap.Plain(err))
}

// connections are the values of ansible_connection, without mitogen_ or the collection's name before them.
var connections = map[string]string{
	"": "ssh", "smart": "ssh", "ssh": "ssh", "paramiko": "ssh", "paramiko_ssh": "ssh", "libssh": "ssh",
	"local": "local", "docker": "docker", "docker_api": "docker", "podman": "podman", "buildah": "buildah",
	"kubectl": "kubectl", "oc": "kubectl", "lxc": "lxc", "lxd": "lxd", "incus": "incus", "jail": "jail",
	"setns": "setns", "machinectl": "machinectl", "nspawn": "machinectl", "chroot": "exec",
}

// connection adds the hop that reaches the host.
func (r *reader) connection(t *Target) {
	key, text := r.first("ansible_connection")
	name := strings.TrimPrefix(text[strings.LastIndexByte(text, '.')+1:], "mitogen_")
	method, ok := connections[name]
	if !ok {
		r.fail(key, "the connection %s is not known; one of %s", quoted(text),
			strings.Join(sortedNames(connections)[1:], ", "))
		return
	}
	// of gives the variables of this connection; those of ssh hold for all that it stands in for.
	of := func(what string) []string {
		names := []string{"ansible_" + strings.TrimSuffix(name, "_ssh") + "_" + what}
		if method == "ssh" && name != "ssh" {
			names = append(names, "ansible_ssh_"+what)
		}
		return names
	}
	h := r.newHop(method)
	host := r.text(append([]string{"ansible_host", "ansible_ssh_host"}, of("host")...)...)
	if host == "" {
		host = r.host
	}
	user := append(of("user"), "ansible_user", "ansible_ssh_user")
	switch method {
	case "local":
		host = ""
	case "ssh":
		h.ssh(of)
		h.set("port", append([]string{"ansible_port", "ansible_ssh_port"}, of("port")...)...)
	case "kubectl":
		h.set("namespace", "ansible_kubectl_namespace", "ansible_oc_namespace")
		h.set("kube_context", "ansible_kubectl_context", "ansible_oc_context")
		h.set("container", "ansible_kubectl_container", "ansible_oc_container")
		h.set("kubectl_args", "ansible_kubectl_extra_args", "ansible_oc_extra_args")
		if name == "oc" {
			h.args["kubectl_path"] = "oc"
		}
		if pod := r.text("ansible_kubectl_pod", "ansible_oc_pod"); pod != "" {
			host = pod
		}
	case "setns":
		host = r.text("mitogen_kind") + "/" + host
		delete(r.vars, "mitogen_kind")
	case "lxd", "incus":
		if remote := r.text("ansible_" + name + "_remote"); remote != "" {
			host = remote + ":" + host
		}
	case "exec":
		host = "chroot " + quoteWord(host)
	}
	h.set("username", user...)
	if method != "incus" { // ansible_incus_executable is the shell there
		h.set(method+"_path", append(of("executable"), of("exe")...)...)
	}
	h.set("connect_timeout", append(of("timeout"), "ansible_timeout")...)
	h.python()
	h.own()
	h.add(t, host)
}

// ssh sets what other programs do not have. of gives a variable's names.
func (h *hop) ssh(of func(what string) []string) {
	h.set("identity_file", append(of("private_key_file"), "ansible_private_key_file")...)
	h.password("mitogend_password_env", "mitogend_password_file", slices.Concat([]string{"ansible_password"},
		of("password"), of("pass"))...)
	var args []string
	if text := h.r.text(of("proxy_command")...); text != "" { // paramiko's and libssh's
		args = append(args, quoteWord("-oProxyCommand="+text))
	}
	for _, name := range []string{"ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"} {
		if text := h.r.words(name); text != "" {
			args = append(args, text)
		}
	}
	if len(args) > 0 {
		h.args["ssh_args"] = strings.Join(args, " ")
	}
	for _, name := range append(of("host_key_checking"), "ansible_host_key_checking") {
		if h.r.text(name) != "" && !h.r.flag(name) {
			h.args["check_host_keys"] = "ignore"
		}
	}
}

// becomeHop adds the hop to another user; method and user, if not empty, win over the variables.
func (r *reader) becomeHop(t *Target, method, user string) {
	key := "mitogen_via"
	if method == "" {
		key, method = r.first("ansible_become_method")
	}
	if method == "" {
		method = "sudo"
	}
	method = method[strings.LastIndexByte(method, '.')+1:]
	if !slices.Contains([]string{"sudo", "su", "doas"}, method) {
		r.fail(key, "the become method %s is not known; one of sudo, su, doas", quoted(method))
		return
	}
	if user == "" {
		user = r.text("ansible_become_user", "ansible_"+method+"_user")
	}
	h := r.newHop(method)
	h.password("mitogend_become_password_env", "mitogend_become_password_file", "ansible_become_password",
		"ansible_become_pass",
		"ansible_"+method+"_password", "ansible_"+method+"_pass")
	h.set(method+"_path", "ansible_become_exe", "ansible_"+method+"_exe")
	if name, flags := r.first("ansible_become_flags", "ansible_"+method+"_flags"); flags != "" {
		h.args[method+"_args"] = r.words(name)
	}
	h.set("connect_timeout", "ansible_timeout")
	h.python()
	h.add(t, user)
}
