package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// withLateFlags runs a command whose flags may also stand behind its arguments.
func withLateFlags(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		args, err := lateFlags(cmd, args)
		switch {
		case err != nil:
			return err
		case cmd.Flag("help").Changed:
			return cmd.Help()
		}
		return run(cmd, args)
	}
}

// lateFlags reads the flags among a function's arguments, and gives the arguments. Unlike pflag, it takes -1 and the
// like as numbers.
func lateFlags(cmd *cobra.Command, args []string) ([]string, error) {
	if cmd.ArgsLenAtDash() >= 0 {
		return args, nil // a -- stood before the function
	}
	var rest, flags []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			rest = append(rest, args...)
			break
		}
		if !looksLikeFlag(arg) {
			rest = append(rest, arg)
			continue
		}
		flags = append(flags, arg)
		if takesNext(cmd, arg) && len(args) > 0 {
			flags, args = append(flags, args[0]), args[1:]
		}
	}
	if err := cmd.Flags().Parse(flags); err != nil {
		return nil, usagef("%w%s; %s --help lists the flags, and -- stands before arguments that look like one", err, meantFlag(cmd, err), cmd.CommandPath())
	}
	return rest, nil
}

// looksLikeFlag is true for -x and --xyz. It is false for -, -1, -.5 and texts with blanks.
func looksLikeFlag(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	letters := strings.TrimLeft(name, "-")
	return strings.HasPrefix(arg, "-") && letters != "" && !strings.ContainsAny(letters[:1], "0123456789.") && !strings.ContainsAny(name, " \t\n")
}

// takesNext tells whether the next argument is the value of a flag.
func takesNext(cmd *cobra.Command, arg string) bool {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		f := cmd.Flag(long) // there is none for a text with a =
		return f != nil && f.NoOptDefVal == ""
	}
	for i, c := range arg[1:] {
		f := cmd.Flags().ShorthandLookup(string(c))
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return i == len(arg)-2 // otherwise the value is the rest of arg
		}
	}
	return false
}
