package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// lateFlags reads the flags that stand among a function's arguments, and gives what is left. Unlike pflag it takes -1 and the
// like for what they are there: numbers.
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

// looksLikeFlag is true for -x and --xyz, and false for -, -1, -.5 and texts with blanks.
func looksLikeFlag(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	letters := strings.TrimLeft(name, "-")
	return strings.HasPrefix(arg, "-") && letters != "" && !strings.ContainsAny(letters[:1], "0123456789.") && !strings.ContainsAny(name, " \t\n")
}

// takesNext tells whether the argument behind a flag is its value.
func takesNext(cmd *cobra.Command, arg string) bool {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		f := cmd.Flag(long) // none where there is a = in it
		return f != nil && f.NoOptDefVal == ""
	}
	for i, c := range arg[1:] {
		f := cmd.Flags().ShorthandLookup(string(c))
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return i == len(arg)-2 // otherwise what follows in the argument is the value
		}
	}
	return false
}

// meantFlag says which flag may be meant where there is none of that name.
func meantFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	name := unknown.GetSpecifiedName()
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	return didYouMean("--"+name, names)
}
