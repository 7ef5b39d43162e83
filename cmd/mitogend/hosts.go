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
)

// inventoryFlags say where hosts are listed.
type inventoryFlags struct {
	sources []string
	vaultFlags

	app    *app
	loaded bool
	inv    *inventory.Inventory // nil when there is none
}

func (f *inventoryFlags) register(cmd *cobra.Command) {
	f.vaultFlags.register(cmd)
	cmd.Flags().StringArrayVarP(&f.sources, "inventory", "i", nil, "`FILE`, program or directory that lists hosts, or names with commas; repeatable (default $MITOGEND_INVENTORY, ./mitogend-hosts.yaml, .yml, .ini, ~/.config/mitogend/hosts.yaml)")
}

// inventory reads the inventory once, when a name is looked up; nil when there is none. One of the current directory is named.
func (f *inventoryFlags) inventory(ctx context.Context) (*inventory.Inventory, error) {
	if f.loaded {
		return f.inv, nil
	}
	found := inventory.Found{Sources: f.sources}
	if len(f.sources) == 0 {
		found = inventory.Look()
		for _, err := range found.Refused {
			f.app.console.complain("%v", inventoryError(err))
		}
		if found.Here != "" && !f.app.quiet {
			f.app.console.complain("using the inventory %s of the current directory", found.Here)
		}
	}
	var err error
	if len(found.Sources) > 0 {
		found.Vault = f.vaultFlags.passwords()
		if f.inv, err = inventory.Open(ctx, found); err != nil {
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
func (t *targetFlags) resolve(ctx context.Context, names []string) ([]target, error) {
	signed := func(name string) bool { return strings.HasPrefix(name, "&") || strings.HasPrefix(name, "!") }
	if slices.ContainsFunc(names, signed) && !slices.ContainsFunc(names, func(n string) bool {
		_, rest := inventory.SplitName(n)
		return inventory.WrittenOut(n) || rest != ""
	}) {
		names = []string{strings.Join(names, ",")}
	}
	out := make([]target, 0, len(names))
	for _, name := range names {
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
	return out, nil
}

// shareArgs has equal arguments of hops be the same, which nobody changes: those of ten thousand targets take most of their memory.
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
		out = append(out, target{name: f.Host, hops: f.Hops, secrets: f.Secrets, known: f.Known})
	}
	return out, nil
}

// hostVars gives a program the inventory's variables of its host; nil where it is none.
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
		}{inventoryError(err).Error()}
	}
	data, _ := json.Marshal(told) // plain values
	return data
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
