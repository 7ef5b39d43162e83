package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mitogend/bootstrap"
	"mitogend/daemon/inventory"
)

// inventoryFlags say where hosts are listed.
type inventoryFlags struct {
	sources []string

	loaded bool
	inv    *inventory.Inventory // nil when there is none
}

func (f *inventoryFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.sources, "inventory", "i", nil, "`FILE`, program or directory that lists hosts, or names with commas; repeatable (default $MITOGEND_INVENTORY, ./mitogend-hosts.yaml, .yml, .ini, ~/.config/mitogend/hosts.yaml)")
}

// inventory reads the inventory once, when a name is looked up; nil when there is none.
func (f *inventoryFlags) inventory() (*inventory.Inventory, error) {
	if f.loaded {
		return f.inv, nil
	}
	sources := f.sources
	if len(sources) == 0 {
		sources = inventory.Find()
	}
	var err error
	if len(sources) > 0 {
		if f.inv, err = inventory.Load(sources...); err != nil {
			return nil, usageError{inventoryError(err)}
		}
	}
	f.loaded = true
	return f.inv, nil
}

func inventoryError(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "inventory: "))
}

// resolve gives the targets that names of one -H stand for: written out, or hosts of the inventory, alone or by pattern. What is in
// no inventory means ssh.
func (t *targetFlags) resolve(names []string) ([]target, error) {
	signed := func(name string) bool { return strings.HasPrefix(name, "&") || strings.HasPrefix(name, "!") }
	if slices.ContainsFunc(names, signed) && !slices.ContainsFunc(names, func(n string) bool {
		_, rest := inventory.SplitName(n)
		return inventory.WrittenOut(n) || rest != ""
	}) {
		names = []string{strings.Join(names, ",")}
	}
	var out []target
	for _, name := range names {
		list, err := t.resolveOne(name)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (t *targetFlags) resolveOne(name string) (out []target, err error) {
	var inv *inventory.Inventory
	if name != "" && !inventory.WrittenOut(name) {
		if inv, err = t.inventory(); err != nil {
			return nil, err
		}
	}
	found, err := inv.Resolve(name)
	var bad *bootstrap.Error
	switch {
	case errors.As(err, &bad):
		return nil, usagef("-H %s: %w", name, plain(err))
	case err != nil:
		return nil, usagef("-H %s: %w", name, inventoryError(err))
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
		out = append(out, target{name: f.Host, hops: f.Hops, secrets: f.Secrets})
	}
	return out, nil
}

// passwords gives those of the inventory, and those that were asked for where it has none.
func (t target) passwords(asked secrets) func(hop int, method string) (string, bool) {
	return func(hop int, method string) (string, bool) {
		if s := t.secrets[hop]; s != "" {
			return string(s), true
		}
		return asked.For(hop, method)
	}
}
