package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/bootstrap/builds"
	"mitogend/daemon"
	"mitogend/daemon/inventory"
)

// target is one place to run something.
type target struct {
	name    string // what the user has written, or the inventory's name of the host
	hops    []bootstrap.Hop
	secrets map[int]bootstrap.Secret // the inventory's passwords, by hop
	known   string                   // the inventory's host; empty if it is none
}

// host gives the name of the machine or container. It is that of the last hop that has one.
func (t target) host() string {
	for _, h := range slices.Backward(t.hops) {
		if name := h.Host(); name != "" {
			return name
		}
	}
	return "localhost"
}

// targetFlags say on which targets to run something, and how to reach them.
type targetFlags struct {
	inventoryFlags
	hosts          []string
	python         []string
	pythonFrom     daemon.PythonFrom
	parallel       int
	connectTimeout time.Duration
	timeout        time.Duration
	askPass        bool
	askBecome      bool
}

func (t *targetFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	t.inventoryFlags.register(cmd)
	f.StringArrayVarP(&t.hosts, "host", "H", nil, "`TARGET` such as local:, ssh:web1, ssh:web1+sudo:root, or a name or pattern of the inventory; repeatable, also comma-separated; @FILE reads one a line (default local:)")
	completeFlag(cmd, "host", t.inventoryFlags.complete)
	f.StringSliceVar(&t.python, "python", nil, "interpreters to try, in order, on every target (default python3,python,python2,python3.X)")
	f.StringArrayVar(&t.pythonFrom.Builds, "python-from", nil, "send a target that has no Python the one of these that fits it: a `BUILD` is a directory with bin and lib, a directory of such, or a tar file; repeatable")
	f.StringVar(&t.pythonFrom.Dir, "python-dir", "", "unpack it in this `DIR`ectory of the target (default: one that is in memory)")
	f.BoolVar(&t.pythonFrom.Keep, "keep-python", false, "leave it there for the next connection")
	f.IntVarP(&t.parallel, "parallel", "p", 32, "how many targets to work on at once")
	durationVar(f, &t.connectTimeout, "connect-timeout", bootstrap.DefaultTimeout, "limit for each hop of a target to connect")
	durationVar(f, &t.timeout, "timeout", 0, "limit for all that is done on a target, connecting included (default none)")
	f.BoolVar(&t.askPass, "ask-pass", false, "ask once for the password of all ssh hops that name none")
	f.BoolVar(&t.askBecome, "ask-become-pass", false, "ask once for the password of all sudo, su and doas hops that name none")
}

// check refuses flags that fit no target.
func (t *targetFlags) check() error {
	switch {
	case t.parallel < 1:
		return usagef("--parallel %d: at least 1", t.parallel)
	case t.connectTimeout <= 0:
		return usagef("--connect-timeout %v: must be greater than 0", t.connectTimeout)
	case t.timeout < 0:
		return usagef("--timeout %v: must not be negative", t.timeout)
	}
	if _, err := builds.Open(t.pythonFrom.Builds); err != nil {
		return usagef("--python-from %w", err)
	}
	if dir := t.pythonFrom.Dir; dir != "" && (dir[0] != '/' || strings.ContainsAny(dir, "\n\r\x00")) {
		return usagef("--python-dir: %q is no absolute path", dir)
	}
	for _, p := range t.python {
		if strings.HasPrefix(p, "~") {
			return usagef("--python: %q: ~ stands for no directory of a target here; write the path from / on", p)
		}
		if p == "" || strings.HasPrefix(p, "-") || strings.ContainsAny(p, "\x00\n\r") {
			return usagef("--python: %q is no interpreter", p)
		}
	}
	return nil
}

// list reads the -H flags, and checks the targets. It reads stdin for @-.
func (t *targetFlags) list(ctx context.Context, a *app, stdin io.Reader) ([]target, error) {
	targets, err := t.read(ctx, a, stdin)
	for i := 0; err == nil && i < len(targets); i++ {
		err = targets[i].check()
	}
	if err != nil {
		return nil, err
	}
	return targets, nil
}

