package main

import "github.com/spf13/cobra"

func newPs(a *app) *cobra.Command {
	f := &daemonFlags{}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "Show the interpreters of the running daemon as a tree",
		Example: `  mitogend ps
  mitogend ps --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			list, err := c.List(cmd.Context())
			if err != nil {
				return daemonError(err)
			}
			if asJSON {
				for _, ctx := range list {
					writeJSON(a.console.out, ctx)
				}
				return nil
			}
			return printTree(a.console.out, list)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "one line of JSON for each interpreter")
	return cmd
}
