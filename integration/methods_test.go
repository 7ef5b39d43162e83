package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// script writes a program.
func script(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	pythons.Program(t, path, text)
	return path
}

// value encodes a value for a target.
func value(s string) string {
	return strings.NewReplacer("%", "%25", "+", "%2B", "&", "%26", "?", "%3F", ",", "%2C", " ", "%20", "\n", "%0A").Replace(s)
}

// brokenSudo asks for a password on the terminal, and accepts none.
const brokenSudo = `#!/bin/sh
exec 3<>/dev/tty
printf '%s' "$SUDO_PROMPT" >&3
read answer <&3
echo 'Sorry, try again.' >&3
exit 1
`

// TestDoctorNamesTheStep breaks targets in many ways; each time doctor has to name the hop and the step, and say what to do.
func TestDoctorNamesTheStep(t *testing.T) {
	py := AnyPython(t).Target()
	sudo := script(t, "sudo", brokenSudo)
	says := func(text string) string { return "exec:" + value(script(t, "says", "#!/bin/sh\n"+text)) }
	t.Setenv("DOCTOR_TEST_PASSWORD", "wr0ng pass")
	dir := t.TempDir()
	for name, c := range map[string]struct {
		target string
		hop    int
		step   string
		want   string // in the text for people
	}{
		"argument":         {py + "+sudo:root?password_env=NO_SUCH_VARIABLE", 1, "options", "NO_SUCH_VARIABLE is not set"},
		"program":          {py + "+ssh:web1?ssh_path=/no/such/ssh", 1, "program", "/no/such/ssh"},
		"refused":          {"ssh:127.0.0.1:1?ssh_args=-F%20none", 0, "connect", "is sshd running there"},
		"unknown host":     {"ssh:no-such-host.invalid?ssh_args=-F%20none", 0, "connect", "Could not resolve"},
		"no password":      {py + "+sudo:root?sudo_path=" + sudo, 1, "connect", "none was given"},
		"wrong password":   {py + "+sudo:root?sudo_path=" + sudo + "&password_env=DOCTOR_TEST_PASSWORD", 1, "connect", "password"},
		"no interpreter":   {py + "+" + py + "+local:?python=nopython,neither", 2, "interpreter", "nopython (not found), neither (not found)"},
		"too old":          {says("echo MITOERR /usr/bin/python is Python 2.6'; 2.7 or 3.6 and later is needed'\n"), 0, "interpreter", "is Python 2.6"},
		"silent":           {says("sleep 600\n") + "?connect_timeout=1", 0, "connect", "no child after 1s"},
		"dies with stage":  {says("echo MITO000 30b07f0; exit 7\n"), 0, "first stage", "exit status 7"},
		"dies in between":  {py + "+" + says("echo MITO000 30b07f0; echo MITO001; echo a last word >&2; exit 8\n"), 1, "runtime", "a last word"},
		"garbage":          {says("yes garbage\n"), 0, "connect", "more than a mebibyte"},
		"chain, first hop": {"exec:false+sudo:root+docker:app", 0, "connect", "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Mitogend(t, dir, "doctor", "--json", "-H", c.target)
			var d struct {
				OK   bool
				Step string
				Hops []struct {
					State   string
					Steps   []struct{ Step string }
					Failure *struct{ Step, Reason string }
				}
			}
			if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil || r.Status != 3 || r.Stderr != "" {
				t.Fatal(err, r)
			}
			if d.OK || d.Step != c.step {
				t.Fatalf("step %q, want %q: %v", d.Step, c.step, r)
			}
			for i, hop := range d.Hops {
				want := "untried"
				switch {
				case i == c.hop:
					want = "failed"
				case i < c.hop && c.step != "options":
					want = "ok"
				}
				if hop.State != want || (i == c.hop) != (hop.Failure != nil) {
					t.Errorf("hop %d is %s, want %s: %v", i, hop.State, want, r)
				}
			}
			text := Mitogend(t, dir, "doctor", "-H", c.target)
			if text.Status != 3 || !strings.Contains(text.Stdout, c.want) || !strings.Contains(text.Stdout, fmt.Sprintf("hop %d, ", c.hop+1)) ||
				strings.Contains(text.Stdout, "wr0ng") {
				t.Errorf("%v", text)
			}
		})
	}
}

func TestDoctorOfWhatWorks(t *testing.T) {
	p := AnyPython(t)
	r := Mitogend(t, t.TempDir(), "doctor", "-v", "-H", p.Target()+"+"+p.Target())
	if r.Status != 0 || strings.Count(r.Stdout, ": ok, ") != 2 || !strings.Contains(r.Stdout, "  ok: Python "+p.Version+" on ") {
		t.Fatal(r)
	}
}

