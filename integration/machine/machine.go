//go:build linux

// Package machine makes a private machine for a test: a mount namespace with users, passwords, sudoers and ssh servers that
// nobody else sees, in which /etc, /home and /var/log are overlays, and root has an empty home.
package machine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mitogend/integration/pythons"
)

// privateEnv is set in the second run of the test binary, inside the namespace.
const privateEnv = "MITOGEND_TEST_PRIVATE"

// Passwords of the users inside.
const (
	AlicePassword = "al ice's pä$$"
	BobPassword   = "bob-secret"
)

// Enter runs the tests of this binary that match the expression and begin with Inside, on a private machine.
func Enter(t *testing.T, expression string) {
	t.Helper()
	if os.Getenv(privateEnv) != "" {
		t.Skip("this is the run inside")
	}
	if os.Getuid() != 0 {
		pythons.Missing(t, "needs root, for users of its own in a mount namespace")
	}
	for _, program := range []string{"sudo", "su", "doas", "ssh", "/usr/sbin/sshd", "useradd", "chpasswd", "chage", "setpriv", "tcsh", "fish"} {
		if _, err := exec.LookPath(program); err != nil {
			pythons.Missing(t, program+" is not installed")
		}
	}
	args := []string{"-test.run=" + expression, "-test.count=1", "-test.timeout=30m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), cannot) {
		pythons.Missing(t, string(out))
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

const cannot = "the machine cannot be set up"

// Inside prepares the machine, once; everywhere else it skips the test.
func Inside(t *testing.T) {
	t.Helper()
	if os.Getenv(privateEnv) == "" {
		t.Skip("part of a test on a machine of its own")
	}
	if err := setUp(); err != nil {
		t.Fatalf("%s: %v", cannot, err)
	}
}

var setUp = sync.OnceValue(func() error {
	mount := func(source, target, fstype string, flags uintptr, data string) error {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, fstype, flags, data); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
		return nil
	}
	err := errors.Join(
		unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755"),
		os.MkdirAll("/mnt/etc", 0o755), os.MkdirAll("/mnt/work", 0o755),
		mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work"),
		mount("tmpfs", "/home", "tmpfs", 0, "mode=755"),
		mount("tmpfs", "/var/log", "tmpfs", 0, "mode=755"),
		mount("tmpfs", "/run/sudo", "tmpfs", 0, "mode=700"),
		mount("tmpfs", "/run/sshd", "tmpfs", 0, "mode=755"),
	)
	if err != nil {
		return err
	}
	return Shell(
		// Start-up files of the real root may take any time (pyenv's do one after the other).
		"mkdir -m 700 /home/root && sed -i 's|^\\(root:.*\\):/root:|\\1:/home/root:|' /etc/passwd",
		"useradd -m -s /bin/sh mg-alice", // may use sudo and doas with her password
		"useradd -m -s /bin/bash mg-bob", // may without a password
		"useradd -M -s /bin/sh mg-carol", // may not
		"useradd -m -s /usr/bin/tcsh mg-csh",
		"useradd -m -s /usr/bin/fish mg-fish",
		"useradd -M -s /usr/sbin/nologin mg-nologin",
		"useradd -m -s /bin/sh mg-expired",
		"useradd -m -s /bin/sh mg-locked",
		`printf '%s\n' "mg-alice:`+strings.ReplaceAll(AlicePassword, "$", `\$`)+`" mg-bob:`+BobPassword+` mg-carol:carol mg-csh:csh mg-fish:fish mg-nologin:n mg-expired:old mg-locked:l | chpasswd`,
		"chage -d 0 mg-expired", "chage -E 1 mg-locked",
		`printf '%s\n' 'Defaults timestamp_timeout=0,lecture=always,pwfeedback' 'mg-alice ALL=(ALL) ALL' 'mg-bob ALL=(ALL) NOPASSWD: ALL' 'Defaults:mg-bob requiretty' >/etc/sudoers.d/mg && chmod 440 /etc/sudoers.d/mg`,
		`printf '%s\n' 'permit mg-alice' 'permit nopass mg-bob' >/etc/doas.conf && chmod 600 /etc/doas.conf`,
		"echo echo a login script says hello >>/home/mg-alice/.profile",
		"echo 'echo a csh startup file says hello' >>/home/mg-csh/.cshrc; mkdir -p /home/mg-fish/.config/fish; echo 'echo fish says hello' >/home/mg-fish/.config/fish/config.fish",
		"echo 'echo bash says hello; read -t 1 nothing </dev/null' >/home/mg-bob/.bashrc",
		"chown -R mg-fish: /home/mg-fish",
	)
})

// Shell runs lines of sh.
func Shell(lines ...string) error {
	for _, line := range lines {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %v: %s", line, err, out)
		}
	}
	return nil
}

