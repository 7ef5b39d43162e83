package bootstrap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mitogend/integration/pythons"
)

// standIn is a program that checks that its arguments begin with want and then runs the rest.
func standIn(t testing.TB, want ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, w := range want {
		fmt.Fprintf(&b, "[ \"$1\" = '%s' ] || { echo \"stand-in: got $1, want %s\" >&2; exit 64; }; shift\n", w, w)
	}
	b.WriteString("exec \"$@\"\n")
	return script(t, "stand-in", b.String())
}

// TestContainersByStandIns runs the whole connection of each method whose program cannot be had in a test, over a stand-in that
// checks its arguments and then runs the command for real.
func TestContainersByStandIns(t *testing.T) {
	for _, c := range []struct {
		method, path string
		opts         map[string]any
		argv         []string
	}{
		{"docker", "docker_path", map[string]any{"container": "c"}, []string{"exec", "--interactive", "c"}},
		{"docker", "docker_path", map[string]any{"image": "i"}, []string{"run", "--interactive", "--rm", "i"}},
		{"podman", "podman_path", map[string]any{"container": "c", "username": "u"}, []string{"exec", "--user=u", "--interactive", "--", "c"}},
		{"buildah", "buildah_path", map[string]any{"container": "c"}, []string{"run", "--", "c"}},
		{"kubectl", "kubectl_path", map[string]any{"pod": "deploy/p"}, []string{"exec", "--stdin", "deploy/p", "--"}},
		{"lxc", "lxc_attach_path", map[string]any{"container": "c"}, []string{"--clear-env", "--name", "c", "--"}},
		{"lxd", "lxc_path", map[string]any{"container": "c"}, []string{"exec", "--mode=non-interactive", "c", "--"}},
		{"incus", "incus_path", map[string]any{"container": "c"}, []string{"exec", "--mode=non-interactive", "c", "--"}},
		{"jail", "jexec_path", map[string]any{"container": "j", "username": "u"}, []string{"-U", "u", "j"}},
		{"machinectl", "systemd_run_path", map[string]any{"container": "m"}, []string{"--machine=m", "--quiet", "--pipe", "--wait", "--collect", "--"}},
	} {
		c.opts[c.path] = standIn(t, c.argv...)
		for _, py := range interpreters(t) {
			for _, pythons := range []any{py, []string{"no-such-python", py}} {
				c.opts["python"] = pythons
				checkEcho(t, started(t, build(t, c.method, c.opts), echo))
			}
		}
		c.opts["python"] = "no-such-python,neither"
		has(t, mustFail(t, build(t, c.method, c.opts), echo, StepPython), "no-such-python (not found), neither (not found)")
	}
}

// TestContainerComplaints prints what the real programs print.
func TestContainerComplaints(t *testing.T) {
	for _, c := range []struct{ method, path, text, want string }{
		{"docker", "docker_path", "Error response from daemon: No such container: c", "no such container"},
		{"docker", "docker_path", "Error response from daemon: container 0123 is not running", "container is stopped"},
		{"docker", "docker_path", "Error response from daemon: Container c is paused, unpause the container before exec", "is paused"},
		{"docker", "docker_path", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "engine does not answer"},
		{"docker", "docker_path", "permission denied while trying to connect to the Docker daemon socket", "may not talk"},
		{"docker", "docker_path", "unable to find user u: no matching entries in passwd file", "no such user"},
		{"docker", "docker_path", `OCI runtime exec failed: exec failed: unable to start container process: exec: "sh": executable file not found in $PATH: unknown`, "there is no sh"},
		{"podman", "podman_path", `Error: no container with name or ID "c" found: no such container`, "no such container"},
		{"podman", "podman_path", "Error: can only create exec sessions on running containers: container state improper", "container is stopped"},
		{"kubectl", "kubectl_path", `Error from server (NotFound): pods "c" not found`, "no such pod"},
		{"kubectl", "kubectl_path", "error: container b is not valid for pod c out of: a", "container=NAME"},
		{"kubectl", "kubectl_path", "The connection to the server localhost:8080 was refused - did you specify the right host or port?", "cluster does not answer"},
		{"kubectl", "kubectl_path", "error: cannot exec into a container in a completed pod; current phase is Succeeded", "not running"},
		{"lxc", "lxc_attach_path", "lxc-attach: c: attach.c: get_attach_context: 406 Connection refused - Failed to get init pid", "container is stopped"},
		{"lxd", "lxc_path", "Error: Instance not found", "no such container"},
		{"incus", "incus_path", "Error: Instance is not running", "container is stopped"},
		{"jail", "jexec_path", `jexec: jail "c" not found`, "no such jail"},
		{"machinectl", "systemd_run_path", "Failed to start transient service unit: No machine 'c' known", "no such machine"},
	} {
		key := "container"
		if c.method == "kubectl" {
			key = "pod"
		}
		stub := script(t, c.method, "#!/bin/sh\ncat >&2 <<'EOF'\n"+c.text+"\nEOF\nexit 1\n")
		has(t, mustFail(t, build(t, c.method, map[string]any{key: "c", c.path: stub}), echo, StepConnect), c.want, "exit status 1", "try: ")
	}
}

