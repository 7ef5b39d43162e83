package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/inventory"
	"mitogend/internal/fault"
)

// inventoryFlags say which inventory lists the hosts.
type inventoryFlags struct {
	sources []string
	vaultFlags

	app    *app
	loaded bool
	inv    *inventory.Inventory // nil if there is none
}

func (f *inventoryFlags) register(cmd *cobra.Command) {
	f.vaultFlags.register(cmd)
	cmd.Flags().StringArrayVarP(&f.sources, "inventory", "i", nil, "`FILE`, program or directory that lists hosts, or names with commas; repeatable (default $MITOGEND_INVENTORY, else ./mitogend-hosts.yaml, .yml, .ini or without, else ~/.config/mitogend/hosts.yaml and so on)")
}

// inventory reads the inventory when a name is first looked up. It gives nil if there is none. If it is in the current
// directory and nobody has named it, a message names it.
func (f *inventoryFlags) inventory(ctx context.Context) (*inventory.Inventory, error) {
	if f.loaded {
		return f.inv, nil
	}
	found := inventory.Found{Sources: f.sources}
	if len(f.sources) == 0 {
		found = inventory.Look()
		for _, err := range found.Refused {
			f.app.console.complain("%s", fault.Plain(err))
		}
		if found.Here != "" && !f.app.quiet {
			f.app.console.complain("using the inventory %s of the current directory", found.Here)
		}
	}
	var err error
	if len(found.Sources) > 0 {
		found.Vault = f.vaultFlags.passwords()
		if f.inv, err = inventory.Open(ctx, found); err != nil {
			return nil, usageError{plain(err)}
		}
	}
	f.loaded = true
	return f.inv, nil
}

// resolve gives the targets that names stand for. A name may be a target that is written out, a host of the inventory, or
// a pattern. Any other name means ssh.
func (t *targetFlags) resolve(ctx context.Context, names []string) ([]target, error) {
	var plain, signs []string
	for _, name := range names {
		if inventory.OnlySigned(name) {
			signs = append(signs, name)
		} else {
			plain = append(plain, name)
		}
	}
	if len(names) > 1 {
		for _, name := range signs {
			if _, rest := inventory.SplitName(name); rest != "" {
				return nil, usagef("-H %s: it only limits the other names, and %s belongs to one that is worked on", name, rest)
			}
		}
	}
	if len(plain) == 0 { // it is all hosts of the inventory that they limit
		plain, signs = []string{strings.Join(signs, ",")}, nil
	}
	out := make([]target, 0, len(names))
	for _, name := range plain {
		list, err := t.resolveOne(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, one := range list {
			if n := len(out); n > 0 {
				one.shareArgs(out[n-1])
			}
			out = append(out, one)
		}
	}
	return t.limit(ctx, out, plain, signs)
}

// limit leaves out every target that one of the names excludes, whichever other name stands for it, and those that do
// not fit names which have only terms with a sign.
func (t *targetFlags) limit(ctx context.Context, list []target, plain, signs []string) ([]target, error) {
	out := map[string]bool{}
	for _, name := range slices.Concat(plain, signs) {
		if inventory.WrittenOut(name) || !strings.Contains(name, "!") {
			continue
		}
		inv, err := t.inventory(ctx)
		if err != nil {
			return nil, err
		}
		hosts, err := inv.Excluded(name)
		if err != nil {
			return nil, usagef("-H %s: %s", name, fault.Plain(err))
		}
		for _, host := range hosts {
			out[host] = true
		}
	}
	before := len(list)
	list = slices.DeleteFunc(list, func(one target) bool { return out[one.known] || one.known == "" && out[one.host()] })
	for _, name := range signs {
		inv, err := t.inventory(ctx)
		if err != nil {
			return nil, err
		}
		if inv == nil {
			return nil, usagef("-H %s: there is no inventory, so it limits nothing", name)
		}
		hosts, err := inv.Match(name)
		if err != nil {
			return nil, usagef("-H %s: %s", name, fault.Plain(err))
		}
		keep := make(map[string]bool, len(hosts))
		for _, host := range hosts {
			keep[host] = true
		}
		for _, one := range list {
			if one.known == "" && strings.Contains(name, "&") {
				return nil, usagef("-H %s: %s is no host of the inventory, so nothing tells whether it fits", name, one.name)
			}
		}
		list = slices.DeleteFunc(list, func(one target) bool { return one.known != "" && !keep[one.known] })
	}
	if len(list) == 0 && before > 0 {
		return nil, usagef("-H: no host is left")
	}
	return list, nil
}

// shareArgs lets equal arguments of hops be the same map, which nobody changes. Of ten thousand targets, these maps
// need most of the memory.
func (t target) shareArgs(with target) {
	for i := range min(len(t.hops), len(with.hops)) {
		if maps.Equal(t.hops[i].Args, with.hops[i].Args) {
			t.hops[i].Args = with.hops[i].Args
		}
	}
}

func (t *targetFlags) resolveOne(ctx context.Context, name string) (out []target, err error) {
	var inv *inventory.Inventory
	if name != "" && !inventory.WrittenOut(name) {
		if inv, err = t.inventory(ctx); err != nil {
			return nil, err
		}
	}
	found, err := inv.Resolve(name)
	var bad *bootstrap.Error
	switch {
	case errors.As(err, &bad):
		return nil, usagef("-H %s: %w", name, bootstrap.Plain(err))
	case err != nil:
		return nil, usagef("-H %s: %s", name, fault.Plain(err))
	case found == nil:
		for _, each := range inventory.Names(name) {
			one, err := readTarget(each)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
		return out, nil
	}
	for _, f := range found {
		out = append(out, target{name: f.Host, hops: f.Hops, secrets: f.Secrets, known: f.Known})
	}
	return out, nil
}

// hostVars gives the inventory's variables for a program on a target. It is nil if the target is no host of the
// inventory.
func (fl *fleet) hostVars(t target) []byte {
	if t.known == "" {
		return nil
	}
	fl.varsMu.Lock()
	defer fl.varsMu.Unlock()
	var told any
	vars, err := fl.flags.inv.Vars(t.known)
	if told = vars; err != nil {
		told = struct {
			Error string `json:"error"`
		}{fault.Plain(err)}
	}
	data, _ := json.Marshal(told) // plain values
	return data
}

// passwords gives the inventory's passwords. Where it has none, it gives those that the user was asked for.
func (t target) passwords(asked secrets) func(hop int, method string) (string, bool) {
	return func(hop int, method string) (string, bool) {
		if s := t.secrets[hop]; s != "" {
			return string(s), true
		}
		return asked.For(hop, method)
	}
}
