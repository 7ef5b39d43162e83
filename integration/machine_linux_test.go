package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mitogend/integration/machine"
	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// Tests whose names begin with TestInside have users, an sshd, sudo and su of their own.
func TestRealPrograms(t *testing.T) { machine.Enter(t, "^TestInside") }

// passwords puts the users' passwords into the environment, for password_env.
func passwords(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "ALICE="+machine.AlicePassword, "BOB="+machine.BobPassword)
	return cmd
}

// byPassword is a target that logs in as alice.
func byPassword(s *machine.Server, p pythons.Python) string {
	return fmt.Sprintf("ssh:mg-alice@localhost:%d?password_env=ALICE&ssh_args=%s&python=%s", s.Port, value(s.Args+" -o PubkeyAuthentication=no"), p.Path)
}

// byKey is a target that logs in with the test's key.
func byKey(s *machine.Server, user string, p pythons.Python) string {
	return fmt.Sprintf("ssh:%s@127.0.0.1:%d?identity_file=%s&ssh_args=%s&python=%s", user, s.Port, s.Key, value(s.Args), p.Path)
}

func TestInsideChainOfPasswords(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	s := machine.SSHD(t, "")
	dir := t.TempDir()
	Write(t, dir, "script.py", "import getpass, os, sys, helper\nprint(getpass.getuser(), os.getuid() == os.geteuid(), sys.argv[1:], helper.x)\nsys.exit(7)\n")
	Write(t, dir, "helper.py", "x = 'served'\n")
	for _, p := range machine.Pythons(t) {
		target := byPassword(s, p) + "+sudo:nobody?password_env=ALICE&python=" + p.Path + "+su:mg-bob?password_env=BOB&python=" + p.Path
		args := []string{"run", "--daemon", "none", "-H", target, "script.py", "an argument"}
		r := runCommand(t, passwords(Command(t, dir, args...)))
		want := "mg-bob True ['an argument'] served\n"
		if p.Version == "2.7" {
			want = "('mg-bob', True, ['an argument'], 'served')\n"
		}
		if r.Status != 7 || r.Stdout != want {
			t.Errorf("%s: %v", p.Version, r)
		}
		if strings.Contains(r.String(), machine.BobPassword) {
			t.Error("a password is shown")
		}
		row(t, "ssh + sudo + su", "real, a password on each hop", p, args)
	}
}

// TestInsideMethods adds the rows of methods that are real here.
func TestInsideMethods(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	s := machine.SSHD(t, "")
	for _, p := range machine.Pythons(t) {
		py := "python=" + p.Path
		for method, target := range map[string]string{
			"local":           "local:?" + py,
			"ssh, key":        byKey(s, "mg-bob", p),
			"ssh, password":   byPassword(s, p),
			"sudo":            byKey(s, "mg-bob", p) + "+sudo:root?" + py,
			"sudo, password":  byKey(s, "mg-alice", p) + "+sudo:root?password_env=ALICE&" + py,
			"su, password":    byKey(s, "mg-alice", p) + "+su:mg-bob?password_env=BOB&" + py,
			"doas":            byKey(s, "mg-bob", p) + "+doas:root?" + py,
			"doas, password":  byKey(s, "mg-alice", p) + "+doas:root?password_env=ALICE&" + py,
			"ssh behind ssh":  byKey(s, "root", p) + "+" + byKey(s, "mg-csh", p),
			"exec":            "exec:setpriv%20--reuid%20nobody%20--clear-groups?" + py,
			"setns":           "setns:docker/c?docker_path=" + value(script(t, "docker", fmt.Sprintf("#!/bin/sh\necho %d\n", os.Getpid()))) + "&" + py,
			"choice by shell": byKey(s, "mg-fish", p) + ",none",
		} {
			args := []string{"call", "--daemon", "none", "--raw", "-H", target, "platform:python_version"}
			r := runCommand(t, passwords(Command(t, t.TempDir(), args...)))
			if r.Status != 0 || !strings.HasPrefix(r.Stdout, p.Version+".") {
				t.Errorf("%s: %v", method, r)
			}
			row(t, method, "real", p, args)
		}
	}
}

// TestInsideCrowd opens 50 connections at once to a server with MaxStartups at its default, 10:30:100.
func TestInsideCrowd(t *testing.T) {
	machine.Inside(t)
	s := machine.SSHD(t, "")
	list := machine.Pythons(t)
	target := byKey(s, "mg-bob", list[len(list)-1])
	args := []string{"call", "--daemon", "none", "-p", "50"}
	for range 50 {
		args = append(args, "-H", target)
	}
	start := time.Now()
	r := runCommand(t, Command(t, t.TempDir(), append(args, "os:getuid")...))
	if r.Status != 0 || strings.Count(r.Stdout, "\n") != 50 {
		t.Fatal(r)
	}
	t.Logf("50 connections in %v", time.Since(start))
}

// leave runs on the target while the daemon's side is killed.
const leave = `import os, signal, sys, time
def run(how):
    if how == 'ignore':
        for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(s, signal.SIG_IGN)
    with open('%s/%d' % ('/mnt/leave', os.getpid()), 'w') as f:
        f.write(how)
    if how == 'in_c':
        # No other thread runs meanwhile.
        max(range(10 ** 12)) if sys.version_info[0] > 2 else max(xrange(10 ** 15))
    while 1:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            if how != 'ignore':
                raise
`