// TestSetns enters the namespaces of a process that unshare has put into its own, found as each kind finds it.
func TestSetns(t *testing.T) {
	needProgram(t, "unshare")
	needProgram(t, "nsenter")
	needProgram(t, "/usr/bin/python3")
	if os.Getuid() != 0 {
		pythons.Missing(t, "only root may enter namespaces")
	}
	ready := filepath.Join(t.TempDir(), "pid")
	leader := exec.Command("unshare", "--mount", "--uts", "--ipc", "--net", "sh", "-c", `hostname inside; echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600`, ready)
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = leader.Process.Kill(); _ = leader.Wait() }()
	var pid []byte
	for end := time.Now().Add(10 * time.Second); pid == nil; time.Sleep(2 * time.Millisecond) {
		b, err := os.ReadFile(ready)
		if err == nil {
			pid = b
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	number := strings.TrimSpace(string(pid))
	asMitogen := map[string]struct{ argv, answer string }{
		"docker":     {"inspect --format={{.State.Pid}} c", "NUMBER"},
		"lxc":        {"-n c", "Name:           c\nState:          RUNNING\nPID:            NUMBER"},
		"lxd":        {"info c", "Name: c\nPid: NUMBER"},
		"machinectl": {"status c", "c(0123)\n           Since: now\n          Leader: NUMBER (sh)\n         Service: x"},
	}
	for kind, c := range map[string]struct{ path, answer string }{
		"docker":     {"docker_path", number},
		"podman":     {"podman_path", number},
		"lxc":        {"lxc_info_path", number},
		"lxd":        {"lxc_path", "Name: c\nPID: " + number + "\nProcesses: 1"},
		"incus":      {"incus_path", "Status: RUNNING\n  Pid: " + number},
		"machinectl": {"machinectl_path", "Leader=" + number},
	} {
		opts := map[string]any{"kind": kind, "container": "c", "python": "/usr/bin/python3", c.path: script(t, kind, "#!/bin/sh\ncat <<'EOF'\n"+c.answer+"\nEOF\n")}
		for _, user := range []string{"", "root", "nobody"} {
			want := user
			if user == "" {
				want = "root"
			} else {
				opts["username"] = user
			}
			p := started(t, build(t, "setns", opts), StartOptions{Preamble: preambleOf(whoAndWhere)})
			if got := firstLine(t, p); got != want+" inside" {
				t.Errorf("%s as %q: %q", kind, user, got)
			}
		}
		delete(opts, "username")
		opts[c.path] = script(t, kind, "#!/bin/sh\necho \"$*\" >$0.argv\ncat <<'EOF'\n"+strings.ReplaceAll(asMitogen[kind].answer, "NUMBER", number)+"\nEOF\n")
		if want := asMitogen[kind].argv; want != "" {
			b := boot
			b.Mitogen = true
			p, err := Build("setns", opts, b)
			if err != nil {
				t.Fatal(err)
			}
			if got := firstLine(t, started(t, p, StartOptions{Preamble: preambleOf(whoAndWhere)})); got != "root inside" {
				t.Errorf("%s as Mitogen: %q", kind, got)
			}
			if argv, _ := os.ReadFile(opts[c.path].(string) + ".argv"); string(argv) != want+"\n" {
				t.Errorf("%s as Mitogen was called with %q", kind, argv)
			}
		}
		opts[c.path] = script(t, kind, "#!/bin/sh\necho 0\n")
		has(t, mustFail(t, build(t, "setns", opts), echo, StepConnect), "it is stopped")
	}
}

const whoAndWhere = `
import os, pwd, select
def main(config, source):
    os.write(1, ('MITO002\n' + pwd.getpwuid(os.getuid())[0] + ' ' + os.uname()[1] + '\n').encode())
    while 1:
        try:
            if not os.read(0, 1): os._exit(0)
        except OSError:
            select.select([0], [], [])
`

// firstLine reads what a child sends first.
func firstLine(t testing.TB, p *Process) string {
	t.Helper()
	got := string(p.Buffered())
	_ = p.Reader().SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 200)
	for !strings.HasSuffix(got, "\n") {
		n, err := p.Reader().Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += string(buf[:n])
	}
	return strings.TrimSpace(got)
}

