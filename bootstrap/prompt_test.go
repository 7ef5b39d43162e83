package bootstrap

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"al.essio.dev/pkg/shellescape"

	"mitogend/integration/pythons"
)

// nonce is what sudo is told to ask with.
const nonce = "mitogen-sudo-prompt-0123456789abcdef:"

// prompts of the field, and which Prompt of a sudo plan (S) or an ssh plan (H) answers them: "password", another name, or "".
var promptTable = []struct{ text, sudo, ssh string }{
	{nonce, "password", ""},
	{nonce + " ", "password", ""},
	{"[sudo: " + nonce + "] ", "password", ""},
	{"[sudo: " + nonce + "] Password: ", "password", "password"},
	{"[sudo: " + nonce + "] Passwort: ", "password", "password"},
	{"[sudo: " + nonce + "] Verification code: ", "second factor", "second factor"},
	{"[sudo: " + nonce + "] Current password: ", "password change", "password change"},
	{"[sudo: " + nonce + "] Your mother's name: ", "", ""},
	{"[sudo: mitogen-sudo-prompt:] Password: ", "stray password", "password"},
	{"Password: ", "stray password", "password"},
	{"Password:", "stray password", "password"},
	{"[sudo] password for alice: ", "stray password", "password"},
	{"[sudo] Passwort für alice: ", "stray password", "password"},
	{"Mot de passe\u00a0: ", "stray password", "password"},
	{"Mot de passe de root\u202f:", "stray password", "password"},
	{"密码：", "stray password", "password"},
	{"[sudo] alice 的密码：", "stray password", "password"},
	{"パスワード: ", "stray password", "password"},
	{"[sudo] alice のパスワード:", "stray password", "password"},
	{"암호: ", "stray password", "password"},
	{"ПАРОЛЬ: ", "stray password", "password"},
	{"[sudo] пароль для alice: ", "stray password", "password"},
	{"Contraseña: ", "stray password", "password"},
	{"Hasło: ", "stray password", "password"},
	{"Şifre: ", "stray password", "password"},
	{"كلمة السر: ", "stray password", "password"},
	{"Συνθηματικό: ", "stray password", "password"},
	{"\x1b[1mPassword\x1b[0m: ", "stray password", "password"},
	{"doas (alice@web1) password: ", "stray password", "password"},
	{"alice@web1's password: ", "stray password", "password"},
	{"root@new-web1's password: ", "stray password", "password"},
	{"(alice@web1) Password: ", "stray password", "password"},
	{"deploy@code.example.com's password: ", "second factor", "password"},
	{"pin@web1's password: ", "second factor", "password"},
	{"ops@otp-1's password: ", "second factor", "password"},
	{"(pin@otp.example.com) Password: ", "second factor", "password"},
	{"(pin@otp.example.com) Verification code: ", "second factor", "second factor"},
	{"(alice@web1) One-time password: ", "second factor", "second factor"},
	{"One-time code for alice@web1's password: ", "second factor", "second factor"},
	{"Your password will expire in 3 days", "", ""},
	{"Your password will expire in 3 days.", "", ""},
	{"By typing a password: you agree, says the law ", "", ""},
	{"Sorry, try again.", "", ""},
	{"******", "", ""},
	{"Password: secret", "", ""},
	{"", "", ""},
	{"Current password: ", "password change", "password change"},
	{"(current) UNIX password: ", "password change", "password change"},
	{"New password: ", "password change", "password change"},
	{"Retype new password: ", "password change", "password change"},
	{"(alice@web1) Current password: ", "password change", "password change"},
	{"Verification code: ", "second factor", "second factor"},
	{"(alice@web1) Enter PASSCODE: ", "second factor", "second factor"},
	{"Enter PIN: ", "second factor", "second factor"},
	{"First Factor: ", "stray password", "password"},
	{"Second Factor (optional): ", "second factor", "second factor"},
	{"Mein PIN ist toll ", "", ""},
	{"One-time password (OATH) for `alice': ", "second factor", "second factor"},
	{"Enter PIN for ED25519-SK key /home/a/.ssh/id: ", "second factor", "second factor"},
	{"Enter passphrase for key '/home/a/.ssh/id_rsa': ", "stray password", "key passphrase"},
	{"Are you sure you want to continue connecting (yes/no)? ", "", "host key"},
	{"Are you sure you want to continue connecting (yes/no/[fingerprint])? ", "", "host key"},
	{"Please type 'yes', 'no' or the fingerprint: ", "", "host key"},
}