// Pythons gives 2.7, the oldest and the newest 3.x. Every user can start them: directories on the way that only root may
// enter (a home) are opened to all, by overlays that end with the namespace.
func Pythons(t testing.TB) []pythons.Python {
	t.Helper()
	all := pythons.All(t)
	pick := []pythons.Python{all[0], all[len(all)-1]}
	i := slices.IndexFunc(all, func(p pythons.Python) bool { return p.Version != "2.7" })
	if i > 0 && i < len(all)-1 {
		pick = slices.Insert(pick, 1, all[i])
	}
	pick = slices.Compact(pick) // there may be one only
	opening.Lock()
	defer opening.Unlock()
	for _, p := range pick {
		OpenToAll(t, filepath.Dir(p.Path))
	}
	return pick
}

var opening sync.Mutex

// OpenToAll lets everybody enter a directory and those above it.
func OpenToAll(t testing.TB, dir string) {
	t.Helper()
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&1 != 0 {
			continue
		}
		side, err := os.MkdirTemp("/mnt", "open")
		if err == nil {
			err = errors.Join(os.Mkdir(side+"/up", 0o755), os.Mkdir(side+"/work", 0o755),
				unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+side+"/up,workdir="+side+"/work"), os.Chmod(dir, 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// As makes a program that runs another one as a user, who is not root then and has to give a password.
func As(t testing.TB, user, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("id", "-u", user).Output()
	if err != nil {
		t.Fatal(err)
	}
	uid := strings.TrimSpace(string(out))
	stub := filepath.Join("/mnt", user+"-"+program)
	text := "#!/bin/sh\ncd /\nHOME=/home/" + user + " exec setpriv --reuid " + uid + " --regid " + uid + " --init-groups " + path + " \"$@\"\n"
	pythons.Program(t, stub, text)
	return stub
}

// Server is a test's own ssh server.
type Server struct {
	Port    int
	Key     string // a private key that every user accepts
	Other   string // a private key that no user accepts
	Args    string // makes ssh accept the server's host key, and no other
	Options map[string]any
}

// SSHD starts a server with these lines in its configuration.
func SSHD(t testing.TB, config string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("/mnt", "sshd")
	if err != nil {
		t.Fatal(err)
	}
	if err := Shell(
		"ssh-keygen -q -t ed25519 -N '' -f "+dir+"/host", "ssh-keygen -q -t ed25519 -N '' -f "+dir+"/user", "ssh-keygen -q -t ed25519 -N '' -f "+dir+"/other",
		"cp "+dir+"/user.pub "+dir+"/authorized", "chmod 755 "+dir,
	); err != nil {
		t.Fatal(err)
	}
	port := 0
	for try := 0; port == 0; try++ { // somebody else may take the port before it listens
		if port = listen(t, dir, config); port == 0 && try == 4 {
			t.Fatal("sshd does not listen")
		}
	}
	if err := Shell(fmt.Sprintf("for h in 127.0.0.1 localhost; do echo \"[$h]:%d $(cut -d' ' -f1,2 %s/host.pub)\"; done >%s/known", port, dir, dir)); err != nil {
		t.Fatal(err)
	}
	s := &Server{Port: port, Key: dir + "/user", Other: dir + "/other", Args: "-F none -o UserKnownHostsFile=" + dir + "/known -o GlobalKnownHostsFile=none"}
	s.Options = map[string]any{"hostname": "127.0.0.1", "port": port, "identity_file": s.Key, "ssh_args": s.Args}
	return s
}

// listen starts sshd on a free port, and gives 0 if it has ended before it listened.
func listen(t testing.TB, dir, config string) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	text := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nStrictModes no\nUsePAM yes\nPermitRootLogin yes\n%s\n", port, dir, dir, config)
	if err := os.WriteFile(dir+"/config", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", dir+"/config")
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(dir + "/log")
			t.Logf("sshd: %s", text[max(0, len(text)-2000):])
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		select {
		case <-ended:
			return 0
		case <-time.After(10 * time.Millisecond):
		}
		if text, _ := os.ReadFile(dir + "/log"); strings.Contains(string(text), "Server listening") {
			return port
		}
	}
	return 0
}
