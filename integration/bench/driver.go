package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"
)

// errUnsupported says that a subject cannot do that, which is not a failure.
var errUnsupported = errors.New("no such thing in this subject")

type params map[string]any

func (p params) str(key string) string { s, _ := p[key].(string); return s }

// int gives a number that may have gone through JSON.
func (p params) int(key string) int {
	switch v := p[key].(type) {
	case float64:
		return int(v)
	case int:
		return v
	}
	return 0
}

func (p params) float(key string) float64 {
	switch v := p[key].(type) {
	case float64:
		return v
	case int:
		return float64(v)
	}
	return 0
}

type metrics map[string]float64

// request and reply are the lines of the protocol in py/peer.py.
type request struct {
	Experiment string `json:"experiment,omitempty"`
	Params     params `json:"params,omitempty"`
	Sample     *int   `json:"sample,omitempty"`
}

type reply struct {
	OK          bool    `json:"ok"`
	Unsupported bool    `json:"unsupported,omitempty"`
	Error       string  `json:"error,omitempty"`
	Metrics     metrics `json:"metrics,omitempty"`
}

// driver is a running subject, seen from the runner.
type driver struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	limit time.Duration
}

// startDriver starts the subject's process and sets its experiment up. Its stderr goes to errs.
func startDriver(ctx context.Context, name string, argv, env []string, pinned bool, op string, p params,
	limit time.Duration, errs io.Writer) (*driver, error) {
	if pinned {
		argv = append([]string{"taskset", "-c", "0"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	cmd.Stderr = errs
	// Processes that a driver leaves behind keep stderr open; do not wait for them.
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &driver{name: name, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout), limit: limit}
	if _, err := d.ask(request{Experiment: op, Params: p}); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// ask sends one line and reads one. A driver that takes longer than its limit is killed with its process group.
func (d *driver) ask(r request) (metrics, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	timer := time.AfterFunc(d.limit, func() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	if _, err := d.stdin.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	line, err = d.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("%s: gave no answer in %v, or ended: %w", d.name, d.limit, err)
	}
	var a reply
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, fmt.Errorf("%s: answered %q: %w", d.name, line, err)
	}
	switch {
	case a.Unsupported:
		return nil, errUnsupported
	case !a.OK:
		return nil, fmt.Errorf("%s: %s", d.name, a.Error)
	}
	return a.Metrics, nil
}

func (d *driver) sample(n int) (metrics, error) { return d.ask(request{Sample: &n}) }

// stop lets the driver close its children and leave; after its limit, everything in its process group is killed.
func (d *driver) stop() {
	_ = d.stdin.Close()
	timer := time.AfterFunc(min(d.limit, 30*time.Second), func() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, d.out) // ends when the driver does
	// Kill what the peer left behind, while the driver's zombie still holds the group's id.
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	_ = d.cmd.Wait()
}

// experiment is one measurement inside a driver of this binary.
type experiment interface {
	sample(n int) (metrics, error)
	close() error
}

type experimentFunc func(p params) (experiment, error)

// serveDriver answers the line protocol on stdin and stdout until stdin ends.
func serveDriver(experiments map[string]experimentFunc) error {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	var current experiment
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			pprof.StopCPUProfile()
			if current == nil {
				return nil
			}
			return current.close()
		}
		if err != nil {
			return err
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		var a reply
		switch {
		case r.Experiment != "":
			start := experiments[r.Experiment]
			if start == nil {
				err = errUnsupported
				break
			}
			if current, err = start(r.Params); err == nil {
				err = startProfile(r.Experiment)
			}
		case current == nil || r.Sample == nil:
			err = errors.New("nothing set up, or no sample asked for")
		default:
			a.Metrics, err = current.sample(*r.Sample)
		}
		a.OK = err == nil
		if err != nil {
			a.Error = err.Error()
			a.Unsupported = errors.Is(err, errUnsupported)
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// startProfile profiles all after the set-up, if the runner was asked to.
func startProfile(experiment string) error {
	dir := os.Getenv("BENCH_PPROF")
	if dir == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", experiment, os.Getpid())))
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}