// read is list without the check of each target. It returns when ctx ends, even if a read hangs.
func (t *targetFlags) read(ctx context.Context, a *app, stdin io.Reader) ([]target, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	t.app = a
	return interruptible(ctx, func() ([]target, error) { return t.readAll(ctx, stdin) })
}

func (t *targetFlags) readAll(ctx context.Context, stdin io.Reader) ([]target, error) {
	hosts := t.hosts
	if len(hosts) == 0 {
		hosts = []string{"local:"}
	}
	var names []string
	for _, value := range hosts {
		file, ok := strings.CutPrefix(value, "@")
		if !ok {
			names = append(names, splitTargets(value)...)
			continue
		}
		lines, err := readTargets(file, stdin)
		if err != nil {
			return nil, err
		}
		names = append(names, lines...)
	}
	list, err := t.resolve(ctx, names)
	if err != nil {
		return nil, err
	}
	out := make([]target, 0, len(list))
	listed := map[string]bool{} // names: one that is in two groups is worked on once
	for _, one := range list {
		name := one.known != "" || !inventory.WrittenOut(one.name)
		if name && listed[one.name] {
			continue
		}
		listed[one.name] = name
		out = append(out, one)
	}
	return out, nil
}

// startsTarget matches the beginning of a target. No value of a key has it.
var startsTarget = regexp.MustCompile(`^[a-z]+:`)

// splitTargets splits at commas. After a question mark, a comma belongs to the value (python=python3.9,python3), unless
// METHOD: or an exclusion follows.
func splitTargets(s string) []string {
	var out []string
	for _, part := range strings.Split(s, ",") {
		last := len(out) - 1
		if last >= 0 && strings.Contains(out[last], "?") && !startsTarget.MatchString(part) && !strings.HasPrefix(strings.TrimSpace(part), "!") {
			out[last] += "," + part
			continue
		}
		out = append(out, strings.TrimSpace(part))
	}
	return out
}

// freeStdin refuses to read stdin for something else, too, if it has the targets.
func (t *targetFlags) freeStdin(what string) error {
	if slices.Contains(t.hosts, "@-") {
		return usagef("-H @- takes all of stdin, and nothing is left of it for %s; write one of them to a file", what)
	}
	return nil
}

// readTargets reads a file with one target a line. # begins a line of comment.
func readTargets(file string, stdin io.Reader) ([]string, error) {
	r := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("-H @%s: %w", file, cause(err))
		}
		defer f.Close()
		r = f
	}
	var out []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, bootstrap.MaxTarget+2)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	if err := s.Err(); err != nil {
		return nil, usagef("-H @%s: %w", file, cause(err))
	}
	if len(out) == 0 {
		return nil, usagef("-H @%s: there is no target in it", file)
	}
	return out, nil
}

// readTarget reads a target that is written out.
func readTarget(name string) (target, error) {
	hops, err := bootstrap.ParseTarget(name)
	if err != nil {
		return target{}, usageError{bootstrap.Plain(err)}
	}
	return target{name: name, hops: hops}, nil
}

// check finds what is wrong with a target, as far as that is possible without connecting.
func (t target) check() error {
	for _, hop := range t.hops {
		hop = hop.OrSSH()
		args, err := hop.Options()
		if err == nil {
			_, err = bootstrap.Build(hop.Method, args, bootstrap.Boot{Stub: "pass"})
		}
		if err != nil {
			return usagef("target %s: %w", t.name, bootstrap.Plain(err))
		}
	}
	return nil
}

// needs tells whether a target has a hop of one of these methods that names no password.
func needs(targets []target, methods ...string) bool {
	for _, t := range targets {
		for i, hop := range t.hops {
			hop = hop.OrSSH()
			if t.secrets[i] != "" {
				continue
			}
			for _, m := range methods {
				if hop.Method == m && hop.Args["password_env"] == "" && hop.Args["password_file"] == "" {
					return true
				}
			}
		}
	}
	return false
}