// TestDocker talks to the real engine, where there is one: the image is the host's own /usr/bin/python3 and sh.
func TestDocker(t *testing.T) {
	if err := exec.Command("docker", "info").Run(); err != nil {
		pythons.Missing(t, "no docker engine answers here; the stand-ins cover the method")
	}
	needProgram(t, "/usr/bin/python3")
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("docker", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	name := fmt.Sprintf("mitogend-bootstrap-%d", os.Getpid())
	importImage(t, name)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", name).Run() }) // after the children that started closes
	run("run", "--detach", "--name", name, name, "/bin/sh", "-c", "while :; do sleep 600; done")
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", name).Run() })

	checkEcho(t, started(t, build(t, "docker", map[string]any{"container": name}), echo))
	checkEcho(t, started(t, build(t, "docker", map[string]any{"container": name, "username": "65534:65534", "python": "/usr/bin/python3"}), echo))
	checkEcho(t, started(t, build(t, "docker", map[string]any{"image": name}), echo))
	if os.Getuid() == 0 {
		checkEcho(t, started(t, build(t, "setns", map[string]any{"kind": "docker", "container": name}), echo))
	}
	fails := func(opts map[string]any, want ...string) {
		t.Helper()
		has(t, mustFail(t, build(t, "docker", opts), echo, ""), want...)
	}
	fails(map[string]any{"container": name + "x"}, "no such container")
	fails(map[string]any{"container": name, "username": "nobody-at-all"}, "no such user")
	fails(map[string]any{"container": name, "python": "/no/python"}, "/no/python is not there")
	fails(map[string]any{"container": name, "python": "none1,none2"}, "none1 (not found)")
	run("pause", name)
	fails(map[string]any{"container": name}, "is paused")
	run("unpause", name)
	run("kill", name)
	fails(map[string]any{"container": name}, "is stopped")
}

// importImage makes an image of the host's sh, sleep and /usr/bin/python3 with its libraries.
func importImage(t *testing.T, name string) {
	t.Helper()
	const list = `
import os, subprocess, sys, sysconfig
files = ['/bin/sh', '/usr/bin/sleep', '/usr/bin/env', os.path.realpath('/usr/bin/python3')]
lib = sysconfig.get_paths()['stdlib']
for root, dirs, names in os.walk(lib):
    dirs[:] = [d for d in dirs if d not in ('test', '__pycache__', 'dist-packages', 'idlelib', 'tkinter', 'lib2to3', 'ensurepip')]
    files += [os.path.join(root, n) for n in names if n.endswith(('.py', '.so'))]
need = set(files)
for f in files:
    if f.endswith('.py'): continue
    out = subprocess.run(['ldd', f], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
    for word in out.split():
        if word.startswith('/'): need.add(word)
print('\n'.join(sorted(need)))
`
	files, err := exec.Command("/usr/bin/python3", "-c", list).Output()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	seen := map[string]bool{}
	for _, f := range strings.Fields(string(files)) {
		real, err := filepath.EvalSymlinks(filepath.Dir(f))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{f, filepath.Join(real, filepath.Base(f))} {
			if !seen[path] {
				seen[path] = true
				copyFile(t, path, filepath.Join(root, path))
			}
		}
	}
	if target, err := filepath.EvalSymlinks("/usr/bin/python3"); err == nil {
		_ = os.Symlink(filepath.Base(target), filepath.Join(root, "usr/bin/python3"))
	}
	cmd := exec.Command("sh", "-c", `tar -C "$0" -c . | docker import - "$1"`, root, name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	pythons.Program(t, to, string(data))
}
