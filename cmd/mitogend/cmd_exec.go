package main

import (
	"context"
	"slices"
	"strings"

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
		Long: `exec runs COMMAND on each target, without a shell between, with its own stdout, stderr, exit status and signals. What
comes on stdin goes to all of them. In ARG and --chdir, {target} is the target as it was named and {host} the machine's name. COMMAND is
a program there: with --shell, it is text for the target's sh.`,
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
	f.BoolVarP(&c.tty, "tty", "t", false, "give the command a terminal there, and this one for it; on one target (~. at the beginning of a line ends it)")
	f.StringVar(&c.shell, "shell", "", "run `TEXT` by the target's sh; ARGs are its $1, $2 ...")
	hideImports(cmd)
	return cmd
}

// hideImports keeps flags of imports out of the help of commands that ask for no module.
func hideImports(cmd *cobra.Command) {
	for _, name := range []string{"path", "venv", "libs", "wheels", "constraint", "with", "requirements", "find-links", "unpack", "allow", "deny", "prefer", "bytecode", "no-bytecode", "compilers", "trace-imports"} {
		_ = cmd.Flags().MarkHidden(name)
	}
}

// What stands for the target, and for its machine, in an argument.
const (
	targetMark = "{target}"
	hostMark   = "{host}"
)

// placed puts what targetMark and hostMark stand for into a text.
func placed(text string, t target) string {
	return strings.NewReplacer(targetMark, t.name, hostMark, t.host()).Replace(text)
}

// named tells whether a text is another one for each target.
func named(text string) bool {
	return strings.Contains(text, targetMark) || strings.Contains(text, hostMark)
}

func placedAll(args []string, t target) []string {
	argv := make([]string, len(args))
	for i, arg := range args {
		argv[i] = placed(arg, t)
	}
	return argv
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

// checkCommand finds what no command can be given.
func checkCommand(dir string, env, args []string) error {
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usagef("--env %s: not NAME=VALUE", e)
		}
	}
	for _, s := range slices.Concat([]string{dir}, env, args) {
		if strings.Contains(s, "\x00") {
			return usagef("%q: no argument of a command can hold a zero byte", s)
		}
	}
	return nil
}
