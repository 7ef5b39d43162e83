package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mitogend/integration/poll"
	"mitogend/integration/pythons"
)

// aBuild gives the directory of an interpreter that runs from any place: the newest, or the oldest, which is smaller.
func aBuild(t *testing.T, newest bool) (dir, version string) {
	t.Helper()
	list := pythons.All(t)
	if newest {
		slices.Reverse(list)
	}
	for _, p := range list {
		dir := filepath.Dir(filepath.Dir(p.Path))
		if p.Version != "3.14" && p.Version != "3.15" && !strings.HasPrefix(p.Path, "/usr/") {
			return dir, p.Version
		}
	}
	pythons.Missing(t, "there is no interpreter with a directory of its own")
	return "", ""
}

// tools makes a directory for PATH with a target's tools: busybox's or the system's, and the named sh. It has no Python.
func tools(t *testing.T, sh string, without ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range strings.Fields("sh id uname readlink ls mkdir rm rmdir mv cat head tail df getconf ldd sha256sum tar gzip base64 chmod sed env") {
		if slices.Contains(without, name) {
			continue
		}
		from, err := exec.LookPath(name)
		if name == "sh" {
			from, err = exec.LookPath(sh)
		}
		if sh == "busybox" && name != "getconf" && name != "ldd" {
			from, err = exec.LookPath("busybox")
		}
		if err != nil {
			pythons.Missing(t, err)
		}
		if from, err = filepath.EvalSymlinks(from); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bare is a target without Python: this machine, with other programs.
type bare struct {
	path string // for PATH
	into string // where Python is unpacked
}

func newBare(t *testing.T, sh string, without ...string) *bare {
	return &bare{path: tools(t, sh, without...), into: t.TempDir()}
}

// instead puts a script in place of a tool.
func (b *bare) instead(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(b.path, name)
	_ = os.Remove(path)
	pythons.Program(t, path, "#!/bin/sh\n"+text)
}

// command prepares a client's run; without a daemon if d is nil.
func (b *bare) command(t *testing.T, d *Daemon, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := Command(t, dir, args...)
	if d != nil {
		mark := cmd.Env[len(cmd.Env)-1]
		cmd.Env = append(d.Env(), mark)
	}
	cmd.Env = append(slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }), "PATH="+b.path)
	return cmd
}

// empty fails the test if anything is left there.
func (b *bare) empty(t *testing.T, after string) {
	t.Helper()
	poll.Until(t, "nothing is left after "+after, func() bool {
		left, err := os.ReadDir(b.into)
		return err == nil && len(left) == 0
	})
}

