package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mitogend/bootstrap"
	"mitogend/daemon/owned"
	"mitogend/internal/fault"
)

// The groups that always exist.
const (
	groupAll       = "all"
	groupUngrouped = "ungrouped"
)

// maxFile bounds a source, in bytes, and maxHosts what all of them may name: a wrong path or range is an error and
// not a full memory.
const (
	maxFile  = 64 << 20
	maxHosts = 1 << 20
)

// maxEntries bounds what all sources say together: hosts, groups and variables, each as often as an alias, a merge
// key or a range says it again. A few lines can say billions.
const maxEntries = 1 << 22

// Inventory is what all sources say. It is not safe for concurrent use: programs are asked for a host's variables, and
// host_vars are read, when they are first needed.
type Inventory struct {
	groups map[string]*group
	hosts  map[string]*host
	order  []string // hosts, as they were first named
	dirs   []string // where group_vars and host_vars are looked up
	ctx    context.Context
	cancel context.CancelFunc
	judged bool // nobody else may have written what is read
	left   int  // of maxEntries
	vault  vault
	// vaulted says that what is read now was encrypted.
	vaulted bool
	source  string          // the file that is read now; empty for a list of names
	named   map[string]bool // what hosts it names, if that is asked for

	// Set by finish.
	in      map[string][]*group // the groups that name a host
	parents map[*group][]*group
}

type group struct {
	name     string
	hosts    []string // in order; a host is there once
	has      map[string]bool
	children []string
	known    map[string]bool // children
	vars     vars
	files    vars // of group_vars
	read     bool // files was filled
	depth    int  // longest way from all; set by finish
}

type host struct {
	name   string
	source string // the file that has named it first, as an absolute path
	vars   vars
	ask    []func(name string) (vars, error) // of programs that have no _meta; nil once they were asked
	files  vars
	read   bool
}

// position is where something is said; line 0 stands for the whole source.
type position struct {
	file string
	line int
}

func (p position) String() string {
	if p.line == 0 {
		return p.file
	}
	return p.file + ":" + strconv.Itoa(p.line)
}

func (p position) errorf(format string, args ...any) error {
	return &placedError{p, fmt.Errorf(format, args...)}
}

func errorf(format string, args ...any) error { return fault.Errorf("inventory", format, args...) }

// placedError is what is wrong at a place.
type placedError struct {
	at  position
	err error
}

func (e *placedError) Error() string { return "inventory: " + e.Plain() }

// Plain is for fault.Plain.
func (e *placedError) Plain() string { return fmt.Sprintf("%s: %v", e.at, e.err) }

func (e *placedError) Unwrap() error { return e.err }

// unquoted is what is wrong with a file that ansible-vault has encrypted, without any of its text.
func (inv *Inventory) unquoted(err error) error {
	var e *placedError
	if !errors.As(err, &e) || inv.ctx.Err() != nil {
		return err
	}
	return e.at.errorf("what is encrypted there cannot be read as an inventory; ansible-vault view shows it")
}

// value is a variable as it was written: as text or a list of text, since no variable that is understood here is
// more; and in raw, for the host's programs, as what it is if that is not text.
type value struct {
	text  string
	list  []string // of a sequence; nil for text
	other string   // what it is in place of text ("a mapping"); an error if it is used
	raw   any      // a *yaml.Node, what encoding/json gives, a number or truth value, or a vaultText; nil for text
	at    position
	// vaulted says that it comes from a file that ansible-vault has encrypted.
	vaulted bool
	// here says that it is of use on this machine alone: programs elsewhere do not get it.
	here bool
}

// vaultText is what ansible-vault has encrypted.
type vaultText string

type vars map[string]value

func (v vars) add(from vars) {
	for k, x := range from {
		v[k] = x
	}
}

func newInventory() *Inventory {
	inv := &Inventory{
		ctx:    context.Background(),
		cancel: func() {},
		vault:  vault{got: map[int]string{}, failed: map[int]error{}, plain: map[string]string{}},
		groups: map[string]*group{},
		hosts:  map[string]*host{},
		left:   maxEntries,
	}
	inv.group(groupAll)
	inv.group(groupUngrouped)
	return inv
}

func (inv *Inventory) group(name string) *group {
	g := inv.groups[name]
	if g == nil {
		g = &group{name: name, has: map[string]bool{}, known: map[string]bool{}, vars: vars{}, files: vars{}}
		inv.groups[name] = g
	}
	return g
}

// value makes a value of text.
func (inv *Inventory) value(text string, at position) value {
	return value{text: text, at: at, vaulted: inv.vaulted}
}

