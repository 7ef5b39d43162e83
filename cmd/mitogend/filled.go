package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// filled is the value of a flag that must not be empty. --where "$EXPR" without that variable would otherwise mean all
// targets, and --allow "$MODULES" all modules.
type filled struct{ pflag.Value }

func (v filled) Set(text string) error {
	if text == "" {
		return errors.New("it is empty: is a variable not set? Leave the flag out for its default")
	}
	return v.Value.Set(text)
}

// emptyFlags are the flags that may be empty. A setting may be: it undoes what the configuration file says.
var emptyFlags = map[string]bool{"shell": true}

// fill makes all flags with texts refuse an empty one, also those of the commands below.
func fill(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, setting := f.Value.(*flagValue)
		if setting || emptyFlags[f.Name] {
			return
		}
		switch f.Value.Type() {
		case "stringArray", "stringSlice", "uintSlice":
			if f.DefValue == "[]" {
				f.DefValue = "" // for a value of its own types, pflag knows that this is no default to show
			}
			f.Value = filled{f.Value}
		case "string":
			f.Value = filled{f.Value}
		}
	})
	for _, c := range cmd.Commands() {
		fill(c)
	}
}
