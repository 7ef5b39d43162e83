package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/daemon"
	"mitogend/importer"
	"mitogend/importer/requirements"
)

type runCommand struct {
	fleetFlags
	module, inspect bool
}

func newRun(a *app) *cobra.Command {
	c := &runCommand{}
	cmd := &cobra.Command{
		Use:   "run [flags] SCRIPT [ARG]...",
		Short: "Run a Python program on each target",
		Long: `run makes SCRIPT the main program on each target, with its own sys.argv, stdout, stderr and exit status. Its imports
are served from here. The program reads stdin; on several targets, each gets all of it. SCRIPT - is read from stdin. Of a directory or
zip file, __main__.py runs. With -m, SCRIPT is the name of a module. With --interactive, on one target, Python's prompt follows, and has
the program's names.`,
		Example: `  mitogend run -I examples/report -I examples/report/vendor examples/report/report.py
  mitogend run -H ssh:web1,ssh:web2 -I ./lib check.py --fast
  mitogend run --interactive -H ssh:web1 check.py
  mitogend run -m http.server 8080`,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, a, args) },
		ValidArgsFunction: c.completeScript,
	}
	c.register(cmd, "the script's directory")
	cmd.Flags().BoolVar(&c.inspect, "interactive", false, "give the program a terminal there, and when it has ended, Python's prompt with its names; for one target")
	cmd.Flags().BoolVarP(&c.module, "module", "m", false, "SCRIPT is the name of a module, which is run as python -m does")
	return cmd
}

func (c *runCommand) run(cmd *cobra.Command, a *app, args []string) error {
	if len(args) == 0 {
		return usagef("run which program? Write mitogend run SCRIPT [ARG]...")
	}
	if c.inspect && args[0] == "-" && !c.module {
		return usagef("run --interactive: stdin is for what you type, so the program cannot come from there; name its file")
	}
	if args[0] == "-" && !c.module {
		if err := c.freeStdin("run -"); err != nil {
			return err
		}
	}
	script, err := interruptible(cmd.Context(), func() (script, error) { return c.find(args[0], cmd.InOrStdin()) })
	if err != nil {
		return err
	}
	main := &importer.Main{Path: script.path, Source: script.source, Run: true}
	if c.module {
		main = nil
	}
	lines, python, err := requirements.Script(script.source)
	if err != nil {
		return usagef("script %s: %w", args[0], err)
	}
	c.needs.Lines, c.needs.Python = append(c.needs.Lines, lines...), python
	fl, err := newFleet(cmd.Context(), a, &c.fleetFlags, script.dir, main, cmd.InOrStdin())
	if err != nil {
		return err
	}
	fl.what = func(target) string { return "run " + strings.Join(args, " ") }
	o := script.options
	o.Args = args[1:]
	if c.inspect {
		return fl.inspect(cmd.Context(), o)
	}
	stdin := &programInput{}
	if script.path != stdinScript {
		stdin = fl.stdin()
	}
	fl.together = fl.runTogether(o, stdin, nil, fl.hostVars)
	return fl.each(cmd.Context(), func(ctx context.Context, j *job) *outcome {
		o := o
		o.HostVars = fl.hostVars(j.target)
		in, done := stdin.reader()
		defer done()
		o.Stdin = in
		return fl.program(ctx, j, o)
	})
}

// inspect runs a program and then Python's prompt.
func (fl *fleet) inspect(ctx context.Context, o daemon.RunOptions) error {
	if !fl.flags.dryRun {
		if err := fl.checkTerminal("run --interactive"); err != nil {
			fl.discard()
			return err
		}
	}
	return fl.each(ctx, func(ctx context.Context, j *job) *outcome {
		return fl.interactive(ctx, j, true, func(env []string, rows, columns int) daemon.RunOptions {
			return daemon.TerminalAfter(o, env, j.target.label(), rows, columns)
		})
	})
}
