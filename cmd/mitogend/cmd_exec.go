package main

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mitogend/daemon"
)

type execCommand struct {
	fleetFlags
	env   []string
	chdir string
	shell string
}

func newExec(a *app) *cobra.Command {
	c := &execCommand{}
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARG]...",
		Short: "Run a command on each target",
		Long: `exec runs COMMAND on each target, without a shell between, with its own stdout, stderr, exit status and signals. What
comes on stdin goes to all of them. In ARG, {target} is the target as it was named and {host} the machine's name. COMMAND is
a program there: with --shell, it is text for the target's sh.`,
		Example: `  mitogend exec -- uptime
  mitogend exec -H ssh:web1,ssh:web2 -- systemctl restart nginx
  mitogend exec -H ssh:web1,ssh:web2 --shell 'ps aux | grep -c nginx'
  tar c conf | mitogend exec -H @hosts --chdir /srv -- tar x`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
	}
	c.register(cmd, "")
	f := cmd.Flags()
	f.StringArrayVar(&c.env, "env", nil, "set `NAME=VALUE` in the command's environment; repeatable")
	f.StringVar(&c.chdir, "chdir", "", "run the command in `DIR`, a directory of the target")
	f.StringVar(&c.shell, "shell", "", "run `TEXT` by the target's sh; ARGs are its $1, $2 ...")
	// No module is asked for.
	for _, name := range []string{"path", "venv", "allow", "deny", "prefer", "no-bytecode", "trace-imports"} {
		_ = f.MarkHidden(name)
	}
	return cmd
}

func (c *execCommand) run(cmd *cobra.Command, a *app, args []string) error {
	if cmd.Flag("shell").Changed {
		args = append([]string{"sh", "-c", c.shell, "sh"}, args...)
	}
	if len(args) == 0 || args[0] == "" {
		return usagef("run which command? Write mitogend exec -- COMMAND [ARG]..., or --shell TEXT")
	}
	for _, e := range c.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usagef("--env %s: not NAME=VALUE", e)
		}
	}
	for _, s := range append(append([]string{c.chdir}, c.env...), args...) {
		if strings.Contains(s, "\x00") {
			return usagef("%q: no argument of a command can hold a zero byte", s)
		}
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	stdin := fl.stdin()
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		in, done := stdin()
		defer done()
		places := strings.NewReplacer("{target}", j.target.name, "{host}", j.target.host())
		argv := make([]string, len(args))
		for i, arg := range args {
			argv[i] = places.Replace(arg)
		}
		o := daemon.Command(argv, c.env, c.chdir)
		o.Stdin = in
		return fl.program(ctx, j, o)
	})
}

// stdin gives a function that gives each target what its program reads, nil for /dev/null, and ends it. One target has stdin itself;
// several have all of it each, unless it is a terminal.
func (fl *fleet) stdin() func() (io.Reader, func()) {
	nothing := func() (io.Reader, func()) { return nil, func() {} }
	switch one := len(fl.targets) == 1; {
	// A background job that reads the terminal would be stopped.
	case background(os.Stdin), !one && term.IsTerminal(int(os.Stdin.Fd())):
		return nothing
	case one:
		return func() (io.Reader, func()) { return os.Stdin, func() {} }
	}
	shared := newSharedInput(os.Stdin)
	return func() (io.Reader, func()) {
		r := shared.reader()
		return r, func() { _ = r.Close() }
	}
}

// program runs a program on one target and tells how it ended.
func (fl *fleet) program(ctx context.Context, j *job, o daemon.RunOptions) *outcome {
	o.Stdout, o.Stderr = j.stdout, j.stderr
	stdout, stderr := &captured{spool: &fl.spool}, &captured{spool: &fl.spool}
	if fl.flags.json {
		o.Stdout, o.Stderr = stdout, stderr
	}
	status, err := j.child.Run(ctx, o)
	if err != nil {
		return failed(ctx, err)
	}
	out := programOutcome(status, len(fl.targets) == 1)
	if fl.flags.json {
		out.write = func(w io.Writer) {
			programResult(w, status, stdout, stderr)
			stdout.release()
			stderr.release()
		}
	}
	return out
}
