package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// These rows copy files to ssh hosts, and compare with the usual programs. The hosts are this machine, by an ssh server on loopback
// addresses. So the CPU of both sides is that of the machine, which has to be calm.

const (
	scp    subject = "scp"
	rsync  subject = "rsync"
	tar    subject = "tar | ssh tar"
	copies         = "copies" // the kind of rows that compare ours with these
	// manyHosts are the hosts of the rows with many; Linux has all of 127.0.0.0/8.
	manyHosts = 20
)

// copySpec copies what source makes to hosts, into an empty directory on each.
func copySpec(name string, hosts int, source func(*bed) (string, error)) *spec {
	return &spec{name: name, kind: copies, op: "copy", reps: 5, quick: 1, warm: 1, limit: 10 * time.Minute, params: func(b *bed, s subject) (params, error) {
		src, err := source(b)
		if err != nil {
			return nil, err
		}
		config, err := b.sshd()
		if err != nil {
			return nil, err
		}
		dest := filepath.Join(b.dir, name, strings.Fields(string(s))[0])
		var commands [][]string
		for i := range hosts {
			host, to := fmt.Sprintf("127.0.0.%d", i+1), filepath.Join(dest, strconv.Itoa(i))
			switch s {
			case scp:
				commands = append(commands, []string{"scp", "-q", "-p", "-r", "-F", config, src, host + ":" + to + "/"})
			case rsync:
				commands = append(commands, []string{"rsync", "-a", "-e", "ssh -F " + config, src, host + ":" + to + "/"})
			case tar:
				commands = append(commands, []string{"sh", "-c", fmt.Sprintf("tar -C %s -cf - %s | ssh -F %s %s tar -C %s -xpf -",
					filepath.Dir(src), filepath.Base(src), config, host, to)})
			default:
				if b.mitogend == "" {
					return nil, errors.New("cmd/mitogend was not built")
				}
				if i == 0 {
					commands = [][]string{{b.mitogend, "put", "-q", "--daemon", "none", "-p", strconv.Itoa(hosts)}}
				}
				commands[0] = append(commands[0], "-H", fmt.Sprintf("ssh:%s?ssh_args=-F %s&python=%s", host, config, b.peer))
			}
		}
		if s == ours {
			commands[0] = append(commands[0], src, dest+"/{host}/")
		}
		for _, c := range commands {
			if _, err := exec.LookPath(c[0]); err != nil {
				return nil, fmt.Errorf("%s is not installed", c[0])
			}
		}
		return params{"commands": commands, "source": src, "dest": dest, "hosts": hosts, "named": s == ours}, nil
	}}
}

// newCopy runs the commands side by side.
func newCopy(p params) (experiment, error) {
	var commands [][]string
	list, _ := p["commands"].([]any)
	for _, c := range list {
		var argv []string
		words, _ := c.([]any)
		for _, w := range words {
			argv = append(argv, fmt.Sprint(w))
		}
		commands = append(commands, argv)
	}
	if len(commands) == 0 {
		return nil, errUnsupported
	}
	source, dest, hosts := p.str("source"), p.str("dest"), p.int("hosts")
	want, err := treeSize(source)
	if err != nil {
		return nil, err
	}
	named, _ := p["named"].(bool)
	done := 0
	return simple(func(int) (metrics, error) {
		var places []string
		for i := range hosts {
			place := filepath.Join(dest, strconv.Itoa(i))
			if named {
				place = filepath.Join(dest, fmt.Sprintf("127.0.0.%d", i+1))
			}
			if err := os.MkdirAll(place, 0o755); err != nil {
				return nil, err
			}
			places = append(places, place)
		}
		before, err := machineCPU()
		if err != nil {
			return nil, err
		}
		start, here := time.Now(), cpuChildren()
		if err := together(commands); err != nil {
			return nil, err
		}
		took, here := time.Since(start).Seconds(), cpuChildren()-here
		after, err := machineCPU()
		if err != nil {
			return nil, err
		}
		for _, place := range places {
			if got, err := treeSize(filepath.Join(place, filepath.Base(source))); err != nil || got != want {
				return nil, fmt.Errorf("%s has %+v of %+v: %w", place, got, want, err)
			}
		}
		result := metrics{"seconds": took, "cpu": here, "machine_cpu": after - before}
		if want.files < manyFiles {
			return result, os.RemoveAll(dest)
		}
		done++
		return result, os.Rename(dest, fmt.Sprintf("%s.%d", dest, done))
	}), nil
}

// manyFiles are removed at the end, with the bed: for some seconds after a removal, ext4 looks at all removed inodes before it makes
// a new file, which takes five times as long as the copy.
const manyFiles = 1000

func together(commands [][]string) error {
	errs := make([]error, len(commands))
	var wg sync.WaitGroup
	for i, c := range commands {
		wg.Go(func() {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%v: %w: %s", c, err, out)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// size is the size of a tree.
type size struct {
	files int
	bytes int64
}

func treeSize(root string) (s size, err error) {
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			s.files, s.bytes = s.files+1, s.bytes+info.Size()
		}
		return err
	})
	return s, err
}

// machineCPU is the time that the processors of this machine have worked, in seconds.
func machineCPU() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	sum := 0.0
	for i, f := range strings.Fields(line)[1:] {
		if i == 3 || i == 4 || i > 7 { // idle, waiting for a disk, and times that are counted elsewhere
			continue
		}
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += n
	}
	return sum / 100, nil
}

// smallFiles are n files of a kilobyte, a hundred in a directory.
func (b *bed) smallFiles(n int) (string, error) {
	return b.once(fmt.Sprintf("files-%d", n), func(dir string) (string, error) {
		for i := range n {
			sub := filepath.Join(dir, fmt.Sprintf("d%04d", i/100))
			if i%100 == 0 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return "", err
				}
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%02d", i%100)), []byte(strings.Repeat(fmt.Sprintf("%07d\n", i), 128)), 0o644); err != nil {
				return "", err
			}
		}
		return dir, nil
	})
}