func TestTargetsOfAnInventory(t *testing.T) {
	p := AnyPython(t)
	dir := t.TempDir()
	Write(t, dir, "mitogend-hosts.yaml", fmt.Sprintf(`
all: {vars: {ansible_connection: local, ansible_python_interpreter: %q}}
web: {hosts: {"w[1:3]": }}
db:
  hosts:
    d1: {mitogen_via: w1}
    d2: {ansible_become: yes, ansible_become_exe: %q, ansible_become_password: s3cret}
`, p.argv[0], script(t, "sudo", "#!/bin/sh\nexec 3<>/dev/tty\nprintf '%s' \"$SUDO_PROMPT\" >&3\nread a <&3\n[ \"$a\" = s3cret ] || exit 1\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n")))
	lines := func(args ...string) map[string]bool {
		t.Helper()
		r := Mitogend(t, dir, append([]string{"call", "--daemon", "none"}, args...)...)
		if r.Status != 0 {
			t.Fatal(r)
		}
		got := map[string]bool{}
		for _, line := range strings.Split(strings.TrimSpace(r.Stdout), "\n") {
			name, _, _ := strings.Cut(line, "| ")
			got[name] = true
		}
		return got
	}
	if got := lines("-H", "web:!w2,d1", "-H", "d2", "os:getcwd"); len(got) != 4 || !got["w1"] || !got["w3"] || !got["d1"] || !got["d2"] {
		t.Errorf("%v", got)
	}
	if got := lines("-H", "w1+"+p.Target(), "-H", "w[2:3]", "os:getcwd"); len(got) != 3 || !got["w1+"+p.Target()] {
		t.Errorf("%v", got)
	}
	r := Mitogend(t, dir, "hosts", "db")
	if r.Status != 0 || !strings.Contains(r.Stdout, "d1  local:") || strings.Count(r.Stdout, "+") != 2 || strings.Contains(r.Stdout, "s3cret") {
		t.Error(r)
	}
	for args, want := range map[string]string{
		"-H web:&db":    "no host is left",
		"-H web:nobody": `no host or group fits "nobody"`,
		"-i none -H x":  "none: no such file or directory",
		"-H w1?port=22": "unknown key \"port\"; local takes",
	} {
		r := Mitogend(t, dir, append(append([]string{"call"}, strings.Fields(args)...), "os:getpid")...)
		r.Want(t, 2, "", want)
	}
	Write(t, dir, "bad.ini", "[web]\nw1 ansible_port=high\n")
	Mitogend(t, dir, "call", "-i", "bad.ini", "-H", "w1", "os:getpid").Want(t, 2, "", "bad.ini:2: ansible_port of w1: ")
}

// someOf gives 2.7, the oldest and the newest 3.x.
func someOf(list []pythons.Python) []pythons.Python {
	some := []pythons.Python{list[0]}
	if list[0].Version == "2.7" && len(list) > 2 {
		some = append(some, list[1])
	}
	return append(some, list[len(list)-1])
}

// standIn makes a program that checks the beginning of its arguments, and runs the rest.
func standIn(t testing.TB, name string, want ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, w := range want {
		fmt.Fprintf(&b, "[ \"$1\" = '%s' ] || { echo \"stand-in: got $1, want %s\" >&2; exit 64; }; shift\n", w, w)
	}
	return script(t, name, b.String()+"exec \"$@\"\n")
}

// TestMethodsByStandIns runs each method whose program or privileges a test cannot have: a stand-in checks its arguments
// and really runs the command.
func TestMethodsByStandIns(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		target, path string
		argv         []string
	}{
		{"docker:c?", "docker_path", []string{"exec", "--interactive", "c"}},
		{"podman:c?username=u&", "podman_path", []string{"exec", "--user=u", "--interactive", "--", "c"}},
		{"buildah:c?", "buildah_path", []string{"run", "--", "c"}},
		{"kubectl:deploy/p?", "kubectl_path", []string{"exec", "--stdin", "deploy/p", "--"}},
		{"lxc:c?", "lxc_attach_path", []string{"--clear-env", "--name", "c", "--"}},
		{"lxd:c?", "lxc_path", []string{"exec", "--mode=non-interactive", "c", "--"}},
		{"incus:c?", "incus_path", []string{"exec", "--mode=non-interactive", "c", "--"}},
		{"jail:j?username=u&", "jexec_path", []string{"-U", "u", "j"}},
		{"machinectl:m?", "systemd_run_path", []string{"--machine=m", "--quiet", "--pipe", "--wait", "--collect", "--"}},
	} {
		stub := standIn(t, filepath.Base(c.path), c.argv...)
		for _, p := range someOf(pythons.All(t)) {
			target := c.target + c.path + "=" + stub + "&python=" + p.Path
			t.Run(strings.Trim(c.target, "?&")+" "+p.Version, func(t *testing.T) {
				t.Parallel()
				for _, target := range []string{target, "local:?python=" + p.Path + "+" + target} {
					args := []string{"call", "--daemon", "none", "-H", target, "--raw", "platform:python_version"}
					r := Mitogend(t, dir, args...)
					if r.Status != 0 || !strings.HasPrefix(r.Stdout, p.Version+".") {
						t.Errorf("%s: %v", target, r)
					}
					row(t, c.target, "stand-in", p, args)
				}
			})
		}
	}
}

// row prints a line of the table of methods.
func row(t testing.TB, method, how string, p pythons.Python, args []string) {
	t.Logf("| %s | %s | %s | mitogend %s |", method, how, p.Version, strings.Join(args, " "))
}
