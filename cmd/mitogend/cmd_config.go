package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v3"

	"mitogend/daemon/control"
	"mitogend/pyproto/printable"
)

func newConfig(*app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check or show the configuration of serve",
		Example: `  mitogend config check
  mitogend config show`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var check, show settingFlags
	checkCmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell whether serve would take the configuration",
		Example: `  mitogend config check
  mitogend config check ./mitogend.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				check.file = args[0]
			}
			return checkConfig(cmd.Context(), cmd.OutOrStdout(), &check)
		},
	}
	check.register(checkCmd.Flags())
	showCmd := &cobra.Command{
		Use:   "show",
		Short: "Show every setting, its value, and where that comes from",
		Example: `  mitogend config show
  mitogend config show --idle-time 1h`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := show.load()
			if err != nil {
				return err
			}
			return showConfig(cmd.OutOrStdout(), s)
		},
	}
	show.register(showCmd.Flags())
	cmd.AddCommand(checkCmd, showCmd)
	return cmd
}

// checkConfig tells what is wrong, and warns of what may be.
func checkConfig(ctx context.Context, w io.Writer, f *settingFlags) error {
	s, err := f.load()
	if err != nil {
		return err
	}
	dir, err := s.socketDir()
	if err != nil {
		return err
	}
	if err := control.CheckPath(dir); err != nil {
		return usageError{plain(err)}
	}
	if _, err := s.hosts(ctx); err != nil {
		return usageError{err}
	}
	for _, p := range append(s.path[:len(s.path):len(s.path)], s.venv) {
		if p != "" && !exists(p) {
			fmt.Fprintf(w, "warning: %s does not exist; nothing is served from it until it does\n", printable.Line(p))
		}
	}
	file, _ := f.path()
	if !exists(file) {
		file = "no file"
	}
	fmt.Fprintf(w, "ok: %s; the socket is %s\n", printable.Line(file), printable.Line(filepath.Join(dir, control.SocketName)))
	return nil
}

// showConfig writes all settings that are in force, as a configuration file. A password in one of them is masked.
func showConfig(w io.Writer, s *settings) error {
	for i, d := range settingList {
		value := shown(d, s)
		if u, err := url.Parse(s.otlpEndpoint); d.key == "otlp_endpoint" && err == nil {
			value = u.Redacted()
		}
		line, err := yaml.Marshal(map[string]any{d.key: value})
		if err != nil {
			return err
		}
		from := s.from[d.key]
		if from == "" {
			from = "default"
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "# %s\n%s", printable.Line(from), line)
	}
	return nil
}