// host adds a host to a group.
func (inv *Inventory) host(g *group, name string) *host {
	h := inv.hosts[name]
	if h == nil {
		h = &host{name: name, source: inv.source, vars: vars{}, files: vars{}}
		inv.hosts[name] = h
		inv.order = append(inv.order, name)
	}
	if inv.named != nil {
		inv.named[name] = true
	}
	if !g.has[name] {
		g.has[name] = true
		g.hosts = append(g.hosts, name)
	}
	return h
}

// child makes a group part of another.
func (g *group) child(name string) {
	if !g.known[name] {
		g.known[name] = true
		g.children = append(g.children, name)
	}
}

// spend counts n entries.
func (inv *Inventory) spend(n int, at position) error {
	if inv.left -= n; inv.left < 0 {
		return at.errorf("there are more than %d hosts, groups and variables, "+
			"each counted as often as aliases, merge keys and ranges repeat it", maxEntries)
	}
	if inv.left&0x3ff < n && inv.ctx.Err() != nil {
		return at.errorf("%w", context.Cause(inv.ctx))
	}
	return nil
}

// Load reads sources in order. What a later one says of a host or group is added to what the earlier ones say.
func Load(sources ...string) (*Inventory, error) {
	return Open(context.Background(), Found{Sources: sources})
}

// Open is Load for what was found. Programs, and what takes long, end with ctx, now and when hosts are looked up.
func Open(ctx context.Context, f Found) (*Inventory, error) {
	inv := newInventory()
	inv.ctx, inv.cancel = context.WithCancel(ctx)
	inv.judged, inv.vault.passwords = f.Here != "", f.Vault
	for _, source := range f.Sources {
		if err := inv.load(source); err != nil {
			return nil, err
		}
	}
	inv.hideSecrets()
	return inv, inv.finish()
}

// Close ends a program that is being asked. Hosts that would need one cannot be looked up any more. Unlike the other methods, it may be
// called at any time.
func (inv *Inventory) Close() { inv.cancel() }

// secretNames are the variables that name a variable of the environment with a password in it.
var secretNames = []string{"mitogend_password_env", "mitogend_become_password_env"}

// hideSecrets keeps the passwords of hosts that are not used from programs that are started for others. Passwords
// that are used, and those of files beside the sources, are hidden when they are read.
func (inv *Inventory) hideSecrets() {
	hide := func(v vars) {
		for _, name := range secretNames {
			if text := v[name].text; text != "" && !strings.Contains(text, "{{") {
				bootstrap.HideEnv(text)
			}
		}
		for name, value := range v {
			if !strings.Contains(name, "pass") {
				continue
			}
			for _, part := range template.FindAllString(value.text, -1) {
				if m := lookupEnv.FindStringSubmatch(part); m != nil {
					bootstrap.HideEnv(m[1])
				}
			}
		}
	}
	for _, g := range inv.groups {
		hide(g.vars)
	}
	for _, h := range inv.hosts {
		hide(h.vars)
	}
}

// finish checks the tree of groups, and measures it.
func (inv *Inventory) finish() error {
	all := inv.group(groupAll)
	child := map[string]bool{}
	for _, g := range inv.groups {
		for _, c := range g.children {
			child[c] = true
		}
	}
	for _, name := range sortedNames(inv.groups) {
		if name != groupAll && !child[name] {
			all.child(name)
		}
	}
	const (
		under = 1 // way: the walk is in it
		done  = 2
	)
	var path []string
	var order []*group // children before their parents
	state := map[*group]int{}
	var walk func(g *group) error
	walk = func(g *group) error {
		switch state[g] {
		case done:
			return nil
		case under:
			return errorf("group %s is among its own children: %s", g.name,
				strings.Join(append(path, g.name), " > "))
		}
		state[g], path = under, append(path, g.name)
		for _, c := range g.children {
			if err := walk(inv.group(c)); err != nil {
				return err
			}
		}
		state[g], path = done, path[:len(path)-1]
		order = append(order, g)
		return nil
	}
	// Each group, so that a cycle that nothing leads to is found as well.
	for _, name := range sortedNames(inv.groups) {
		if err := walk(inv.groups[name]); err != nil {
			return err
		}
	}
	inv.in, inv.parents = map[string][]*group{}, map[*group][]*group{}
	for _, g := range slices.Backward(order) {
		for _, name := range g.children {
			c := inv.groups[name]
			c.depth = max(c.depth, g.depth+1)
			inv.parents[c] = append(inv.parents[c], g)
		}
		for _, name := range g.hosts {
			inv.in[name] = append(inv.in[name], g)
		}
	}
	return nil
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Hosts gives all hosts, in the order in which the sources name them.
func (inv *Inventory) Hosts() []string { return slices.Clone(inv.order) }

// Groups gives the names of all groups, sorted.
func (inv *Inventory) Groups() []string { return sortedNames(inv.groups) }

// Has reports whether there is a host or a group of that name.
func (inv *Inventory) Has(name string) bool { return inv.hosts[name] != nil || inv.groups[name] != nil }

// GroupsOf gives the groups that a host is in, all and indirect ones among them: those whose variables count less
// first.
func (inv *Inventory) GroupsOf(name string) []string {
	var names []string
	for _, g := range inv.groupsOf(name) {
		names = append(names, g.name)
	}
	return names
}

func (inv *Inventory) groupsOf(name string) []*group {
	list := []*group{inv.groups[groupAll]}
	in := map[*group]bool{inv.groups[groupAll]: true}
	add := func(more []*group) {
		for _, g := range more {
			if !in[g] {
				in[g] = true
				list = append(list, g)
			}
		}
	}
	add(inv.in[name])
	for i := 0; i < len(list); i++ {
		add(inv.parents[list[i]])
	}
	slices.SortFunc(list, func(a, b *group) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.priority(), b.priority()),
			cmp.Compare(a.name, b.name))
	})
	return list
}

