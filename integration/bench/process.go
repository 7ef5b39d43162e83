package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// newProcess times a whole command, from its start to its end.
func newProcess(p params) (experiment, error) {
	raw, _ := p["argv"].([]any)
	var argv []string
	for _, v := range raw {
		argv = append(argv, fmt.Sprint(v))
	}
	if len(argv) == 0 {
		return nil, errUnsupported
	}
	return simple(func(int) (metrics, error) {
		kids, t := cpuChildren(), time.Now()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = os.Stderr
		if out, err := cmd.Output(); err != nil {
			return nil, fmt.Errorf("%v: %w: %s", argv, err, out)
		}
		return metrics{"seconds": time.Since(t).Seconds(), "cpu": cpuChildren() - kids}, nil
	}), nil
}

// newOursWarm times a whole command that finds a running daemon with its target connected.
func newOursWarm(p params) (experiment, error) { return startDaemon(p, p.str("listen")) }

// startDaemon starts a daemon that serves in a directory.
func startDaemon(p params, dir string, args ...string) (*oursWarm, error) {
	serve := exec.Command(p.str("mitogend"), append([]string{"serve", "--listen", dir}, args...)...)
	serve.Stderr = os.Stderr
	if err := serve.Start(); err != nil {
		return nil, err
	}
	w := &oursWarm{serve: serve, python: p.str("python"), mitogend: p.str("mitogend"), socket: filepath.Join(dir, "control.sock")}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(w.socket)
		if err == nil {
			return w, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(err, w.close())
		}
	}
}

type oursWarm struct {
	serve                    *exec.Cmd
	python, mitogend, socket string
}

func (w *oursWarm) sample(int) (metrics, error) {
	kids, t := cpuChildren(), time.Now()
	cmd := exec.Command(w.mitogend, "call", "--daemon", w.socket, "--python", w.python, "os:getpid")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if out, err := cmd.Output(); err != nil {
		return nil, fmt.Errorf("call: %w: %s%s", err, out, errs.Bytes())
	}
	return metrics{"seconds": time.Since(t).Seconds(), "cpu": cpuChildren() - kids}, nil
}

func (w *oursWarm) close() error {
	return errors.Join(w.serve.Process.Signal(syscall.SIGTERM), w.serve.Wait())
}