// sshd starts an ssh server on loopback addresses, and gives the configuration for clients of it. It ends with the bed.
func (b *bed) sshd() (string, error) {
	return b.once("ssh", func(dir string) (string, error) {
		server, err := exec.LookPath("sshd")
		if err != nil {
			if server, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
				return "", errors.New("sshd is not installed")
			}
		}
		if os.Geteuid() == 0 {
			if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // it puts an unprivileged process there
				return "", err
			}
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		// What the login shell of this machine's user starts is no part of any subject: their home is empty.
		if err := os.MkdirAll(filepath.Join(dir, "home"), 0o700); err != nil {
			return "", err
		}
		for _, key := range []string{"host", "user"} {
			if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
				return "", fmt.Errorf("ssh-keygen: %w: %s", err, out)
			}
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		config := filepath.Join(dir, "config")
		client := fmt.Sprintf("Port %d\nIdentityFile %s/user\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n", port, dir)
		if err := os.WriteFile(config, []byte(client), 0o600); err != nil {
			return "", err
		}
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			return "", err
		}
		defer log.Close()
		for first := 1; first <= manyHosts; first += 10 { // a server listens on 16 addresses at most
			var text strings.Builder
			fmt.Fprintf(&text, "Port %d\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 200\nSubsystem sftp internal-sftp\nSetEnv HOME=%s/home\n",
				port, dir, dir, dir)
			for i := first; i < first+10 && i <= manyHosts; i++ {
				fmt.Fprintf(&text, "ListenAddress 127.0.0.%d\n", i)
			}
			name := filepath.Join(dir, fmt.Sprintf("sshd_config%d", first))
			if err := os.WriteFile(name, []byte(text.String()), 0o600); err != nil {
				return "", err
			}
			ctx, cancel := context.WithCancel(context.Background())
			cmd := exec.CommandContext(ctx, server, "-D", "-e", "-f", name)
			cmd.Stderr = log
			if err := cmd.Start(); err != nil {
				cancel()
				return "", err
			}
			b.ends = append(b.ends, func() { cancel(); _ = cmd.Wait() })
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			out, err := exec.Command("ssh", "-F", config, fmt.Sprintf("127.0.0.%d", manyHosts), "true").CombinedOutput()
			if err == nil {
				return config, nil
			}
			if time.Now().After(end) {
				text, _ := os.ReadFile(filepath.Join(dir, "log"))
				return "", fmt.Errorf("the ssh server does not let us in: %w: %s%s", err, out, text)
			}
		}
	})
}

// getSpec copies what source makes from a host, into an empty directory here.
func getSpec(name string, source func(*bed) (string, error)) *spec {
	s := copySpec(name, 1, source)
	put := s.params
	s.params = func(b *bed, who subject) (params, error) {
		p, err := put(b, who)
		if err != nil {
			return nil, err
		}
		config, err := b.sshd()
		if err != nil {
			return nil, err
		}
		src, to := p.str("source"), filepath.Join(p.str("dest"), "0")
		switch who {
		case scp:
			p["commands"] = [][]string{{"scp", "-q", "-p", "-r", "-F", config, "127.0.0.1:" + src, to + "/"}}
		case rsync:
			p["commands"] = [][]string{{"rsync", "-a", "-e", "ssh -F " + config, "127.0.0.1:" + src, to + "/"}}
		case tar:
			p["commands"] = [][]string{{"sh", "-c", fmt.Sprintf("ssh -F %s 127.0.0.1 tar -C %s -cf - %s | tar -C %s -xpf -",
				config, filepath.Dir(src), filepath.Base(src), to)}}
		default:
			p["commands"] = [][]string{{b.mitogend, "get", "-q", "--daemon", "none",
				"-H", fmt.Sprintf("ssh:127.0.0.1?ssh_args=-F %s&python=%s", config, b.peer), src, to + "/"}}
			p["named"] = false
		}
		return p, nil
	}
	return s
}

func copySpecs() []*spec {
	small := func(b *bed) (string, error) { return b.smallFiles(50_000) }
	big := func(b *bed) (string, error) { return b.bigFile(256_000_000) }
	return []*spec{
		copySpec("copy-big", 1, big),
		copySpec("copy-small", 1, small),
		copySpec("copy-hosts", manyHosts, big),
		getSpec("copy-back", big),
		getSpec("copy-back-small", small),
	}
}

func copyRows() (rows []*row) {
	for _, r := range []struct{ spec, what string }{
		{"copy-big", "256 MB to an ssh host"},
		{"copy-small", "50,000 files of 1 kB to an ssh host"},
		{"copy-hosts", fmt.Sprintf("256 MB to %d ssh hosts", manyHosts)},
		{"copy-back", "256 MB from an ssh host"},
		{"copy-back-small", "50,000 files of 1 kB from an ssh host"},
	} {
		best := func(name string) target {
			return target{text: "<= the best", limit: func(m medians) float64 { return min(m(name, scp), m(name, rsync), m(name, tar)) }}
		}
		rows = append(rows,
			&row{name: r.spec, what: r.what, spec: r.spec, metric: "seconds", unit: unitSeconds, target: best(r.spec)},
			&row{name: r.spec + "-cpu", what: "CPU of both sides", spec: r.spec, metric: "machine_cpu", unit: unitSeconds, target: best(r.spec + "-cpu")},
			&row{name: r.spec + "-here", what: "CPU of this side", spec: r.spec, metric: "cpu", unit: unitSeconds, target: best(r.spec + "-here")})
	}
	return rows
}