func promptTexts() []string {
	var out []string
	for _, row := range promptTable {
		out = append(out, row.text)
	}
	return out
}

func TestPromptTable(t *testing.T) {
	sudo := sudoPrompts(nonce, "x", true, "")
	ssh := build(t, "ssh", map[string]any{"password": "x", "hostname": "h"}).Prompts
	for _, row := range promptTable {
		for _, c := range []struct {
			prompts []Prompt
			want    string
		}{{sudo, row.sudo}, {ssh, row.ssh}} {
			got := ""
			if _, q := newAsker(c.prompts).look([]byte(row.text), true); q != nil {
				got = q.Name
			}
			if got != c.want {
				t.Errorf("%q: %q, want %q", row.text, got, c.want)
			}
		}
	}
}

func TestAnswerIsGivenOnce(t *testing.T) {
	a := newAsker(passwordPrompts("it", "pw", true, "", "", false))
	if v, _ := a.look([]byte("Password: "), false); v != settle {
		t.Errorf("a pattern that a banner could match was not left to settle: %v", v)
	}
	if v, _ := a.look([]byte("Password: "), true); v != answer {
		t.Errorf("not answered: %v", v)
	}
	v, q := a.look([]byte("Password: "), true)
	if v != giveUp {
		t.Errorf("answered twice: %v", v)
	}
	if reason, _ := q.problem(); reason != "it has refused the password" {
		t.Error(reason)
	}
}

// asking makes a stub program: it prints what ask prints to its terminal, reads a line there, compares it with "s3 cret'é" and
// then runs the child. Its words are printf's.
func asking(t testing.TB, ask string) string {
	return script(t, "stub", `#!/bin/sh
`+ask+`
ask() { printf "$1" >/dev/tty; IFS= read -r answer </dev/tty || exit 5; printf '\n' >/dev/tty; }
fail() { printf "$1\n" >/dev/tty; exit ${2:-1}; }
is() { [ "$answer" = "s3 cret'é" ] || fail "stub: got something else"; }
main "$@"
while [ "$1" != -c ] && [ "${1#*python}" = "$1" ]; do shift; done
case $1 in -c) shift; exec sh -c "$1";; esac
exec "$@"
`)
}

const testPassword = "s3 cret'é"

// asSudo makes the questions of a stub those of sudo, which puts what it was given in the environment in their place.
var asSudo = strings.NewReplacer("'Password: '", `"$SUDO_PROMPT"`, "'[x] Password: '", `"[sudo: $SUDO_PROMPT] Password: "`,
	"'密码：'", `"[sudo: $SUDO_PROMPT] 密码："`, `'Mot de passe\302\240: '`, `"[sudo: $SUDO_PROMPT] Mot de passe\302\240: "`,
	`'\033[1;31mPassword:\033[0m '`, `"\033[1m$SUDO_PROMPT\033[0m"`, "'Lösenord: '", `"$SUDO_PROMPT"`,
	"printf Pass >/dev/tty; printf wo >/dev/tty; ask 'rt: '", `printf mitogen-sudo- >/dev/tty; ask "${SUDO_PROMPT#mitogen-sudo-}"`)

