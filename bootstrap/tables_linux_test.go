package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/machine"

	"mitogend/integration/pythons"
)

// The tables of this file are long: every third row is tried, and with MITOGEND_LONG all of them.
func someOf[T any](rows []T) []T {
	if os.Getenv("MITOGEND_LONG") != "" {
		return rows
	}
	var out []T
	for i := 0; i < len(rows); i += 3 {
		out = append(out, rows[i])
	}
	return out
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func newUser(t *testing.T, name, shell, password string) {
	t.Helper()
	if err := machine.Shell("useradd -m -s "+shell+" "+name, "echo '"+name+":"+password+"' | chpasswd"); err != nil {
		t.Fatal(err)
	}
}

// TestInsideSudoers asks for the password under settings that change how sudo asks, what it runs, or on what.
func TestInsideSudoers(t *testing.T) {
	inside(t)
	newUser(t, "mg-table", "/bin/sh", "table pw")
	table := as(t, "mg-table", "sudo")
	rows := []struct{ settings, user, password string }{
		{"timestamp_timeout=0", "root", ""}, {"pwfeedback", "root", ""}, {"lecture=always", "root", ""}, {"!lecture", "root", ""},
		{"requiretty", "root", ""}, {"!requiretty", "root", ""}, {"use_pty", "root", ""}, {"!use_pty", "root", ""},
		{`passprompt="Gib das Wort, %u: "`, "root", ""}, {`passprompt="Password: ",passprompt_override`, "root", ""}, {"passprompt_override", "root", ""},
		{"env_reset", "root", ""}, {"!env_reset", "root", ""}, {`env_keep+="SUDO_PROMPT"`, "root", ""}, {"always_set_home", "root", ""},
		{"set_home", "mg-bob", ""}, {`secure_path="/usr/sbin:/usr/bin:/sbin:/bin"`, "root", ""}, {"visiblepw", "root", ""}, {"targetpw", "mg-bob", bobPassword},
		{"umask=0077", "root", ""}, {"insults", "root", ""}, {`badpass_message="Nein: "`, "root", ""}, {"passwd_tries=1", "root", ""},
		{"timestamp_type=global", "root", ""}, {"timestamp_type=tty", "mg-bob", ""}, {"closefrom_override", "root", ""}, {"passwd_timeout=1", "root", ""},
		{"!authenticate", "root", ""}, {"stay_setuid", "mg-bob", ""}, {"log_output,iolog_dir=/mnt/iolog", "root", ""}, {"!pam_session", "root", ""},
		{"fqdn", "root", ""},
	}
	py := anyPython(t)
	somePythons(t)
	for _, row := range someOf(rows) {
		writeFile(t, "/etc/sudoers.d/table", "Defaults:mg-table timestamp_timeout=0\nDefaults:mg-table "+row.settings+"\nmg-table ALL=(ALL) ALL\n", 0o440)
		password := row.password
		if password == "" {
			password = "table pw"
		}
		p, err := Start(t.Context(), build(t, "sudo", map[string]any{"sudo_path": table, "username": row.user, "password": password, "python": py}), echo)
		if err != nil {
			t.Errorf("%s: %v", row.settings, err)
			continue
		}
		checkEcho(t, p)
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("%s: %v", row.settings, err)
		}
	}
	writeFile(t, "/etc/sudoers.d/table", "Defaults:mg-table timestamp_timeout=0,passwd_tries=1\nmg-table ALL=(ALL) ALL\n", 0o440)
	e := mustFail(t, build(t, "sudo", map[string]any{"sudo_path": table, "password": "wrong", "python": py}), echo, StepConnect)
	has(t, e, "refused the password", "was sent once")
	if err := machine.Shell("chage -E 1 mg-table"); err != nil {
		t.Fatal(err)
	}
	has(t, mustFail(t, build(t, "sudo", map[string]any{"sudo_path": table, "password": "table pw", "python": py}), echo, StepConnect), "expired")
	if err := machine.Shell("chage -E -1 -d 0 mg-table"); err != nil {
		t.Fatal(err)
	}
	has(t, mustFail(t, build(t, "sudo", map[string]any{"sudo_path": table, "password": "table pw", "python": py}), echo, StepConnect), "expired")
}

