package main

import "github.com/spf13/cobra"

type replCommand struct {
	fleetFlags
	env   []string
	chdir string
}

func newRepl(a *app) *cobra.Command {
	c := &replCommand{}
	cmd := &cobra.Command{
		Use:   "repl [flags]",
		Short: "Talk to Python on targets, with imports from here",
		Long: `repl on one target is Python's own prompt, on a terminal there. The readline of that Python, if it has one, edits, remembers
and completes what you type. Modules come from here, as for run. Ctrl-C interrupts a line. Ctrl-D and exit() end the prompt, and ~. at
the beginning of a line ends it from this side.

On several targets the prompt is here. What you type runs on all of them, each with its own variables. Equal output is shown once, under
the folded names of its targets. Tab completes with the first target, and Ctrl-C interrupts all. Lines may also come from a pipe.`,
		Example: `  mitogend repl
  mitogend repl -H ssh:web1+sudo:root -I ./lib
  mitogend repl -H ssh:web1,ssh:web2`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkCommand(c.chdir, c.env, nil); err != nil {
				return err
			}
			return c.interact(cmd, a, "repl", ".", nil, c.env, c.chdir)
		},
	}
	c.register(cmd, ".")
	f := cmd.Flags()
	f.StringArrayVar(&c.env, "env", nil, "set `NAME=VALUE` in the environment there; repeatable")
	f.StringVar(&c.chdir, "chdir", "", "begin in `DIR`, a directory of the target")
	return cmd
}
