package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mitogend/importer/requirements"
	"mitogend/internal/fault"
	"mitogend/pyproto/printable"
	"mitogend/python/bytecode"
)

func newCache(*app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show or empty the caches of bytecode and wheels",
		Example: `  mitogend cache
  mitogend cache clear`,
		Long: `Interpreters of this machine compile the child runtime, and the modules that children of the same Python are served, once for
all of them. The bytecode, and each source that was sent, compressed, are kept in $XDG_CACHE_HOME/mitogend/bytecode, or
~/.cache/mitogend/bytecode. Beside it, in requirements, is what uv or pip has found for --with and --requirements. A set that nobody
has asked for in 30 days is removed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withCache(func(dir string) error {
				u, err := bytecode.DirUsage(dir)
				if err != nil {
					return err
				}
				if err := showCache(cmd.OutOrStdout(), u); err != nil {
					return err
				}
				w, err := requirements.CacheUsage()
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d sets of wheels, %d bytes\n", printable.Line(w.Path), w.Sets, w.Bytes)
				}
				return err
			})
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "clear",
		Short:   "Empty the caches",
		Example: `  mitogend cache clear`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withCache(func(dir string) error {
				u, err := bytecode.ClearDir(dir)
				if err != nil {
					return err
				}
				if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries removed, %d bytes\n", printable.Line(u.Path), u.Entries, u.Bytes); err != nil {
					return err
				}
				w, err := requirements.ClearCache()
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d sets of wheels removed, %d bytes\n", printable.Line(w.Path), w.Sets, w.Bytes)
				}
				return err
			})
		},
	})
	return cmd
}

// withCache calls do with the directory. The user has to repair what is wrong with it.
func withCache(do func(dir string) error) error {
	dir, err := bytecode.DefaultDir()
	if err == nil {
		err = do(dir)
	}
	if err != nil {
		return commandError{fmt.Errorf("the cache is not used: %s", fault.Plain(err)), statusRaised}
	}
	return nil
}

func showCache(w io.Writer, u bytecode.Usage) error {
	line := fmt.Sprintf("%s: %d entries, %d bytes of %d", printable.Line(u.Path), u.Entries, u.Bytes, bytecode.DefaultMaxBytes)
	if u.Entries > 0 {
		line += fmt.Sprintf(", used from %s to %s", u.Oldest.Format(time.DateOnly), u.Newest.Format(time.DateOnly))
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
