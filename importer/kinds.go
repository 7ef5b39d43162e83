package importer

import "slices"

// maxKinds is how many kinds of Pythons are known below one child. For those beyond, modules are found that others below it, or the child
// itself, could have.
const maxKinds = 32

// kinds are the Pythons behind one stream: the child's own, and those of the contexts below it.
type kinds struct {
	own   Platform
	of    map[uint32]Platform
	count map[Platform]int
	order []Platform // the keys of count
}

// add tells what a context is. What was known of it counts no more, unless it was more of the same. False says that it is one kind
// too many.
func (k *kinds) add(target uint32, p Platform) bool {
	old, known := k.of[target]
	if known && (old == p || old.Version == p.Version && p.ABI == "") {
		return true
	}
	if k.count[p] == 0 {
		if len(k.order) >= maxKinds && !(known && k.count[old] == 1) {
			return false
		}
		k.order = append(k.order, p)
	}
	put(&k.count, p, k.count[p]+1)
	k.remove(target)
	put(&k.of, target, p)
	return true
}

func (k *kinds) remove(target uint32) {
	p, known := k.of[target]
	if !known {
		return
	}
	delete(k.of, target)
	if k.count[p]--; k.count[p] == 0 {
		delete(k.count, p)
		k.order = slices.DeleteFunc(k.order, func(have Platform) bool { return have == p })
	}
}

// list gives each kind once, the child's own first. One of which only the version is known gives way to one of which more is.
func (k *kinds) list() (out []Platform) {
	all := append([]Platform{k.own}, k.order...)
	for _, p := range all {
		if p.ABI == "" {
			if i := slices.IndexFunc(all, func(q Platform) bool { return q.Version == p.Version && q.ABI != "" }); i >= 0 {
				p = all[i]
			}
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}