func (g *group) priority() int {
	n, err := strconv.Atoi(g.vars["ansible_group_priority"].text)
	if err != nil {
		return 1
	}
	return n
}

// members gives the hosts of a group and of those below it, as the inventory orders them.
func (inv *Inventory) members(g *group) []string {
	if g.name == groupAll {
		return inv.order
	}
	in := map[string]bool{}
	inv.collect(g, in, map[*group]bool{})
	return inv.inOrder(in)
}

// collect adds the hosts of a group and of those below it, but for what is in seen.
func (inv *Inventory) collect(g *group, in map[string]bool, seen map[*group]bool) {
	if seen[g] {
		return
	}
	seen[g] = true
	switch g.name {
	case groupAll:
		for _, name := range inv.order {
			in[name] = true
		}
		return
	case groupUngrouped:
		for _, name := range inv.order {
			if !slices.ContainsFunc(inv.in[name], func(other *group) bool { return other.name != groupAll }) {
				in[name] = true
			}
		}
	}
	for _, h := range g.hosts {
		in[h] = true
	}
	for _, c := range g.children {
		inv.collect(inv.groups[c], in, seen)
	}
}

func (inv *Inventory) inOrder(in map[string]bool) []string {
	list := make([]string, 0, len(in))
	for _, name := range inv.order {
		if in[name] {
			list = append(list, name)
		}
	}
	return list
}

// varsOf collects what counts for a host.
func (inv *Inventory) varsOf(name string) (vars, error) {
	h := inv.hosts[name]
	out := vars{}
	groups := inv.groupsOf(name)
	for _, g := range groups {
		out.add(g.vars)
	}
	for _, g := range groups {
		if !g.read {
			if err := inv.beside("group_vars", g.name, g.files); err != nil {
				return nil, err
			}
			g.read = true
		}
		out.add(g.files)
	}
	told := vars{}
	for _, ask := range h.ask {
		more, err := ask(name)
		if err != nil {
			return nil, err
		}
		told.add(more)
	}
	for k, v := range told {
		if _, known := h.vars[k]; !known {
			h.vars[k] = v
		}
	}
	h.ask = nil
	if h.source != "" {
		out["inventory_file"] = value{text: h.source, here: true}
		out["inventory_dir"] = value{text: filepath.Dir(h.source), here: true}
	}
	out.add(h.vars)
	if !h.read {
		if err := inv.beside("host_vars", name, h.files); err != nil {
			return nil, err
		}
		h.read = true
	}
	out.add(h.files)
	out["inventory_hostname"] = value{text: name}
	short, _, _ := strings.Cut(name, ".")
	out["inventory_hostname_short"] = value{text: short}
	return out, nil
}

// beside reads the variables of a group or host that lie in files next to the sources.
func (inv *Inventory) beside(kind, name string, to vars) error {
	if name != filepath.Base(name) || name == ".." || name == "." {
		return nil // no file can have this name
	}
	for _, dir := range inv.dirs {
		files, err := variableFiles(filepath.Join(dir, kind, name))
		if err != nil {
			return err
		}
		for _, file := range files {
			if inv.judged {
				if err := owned.CheckFile(file); err != nil {
					return errorf("%w; it lies beside the inventory of the current directory", err)
				}
			}
			if err := inv.readVars(file, to); err != nil {
				return err
			}
		}
	}
	return nil
}
