package main

import (
	"context"
	"slices"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"mitogend/daemon"
)

type execCommand struct {
	fleetFlags
	env   []string
	chdir string
	shell string
	tty   bool
}

func newExec(a *app) *cobra.Command {
	c := &execCommand{}
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARG]...",
		Short: "Run a command on each target",
		Long: `exec runs COMMAND, a program of the target, on each target. There is no shell between, and COMMAND has its own stdout,
stderr, exit status and signals. Each COMMAND gets all of stdin. In ARG, --chdir and the text of --shell, {target} is the target as you have
named it, and {host} is the machine's name. --shell runs a text with the target's sh.`,
		Example: `  mitogend exec -- uptime
  mitogend exec -H ssh:web1,ssh:web2 -- systemctl restart nginx
  mitogend exec -H ssh:web1,ssh:web2 --shell 'ps aux | grep -c nginx'
  mitogend exec -t -H ssh:web1+sudo:root -- bash
  tar c conf | mitogend exec -H @hosts --chdir /srv -- tar x`,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
	}
	c.register(cmd, "")
	f := cmd.Flags()
	f.StringArrayVar(&c.env, "env", nil, "set `NAME=VALUE` in the command's environment; repeatable")
	f.StringVar(&c.chdir, "chdir", "", "run the command in `DIR`, a directory of the target")
	f.BoolVarP(&c.tty, "tty", "t", false, "give the command a terminal there, which shows on this one; for one target (~. at the beginning of a line ends it)")
	f.StringVar(&c.shell, "shell", "", "run `TEXT` with the target's sh; ARGs are its $1, $2 ...")
	hideImports(cmd)
	return cmd
}

func (c *execCommand) run(cmd *cobra.Command, a *app, args []string) error {
	if cmd.Flag("shell").Changed {
		args = append([]string{"sh", "-c", c.shell, "sh"}, args...)
	}
	if len(args) == 0 || args[0] == "" {
		return usagef("run which command? Write mitogend exec -- COMMAND [ARG]..., or --shell TEXT")
	}
	if err := checkCommand(c.chdir, c.env, args); err != nil {
		return err
	}
	if c.tty {
		return c.interact(cmd, a, "exec -t", "", args, c.env, c.chdir)
	}
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, "", nil, cmd.InOrStdin())
	if err != nil {
		return err
	}
	command := func(t target) daemon.RunOptions {
		return daemon.Command(placedAll(args, t), c.env, placed(c.chdir, t))
	}
	fl.what = func(t target) string { return "exec " + shellescape.QuoteCommand(placedAll(args, t)) }
	stdin := fl.stdin()
	var each func(target) []string
	if slices.ContainsFunc(args, named) || named(c.chdir) {
		each = func(t target) []string { return command(t).Args }
	}
	fl.together = fl.runTogether(daemon.Command(args, c.env, c.chdir), stdin, each, nil)
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		in, done := stdin.reader()
		defer done()
		o := command(j.target)
		o.Stdin = in
		return fl.program(ctx, j, o)
	})
}
