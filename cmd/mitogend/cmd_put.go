package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func newPut(a *app) *cobra.Command {
	cmd, _ := newTransfer(a, "put [flags] SOURCE... DEST", "Copy files and directories to each target",
		`put copies each SOURCE of this machine, and all that is in a directory, to DEST on each target. It copies into DEST if that is a
directory there, if it ends with a slash, or if there are several SOURCEs. Modes, times and symbolic links are kept. A file is written
under another name, checked and renamed. If copying a large file was interrupted, the next put goes on from there. SOURCE - is stdin. In
DEST, {target} and {host} are as in exec.`,
		`  mitogend put README.md /tmp/mitogend-readme.md
  mitogend put -H web app.conf /etc/app/
  mitogend put -H @hosts site/ /srv/www
  pg_dump db | mitogend put -H backup1 - /srv/db-{host}.sql`, (*transferCommand).put)
	return cmd
}

func (c *transferCommand) put(cmd *cobra.Command, a *app, args []string) error {
	if len(args) < 2 {
		return usagef("put what where? Write mitogend put SOURCE... DEST")
	}
	sources, dest := args[:len(args)-1], args[len(args)-1]
	c.options.Into = len(sources) > 1
	if sources[0] == "-" && (len(sources) > 1 || strings.HasSuffix(dest, "/")) {
		return usagef("put -: stdin has no name; say DEST as the name of a file, and nothing beside -")
	}
	if sources[0] == "-" {
		c.options.Named = true
		if err := c.freeStdin("put -"); err != nil {
			return err
		}
	}
	return c.send(cmd, a, "put", sources, dest)
}