// named lists the processes with a text in their command line, and describes each by a line.
func named(text string) (list []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(text)) {
			list = append(list, fmt.Sprintf("%s %.200q", file, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return list
}

// TestInsideNothingIsLeft kills the daemon's side amid 20 connections: while they are made, and while their code runs.
func TestInsideNothingIsLeft(t *testing.T) {
	machine.Inside(t)
	s := machine.SSHD(t, "MaxStartups 100")
	dir := t.TempDir()
	Write(t, dir, "leave.py", leave)
	if err := os.MkdirAll("/mnt/leave", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("/mnt/leave", 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for _, p := range machine.Pythons(t) {
		for _, when := range []string{"connecting", "sleep", "ignore", "in_c"} {
			// With a name of its own, the interpreter shows in the command line of every process that belongs to it.
			own := fmt.Sprintf("/mnt/own-%s-%s", p.Version, when)
			if err := os.Symlink(p.Path, own); err != nil {
				t.Fatal(err)
			}
			p := pythons.Python{Version: p.Version, Path: own}
			wanted := 20
			if when == "in_c" {
				wanted = 4 // each keeps a processor busy
			}
			local, bob := "local:?python="+own, byKey(s, "mg-bob", p)
			targets := []string{local, local, local, local, local, local, local + "+" + local, local + "+" + local}
			if when == "in_c" {
				targets = []string{local}
			}
			for len(targets) < wanted {
				targets = append(targets, bob, bob, bob+"+sudo:root?python="+own, byKey(s, "mg-alice", p)+"+sudo:mg-bob?password_env=ALICE&python="+own)
			}
			args := []string{"call", "--daemon", "none"}
			for _, target := range targets {
				args = append(args, "-H", target)
			}
			cmd := passwords(Command(t, dir, append(args, "leave:run", when)...))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			poll.Until(t, "there is something to leave behind", func() bool {
				if when == "connecting" {
					return len(named(own)) >= 25
				}
				up, _ := filepath.Glob("/mnt/leave/*")
				return len(up) == len(targets) || cmd.ProcessState != nil
			})
			_ = cmd.Process.Signal(syscall.SIGKILL)
			start := time.Now()
			_ = cmd.Wait()
			before := len(named(own))
			var left []string
			for left = named(own); len(left) > 0 && time.Since(start) < leftTime; left = named(own) {
				time.Sleep(20 * time.Millisecond)
			}
			t.Logf("%s, %s: %d processes, gone after %v", p.Version, when, before, time.Since(start).Round(10*time.Millisecond))
			if len(left) > 0 {
				t.Errorf("%s, %s: after %v %d are left: %s; %s", p.Version, when, leftTime, len(left), strings.Join(left, "\n"), stderr.String())
			}
			marks, _ := filepath.Glob("/mnt/leave/*")
			for _, mark := range marks {
				_ = os.Remove(mark)
			}
		}
	}
}

// masterMethods is a program for Mitogen that logs in by ssh, with a key and with a password, and continues with sudo and su.
const masterMethods = `
import os, pwd, shlex, sys
import mitogen, mitogen.core
import stockhelper

def who():
    return pwd.getpwuid(os.getuid()).pw_name, stockhelper.VALUE

@mitogen.main()
def main(router):
    port, key, args, python = sys.argv[1:]
    common = dict(hostname='127.0.0.1', port=int(port), ssh_args=shlex.split(args), python_path=python)
    bob = router.ssh(username='mg-bob', identity_file=key, **common)
    print(bob.call(who))
    alice = router.ssh(username='mg-alice', password=os.environ['ALICE'], **common)
    print(alice.call(who))
    root = router.sudo(via=bob, python_path=python)
    print(root.call(who))
    print(router.su(via=alice, username='mg-bob', password=os.environ['BOB'], python_path=python).call(who))
    print(router.ssh(via=root, username='mg-bob', identity_file=key, **common).call(who))
    print(router.doas(via=bob, python_path=python).call(who))
    for method, more in (('ssh', dict(common, username='mg-alice', password='wrong')),
                         ('ssh', dict(common, username='mg-alice'))):
        try:
            getattr(router, method)(**more)
        except mitogen.core.StreamError as e:
            print('%s.%s' % (type(e).__module__, type(e).__name__))
`

// TestInsideMaster runs the same program under Mitogen's own master and under ours, over real methods.
func TestInsideMaster(t *testing.T) {
	machine.Inside(t)
	python := stockPython(t)
	s := machine.SSHD(t, "")
	dir := t.TempDir()
	path := Write(t, dir, "program.py", masterMethods)
	Write(t, dir, "stockhelper.py", "VALUE = 'of a module'\n")
	args := []string{path, fmt.Sprint(s.Port), s.Key, s.Args, python}
	cmd := passwords(exec.Command(python, args...))
	cmd.Env = append(cmd.Env, environ()...)
	own := runCommand(t, cmd)
	ours := runCommand(t, passwords(Command(t, dir, append([]string{"master", "--", python}, args...)...)))
	if own.Status != 0 || ours.Status != 0 || own.Stdout != ours.Stdout || strings.Count(own.Stdout, "of a module") != 6 {
		t.Errorf("under Mitogen's own master: %v\nunder ours: %v", own, ours)
	}
}
