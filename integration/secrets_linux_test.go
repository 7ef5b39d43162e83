package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/machine"
)

// shownBy looks for a text in the arguments and environments that /proc shows of every process but this one and pid.
func shownBy(text string, pid int) (found []string) {
	for _, what := range []string{"cmdline", "environ"} {
		files, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, file := range files {
			if strings.HasPrefix(file, fmt.Sprintf("/proc/%d/", pid)) || strings.HasPrefix(file, fmt.Sprintf("/proc/%d/", os.Getpid())) {
				continue
			}
			if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte(text)) {
				own, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
				if exe, err := os.Readlink(filepath.Dir(file) + "/exe"); err != nil || exe == own {
					continue // a fork of pid, which will be the program that it starts, or it is gone
				}
				name, _ := os.ReadFile(filepath.Dir(file) + "/comm")
				found = append(found, fmt.Sprintf("%s of %s", file, bytes.TrimSpace(name)))
			}
		}
	}
	return found
}

// TestInsideNoSecretShows reads all of /proc while each kind of hop connects with a password, and all output and traces.
func TestInsideNoSecretShows(t *testing.T) {
	machine.Inside(t) // not beside tests that use the same passwords
	s := machine.SSHD(t, "")
	list := machine.Pythons(t)
	p := list[len(list)-1]
	py := "&python=" + p.Path
	alice := byKey(s, "mg-alice", p)
	all := map[string]string{"ALICE": machine.AlicePassword, "BOB": machine.BobPassword}
	for name, target := range map[string]string{
		"ssh":    byPassword(s, p),
		"sudo":   alice + "+sudo:?password_env=ALICE" + py,
		"su":     alice + "+su:mg-bob?password_env=BOB" + py,
		"doas":   alice + "+doas:?password_env=ALICE" + py,
		"chain":  byPassword(s, p) + "+sudo:?password_env=ALICE" + py + "+su:mg-bob?password_env=BOB" + py,
		"direct": "local:+" + byPassword(s, p),
	} {
		if os.Getenv("MITOGEND_LONG") == "" && name != "chain" && name != "doas" && name != "direct" {
			continue // they are hops of the chain
		}
		dir := t.TempDir()
		var secrets, env []string
		for variable, secret := range all {
			if strings.Contains(target, "password_env="+variable) {
				secrets, env = append(secrets, secret), append(env, variable+"="+secret)
			}
		}
		for _, args := range [][]string{
			{"call", "--daemon", "none", "--json", "-vv", "--trace", "trace", "-H", target, "os:environ.copy"},
			{"doctor", "-v", "-H", target},
		} {
			cmd := Command(t, dir, args...)
			cmd.Env = append(cmd.Env, env...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			looks := 0
			for ended := false; !ended; looks++ {
				for _, secret := range secrets {
					if where := shownBy(secret, cmd.Process.Pid); len(where) > 0 {
						t.Errorf("%s, %s: %v", name, args[0], where)
					}
				}
				select {
				case err := <-done:
					ended = true
					if err != nil {
						t.Errorf("%s, %s: %v: %s", name, args[0], err, out.Bytes())
					}
				default:
				}
			}
			trace, _ := os.ReadFile(filepath.Join(dir, "trace"))
			for _, secret := range secrets {
				if bytes.Contains(out.Bytes(), []byte(secret)) || bytes.Contains(trace, []byte(secret)) {
					t.Errorf("%s, %s: a password is printed or traced", name, args[0])
				}
			}
			if args[0] == "call" && len(trace) == 0 {
				t.Error("there is no trace to look at")
			}
			t.Logf("%s, %s: /proc was read %d times", name, args[0], looks)
		}
		d := Serve(t, "--log-level", "debug", "--trace", filepath.Join(dir, "daemon"))
		cmd := exec.Command(d.cmd.Path, "call", "-H", target, "os:getpid")
		cmd.Dir, cmd.Env = dir, append(d.Env(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		shown := ""
		for _, args := range [][]string{{"ps"}, {"ps", "--json"}, {"stats"}, {"logs", "--level", "debug"}} {
			r := d.Run(t, dir, args...)
			if r.Status != 0 {
				t.Error(r)
			}
			shown += r.Stdout + r.Stderr
		}
		trace, err := os.ReadFile(filepath.Join(dir, "daemon"))
		if err != nil || len(trace) == 0 || !strings.Contains(shown, "mg-alice") {
			t.Errorf("%s: %d bytes are traced, %v, and shown is %s", name, len(trace), err, shown)
		}
		for _, secret := range secrets {
			if strings.Contains(shown+d.Log.String()+string(trace), secret) {
				t.Errorf("%s: a daemon shows a password", name)
			}
		}
	}
}

// TestInsideSudoPhishing: sudo needs no password, and a start-up file of the new user asks for one in each way in which sudo
// does, and with what it finds of sudo's own question in its environment, and in all arguments and environments.
func TestInsideSudoPhishing(t *testing.T) {
	machine.Inside(t)
	t.Parallel()
	if err := machine.Shell("useradd -m -s /bin/sh mg-phish"); err != nil {
		t.Fatal(err)
	}
	list := machine.Pythons(t)
	py := "&python=" + list[len(list)-1].Path
	const got = "/home/mg-phish/got"
	for _, question := range []string{
		`'Password: '`, `'[sudo] password for root: '`, `'mitogen-sudo-prompt:'`, `'[sudo: mitogen-sudo-prompt:] Password: '`,
		`"$(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -o 'mitogen-sudo-prompt-[0-9a-f]*:' | head -1)"`,
		`"$SUDO_PROMPT"`,
	} {
		profile := "q=" + question + "\n[ -n \"$q\" ] && { printf %s \"$q\" >/dev/tty; IFS= read -r x </dev/tty; echo \"$x\" >" + got + "; }\n"
		if err := os.WriteFile("/home/mg-phish/.profile", []byte(profile), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, before := range []string{"", "local:+"} {
			_ = os.Remove(got)
			target := before + "sudo:mg-phish?login=true&password_env=BOB&connect_timeout=10" + py
			cmd := Command(t, t.TempDir(), "call", "--daemon", "none", "-H", target, "os:getuid")
			cmd.Env = append(cmd.Env, "BOB="+machine.BobPassword)
			r := runCommand(t, cmd)
			text, _ := os.ReadFile(got)
			if strings.Contains(string(text), machine.BobPassword) {
				t.Errorf("%s%s: it got the password: %v", before, question, r)
			}
			if strings.HasPrefix(question, "'Password") && !strings.Contains(r.Stderr, "not sudo's own question") {
				t.Errorf("%s%s: %v", before, question, r)
			}
		}
	}
}
