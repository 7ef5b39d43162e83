package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A text may be empty only where that means something.
func TestEmptyFlags(t *testing.T) {
	tried := 0
	var try func(cmd *cobra.Command)
	try = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if _, setting := f.Value.(*flagValue); setting || !strings.HasPrefix(f.Value.Type(), "string") || f.Name == "shell" {
				return
			}
			tried++
			if err := cmd.ParseFlags([]string{"--" + f.Name + "="}); err == nil || !strings.Contains(err.Error(), "it is empty") {
				t.Errorf("%s --%s '': %v", cmd.CommandPath(), f.Name, err)
			}
			if strings.Contains(cmd.Flags().FlagUsages(), "(default [])") {
				t.Errorf("%s shows an empty default", cmd.CommandPath())
			}
		})
		for _, c := range cmd.Commands() {
			try(c)
		}
	}
	try(newRoot(&app{}))
	if tried < 100 {
		t.Errorf("%d flags", tried)
	}
	cmd := newCall(&app{})
	fill(cmd)
	if err := cmd.ParseFlags([]string{"--where", "cpus > 1", "--allow", "a,b", "--allow", "c"}); err != nil || cmd.Flag("allow").Value.String() != "[a,b,c]" {
		t.Error(cmd.Flag("allow").Value, err)
	}
}
