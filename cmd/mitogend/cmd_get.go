package main

import "github.com/spf13/cobra"

func newGet(a *app) *cobra.Command {
	cmd, _ := newTransfer(a, "get [flags] SOURCE... DEST", "Copy files and directories from each target",
		`get copies each SOURCE of each target to DEST here. From one target it copies as cp does. From several, it copies into a directory
DEST/TARGET for each, or to what DEST says with {target} or {host}. DEST - is stdout, for one file of one target. Modes, times and
symbolic links are kept. A file is written under another name, checked and renamed. If copying a large file was interrupted, the next
get goes on from there.`,
		`  mitogend get /etc/hostname /tmp/
  mitogend get -H web /var/log/nginx/access.log logs
  mitogend get -H ssh:web1 '~/report' .
  mitogend get -H ssh:web1 /etc/passwd - | sort`, (*transferCommand).get)
	return cmd
}

func (c *transferCommand) get(cmd *cobra.Command, a *app, args []string) error {
	if len(args) < 2 {
		return usagef("get what, and to where? Write mitogend get SOURCE... DEST")
	}
	return c.fetch(cmd, a, "get", args[:len(args)-1], args[len(args)-1])
}