// TestPromptsOfStubs drives the three prompting methods through stand-ins that ask in every way that real programs do.
func TestPromptsOfStubs(t *testing.T) {
	py := anyPython(t)
	for _, c := range []struct {
		name, main string
		fails      []string // parts of the error; nil: it must come up
	}{
		{"plain", `ask 'Password: '; is`, nil},
		{"no question", `:`, nil},
		{"in pieces", `printf Pass >/dev/tty; printf wo >/dev/tty; ask 'rt: '; is`, nil},
		{"full width", `ask '密码：'; is`, nil},
		{"no-break space", `ask 'Mot de passe\302\240: '; is`, nil},
		{"banner with the word", `printf 'Enter your password: or leave\nWarning: password:\n' >/dev/tty; ask '[x] Password: '; is`, nil},
		{"echoes", `printf 'Password: ' >/dev/tty; IFS= read -r answer </dev/tty; printf '%s\n' "$answer" >/dev/tty; is`, nil},
		{"stars", `printf 'Password: ' >/dev/tty; IFS= read -r answer </dev/tty; printf '****\b \b*\n' >/dev/tty; is`, nil},
		{"terminal escapes", `ask '\033[1;31mPassword:\033[0m '; is`, nil},
		{"asks again", `ask 'Password: '; fail2() { ask 'Password: '; }; fail2; exit 1`, []string{"refused the password"}},
		{"sorry", `ask 'Password: '; printf 'Sorry, try again.\n' >/dev/tty; ask 'Password: '; exit 1`, []string{"refused the password"}},
		{"refuses in a foreign language", `ask 'Lösenord: '; fail 'fel'`, []string{"probably refused", `"fel"`, "exit status 1"}},
		{"echoes and refuses", `printf 'Password: ' >/dev/tty; IFS= read -r answer </dev/tty; printf '%s\n' "you typed $answer" >/dev/tty; exit 1`, []string{"you typed ******"}},
		{"expired", `ask 'Password: '; is; printf 'You are required to change your password immediately.\n' >/dev/tty; ask 'Current password: '; exit 1`, []string{"expired and must be changed"}},
		{"second factor", `ask 'Verification code: '; exit 1`, []string{"second factor"}},
		{"locked", `fail 'Your account has been locked'`, []string{"locked"}},
		{"dies while asking", `printf 'Password: ' >/dev/tty; exit 3`, []string{"exit status 3"}},
	} {
		for _, method := range []string{"su", "sudo", "doas"} {
			t.Run(c.name+"/"+method, func(t *testing.T) {
				main := c.main
				if method == "sudo" {
					main = asSudo.Replace(main)
				}
				stub := asking(t, "main() { "+main+"; }")
				p := build(t, method, map[string]any{method + "_path": stub, "password": testPassword, "python": py})
				if c.fails == nil {
					checkEcho(t, started(t, p, echo))
					return
				}
				e := mustFail(t, p, echo, StepConnect)
				has(t, e, c.fails...)
				if strings.Contains(e.Error(), testPassword) {
					t.Errorf("the password shows: %v", e)
				}
			})
		}
	}
}

// TestCauseOfAnInterruptedWrite has attempts end while they write to a program that does not read: the reason is what ended them.
func TestCauseOfAnInterruptedWrite(t *testing.T) {
	much := strings.Repeat("x", 8<<20)
	stub := asking(t, "main() { ask 'Verification code: '; exit 1; }")
	for _, method := range []string{"sudo", "doas"} {
		p := build(t, method, map[string]any{method + "_path": stub, "password": testPassword})
		p.Input = much
		has(t, mustFail(t, p, echo, StepConnect), "second factor")
	}
	p := build(t, "exec", map[string]any{"command": script(t, "stub", "#!/bin/sh\nexec sleep 60\n"), "connect_timeout": "300ms"})
	p.Input = much
	if e := mustFail(t, p, echo, StepConnect); !e.TimedOut {
		t.Errorf("not the timeout: %v", e)
	}
	stub = script(t, "stub", "#!/bin/sh\necho MITO000 030b02f0\nexec sleep 60\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	slow := StartOptions{Preamble: func(*Process) ([]byte, error) {
		time.AfterFunc(50*time.Millisecond, func() { cancel(nil) })
		return []byte(much), nil
	}}
	_, err := Start(ctx, build(t, "exec", map[string]any{"command": stub}), slow)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("not the caller's end: %v", err)
	}
}

func TestQuestionWithoutAnAnswer(t *testing.T) {
	for _, method := range []string{"su", "sudo", "doas"} {
		stub := asking(t, "main() { ask 'Password: '; exit 1; }")
		p := build(t, method, map[string]any{method + "_path": stub})
		has(t, mustFail(t, p, echo, StepConnect), "asks for a password and none was given", "password_env")
	}
	stub := asking(t, `main() { ask "Are you sure you want to continue connecting (yes/no)? "; [ "$answer" = yes ] || exit 9; ask "Enter passphrase for key '/k': "; [ -z "$answer" ] || exit 8; ask "u@h's password: "; is; }`)
	py := anyPython(t)
	opts := map[string]any{"hostname": "h", "ssh_path": stub, "password": testPassword, "python": py}
	has(t, mustFail(t, build(t, "ssh", opts), echo, StepConnect), "host key is unknown", "check_host_keys=accept")
	opts["check_host_keys"] = "accept"
	p := build(t, "ssh", opts)
	p.Argv = append(p.Argv[:slices.Index(p.Argv, "h")+1], "-c", "exec "+shellescape.QuoteCommand([]string{py, "-c", boot.Stub, "test"})) // the stub takes a shell's line after -c
	checkEcho(t, started(t, p, echo))
}

