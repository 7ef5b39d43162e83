package inventory

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"mitogend/bootstrap"
)

var (
	// methodAhead matches what can be a target with its method; the rest of a pattern begins with a sign.
	methodAhead = regexp.MustCompile(`^([a-z]+):([^&!]|$)`)
	// suffix finds where a pattern ends and the arguments or further hops begin.
	suffix = regexp.MustCompile(`\+|\?[a-z_]+=`)
)

// WrittenOut tells whether a name is a target with its method: no inventory is asked for that.
func WrittenOut(name string) bool {
	m := methodAhead.FindStringSubmatch(name)
	return m != nil && slices.ContainsFunc(bootstrap.Methods(),
		func(x *bootstrap.Method) bool { return x.Name == m[1] })
}

// SplitName parts a name from what follows it: arguments of the hop that reaches the host, and further hops.
func SplitName(name string) (pattern, rest string) {
	if i := suffix.FindStringIndex(name); i != nil {
		return name[:i[0]], name[i[0]:]
	}
	return name, ""
}

// Resolve gives the targets of a host, or of a pattern, with what follows the name. There are none for a single name
// that is no host's, or a range of such names: it means ssh. Where a range has names of both kinds, the others are
// targets of ssh. HOST:PORT is a host with another port, unless it is a
// pattern that fits. What follows and cannot be read is a *bootstrap.Error. A nil Inventory has no hosts.
func (inv *Inventory) Resolve(name string) ([]*Target, error) {
	pattern, rest := SplitName(name)
	if inv == nil {
		return nil, nil
	}
	if list, ok, err := inv.counted(pattern, Names(name)); ok {
		return list, err
	}
	if host, port := splitPort(pattern); port != "" && bootstrap.HasPort(pattern) && !inv.Has(port) {
		if !inv.Has(host) {
			return nil, nil
		}
		return inv.withPort(host, port, rest)
	}
	hosts, err := inv.Match(pattern)
	var none *NoMatchError
	switch {
	case errors.As(err, &none) && none.why == "" && (!strings.ContainsAny(pattern, ":!&*[~,") || isRange(pattern)):
		return nil, nil
	case err != nil:
		return nil, err
	case len(hosts) == 0:
		return nil, errorf("no host is left")
	}
	out := make([]*Target, len(hosts))
	for i, host := range hosts {
		if out[i], err = inv.Target(host); err != nil {
			return nil, err
		}
		if err := out[i].extend(rest); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// counted gives the targets of a range, if a host or group has one of its names. names are those that it stands for,
// with what follows. If a group has the name before the range, it might be meant, so each name has to be known.
func (inv *Inventory) counted(pattern string, names []string) (list []*Target, ok bool, err error) {
	whole := pattern
	if host, port := splitPort(pattern); port != "" && !inv.Has(port) {
		whole = host
	}
	hosts, ok := inv.namedBy(whole)
	if !ok {
		return nil, false, nil
	}
	if m := subscript.FindStringSubmatch(whole); m != nil && inv.groups[m[1]] != nil {
		if err := inv.lacks(whole, hosts); err != nil {
			return nil, true, err
		}
	}
	for i, name := range names {
		var found []*Target
		if inv.Has(hosts[i]) {
			found, err = inv.Resolve(name)
		} else {
			var hops []bootstrap.Hop
			hops, err = bootstrap.ParseTarget(name)
			found = []*Target{{Host: name, Hops: hops}}
		}
		if err != nil {
			return nil, true, err
		}
		list = append(list, found...)
	}
	return list, true, nil
}

// withPort gives a host, reached by another port.
func (inv *Inventory) withPort(host, port, rest string) ([]*Target, error) {
	list, err := inv.Resolve(host)
	if err != nil {
		return nil, err
	}
	for _, t := range list {
		own := &t.Hops[t.Own]
		if own.Method != "ssh" {
			return nil, errorf("%s is reached by %s, which has no port", quoted(host), own.Method)
		}
		args := map[string]string{}
		for k, v := range own.Args {
			args[k] = v
		}
		args["port"] = port
		own.Args = args
		t.Host += ":" + port
		if err := t.extend(rest); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// isRange tells whether a name stands for names that it counts.
func isRange(pattern string) bool {
	names, err := expandRanges(pattern)
	return err == nil && len(names) > 0 && strings.ContainsRune(pattern, '[')
}

// Names gives the names that one with ranges (web[01:20]) stands for where no inventory knows it, each with what
// follows; any other is left as it is.
func Names(name string) []string {
	pattern, rest := SplitName(name)
	host, port := splitPort(pattern)
	if WrittenOut(name) || !strings.ContainsRune(host, '[') {
		return []string{name}
	}
	names, err := expandRanges(host)
	if err != nil {
		return []string{name} // its error is that of the target
	}
	for i := range names {
		if port != "" {
			names[i] += ":" + port
		}
		names[i] += rest
	}
	return names
}

// extend adds what follows a host's name.
func (t *Target) extend(rest string) error {
	if rest == "" {
		return nil
	}
	own := t.Hops[t.Own]
	hops, err := bootstrap.ParseTarget(bootstrap.Hop{Method: own.Method, Spec: own.Spec}.String() + rest)
	if err != nil {
		return err
	}
	if own.Args == nil {
		own.Args = map[string]string{}
	}
	for k, v := range hops[0].Args {
		own.Args[k] = v
	}
	t.Hops[t.Own] = own
	t.Hops = append(t.Hops, hops[1:]...)
	t.Host += rest
	return t.check()
}
