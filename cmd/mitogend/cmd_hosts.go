package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/inventory"
	"mitogend/internal/fault"
	"mitogend/pyproto/printable"
)

type hostsCommand struct {
	inventoryFlags
	groups  bool
	json    bool
	vars    bool
	secrets bool
}

func newHosts(a *app) *cobra.Command {
	c := &hostsCommand{}
	cmd := &cobra.Command{
		Use:   "hosts [flags] [PATTERN]...",
		Short: "List hosts of the inventory, and the hops that each means",
		Long: `hosts shows the hosts of the inventory that the patterns select together, and the target that each host stands for. A
pattern has terms with colons or commas between: names of hosts or groups, globs (web*), ranges (web[01:20]), ~REGEXP, or some of
a group by number (web[0:2]). &TERM keeps only hosts that match it as well, and !TERM leaves hosts out. Passwords are never shown.
What ansible-vault has encrypted is shown as *** without --show-secrets.`,
		Example: `  mitogend hosts -i 'web[01:03],db1'
  mitogend hosts
  mitogend hosts 'web:&prod:!web07'
  mitogend hosts -i ./hosts.ini --groups
  mitogend hosts --vars web07`,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := interruptible(cmd.Context(), func() (struct{}, error) { return struct{}{}, c.run(cmd.Context(), a, args) })
			return err
		},
	}
	cmd.ValidArgsFunction = c.complete
	c.register(cmd)
	cmd.Flags().BoolVar(&c.groups, "groups", false, "list groups and their hosts instead")
	cmd.Flags().BoolVar(&c.vars, "vars", false, "show the variables that a program on each host is given (mitogend.host_vars()), one line of JSON for each")
	cmd.Flags().BoolVar(&c.secrets, "show-secrets", false, "show what ansible-vault had encrypted as well")
	cmd.Flags().BoolVar(&c.json, "json", false, "one line of JSON for each host, or group")
	return cmd
}

func (c *hostsCommand) run(ctx context.Context, a *app, args []string) error {
	c.app = a
	inv, err := c.inventory(ctx)
	if err != nil {
		return err
	}
	if inv == nil {
		return usagef("there is no inventory: name one with -i or $%s, or write ./mitogend-hosts.yaml", inventory.Environment)
	}
	if c.groups && c.vars {
		return usagef("--groups and --vars exclude each other")
	}
	if c.groups {
		return c.listGroups(a, inv, args)
	}
	pattern := "all"
	if len(args) > 0 {
		pattern = strings.Join(args, ",")
	}
	hosts, err := inv.Match(pattern)
	if err != nil {
		return usageError{plain(err)}
	}
	w := tabwriter.NewWriter(a.console.out, 0, 0, 2, ' ', 0)
	failed := false
	told := map[string]bool{} // a wrong vault password is an error of every host of a file
	for _, host := range hosts {
		var t *inventory.Target
		if c.vars {
			err = c.showVars(a, inv, host)
		} else if t, err = inv.Target(host); err == nil && !c.secrets {
			hideVault(t)
		}
		switch {
		case ctx.Err() != nil:
			return nil // start reports why
		case c.vars && err == nil:
		case err != nil && c.json:
			writeJSON(a.console.out, hostRow{Host: host, Groups: inv.GroupsOf(host), Error: fault.Plain(err)})
		case err != nil:
			if text := fault.Plain(err); !told[text] {
				told[text] = true
				a.console.complain("%s", text)
			}
		case c.json:
			writeJSON(a.console.out, newHostRow(inv, t))
		default:
			fmt.Fprintf(w, "%s\t%s\n", printable.Line(host), printable.Line(bootstrap.FormatTarget(t.Hops)))
		}
		failed = failed || err != nil
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if failed {
		return statusError(statusUsage)
	}
	return nil
}

// showVars shows the variables of a host, and why some of them are not known.
func (c *hostsCommand) showVars(a *app, inv *inventory.Inventory, host string) error {
	v, err := inv.Vars(host)
	if err != nil {
		return err
	}
	for _, name := range v.Secret {
		if !c.secrets {
			v.Known[name] = "***"
		}
	}
	writeJSON(a.console.out, varsRow{host, v.Known, v.Unknown})
	return nil
}

// hideVault hides what was encrypted in a target.
func hideVault(t *inventory.Target) {
	for i := range t.Hops {
		h := &t.Hops[i]
		h.Spec = t.Hide(h.Spec)
		args := map[string]string{}
		for k, v := range h.Args {
			args[k] = t.Hide(v)
		}
		h.Args = args
	}
}

func (c *hostsCommand) listGroups(a *app, inv *inventory.Inventory, args []string) error {
	groups := args
	if len(groups) == 0 {
		groups = inv.Groups()
	}
	for _, name := range groups {
		hosts, err := inv.Match(name)
		if err != nil {
			return usageError{plain(err)}
		}
		if c.json {
			writeJSON(a.console.out, groupRow{name, hosts})
			continue
		}
		fmt.Fprintf(a.console.out, "%s: %s\n", printable.Line(name), printable.Line(strings.Join(hosts, " ")))
	}
	return nil
}

// hostRow is a host as --json shows it.
type hostRow struct {
	Host   string   `json:"host"`
	Target string   `json:"target,omitempty"`
	Groups []string `json:"groups"`
	Hops   []hopRow `json:"hops,omitempty"`
	Error  string   `json:"error,omitempty"`
}

type hopRow struct {
	Method   string            `json:"method"`
	Spec     string            `json:"spec"`
	Args     map[string]string `json:"args,omitempty"`
	Password bool              `json:"password"` // the inventory has one, or says where it is
}

// varsRow has the variables of a host.
type varsRow struct {
	Host    string            `json:"host"`
	Vars    map[string]any    `json:"vars"`
	Unknown map[string]string `json:"unknown,omitempty"`
}

type groupRow struct {
	Group string   `json:"group"`
	Hosts []string `json:"hosts"`
}

func newHostRow(inv *inventory.Inventory, t *inventory.Target) hostRow {
	row := hostRow{Host: t.Host, Target: bootstrap.FormatTarget(t.Hops), Groups: inv.GroupsOf(t.Host)}
	for i, h := range t.Hops {
		known := t.Secrets[i] != "" || h.Args["password_env"] != "" || h.Args["password_file"] != ""
		row.Hops = append(row.Hops, hopRow{h.Method, h.Spec, h.Args, known})
	}
	return row
}