// TestPasswordsOfEveryKind sends passwords with a meaning to shells and terminals.
func TestPasswordsOfEveryKind(t *testing.T) {
	py := anyPython(t)
	for _, password := range []string{" lead and trail ", `q"u'o$t\e`, "日本語", strings.Repeat("x", 300), "\x03\x04\x15\x16^C", "%s%n", "-n"} {
		want := script(t, "want", password)
		stub := asking(t, `main() { ask 'Password: '; printf %s "$answer" | cmp -s - `+want+` || fail "stub: got $(printf %s "$answer" | od -c)"; }`)
		for _, method := range []string{"su", "doas"} {
			checkEcho(t, started(t, build(t, method, map[string]any{method + "_path": stub, "password": password, "python": py}), echo))
		}
	}
}

// TestAnswerThatNobodyReads: a terminal holds less than the password.
func TestAnswerThatNobodyReads(t *testing.T) {
	stub := asking(t, "main() { printf 'Password: ' >/dev/tty; exec sleep 60; }")
	p := build(t, "doas", map[string]any{"doas_path": stub, "password": strings.Repeat("x", 60_000), "connect_timeout": "1s"})
	if e := mustFail(t, p, echo, StepConnect); !e.TimedOut {
		t.Errorf("not the timeout: %v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p = build(t, "doas", map[string]any{"doas_path": stub, "password": strings.Repeat("x", 60_000)})
	o := echo
	o.Output = func(line string, _ bool) { cancel() } // the question
	if _, err := Start(ctx, p, o); !errors.Is(err, context.Canceled) {
		t.Errorf("not the caller's end: %v", err)
	}
}

// TestHalfASecret shows none, where a line is trimmed or cut.
func TestHalfASecret(t *testing.T) {
	for _, secret := range []Secret{"topsecret ", " topsecret", "top secret", "topsecret\t"} {
		for n := range 20 {
			var out transcript
			out.hide(secret)
			for _, line := range []string{"you typed " + string(secret), string(secret) + "!", strings.Repeat("x", keptBytes-n) + string(secret) + "yz"} {
				out.add(normalise(line))
			}
			shown := strings.Join(maskAll(out.raw(), out.secrets), "\n") + out.since(0)
			if strings.Contains(shown, "to") || strings.Contains(shown, "secr") {
				t.Fatalf("%q: %s", secret, shown)
			}
		}
	}
}

func TestNormalise(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                               "plain",
		"a\tb\u00a0c\u2003d":                  "a b c d",
		"\x1b[31;1mred\x1b[0m":                "red",
		"\x1b]0;title\x07x\x1b]8;;u\x1b\\y":   "xy",
		"bell\x07 back\b del\x7f esc\x1bM ok": "bell back del esc ok",
		"bad\xff":                             "bad\ufffd",
		"\x1b[":                               "",
		"\x1b":                                "",
		"caf\u00e9\r":                         "caf\u00e9",
	} {
		if got := normalise(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestSSHFailuresInWords starts stand-ins for ssh that complain as OpenSSH does.
func TestSSHFailuresInWords(t *testing.T) {
	for text, want := range map[string]string{
		"ssh: Could not resolve hostname h: Name or service not known":                                              "check the name",
		"ssh: connect to host h port 22: Connection refused":                                                        "is sshd running",
		"ssh: connect to host h port 22: Connection timed out":                                                      "firewall",
		"ssh: connect to host h port 22: No route to host":                                                          "route",
		"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.":                       "ssh-keygen -R NAME",
		"No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.": "check_host_keys=accept",
		"u@h: Permission denied (publickey,password).":                                                              "Permission denied (publickey,password)",
		"Load key \"/k\": invalid format\nu@h: Permission denied (publickey).":                                      "check identity_file",
		"Received disconnect from 1.1.1.1 port 22:2: Too many authentication failures":                              "identity_file",
		"Unable to negotiate with 1.1.1.1 port 22: no matching host key type found.":                                "algorithm",
		"cf: line 1: Bad configuration option: x\ncf: terminating, 1 bad configuration options":                     "configuration",
		"This account is currently not available.":                                                                  "no login shell",
		"bash: line 1: exec: py: not found":                                                                         "the interpreter py is not there",
		"zsh:1: command not found: py":                                                                              "the interpreter py is not there",
		"py: Command not found.":                                                                                    "the interpreter py is not there",
		"Session open refused by peer":                                                                              "MaxSessions",
		"something new under the sun":                                                                               "something new under the sun",
	} {
		stub := script(t, "ssh", "#!/bin/sh\ncat >&2 <<'EOF'\n"+text+"\nEOF\nexit 255\n")
		e := mustFail(t, build(t, "ssh", map[string]any{"hostname": "h", "ssh_path": stub, "python": "py"}), echo, StepConnect)
		has(t, e, want, "ssh h: ", "status 255", "try: ")
	}
}

func TestBusyServerIsTriedAgain(t *testing.T) {
	count := script(t, "count", "")
	stub := script(t, "ssh", "#!/bin/sh\necho x >>"+count+"\n[ $(wc -l <"+count+") -ge 3 ] || { echo 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255; }\nwhile [ $1 != h ]; do shift; done; shift; exec sh -c \"$*\"\n")
	checkEcho(t, started(t, build(t, "ssh", map[string]any{"hostname": "h", "ssh_path": stub, "python": anyPython(t)}), echo))

	stub = script(t, "ssh", "#!/bin/sh\necho 'kex_exchange_identification: Connection closed by remote host' >&2; exit 255\n")
	e := mustFail(t, build(t, "ssh", map[string]any{"hostname": "h", "ssh_path": stub, "connect_timeout": 2}), echo, StepConnect)
	has(t, e, "MaxStartups", "--parallel")
	if !e.Retry {
		t.Error("not marked as worth another attempt")
	}
}

// TestLoginShells runs the chooser's line through each shell that a target's user may have.
func TestLoginShells(t *testing.T) {
	py := anyPython(t)
	for _, shell := range [][]string{{"sh", "-c"}, {"dash", "-c"}, {"bash", "-c"}, {"bash", "--posix", "-c"}, {"zsh", "-c"}, {"zsh", "-fc"}, {"tcsh", "-c"}, {"tcsh", "-fc"}, {"fish", "-c"}, {"busybox", "ash", "-c"}} {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			needProgram(t, shell[0])
			for _, pythons := range []any{py, []string{"no-such-python", py}} {
				in := (&options{values: map[string]any{"python": pythons}}).interpreter()
				p := &Plan{Label: shell[0], Argv: append(append([]string{}, shell...), in.line(boot)), Stdio: Socketpair}
				checkEcho(t, started(t, p, echo))
			}
			in := (&options{values: map[string]any{"python": "no-such-python,neither"}}).interpreter()
			p := &Plan{Label: shell[0], Argv: append(append([]string{}, shell...), in.line(boot)), Stdio: Socketpair}
			has(t, mustFail(t, p, echo, StepPython), "no-such-python (not found), neither (not found)")
		})
	}
}

// TestShellsThatReadCommands is exec's shell=1. fish is not among them: it reads its input to the end before it runs a line. On
// a terminal, shells with a line editor change its mode, which leaves dash.
func TestShellsThatReadCommands(t *testing.T) {
	py := anyPython(t)
	for _, c := range []struct {
		shell string
		stdio Stdio
	}{
		{"sh", Socketpair}, {"bash", Socketpair}, {"zsh -f", Socketpair}, {"tcsh -f", Socketpair}, {"busybox ash", Socketpair},
		{"sh", Pipes}, {"bash", Pipes}, {"zsh -f", Pipes}, {"tcsh -f", Pipes}, {"busybox ash", Pipes},
		{"dash", PTY}, {"dash", Hybrid},
	} {
		t.Run(c.shell+"/"+string(c.stdio), func(t *testing.T) {
			needProgram(t, strings.Fields(c.shell)[0])
			opts := map[string]any{"command": c.shell, "shell": true, "stdio": string(c.stdio), "python": []string{"none", py}}
			checkEcho(t, started(t, build(t, "exec", opts), echo))
		})
	}
}

// needProgram skips a test whose program is missing, except in CI, where it must be there.
func needProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		pythons.Missing(t, name+" is not installed")
	}
}

// TestDoasOfACode: the user and the host in a question may be called anything.
func TestDoasOfACode(t *testing.T) {
	doas := build(t, "doas", map[string]any{"password": "x"}).Prompts
	for text, want := range map[string]string{
		"doas (code@otp-1) password: ": "password", "doas (alice@web1) password: ": "password", "doas (alice@web1) OTP: ": "second factor",
		"Verification code: ": "second factor",
	} {
		_, q := newAsker(doas).look([]byte(text), true)
		if q == nil || q.Name != want {
			t.Errorf("%q is taken for %v", text, q)
		}
	}
}
