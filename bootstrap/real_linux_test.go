package bootstrap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/machine"
)

// The tests of this file talk to the real sudo, su, doas and sshd, with users, passwords and configurations of their own. They
// run on a machine of their own, see package machine.

func TestRealPrograms(t *testing.T) { machine.Enter(t, "^TestInside") }

func inside(t *testing.T) {
	t.Helper()
	machine.Inside(t)
	t.Parallel() // PAM lets everybody wait who gives a wrong password
}

const (
	alicePassword = machine.AlicePassword
	bobPassword   = machine.BobPassword
)

// somePythons gives the paths of 2.7, the oldest and the newest 3.x.
func somePythons(t *testing.T) (paths []string) {
	t.Helper()
	for _, p := range machine.Pythons(t) {
		paths = append(paths, p.Path)
	}
	return paths
}

func as(t *testing.T, user, program string) string {
	t.Helper()
	return machine.As(t, user, program)
}

// checkUser starts a plan and checks as whom the child runs.
func checkUser(t *testing.T, p *Plan, user string) {
	t.Helper()
	host, _ := os.Hostname()
	if got := firstLine(t, started(t, p, StartOptions{Preamble: preambleOf(whoAndWhere)})); got != user+" "+host {
		t.Errorf("the child runs as %q, want %q", got, user)
	}
}

func TestInsideSudo(t *testing.T) {
	inside(t)
	alice, bob, carol := as(t, "mg-alice", "sudo"), as(t, "mg-bob", "sudo"), as(t, "mg-carol", "sudo")
	for _, py := range somePythons(t) {
		for _, user := range []string{"root", "mg-bob", "mg-csh"} {
			checkUser(t, build(t, "sudo", map[string]any{"sudo_path": alice, "username": user, "password": alicePassword, "python": py}), user)
		}
		list := []string{"no-such-python", py}
		checkUser(t, build(t, "sudo", map[string]any{"sudo_path": bob, "python": list}), "root")
		for _, user := range []string{"root", "mg-alice", "mg-bob", "mg-csh", "mg-fish"} { // their login shells
			checkUser(t, build(t, "sudo", map[string]any{"sudo_path": bob, "username": user, "login": true, "python": list}), user)
		}
		checkEcho(t, started(t, build(t, "sudo", map[string]any{"sudo_path": alice, "password": alicePassword, "python": py, "set_home": true}), echo))
	}
	fails := func(opts map[string]any, want ...string) {
		t.Helper()
		has(t, mustFail(t, build(t, "sudo", opts), echo, ""), want...)
	}
	fails(map[string]any{"sudo_path": alice}, "asks for a password and none was given")
	fails(map[string]any{"sudo_path": alice, "password": "wrong"}, "refused the password")
	fails(map[string]any{"sudo_path": carol, "password": "carol"}, "rules do not allow it")
	fails(map[string]any{"sudo_path": bob, "username": "mg-nobody"}, "no such user")
	fails(map[string]any{"sudo_path": bob, "python": "/no/python"}, "/no/python is not there")
	fails(map[string]any{"sudo_path": bob, "login": true, "username": "mg-nologin"}, "no login shell")
}

func TestInsideSu(t *testing.T) {
	inside(t)
	alice := as(t, "mg-alice", "su")
	for _, py := range somePythons(t) {
		for user, password := range map[string]string{"mg-bob": bobPassword, "mg-csh": "csh", "mg-fish": "fish", "mg-carol": "carol"} {
			checkUser(t, build(t, "su", map[string]any{"su_path": alice, "username": user, "password": password, "python": []string{"none", py}}), user)
		}
		checkUser(t, build(t, "su", map[string]any{"username": "mg-bob", "python": py}), "mg-bob") // root is not asked
		checkEcho(t, started(t, build(t, "su", map[string]any{"su_path": alice, "username": "mg-bob", "password": bobPassword, "python": py}), echo))
	}
	fails := func(opts map[string]any, want ...string) {
		t.Helper()
		has(t, mustFail(t, build(t, "su", opts), echo, ""), want...)
	}
	fails(map[string]any{"su_path": alice, "username": "mg-bob"}, "asks for a password and none was given")
	fails(map[string]any{"su_path": alice, "username": "mg-bob", "password": "wrong"}, "refused the password")
	fails(map[string]any{"su_path": alice, "username": "mg-nobody"}, "no such user")
	fails(map[string]any{"su_path": alice, "username": "mg-nologin", "password": "n"}, "no login shell")
	fails(map[string]any{"su_path": alice, "username": "mg-expired", "password": "old"}, "expired and must be changed")
	fails(map[string]any{"su_path": alice, "username": "mg-locked", "password": "l"}, "locked or has expired")
}

