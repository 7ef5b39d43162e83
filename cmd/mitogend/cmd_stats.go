package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mitogend/daemon/wire"
	"mitogend/pyproto/printable"
)

func newStats(a *app) *cobra.Command {
	f := &daemonFlags{}
	asJSON := false
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show the counters of the running daemon",
		Example: `  mitogend stats
  mitogend stats --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			st, err := c.Stats(cmd.Context())
			if err != nil {
				return daemonError(err)
			}
			if asJSON {
				writeJSON(a.console.out, st)
				return nil
			}
			return printStats(a.console.out, st)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "one line of JSON")
	return cmd
}

// printStats shows every counter under its name in JSON.
func printStats(w io.Writer, st *wire.Stats) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	_, _ = dec.Token() // the brace
	for dec.More() {
		key, _ := dec.Token()
		value, err := dec.Token()
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\n", key, printable.Line(fmt.Sprint(value)))
	}
	return t.Flush()
}
