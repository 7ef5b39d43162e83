package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mitogend/integration/pythons"
)

// container is a root directory with only links in it; the host's /usr and interpreters are mounted there.
type container struct {
	name, root string
	mounts     []string // directories of the host, mounted at the same paths
}

func newContainer(t *testing.T, list []pythons.Python) *container {
	t.Helper()
	c := &container{name: fmt.Sprintf("mitogend-test-%d", os.Getpid()), root: t.TempDir(), mounts: []string{"/usr"}}
	for _, dir := range []string{"usr", "etc", "proc", "sys", "dev", "tmp", "run", "var", "root"} {
		if err := os.Mkdir(filepath.Join(c.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(c.root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	Write(t, c.root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	Write(t, c.root, "inside", "of a container")
	for _, p := range list {
		dir := filepath.Dir(filepath.Dir(p.Path))
		if !strings.HasPrefix(dir, "/usr") {
			c.mounts = append(c.mounts, dir)
		}
	}
	return c
}

// run starts a program of the container's engine, or skips the test if its error says that the engine cannot start anything here.
func (c *container) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		why := fmt.Sprintf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
		if program == "docker" {
			pythons.Missing(t, why)
		}
		t.Skip(why) // CI installs no other engine
	}
}

// volumes gives the mounts as flags of docker and podman.
func (c *container) volumes() (flags []string) {
	for _, dir := range c.mounts {
		flags = append(flags, "--volume", dir+":"+dir+":ro")
	}
	return flags
}

// engine imports the root as an image and starts a container from it. before are the engine's own flags, flags those of run.
func (c *container) engine(t *testing.T, program string, before []string, flags ...string) {
	t.Helper()
	c.run(t, program, "info")
	file := filepath.Join(t.TempDir(), "root.tar")
	c.run(t, "tar", "-C", c.root, "-cf", file, ".")
	c.run(t, program, "import", file, c.name)
	t.Cleanup(func() { _ = exec.Command(program, "rmi", "--force", c.name).Run() })
	flags = append([]string{"run", "--detach", "--network", "none", "--name", c.name}, append(flags, c.volumes()...)...)
	t.Cleanup(func() {
		_ = exec.Command(program, "kill", c.name).Run() // with rm alone, podman waits for SIGTERM to work
		_ = exec.Command(program, "rm", "--force", c.name).Run()
	})
	c.run(t, program, append(append(before, flags...), c.name, "/bin/sleep", "100000")...)
}

// TestRealContainers tries all engines that can start a container on this machine, as root: a container with the host's
// interpreters.
func TestRealContainers(t *testing.T) {
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root")
	}
	dir := t.TempDir()
	Write(t, dir, "within.py", "import platform\ndef read():\n    return '%s %s' % (platform.python_version(), open('/inside').read())\n")
	list := someOf(pythons.All(t))
	check := func(t *testing.T, method string, target func(p pythons.Python) string) {
		for _, p := range list {
			for _, target := range []string{target(p), "local:?python=" + p.Path + "+" + target(p)} {
				args := []string{"call", "--daemon", "none", "-H", target, "--raw", "within:read"}
				r := Mitogend(t, dir, args...)
				if r.Status != 0 || !strings.HasPrefix(r.Stdout, p.Version+".") || !strings.HasSuffix(strings.TrimSpace(r.Stdout), " of a container") {
					t.Errorf("%s: %v", target, r)
				}
				row(t, method, "real", p, args)
			}
		}
	}
	needs := func(t *testing.T, program string) {
		if _, err := exec.LookPath(program); err != nil && program == "docker" {
			pythons.Missing(t, err)
		} else if err != nil {
			t.Skip(err)
		}
	}
	t.Run("docker", func(t *testing.T) {
		t.Parallel()
		needs(t, "docker")
		c := newContainer(t, list)
		c.engine(t, "docker", nil)
		check(t, "docker", func(p pythons.Python) string { return "docker:" + c.name + "?python=" + p.Path })
		check(t, "setns, docker", func(p pythons.Python) string { return "setns:docker/" + c.name + "?python=" + p.Path })
	})
	t.Run("podman", func(t *testing.T) {
		t.Parallel()
		needs(t, "podman")
		c := newContainer(t, list)
		// Flags for when this is a container itself.
		c.engine(t, "podman", []string{"--runtime", "runc", "--cgroup-manager", "cgroupfs"}, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
		check(t, "podman", func(p pythons.Python) string { return "podman:" + c.name + "?python=" + p.Path })
	})
	t.Run("lxc", func(t *testing.T) {
		t.Parallel()
		needs(t, "lxc-start")
		c := newContainer(t, list)
		config := "lxc.uts.name = " + c.name + "\nlxc.rootfs.path = dir:" + c.root + "\nlxc.net.0.type = none\nlxc.mount.auto = proc\n"
		for _, dir := range c.mounts {
			config += "lxc.mount.entry = " + dir + " " + dir[1:] + " none bind,ro,create=dir 0 0\n"
		}
		lxc := t.TempDir()
		Write(t, lxc, c.name+"/config", config+"lxc.init.cmd = /bin/sleep 100000\n")
		t.Cleanup(func() { _ = exec.Command("lxc-stop", "--kill", "-P", lxc, "-n", c.name).Run() })
		c.run(t, "lxc-start", "-P", lxc, "-n", c.name, "--daemon")
		attach := script(t, "lxc-attach", "#!/bin/sh\nexec /usr/bin/lxc-attach -P "+lxc+" \"$@\"\n")
		check(t, "lxc", func(p pythons.Python) string {
			return "lxc:" + c.name + "?lxc_attach_path=" + attach + "&python=" + p.Path
		})
	})
	t.Run("systemd-nspawn", func(t *testing.T) {
		t.Parallel()
		needs(t, "systemd-nspawn")
		c := newContainer(t, list)
		line := "systemd-nspawn --quiet --register=no --keep-unit --pipe --directory " + c.root
		for _, dir := range c.mounts {
			line += " --bind-ro=" + dir
		}
		c.run(t, "sh", "-c", line+" /bin/true")
		check(t, "exec, systemd-nspawn", func(p pythons.Python) string { return "exec:" + value(line) + "?python=" + p.Path })
	})
}