// TestInsideLanguages has sudo and su ask in other languages, with locales of the machine's own.
func TestInsideLanguages(t *testing.T) {
	inside(t)
	needProgram(t, "localedef")
	if err := machine.Shell("mkdir -p /mnt/locale/up /mnt/locale/work && mount -t overlay -o lowerdir=/usr/lib/locale,upperdir=/mnt/locale/up,workdir=/mnt/locale/work overlay /usr/lib/locale"); err != nil {
		t.Fatal(err)
	}
	alice, aliceSu, py := as(t, "mg-alice", "sudo"), as(t, "mg-alice", "su"), anyPython(t)
	somePythons(t)
	for _, language := range someOf([]string{"de_DE", "fr_FR", "es_ES", "ja_JP", "ru_RU", "zh_CN"}) {
		if err := machine.Shell("localedef --no-archive -i " + language + " -f UTF-8 " + language + ".UTF-8"); err != nil {
			pythons.Missing(t, err.Error())
		}
		opt := echo
		opt.Env = append(os.Environ(), "LC_ALL="+language+".UTF-8", "LANGUAGE="+language)
		checkEcho(t, started(t, build(t, "sudo", map[string]any{"sudo_path": alice, "password": alicePassword, "python": py}), opt))
		checkEcho(t, started(t, build(t, "su", map[string]any{"su_path": aliceSu, "username": "mg-bob", "password": bobPassword, "python": py}), opt))
		e := mustFail(t, build(t, "sudo", map[string]any{"sudo_path": alice, "password": "wrong", "python": py}), opt, StepConnect)
		has(t, e, "refused the password")
	}
}

// TestInsideLoginShells logs in by ssh to a user with each of the shells, with one interpreter named and with a choice.
func TestInsideLoginShells(t *testing.T) {
	inside(t)
	newUser(t, "mg-shells", "/bin/sh", "x")
	opts := with(sshd(t, ""), "username", "mg-shells")
	ash := "/mnt/ash"
	if err := machine.Shell("ln -s $(command -v busybox) " + ash); err != nil {
		t.Fatal(err)
	}
	somePythons(t)
	for _, shell := range []string{"/bin/sh", "/bin/dash", "/bin/bash", "/bin/rbash", "/usr/bin/zsh", "/usr/bin/tcsh", "/usr/bin/fish", ash, "/usr/bin/csh"} {
		if _, err := os.Stat(shell); err != nil {
			continue
		}
		if err := machine.Shell("usermod -s " + shell + " mg-shells"); err != nil {
			t.Fatal(err)
		}
		for _, python := range []any{"python3", []string{"no-such-python", "python3"}} {
			p, err := Start(t.Context(), build(t, "ssh", with(opts, "python", python)), echo)
			if err != nil {
				t.Errorf("%s, %v: %v", shell, python, err)
				continue
			}
			checkEcho(t, p)
			_ = p.Close(t.Context())
		}
	}
	// Commands that are forced look at the first word.
	forced := sshd(t, `ForceCommand case "$SSH_ORIGINAL_COMMAND" in python3*) exec sh -c "$SSH_ORIGINAL_COMMAND";; *) echo "only python3" >&2; exit 1;; esac`)
	checkEcho(t, started(t, build(t, "ssh", with(forced, "username", "mg-bob", "python", "python3")), echo))
	has(t, mustFail(t, build(t, "ssh", with(forced, "username", "mg-bob", "python", "none,python3")), echo, StepConnect), "only python3")
}

// TestInsideStartFiles has the user's start-up files do what they do.
func TestInsideStartFiles(t *testing.T) {
	inside(t)
	newUser(t, "mg-files", "/bin/bash", "x")
	opts := with(sshd(t, ""), "username", "mg-files", "python", []string{"no-such-python", "python3"})
	somePythons(t)
	const home = "/home/mg-files/"
	rows := []struct{ shell, file, text string }{
		{"bash", ".bashrc", "echo welcome"}, {"bash", ".bashrc", "echo warning >&2"}, {"bash", ".bashrc", "printf 'no newline'"},
		{"bash", ".bashrc", "printf '\\033[31mred\\033[0m'"}, {"bash", ".bashrc", "printf 'Password: '"}, {"bash", ".bashrc", "echo MITO000"},
		{"bash", ".bashrc", "read -t 1 x </dev/null"}, {"bash", ".bashrc", "set -u"}, {"bash", ".bashrc", "cd /tmp"},
		{"bash", ".bashrc", "umask 077"}, {"bash", ".bashrc", "ulimit -n 128"}, {"bash", ".bashrc", "alias python3=false sh=false"},
		{"bash", ".bashrc", "python3() { false; }"}, {"bash", ".bashrc", "trap 'echo bye' EXIT"}, {"bash", ".bashrc", "stty -echo"},
		{"bash", ".bashrc", "export PYTHONSTARTUP=/no/such PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1"}, {"bash", ".bashrc", "export PYTHONIOENCODING=ascii LC_ALL=C"},
		{"bash", ".bashrc", "export TERM=dumb PS1='> ' PROMPT_COMMAND='echo x'"}, {"bash", ".bashrc", "export PATH=$HOME/none:$PATH"}, {"bash", ".bashrc", "sleep 0.3 &"},
		{"bash", ".bashrc", "seq 2000"}, {"bash", ".bashrc", "export PYTHONINSPECT=1"}, {"bash", ".bashrc", "shopt -s extglob; set -o noclobber"},
		{"zsh", ".zshenv", "echo zsh says hello; setopt noglob"}, {"zsh", ".zshenv", "setopt shwordsplit nomatch"},
		{"tcsh", ".cshrc", "echo csh says hello; set noclobber"}, {"tcsh", ".tcshrc", "set prompt='x'; echo hello"},
		{"fish", ".config/fish/config.fish", "echo fish says hello; set -x A b"},
	}
	for _, row := range someOf(rows) {
		path := home + row.file
		if err := machine.Shell("usermod -s $(command -v "+row.shell+") mg-files", "mkdir -p "+filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, row.text+"\n", 0o644)
		p, err := Start(t.Context(), build(t, "ssh", opts), echo)
		_ = os.Remove(path)
		if err != nil {
			t.Errorf("%s, %s: %v", row.file, row.text, err)
			continue
		}
		checkEcho(t, p)
		_ = p.Close(t.Context())
	}
}