// kept gives the directories of builds that are there.
func (b *bare) kept(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(b.into, "mitogend-*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

const bareProbe = `import os, subprocess, sys, time
def where(wait=None):
    again = subprocess.check_output([sys.executable, '-c', 'import zlib, sys; print("%d.%d" % sys.version_info[:2])'])
    if wait:
        open(wait + '.there', 'w').close()
        while not os.path.exists(wait):
            time.sleep(0.01)
        import smtplib
    return ['%d.%d' % sys.version_info[:2], again.decode().strip(), sys.prefix, os.environ.get('LD_LIBRARY_PATH')]
`

// pythonFrom is shared by the tests of --python-from: a daemon with a build, and its clients' directory.
type pythonFrom struct {
	*Daemon
	build, version, dir string
}

func newPythonFrom(t *testing.T, newest bool) *pythonFrom {
	t.Helper()
	t.Parallel()
	build, version := aBuild(t, newest)
	dir := t.TempDir()
	Write(t, dir, "probe.py", bareProbe)
	return &pythonFrom{Serve(t, "--python-from", build), build, version, dir}
}

// call calls the probe on a bare target.
func (d *pythonFrom) call(t *testing.T, b *bare, target string, more ...string) Result {
	t.Helper()
	return runCommand(t, b.command(t, d.Daemon, d.dir, d.args(b, target, more...)...))
}

func (d *pythonFrom) args(b *bare, target string, more ...string) []string {
	return append([]string{"call", "--fresh", "-H", target, "--python", "none-such", "--connect-timeout", "60", "--python-dir", b.into}, more...)
}

// works checks that the probe ran under the Python that was sent.
func (d *pythonFrom) works(t *testing.T, b *bare, r Result) {
	t.Helper()
	if r.Status != 0 || !strings.HasPrefix(r.Stdout, fmt.Sprintf(`["%s","%[1]s","%s/mitogend-`, d.version, b.into)) || !strings.HasSuffix(r.Stdout, ",null]\n") {
		t.Errorf("%v", r)
	}
}

// TestPythonFrom sends Python to this machine as if it had none: with each shell, each way to unpack, each layout of descriptors,
// and behind a hop.
func TestPythonFrom(t *testing.T) {
	d := newPythonFrom(t, true)
	for _, c := range []struct{ sh, without, target string }{
		{"dash", "", "local:"},
		{"bash", "gzip getconf", "local:?stdio=pty"},
		{"busybox", "", "local:?stdio=hybrid"},
		{"dash", "tar", "local:?stdio=socketpair"},
	} {
		b := newBare(t, c.sh, strings.Fields(c.without)...)
		d.works(t, b, d.call(t, b, c.target, "probe:where"))
		b.empty(t, c.sh+" "+c.target)
	}
	for _, hop := range someOf(pythons.All(t)) {
		b := newBare(t, "dash")
		d.works(t, b, d.call(t, b, "local:?python_path="+value(hop.Path)+"+local:?stdio=pty", "probe:where"))
		b.empty(t, "a hop of "+hop.Version)
	}
}

// A kept build is found again, checked, and sent anew if it has changed. One that is in use stays.
func TestPythonFromKept(t *testing.T) {
	d := newPythonFrom(t, false)
	b := newBare(t, "dash")
	log := filepath.Join(t.TempDir(), "log")
	real, err := exec.LookPath("tar")
	if err != nil {
		t.Fatal(err)
	}
	b.instead(t, "tar", "echo x >>"+log+"\nexec "+real+" \"$@\"\n")
	sent := func(want int) {
		t.Helper()
		if data, _ := os.ReadFile(log); bytes.Count(data, []byte("x")) != want {
			t.Errorf("it was sent %d times, and %d are right", bytes.Count(data, []byte("x")), want)
		}
	}
	for range 2 {
		d.works(t, b, d.call(t, b, "local:", "--keep-python", "probe:where"))
		sent(1)
	}
	d.works(t, b, d.call(t, b, "local:", "probe:where")) // does not remove a build that was to be kept
	sent(1)
	kept := b.kept(t)
	if len(kept) != 1 {
		t.Fatalf("kept: %v", kept)
	}
	files, _ := filepath.Glob(filepath.Join(kept[0], "python", "lib", "python*", "os.py"))
	if len(files) != 1 {
		t.Fatalf("no os.py in %v", kept)
	}
	if err := os.WriteFile(files[0], []byte("print('this is not what was sent')\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.works(t, b, d.call(t, b, "local:", "probe:where"))
	sent(2)
	b.empty(t, "a build that was changed")

	// A build that others use outlives the child that has brought it.
	wait := filepath.Join(t.TempDir(), "wait")
	first := b.command(t, d.Daemon, d.dir, d.args(b, "local:", "probe:where", wait)...)
	out := &bytes.Buffer{}
	first.Stdout, first.Stderr = out, out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the first one is there", func() bool { _, err := os.Stat(wait + ".there"); return err == nil })
	d.works(t, b, d.call(t, b, "local:", "probe:where"))
	sent(3)
	if len(b.kept(t)) != 1 {
		t.Errorf("in use: %v", b.kept(t))
	}
	Write(t, filepath.Dir(wait), "wait", "")
	if err := first.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	b.empty(t, "the last user")
}

// If the target cannot do something, the error says what, and nothing is left there.
func TestPythonFromRefused(t *testing.T) {
	d := newPythonFrom(t, false)
	mkdir, err := exec.LookPath("mkdir")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		without string
		prepare func(b *bare)
		want    string
	}{
		{"no sha256sum", "sha256sum", nil, "sha256sum and head are needed there, and one is missing"},
		{"no tar", "tar base64", nil, "tar or base64 is needed there to unpack it, and both are missing"},
		{"machine", "", func(b *bare) { b.instead(t, "uname", "echo riscv64\n") }, "no build fits this machine, which is riscv64; there are: Python " + d.version},
		{"glibc", "", func(b *bare) { b.instead(t, "getconf", "echo glibc 2.5\n") }, "and 2.5 is there"},
		{"full", "", func(b *bare) {
			b.instead(t, "tar", "cat >/dev/null\necho 'tar: x: Cannot write: No space left on device' >&2\necho 'tar: Exiting' >&2\nexit 2\n")
		}, "it could not be unpacked in "},
		{"damaged", "", func(b *bare) { b.instead(t, "gzip", "cat >/dev/null\n") }, "it could not be unpacked in "},
		{"no room", "", func(b *bare) { b.instead(t, "df", "echo head\necho x 1 1 2048 1% /\n") }, "2 MiB are free, and "},
		{"writable by others", "", func(b *bare) {
			if err := os.Chmod(b.into, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "others can write to it, or to one above it"},
		{"not there", "", func(b *bare) { b.into += "/none" }, "it is no directory"},
		{"ends", "", func(b *bare) {
			b.instead(t, "mkdir", "case $* in */users) kill -9 $PPID;; esac\nexec "+mkdir+" \"$@\"\n")
		}, "it ended while Python was sent to it"},
	} {
		b := newBare(t, "dash", strings.Fields(c.without)...)
		if c.prepare != nil {
			c.prepare(b)
		}
		r := d.call(t, b, "local:", "probe:where")
		if r.Status != 3 || !strings.Contains(r.Stderr, c.want) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %v", c.name, r)
		}
		switch c.name {
		case "full":
			if !strings.Contains(r.Stderr, "No space left on device") || strings.Contains(r.Stderr, "Exiting") {
				t.Errorf("%s: %v", c.name, r)
			}
		case "not there":
			continue
		case "ends":
			// The next child removes it.
			b.instead(t, "mkdir", "exec "+mkdir+" \"$@\"\n")
			d.works(t, b, d.call(t, b, "local:", "probe:where"))
		}
		b.empty(t, c.name)
	}
	// Behind a hop the reasons are the same.
	b := newBare(t, "dash")
	b.instead(t, "uname", "echo riscv64\n")
	hop := pythons.Any(t)
	r := d.call(t, b, "local:?python_path="+value(hop.Path)+"+local:", "probe:where")
	if r.Status != 3 || !strings.Contains(r.Stderr, "which is riscv64; there are: Python ") || strings.Count(r.Stderr, "\n") != 1 {
		t.Error(r)
	}
	if os.Getuid() != 0 {
		return
	}
	// As root: a directory that another user has put there, and file systems that are full or mounted noexec.
	b = newBare(t, "dash")
	planted := filepath.Join(b.into, "mitogend-0")
	if err := os.Mkdir(planted, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(planted, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if r := d.call(t, b, "local:", "probe:where"); r.Status != 3 || !strings.Contains(r.Stderr, planted+" is there and is not ours") {
		t.Error(r)
	}
	if busybox, err := exec.LookPath("busybox"); err == nil {
		root := t.TempDir()
		Write(t, root, "proc/none", "")
		if out, err := exec.Command("sh", "-c", "mkdir "+root+"/bin && cp "+busybox+" "+root+"/bin/busybox && chroot "+root+" /bin/busybox --install -s /bin").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r := d.Run(t, d.dir, "call", "--fresh", "-H", "exec:"+value("chroot "+root), "probe:where")
		if r.Status != 3 || !strings.Contains(r.Stderr, " needs /lib64/ld-linux-x86-64.so.2, which is not there") && !strings.Contains(r.Stderr, " needs /lib/ld-") {
			t.Error(r)
		}
	}
	for options, want := range map[string]string{"noexec": "no program can run there (noexec)", "size=1m": "MiB are free, and "} {
		b := newBare(t, "dash")
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "none", b.into).CombinedOutput(); err != nil {
			t.Skipf("nothing can be mounted here: %s", out)
		}
		t.Cleanup(func() { _ = syscall.Unmount(b.into, 0) })
		if r := d.call(t, b, "local:", "probe:where"); r.Status != 3 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %v", options, r)
		}
		b.empty(t, options)
	}
}

// A shell may be killed while it moves an unpacked build, or when it has seen that it was the last. The next one removes what it leaves,
// but nothing that others use meanwhile, or may be making.
func TestPythonFromKilled(t *testing.T) {
	d := newPythonFrom(t, false)
	for _, c := range []struct{ name, tool, when string }{
		{"before the first move", "mv", "case $* in */manifest*) kill -9 $PPID; exit;; esac\nexec REAL \"$@\"\n"},
		{"before the second move", "mv", "case $* in */users' '*) kill -9 $PPID; exit;; esac\nexec REAL \"$@\"\n"},
		{"as the last one", "rmdir", "REAL \"$@\" || exit\ncase $* in */users) kill -9 $PPID;; esac\n"},
	} {
		b := newBare(t, "dash")
		real, err := exec.LookPath(c.tool)
		if err != nil {
			t.Fatal(err)
		}
		b.instead(t, c.tool, strings.ReplaceAll(c.when, "REAL", real))
		r := d.call(t, b, "local:", "probe:where")
		left := func() []string {
			var dirs []string
			for _, dir := range b.kept(t) {
				if _, err := os.Stat(filepath.Join(dir, "users")); err != nil && !strings.HasSuffix(dir, ".part") {
					dirs = append(dirs, dir)
				}
			}
			return dirs
		}
		if c.tool == "mv" && (r.Status != 3 || !strings.Contains(r.Stderr, "it ended while Python was sent to it")) {
			t.Errorf("%s: %v", c.name, r)
		}
		poll.Until(t, c.name+": something is left", func() bool { return len(left()) == 1 })
		hash := left()[0]
		b.instead(t, c.tool, "exec "+real+" \"$@\"\n")
		// One that is alive, and may be about to move.
		other := exec.Command("sleep", "1000")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
		ns, err := os.Readlink("/proc/self/ns/pid")
		if err != nil {
			t.Fatal(err)
		}
		part := filepath.Join(filepath.Dir(hash), fmt.Sprintf("%d.%s.part", other.Process.Pid, strings.Trim(ns, "pid:[]")))
		if err := os.Mkdir(part, 0o700); err != nil {
			t.Fatal(err)
		}
		d.works(t, b, d.call(t, b, "local:", "probe:where"))
		poll.Until(t, c.name+": the others are left alone", func() bool { return slices.Equal(b.kept(t), slices.Sorted(slices.Values([]string{part, hash}))) })
		_, _ = other.Process.Kill(), other.Wait()
		// The next one moves it to its place.
		if r := d.call(t, b, "local:", "--keep-python", "probe:where"); r.Status != 0 || !slices.Equal(b.kept(t), []string{hash}) {
			t.Errorf("%s: %v, %v", c.name, b.kept(t), r)
		}
	}
}

// The connection is lost, or given up, while Python is unpacked.
func TestPythonFromInterrupted(t *testing.T) {
	t.Parallel()
	build, _ := aBuild(t, false)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		b := newBare(t, "dash")
		gate := filepath.Join(t.TempDir(), "gate")
		if err := syscall.Mkfifo(gate, 0o600); err != nil {
			t.Fatal(err)
		}
		real, err := exec.LookPath("gzip")
		if err != nil {
			pythons.Missing(t, err)
		}
		open, err := os.OpenFile(gate, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		b.instead(t, "gzip", "exec 9<"+gate+"\necho >"+gate+".there\ncat <&9\nexec "+real+" \"$@\" 9<&-\n")
		cmd := b.command(t, nil, t.TempDir(), "call", "--python-from", build, "--python", "none-such", "--python-dir", b.into, "os:getpid")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, "it is being unpacked", func() bool { _, err := os.Stat(gate + ".there"); return err == nil })
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		_ = open.Close()
		b.empty(t, sig.String())
	}
}

// A path that is not a build of Python is a usage error.
func TestPythonFromUsage(t *testing.T) {
	t.Parallel()
	build, version := aBuild(t, false)
	dir := t.TempDir()
	makeTar := func(name string, headers ...*tar.Header) {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := tar.NewWriter(f)
		for _, h := range headers {
			h.Typeflag, h.Mode = tar.TypeReg, 0o755
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	makeTar("none.tar", &tar.Header{Name: "README"})
	makeTar("out.tar", &tar.Header{Name: "../bin/python3.11"})
	makeTar("empty.tar", &tar.Header{Name: "bin/python3.11"}, &tar.Header{Name: "lib/python3.11/os.py"})
	Write(t, dir, "text", "this is no tar file, whatever it says\n")
	Write(t, dir, "x.tar.xz", "\xfd7zXZ\x00")
	Write(t, dir, "zero.tar", "")
	Write(t, dir, "venv/pyvenv.cfg", "home = /usr/bin\n")
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--python-from", "gone"}, 2, "--python-from gone: no such file or directory"},
		{[]string{"--python-from", "text"}, 2, "text: it is no tar file: "},
		{[]string{"--python-from", "zero.tar"}, 2, "zero.tar: it is no tar file: it is empty, or cut off"},
		{[]string{"--python-from", "x.tar.xz"}, 2, "decompress it (xz -d)"},
		{[]string{"--python-from", "dir"}, 2, "dir: there is no Python in it"},
		{[]string{"--python-from", "venv"}, 2, "it is a virtual environment"},
		{[]string{"--python-from", "/dev/null"}, 2, "it is neither a directory nor a tar file"},
		{[]string{"--python-from", build, "--python-dir", "here"}, 2, `--python-dir: "here" is no absolute path`},
		{[]string{"--keep-python"}, 3, "keep_python: it is for python_from, which is not given"},
		{[]string{"-H", "local:?python=none-such&python_from=gone"}, 3, "python_from: gone: no such file or directory"},
		{[]string{"--python-from", "none.tar", "--python", "none-such"}, 3, "none.tar: there is no Python in it"},
		{[]string{"--python-from", "empty.tar", "--python", "none-such"}, 3, "empty.tar: there is no Python in it"},
		{[]string{"--python-from", "out.tar", "--python", "none-such"}, 3, `its entry "../bin/python3.11" leads out of it`},
		{[]string{"--python-from", filepath.Join(build, "bin", "python"+version), "--python", "none-such"}, 2, "it is no tar file"},
	} {
		r := Mitogend(t, dir, append(append([]string{"call"}, c.args...), "os:getpid")...)
		if r.Status != c.status || !strings.Contains(r.Stderr, c.want) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%v: %v", c.args, r)
		}
	}
}

// A container without Python, made from Debian, also with a read-only root: an interpreter for it is sent the first time, and nothing the
// second time.
func TestPythonFromContainer(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root")
	}
	image := filepath.Join(pythons.Tree(), "minbase.tar")
	if _, err := os.Stat(image); err != nil {
		pythons.Missing(t, ".ci/minbase has made no machine without Python: ", err)
	}
	if _, err := exec.LookPath("docker"); err != nil {
		pythons.Missing(t, err)
	}
	d := newPythonFrom(t, true)
	c := &container{name: fmt.Sprintf("mitogend-bare-%d", os.Getpid())}
	c.run(t, "docker", "import", image, c.name)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "--force", c.name).Run() })
	builds := []string{d.build}
	if _, err := os.Stat("/usr/lib/python3"); err == nil {
		builds = append(builds, "/usr") // Debian's own
	}
	for i, flags := range [][]string{nil, {"--read-only"}} {
		name := fmt.Sprintf("%s-%d", c.name, i)
		c.run(t, "docker", append(append([]string{"run", "--detach", "--network", "none", "--name", name}, flags...), c.name, "/bin/sleep", "100000")...)
		t.Cleanup(func() { _ = exec.Command("docker", "rm", "--force", name).Run() })
		for _, build := range builds {
			args := []string{"call", "--fresh", "-H", "docker:" + name, "--python-from", build, "probe:where"}
			r := d.Run(t, d.dir, args...)
			if r.Status != 0 || !strings.Contains(r.Stdout, `"/dev/mitogend-0/`) && !strings.Contains(r.Stdout, `"/run/`) {
				t.Fatalf("%s %v: %v", build, flags, r)
			}
		}
		poll.Until(t, "nothing is left in the container", func() bool {
			return exec.Command("docker", "exec", name, "sh", "-c", "! ls -d /dev/mitogend-* /run/mitogend-* /dev/shm/mitogend-*").Run() == nil
		})
		if flags != nil {
			continue
		}
		keep := []string{"call", "--fresh", "-H", "docker:" + name, "--keep-python", "probe:where"}
		first := d.Run(t, d.dir, keep...)
		c.run(t, "docker", "exec", name, "rm", "/bin/tar", "/usr/bin/base64", "/bin/gzip")
		if second := d.Run(t, d.dir, keep...); first.Status != 0 || second.Status != 0 || second.Stdout != first.Stdout {
			t.Errorf("first: %v\nsecond: %v", first, second)
		}
	}
}
