package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// realChild is about the size of a peer's child, in bytes; those of mitogend are stand-ins (py/standin.c).
const realChild = 22e6

// fleetSpec is the life of n targets: connected and called, called again, ended.
func fleetSpec(n int) *spec {
	return &spec{name: fmt.Sprintf("fleet-%d", n), op: "fleet", reps: 3, quick: 1, limit: 10 * time.Minute, params: func(b *bed, s subject) (params, error) {
		if s == floor {
			return nil, errUnsupported
		}
		if s == ours {
			if b.mitogend == "" {
				return nil, errors.New("cmd/mitogend was not built")
			}
			child, err := b.standin()
			return params{"n": n, "mitogend": b.mitogend, "python": child, "dir": filepath.Join(b.dir, "fleet")}, err
		}
		if n > b.most {
			return nil, fmt.Errorf("more than -peers %d", b.most)
		}
		if free, err := available(); err == nil && free < realChild*float64(n) {
			return nil, fmt.Errorf("%d interpreters of %s each are more than the %s of memory that this machine has free",
				n, unitBytes.format(realChild), unitBytes.format(free))
		}
		return local("3.11", params{"n": n})(b, s)
	}}
}

// fleetCurves are the figures of fleetSpec.
func fleetCurves() (list []curve) {
	for _, c := range []struct {
		metric, title string
		unit          unit
	}{
		{"connect_cpu", "Connecting targets, and a call to each: CPU", unitSeconds},
		{"connect_seconds", "Connecting targets, and a call to each: wall", unitSeconds},
		{"call_cpu", "One more call to each target: CPU", unitSeconds},
		{"call_seconds", "One more call to each target: wall", unitSeconds},
		{"memory", "Memory of the master with so many targets", unitBytes},
		{"end_cpu", "Ending all targets: CPU", unitSeconds},
		{"end_seconds", "Ending all targets: wall", unitSeconds},
	} {
		list = append(list, curve{"fleet-" + strings.ReplaceAll(c.metric, "_", "-"), c.title, "targets", unitCount, c.unit, c.metric,
			[]float64{10, 100, 400, 1000, 10000}, fleetSpec})
	}
	return list
}

// standin builds the stand-in for a child.
func (b *bed) standin() (string, error) {
	return b.once("standin", func(path string) (string, error) {
		var out []byte
		var err error
		for _, flags := range [][]string{{"-Os", "-static"}, {"-Os"}} { // without shared libraries, if possible
			if out, err = exec.Command("cc", append(flags, "-o", path, b.py("standin.c"))...).CombinedOutput(); err == nil {
				return path, nil
			}
		}
		return "", fmt.Errorf("the stand-in for children cannot be built: cc: %w: %s", err, out)
	})
}

// available is how much memory is available, in bytes.
func available() (float64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo: no MemAvailable")
}

// cpuOf is the CPU time of a running process, in seconds: of its current threads.
func cpuOf(pid int) (sum float64, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err == nil && len(tasks) == 0 {
		err = fmt.Errorf("process %d has no schedstat", pid)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		var ns float64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			return 0, err
		}
		sum += ns / 1e9
	}
	return sum, err
}

// newOursFleet has a running daemon, and a command for each step, as a user has. CPU is that of both.
func newOursFleet(p params) (experiment, error) {
	n, dir := p.int("n"), p.str("dir")
	w, err := startDaemon(p, dir, "--max-connections", "20000")
	if err != nil {
		return nil, err
	}
	f := &oursFleet{w, filepath.Join(dir, "targets")}
	var targets strings.Builder
	for i := range n {
		fmt.Fprintf(&targets, "exec:env%%20N=%d?stdio=socketpair&python=%s\n", i, w.python)
	}
	if err := os.WriteFile(f.targets, []byte(targets.String()), 0o600); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

type oursFleet struct {
	*oursWarm
	targets string
}

// step runs a command, and gives its wall time and its and the daemon's CPU.
func (f *oursFleet) step(m metrics, name string, args ...string) error {
	before, err := cpuOf(f.serve.Process.Pid)
	if err != nil {
		return err
	}
	kids, t := cpuChildren(), time.Now()
	cmd := exec.Command(f.mitogend, args...)
	cmd.Env = append(os.Environ(), "MITOGEND_DAEMON="+f.socket)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mitogend %s: %w: %.500s", args[0], err, errs.Bytes())
	}
	m[name+"_seconds"] = time.Since(t).Seconds()
	after, err := cpuOf(f.serve.Process.Pid)
	m[name+"_cpu"] = cpuChildren() - kids + after - before
	return err
}

func (f *oursFleet) sample(int) (metrics, error) {
	m := metrics{}
	call := []string{"call", "-p", "100", "-H", "@" + f.targets, "os:getpid"}
	err := errors.Join(f.step(m, "connect", call...), f.step(m, "call", call...))
	if err != nil {
		return nil, err
	}
	if m["memory"], err = statusBytes(f.serve.Process.Pid, "VmRSS"); err != nil {
		return nil, err
	}
	return m, f.step(m, "end", "close", "--all")
}