// TestInsideSSHConfig has the user's ssh_config say what it may.
func TestInsideSSHConfig(t *testing.T) {
	inside(t)
	opts := sshd(t, "")
	dir := t.TempDir()
	known := strings.TrimPrefix(strings.Fields(opts["ssh_args"].(string))[3], "UserKnownHostsFile=")
	py := somePythons(t)[0]
	config := func(lines ...string) map[string]any {
		path := filepath.Join(dir, "config")
		writeFile(t, path, fmt.Sprintf("Host h\n HostName 127.0.0.1\n Port %d\n User mg-bob\n IdentityFile %s\n GlobalKnownHostsFile none\n %s\n",
			opts["port"], opts["identity_file"], strings.Join(lines, "\n ")), 0o600)
		return map[string]any{"hostname": "h", "ssh_args": "-F " + path, "python": py, "connect_timeout": "20s"}
	}
	know := "UserKnownHostsFile " + known
	for _, lines := range [][]string{
		{"StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"}, {"StrictHostKeyChecking accept-new", "UserKnownHostsFile " + dir + "/new"},
		{know, "BatchMode yes"}, {know, "RequestTTY force"}, {know, "ServerAliveInterval 1"},
	} {
		p, err := Start(t.Context(), build(t, "ssh", config(lines...)), echo)
		if err != nil {
			t.Errorf("%v: %v", lines, err)
			continue
		}
		checkEcho(t, p)
		_ = p.Close(t.Context())
	}
	password := with(config(know, "BatchMode yes", "PubkeyAuthentication no"), "username", "mg-alice", "password", alicePassword)
	opt := echo
	opt.Env = append(os.Environ(), "SSH_ASKPASS_REQUIRE=force", "SSH_ASKPASS=/bin/false", "DISPLAY=:9")
	checkEcho(t, started(t, build(t, "ssh", password), opt))
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{"UserKnownHostsFile /dev/null"}, "host key is unknown"},
		{[]string{know, "RemoteCommand true"}, "RemoteCommand"},
		{[]string{know, "StdinNull yes"}, "StdinNull"},
		{[]string{know, "ProxyCommand sh -c 'echo no way through >&2; exit 1'"}, "ProxyCommand or jump host"},
	} {
		e := mustFail(t, build(t, "ssh", config(c.lines...)), echo, "")
		has(t, e, c.want)
		if e.Retry {
			t.Errorf("%v: tried again", c.lines)
		}
	}
	has(t, mustFail(t, build(t, "ssh", with(config(know, "SessionType none"), "connect_timeout", "10s")), echo, StepConnect), "SessionType")
	locked := sshd(t, "PasswordAuthentication no\nKbdInteractiveAuthentication no")
	e := mustFail(t, build(t, "ssh", with(locked, "username", "mg-alice", "identity_file", nil, "password", "x", "python", py)), echo, StepConnect)
	has(t, e, "was not sent")
}

// TestInsideSilentHost connects to a host that drops every packet, in a network namespace of its own.
func TestInsideSilentHost(t *testing.T) {
	inside(t)
	needProgram(t, "ip")
	if err := machine.Shell("ip link add mg0 type veth peer name mg1", "ip link set mg1 up", "ip addr add 10.213.79.1/24 dev mg0", "ip link set mg0 up",
		"ip neigh add 10.213.79.2 lladdr 02:00:00:00:00:01 dev mg0"); err != nil {
		t.Skip(err) // a container may not
	}
	t.Cleanup(func() { _ = machine.Shell("ip link del mg0") })
	e := mustFail(t, build(t, "ssh", map[string]any{"hostname": "10.213.79.2", "ssh_args": "-F none", "connect_timeout": 5}), echo, StepConnect)
	has(t, e, "nothing answers at 10.213.79.2:22", "firewall")
}