func TestInsideDoas(t *testing.T) {
	inside(t)
	alice, bob, carol := as(t, "mg-alice", "doas"), as(t, "mg-bob", "doas"), as(t, "mg-carol", "doas")
	for _, py := range somePythons(t) {
		checkUser(t, build(t, "doas", map[string]any{"doas_path": alice, "password": alicePassword, "python": []string{"none", py}}), "root")
		checkUser(t, build(t, "doas", map[string]any{"doas_path": bob, "username": "mg-csh", "python": py}), "mg-csh")
		checkEcho(t, started(t, build(t, "doas", map[string]any{"doas_path": bob, "python": py}), echo))
	}
	fails := func(opts map[string]any, want ...string) {
		t.Helper()
		has(t, mustFail(t, build(t, "doas", opts), echo, ""), want...)
	}
	fails(map[string]any{"doas_path": alice}, "asks for a password and none was given")
	fails(map[string]any{"doas_path": alice, "password": "wrong"}, "refused the password")
	fails(map[string]any{"doas_path": carol, "password": "carol"}, "rules do not allow it")
}

// sshd starts a server of the test's own and returns the arguments that reach it.
func sshd(t *testing.T, config string) map[string]any {
	t.Helper()
	return machine.SSHD(t, config).Options
}

// with returns opts with some of them changed; nil removes one.
func with(opts map[string]any, changes ...any) map[string]any {
	out := map[string]any{}
	for k, v := range opts {
		out[k] = v
	}
	for i := 0; i < len(changes); i += 2 {
		out[changes[i].(string)] = changes[i+1]
	}
	return out
}

