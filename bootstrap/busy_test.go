package bootstrap

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

func TestEnvironmentHasEachNameOnce(t *testing.T) {
	got := environment([]string{"A=1", "SSH_ASKPASS_REQUIRE=force", "B=2", "A=3", "odd"}, map[string]string{"SSH_ASKPASS_REQUIRE": "never"})
	if want := []string{"B=2", "A=3", "odd", "SSH_ASKPASS_REQUIRE=never"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestReasonOfTheAttemptBefore lets the time run out in a later attempt.
func TestReasonOfTheAttemptBefore(t *testing.T) {
	n := 0
	err := WhileBusy(t.Context(), time.Now().Add(time.Minute), func() error {
		if n++; n == 1 {
			return &Error{Reason: "it is busy", Hint: "come later", Retry: true}
		}
		return &Error{Reason: "no child after 30s", TimedOut: true}
	})
	var e *Error
	if !errors.As(err, &e) || n != 2 || !e.Retry || !e.TimedOut {
		t.Fatal(n, err)
	}
	has(t, e, "no child after 30s", "it is busy", "come later")
}

// TestProxyIsNoBusyServer tells a ProxyCommand or jump host that fails from a server that is busy, behind it or without.
func TestProxyIsNoBusyServer(t *testing.T) {
	const kex = "kex_exchange_identification: Connection closed by remote host"
	plan := build(t, "ssh", map[string]any{"hostname": "h", "password": "x"})
	for _, c := range []struct {
		lines    []string
		answered bool
		retry    bool
		want     string
	}{
		{[]string{kex, "Connection closed by 192.0.2.1 port 22"}, false, true, "MaxStartups"},
		{[]string{"sh: 1: nc: not found", kex, "Connection closed by UNKNOWN port 65535"}, false, false, "ProxyCommand or jump host"},
		{[]string{"banner exchange: Connection to 192.0.2.1 port 22: Broken pipe"}, false, true, "MaxStartups"},
		{[]string{"no way through", "banner exchange: Connection to UNKNOWN port 65535: Broken pipe"}, false, false, "ProxyCommand or jump host"},
		{[]string{kex, "Connection closed by 192.0.2.1 port 22", kex, "Connection closed by UNKNOWN port 65535"}, false, true, "jump host closed"},
		{[]string{"j@jump: Permission denied (publickey).", kex, "Connection closed by UNKNOWN port 65535"}, true, false, "so says the jump host"},
		{[]string{"ssh: connect to host jump port 22: Connection refused", kex, "Connection closed by UNKNOWN port 65535"}, false, false, "connect to host jump"},
		{[]string{"u@h: Permission denied (publickey)."}, false, false, "was not sent"},
		{[]string{"u@h: Permission denied (publickey,password)."}, true, false, "refused the password"},
		{[]string{"Your account has expired; please contact your system administrator.", "Connection closed by 192.0.2.1 port 22"}, true, false, "account is locked or has expired"},
	} {
		e := plan.Explain(Outcome{Step: StepConnect, Output: c.lines, Status: "exit status 255", Answered: c.answered})
		has(t, e, c.want)
		if e.Retry != c.retry {
			t.Errorf("%q: retry %v", c.lines, e.Retry)
		}
	}
	sudo := build(t, "sudo", map[string]any{"password": "x"})
	e := sudo.Explain(Outcome{Step: StepConnect, Output: []string{"sudo: Account or password is expired, reset your password and try again"}, Status: "exit status 1", Answered: true})
	has(t, e, "account or its password has expired")
}

// TestQuestionThatNobodyKnows is quoted when the time is up, on every layout.
func TestQuestionThatNobodyKnows(t *testing.T) {
	stub := script(t, "stub", "#!/bin/sh\nprintf 'Token response: ' >&2\nexec sleep 60\n")
	for _, s := range layouts {
		e := mustFail(t, build(t, "exec", map[string]any{"command": stub, "stdio": string(s), "connect_timeout": "2"}), echo, StepConnect)
		has(t, e, `an answer to "Token response:"`, "password_prompt")
	}
}

// TestPythonsByPattern finds python3.X where only that is there, passes over one without zlib, and says what was tried.
func TestPythonsByPattern(t *testing.T) {
	py := anyPython(t)
	dir := t.TempDir()
	link := func(name, text string) {
		t.Helper()
		pythons.Program(t, filepath.Join(dir, name), "#!/bin/sh\n"+text+"\n")
	}
	link("python3", "case $* in *zlib*) exit 1;; esac; echo no zlib >&2; exit 1")
	link("python3.19", "exec "+py+" \"$@\"")
	link("python3.19-config", "exit 1")
	opt := echo
	opt.Env = []string{"PATH=" + dir + ":/usr/none:/bin"}
	if _, err := os.Stat("/bin/python3"); err == nil {
		// What the programs need, and no Python of the machine's.
		for _, name := range []string{"sh", "env"} {
			if err := os.Symlink("/bin/"+name, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		opt.Env = []string{"PATH=" + dir + ":/usr/none"}
	}
	checkEcho(t, started(t, build(t, "local", nil), opt))
	elsewhere := boot
	elsewhere.Elsewhere = true
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		pythons.Missing(t, "busybox is not installed")
	}
	for _, shell := range [][]string{nil, {busybox, "ash", "-c"}} {
		p, err := Build("local", nil, elsewhere)
		if err != nil {
			t.Fatal(err)
		}
		if shell != nil {
			p.Argv = append(slices.Clone(shell), p.Argv[2:]...)
		}
		checkEcho(t, started(t, p, opt))
		p.Argv[slices.IndexFunc(p.Argv, func(a string) bool { return strings.HasPrefix(a, "python3.[0-9][0-9]") })] = "none"
		e := mustFail(t, p, opt, StepPython)
		has(t, e, "python3 (does not start, or lacks zlib)", "python2 (not found)")
	}
}

// TestNothingAnswers words a host that is silent; see TestInsideSilentHost for the looking.
func TestNothingAnswers(t *testing.T) {
	if got := procAddress("0100007F:0016"); got != "127.0.0.1:22" {
		t.Error(got)
	}
	plan := build(t, "ssh", map[string]any{"hostname": "h"})
	e := plan.Explain(Outcome{Step: StepConnect, Status: StatusTimedOut, Dialing: "192.0.2.1:22"})
	has(t, e, "nothing answers at 192.0.2.1:22", "firewall")
	if !e.TimedOut {
		t.Error("it is no timeout")
	}
}
