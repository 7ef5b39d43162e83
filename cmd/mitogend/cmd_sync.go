package main

import "github.com/spf13/cobra"

func newSync(a *app) *cobra.Command {
	cmd, c := newTransfer(a, "sync [flags] SOURCE DEST", "Make DEST on each target the same as SOURCE here, and send only what differs",
		`sync makes DEST on each target the same as SOURCE, a file or directory of this machine. It sends files that differ in size or
time; of large files, it sends the blocks of 252 KiB that differ. With --pull, SOURCE is on the target, and DEST is here: DEST/TARGET
for each of several targets, or what DEST says with {target} or {host}. With --dry-run, sync shows what it would send and delete.`,
		`  mitogend sync --dry-run docs /tmp/docs
  mitogend sync -H web --delete site /srv/www
  mitogend sync -H web --pull /etc/nginx nginx`, (*transferCommand).sync)
	f := cmd.Flags()
	c.options.Sync, c.dryWork = true, true
	f.BoolVar(&c.options.Checksum, "checksum", false, "compare the content of files, not their sizes and times")
	f.BoolVar(&c.pull, "pull", false, "SOURCE is on the target, and DEST here")
	f.BoolVar(&c.options.Delete, "delete", false, "delete in DEST what is not in SOURCE")
	return cmd
}

func (c *transferCommand) sync(cmd *cobra.Command, a *app, args []string) error {
	if len(args) != 2 || args[0] == "-" {
		return usagef("sync what with what? Write mitogend sync SOURCE DEST")
	}
	c.options.DryRun = c.dryRun
	if c.pull {
		return c.fetch(cmd, a, "sync --pull", args[:1], args[1])
	}
	return c.send(cmd, a, "sync", args[:1], args[1])
}
