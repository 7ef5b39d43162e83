package main

import (
	"errors"
	"regexp"
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

var (
	// methodAhead matches what can be a target with its method; the rest of a pattern begins with a sign.
	methodAhead = regexp.MustCompile(`^([a-z]+):([^&!]|$)`)
	// suffix finds where a pattern ends and the arguments or further hops begin.
	suffix = regexp.MustCompile(`\+|\?[a-z_]+=`)
)

// writtenOut tells whether a name is a target and not of the inventory.
func writtenOut(name string) bool {
	m := methodAhead.FindStringSubmatch(name)
	return m != nil && slices.ContainsFunc(bootstrap.Methods(), func(x *bootstrap.Method) bool { return x.Name == m[1] })
}

// resolve gives the targets that names of one -H stand for: written out, or hosts of the inventory, alone or by pattern. What is in
// no inventory means ssh.
func (t *targetFlags) resolve(names []string) ([]target, error) {
	signed := func(name string) bool { return strings.HasPrefix(name, "&") || strings.HasPrefix(name, "!") }
	if slices.ContainsFunc(names, signed) && !slices.ContainsFunc(names, func(n string) bool { return writtenOut(n) || suffix.MatchString(n) }) {
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

func (t *targetFlags) resolveOne(name string) ([]target, error) {
	var inv *inventory.Inventory
	var err error
	if name != "" && !writtenOut(name) {
		if inv, err = t.inventory(); err != nil {
			return nil, err
		}
	}
	if inv == nil {
		one, err := readTarget(name)
		return []target{one}, err
	}
	pattern, rest := name, ""
	if i := suffix.FindStringIndex(name); i != nil {
		pattern, rest = name[:i[0]], name[i[0]:]
	}
	hosts, err := inv.Match(pattern)
	var none *inventory.NoMatchError
	switch {
	case errors.As(err, &none) && !strings.ContainsAny(pattern, ":!&*[~,"):
		one, err := readTarget(name)
		return []target{one}, err
	case err != nil:
		return nil, usagef("-H %s: %w", name, inventoryError(err))
	case len(hosts) == 0:
		return nil, usagef("-H %s: no host is left", name)
	}
	out := make([]target, len(hosts))
	for i, host := range hosts {
		if out[i], err = hostTarget(inv, host, rest); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// hostTarget gives the target of a host, with what the user has put after its name: arguments of the hop that reaches it, and
// further hops.
func hostTarget(inv *inventory.Inventory, host, rest string) (target, error) {
	found, err := inv.Target(host)
	if err != nil {
		return target{}, usageError{inventoryError(err)}
	}
	t := target{name: host + rest, hops: found.Hops, secrets: found.Secrets}
	if rest == "" {
		return t, nil
	}
	own := t.hops[found.Own]
	hops, err := bootstrap.ParseTarget(bootstrap.Hop{Method: own.Method, Spec: own.Spec}.String() + rest)
	if err != nil {
		return target{}, usagef("-H %s: %w", t.name, plain(err))
	}
	if own.Args == nil {
		own.Args = map[string]string{}
	}
	for k, v := range hops[0].Args {
		own.Args[k] = v
	}
	t.hops[found.Own] = own
	t.hops = append(t.hops, hops[1:]...)
	return t, nil
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