func TestInsideSSH(t *testing.T) {
	inside(t)
	banner := filepath.Join("/mnt", "banner")
	if err := os.WriteFile(banner, []byte("Enter your password: only if you may\nMITO000\nAuthorised use only\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	opts := sshd(t, "Banner "+banner)
	for _, py := range somePythons(t) {
		list := []string{"no-such-python", py}
		for _, user := range []string{"root", "mg-alice", "mg-bob", "mg-csh", "mg-fish", "mg-carol"} {
			checkUser(t, build(t, "ssh", with(opts, "username", user, "python", list)), user)
		}
		checkUser(t, build(t, "ssh", with(opts, "username", "mg-alice", "password", alicePassword, "identity_file", nil, "python", py)), "mg-alice")
		checkUser(t, build(t, "ssh", with(opts, "username", "mg-bob", "check_host_keys", "accept", "python", py,
			"ssh_args", "-F none -o GlobalKnownHostsFile=none -o UserKnownHostsFile="+filepath.Join(t.TempDir(), "known"))), "mg-bob")
		checkUser(t, build(t, "ssh", with(opts, "check_host_keys", "ignore", "compression", true, "username", "mg-bob", "python", py)), "mg-bob")
		checkEcho(t, started(t, build(t, "ssh", with(opts, "username", "mg-alice", "python", py)), echo))
	}
	fails := func(opts map[string]any, want ...string) {
		t.Helper()
		has(t, mustFail(t, build(t, "ssh", opts), echo, ""), want...)
	}
	other := strings.TrimSuffix(opts["identity_file"].(string), "user") + "other"
	fails(with(opts, "username", "mg-bob", "identity_file", other), "Permission denied (publickey", "--ask-pass")
	fails(with(opts, "username", "mg-bob", "identity_file", "/no/key"), "check identity_file")
	fails(with(opts, "username", "mg-alice", "identity_file", nil, "password", "wrong", "ssh_args", opts["ssh_args"].(string)+" -o PubkeyAuthentication=no"), "refused")
	fails(with(opts, "username", "mg-nologin"), "no login shell")
	fails(with(opts, "username", "mg-bob", "python", "/no/python"), "/no/python is not there")
	fails(with(opts, "username", "mg-bob", "python", "none1,none2"), "none1 (not found), none2 (not found)")
	fails(with(opts, "username", "mg-bob", "ssh_args", "-F none -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=none"), "host key is unknown", "check_host_keys=accept")
	fails(with(opts, "port", 1), "Connection refused", "is sshd running")
	fails(with(opts, "hostname", "no-such-host.invalid"), "Could not resolve")
	fails(with(opts, "username", "mg-expired", "identity_file", nil, "password", "old"), "expired and must be changed")
	changed := sshd(t, "")
	fails(with(changed, "ssh_args", strings.Replace(opts["ssh_args"].(string), "UserKnownHostsFile=", "UserKnownHostsFile=", 1)+fmt.Sprintf(" -o HostKeyAlias=[127.0.0.1]:%d", opts["port"])), "host key has changed", "ssh-keygen -R")
	fails(sshd(t, "ForceCommand echo go away"), `"go away"`)
}

// TestInsideControlMaster goes over a connection that others use, and lets it be: neither is it ended with ours, nor do we make one
// that others come to depend on.
func TestInsideControlMaster(t *testing.T) {
	inside(t)
	times := 25
	if os.Getenv("MITOGEND_LONG") != "" {
		times = 100
	}
	opts := sshd(t, "MaxSessions 20")
	dir, err := os.MkdirTemp("/mnt", "control")
	if err != nil {
		t.Fatal(err)
	}
	config := dir + "/config"
	text := fmt.Sprintf("Host shared\n HostName 127.0.0.1\n Port %d\n User mg-bob\n IdentityFile %s\n UserKnownHostsFile %s\n ControlMaster auto\n ControlPath %s/socket\n",
		opts["port"], opts["identity_file"], strings.Fields(opts["ssh_args"].(string))[3][len("UserKnownHostsFile="):], dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plan := build(t, "ssh", map[string]any{"hostname": "shared", "ssh_args": "-F " + config, "python": somePythons(t)[0]})
	ours := func() {
		t.Helper()
		p, err := Start(t.Context(), plan, echo)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, p)
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody has a connection yet: ours makes none for others.
	p := started(t, plan, echo)
	if _, err := os.Stat(dir + "/socket"); err == nil {
		t.Error("our ssh has become a master")
	}
	checkEcho(t, p)

	// One session is the master's own, the other one's is over it. Each copies its input to its output for as long as it lives.
	var sessions []func() error
	for range 2 {
		cmd := exec.Command("ssh", "-F", config, "shared", "cat")
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
		r := bufio.NewReader(out)
		alive := func() error {
			_, err := io.WriteString(in, "still there\n")
			if err == nil {
				_, err = r.ReadString('\n')
			}
			return err
		}
		if err := alive(); err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, alive)
	}
	for i := range times {
		if i%5 == 4 {
			p, err := Start(t.Context(), plan, echo)
			if err != nil {
				t.Fatal(err)
			}
			p.Kill()
			_ = p.Close(t.Context())
			continue
		}
		ours()
	}
	for i, alive := range sessions {
		if err := alive(); err != nil {
			t.Errorf("session %d has ended: %v", i+1, err)
		}
	}
}

// TestInsideSSHCrowd starts many connections to one server that refuses some at random (MaxStartups 10:30:100).
func TestInsideSSHCrowd(t *testing.T) {
	inside(t)
	opts := sshd(t, "")
	list := somePythons(t)
	plan := build(t, "ssh", with(opts, "username", "mg-bob", "python", list[len(list)-1]))
	errs := make(chan error)
	for range 50 {
		go func() {
			p, err := Start(context.Background(), plan, echo)
			if err == nil {
				err = p.Close(context.Background())
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestInsideUnprivileged runs TestUnprivileged as a user who may not send signals to what sudo has started.
func TestInsideUnprivileged(t *testing.T) {
	inside(t)
	somePythons(t)
	binary := "/mnt/unprivileged.test"
	if err := machine.Shell("cp " + os.Args[0] + " " + binary + " && chmod 755 " + binary); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(as(t, "mg-alice", "env"), "BOOTSTRAP_TEST_UNPRIVILEGED=1", "TMPDIR=/tmp", binary, "-test.run=^TestUnprivileged$", "-test.count=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUnprivileged(t *testing.T) {
	if os.Getenv("BOOTSTRAP_TEST_UNPRIVILEGED") == "" {
		t.Skip("part of TestInsideUnprivileged")
	}
	stubborn := "import os, signal, time\ndef main(config, source):\n signal.signal(signal.SIGTERM, signal.SIG_IGN)\n os.write(1, b'MITO002\\n')\n time.sleep(600)\n"
	opts := map[string]any{"password": alicePassword, "python": interpreters(t)[0]}
	checkEcho(t, started(t, build(t, "sudo", opts), echo))
	p, err := Start(t.Context(), build(t, "sudo", opts), StartOptions{Preamble: preambleOf(stubborn)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	has(t, mustFail(t, build(t, "sudo", map[string]any{}), echo, StepConnect), "asks for a password")
	has(t, mustFail(t, build(t, "sudo", with(opts, "password", "wrong")), echo, StepConnect), "refused the password")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, build(t, "sudo", opts), echo); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if kids := children(); len(kids) > 1 { // the first child lives until the cleanup
		t.Errorf("left behind: %v", kids)
	}
}
