package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/client"
	"mitogend/daemon/inventory"
	"mitogend/daemon/wire"
)

func newClose(a *app) *cobra.Command {
	f, inv := &daemonFlags{}, &targetFlags{}
	var idle, all bool
	var ids []uint
	cmd := &cobra.Command{
		Use:   "close [flags] [TARGET|ID]...",
		Short: "End connections of the running daemon",
		Long: `close ends connections, whoever uses them: those with the TARGETs, those of the interpreters whose IDs ps shows, with --idle
those that nobody uses, and with --all all. A TARGET is a name that somebody has given, what that name means, or a pattern of the
inventory. A number that is both an ID and a host's name is an error; --id is always an ID. Clients that use a connection get an error. The next use of the target connects it again.`,
		Example: `  mitogend close --idle
  mitogend close web07
  mitogend close 'web*' ssh:deploy@db1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var what [][]wire.Close
			switch {
			case idle && all || (idle || all) == (len(args)+len(ids) > 0):
				return usagef("close what? Give targets or ids, or one of --idle and --all")
			case idle || all:
				what = [][]wire.Close{{{Idle: idle, All: all}}}
			}
			if len(args) > 1 && slices.ContainsFunc(args, inventory.OnlySigned) {
				return usagef("close takes each name by itself: write what limits a pattern into it, as in 'web:!web07'")
			}
			c, err := f.must(cmd.Context())
			if err != nil {
				return err
			}
			for _, arg := range args {
				w, err := closing(cmd.Context(), a, c, inv, arg)
				if err != nil {
					return err
				}
				what = append(what, []wire.Close{w})
			}
			for _, id := range ids {
				if id == 0 || id > math.MaxUint32 {
					return usagef("--id %d: there is no such id", id)
				}
				what, args = append(what, []wire.Close{{Kill: uint32(id)}}), append(args, fmt.Sprint(id))
			}
			missing := false
			for i, w := range what {
				n, err := end(cmd.Context(), c, w)
				if err == nil && n == 0 && w[0].Target != "" {
					// No connection has this name.
					if w, err = meant(cmd.Context(), a, c, inv, w[0].Target); err == nil {
						n, err = end(cmd.Context(), c, w)
					}
				}
				if err != nil {
					return err
				}
				if n == 0 && len(args) > 0 {
					a.console.complain("%s: there is no such connection; mitogend ps lists them", args[i])
					missing = true
				}
				if !a.quiet && (n > 0 || len(args) == 0) {
					fmt.Fprintln(a.console.err, "closed "+several(n, "connection"))
				}
			}
			if missing {
				return statusError(statusRaised)
			}
			return nil
		},
	}
	f.register(cmd.Flags())
	cmd.ValidArgsFunction = f.completeConnections
	inv.inventoryFlags.register(cmd)
	cmd.Flags().UintSliceVar(&ids, "id", nil, "that of the interpreter with this `ID`; repeatable")
	cmd.Flags().BoolVar(&idle, "idle", false, "those that nobody uses")
	cmd.Flags().BoolVar(&all, "all", false, "all")
	return cmd
}

// closing tells whether an argument is an id or a name. A number may be either: the wrong one would end the connection of
// somebody else.
func closing(ctx context.Context, a *app, c *client.Client, f *targetFlags, arg string) (wire.Close, error) {
	name := wire.Close{Target: arg}
	id, err := strconv.ParseUint(arg, 10, 32)
	if err != nil || id == 0 {
		return name, nil
	}
	list, err := c.List(ctx)
	if err != nil {
		return name, daemonError(err)
	}
	isID, isName, target := false, false, ""
	for _, one := range list {
		isID = isID || uint64(one.ID) == id
		if one.Name == arg || slices.Contains(one.Names, arg) {
			isName, target = true, one.Chain
		}
	}
	if isID && !isName {
		f.app = a
		inv, err := interruptible(ctx, func() (*inventory.Inventory, error) { return f.inventory(ctx) })
		if err != nil {
			return name, err
		}
		isName = inv != nil && inv.Has(arg)
	}
	switch {
	case isID && isName && target != "":
		return name, usagef("%s is an id and the name of a host: write --id %s, or the host's target, %s", arg, arg, target)
	case isID && isName:
		return name, usagef("%s is an id and the name of a host or group: for the id write --id %s", arg, arg)
	case isID:
		return wire.Close{Kill: uint32(id)}, nil
	}
	return name, nil
}

// end ends connections, and gives their number.
func end(ctx context.Context, c *client.Client, what []wire.Close) (int, error) {
	total := 0
	for _, w := range what {
		n, err := c.End(ctx, w)
		if err != nil {
			return 0, daemonError(err)
		}
		total += n
	}
	return total, nil
}

// meant gives the connections that a pattern of the inventory stands for. Each is given by its name, and by what the
// daemon calls its target.
func meant(ctx context.Context, a *app, c *client.Client, f *targetFlags, pattern string) ([]wire.Close, error) {
	f.app = a
	list, err := interruptible(ctx, func() ([]target, error) { return f.resolve(ctx, []string{pattern}) })
	if err != nil {
		return nil, err
	}
	var out []wire.Close
	for _, t := range list {
		// A client in another language may have sent the target unchanged.
		for _, name := range slices.Compact([]string{t.name, bootstrap.FormatTarget(t.hops), c.TargetText(t.hops)}) {
			out = append(out, wire.Close{Target: name})
		}
	}
	return out, nil
}
