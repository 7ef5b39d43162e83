package inventory

import (
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// readYAML reads Ansible's YAML form: groups by name, each with hosts, vars and children. Lists of names are accepted
// for hosts and children, and so is what a program prints (readGroups of script.go), for a file that keeps such
// output.
func (inv *Inventory) readYAML(path string, data []byte) error {
	root, err := parseYAML(path, data)
	if err != nil || root == nil {
		return err
	}
	y := yamlSource{inv, path}
	if root.Kind != yaml.MappingNode {
		return y.at(root).errorf("groups by name are wanted here, not %s", kindOf(root))
	}
	return y.pairs(root, func(key, node *yaml.Node) error {
		if key.Value == metaKey {
			return y.meta(node)
		}
		if plugin := follow(node); key.Value == "plugin" && plugin.Kind == yaml.ScalarNode && !isNull(plugin) {
			return y.at(key).errorf("these are settings of Ansible's inventory plugin %s, which is not run here; "+
				"name in their place an executable that runs: ansible-inventory -i FILE --list", quoted(plugin.Value))
		}
		return y.group(key, node, 0)
	})
}

// parseYAML gives the document's root, or nil for an empty one.
func parseYAML(path string, data []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, yamlError(path, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

// yamlPlace is how an error of the library begins: what is wrong, and where, it tells in its text alone.
var yamlPlace = regexp.MustCompile(`^yaml: (?:(?:unmarshal errors:\n\s*)?line (\d+): )?`)

func yamlError(path string, err error) error {
	text := err.Error()
	at := position{file: path}
	if m := yamlPlace.FindStringSubmatch(text); m != nil {
		at.line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	return at.errorf("%s", text)
}

// yamlSource reads one file into the inventory.
type yamlSource struct {
	inv  *Inventory
	path string
}

func (y yamlSource) at(n *yaml.Node) position { return position{y.path, n.Line} }

// maxDepth bounds groups in groups.
const maxDepth = 100

func (y yamlSource) group(key, node *yaml.Node, depth int) error {
	if err := checkName("group", key.Value); err != nil {
		return y.at(key).errorf("%w", err)
	}
	if depth > maxDepth {
		return y.at(key).errorf("groups are nested more than %d deep", maxDepth)
	}
	g := y.inv.group(key.Value)
	node = follow(node)
	if isNull(node) {
		return nil
	}
	if node.Kind == yaml.SequenceNode {
		return y.hosts(g, node)
	}
	if node.Kind != yaml.MappingNode {
		return y.at(node).errorf("group %s: hosts, vars and children are wanted here, not %s", key.Value, kindOf(node))
	}
	return y.pairs(node, func(part, node *yaml.Node) error {
		node = follow(node)
		switch {
		case isNull(node):
			return nil
		case part.Value == "hosts":
			return y.hosts(g, node)
		case part.Value == "vars":
			return y.vars(node, g.vars)
		case part.Value == "children":
			return y.children(g, node, depth)
		}
		return y.at(part).errorf("group %s has no part %s; only hosts, vars and children", key.Value,
			quoted(part.Value))
	})
}

func (y yamlSource) hosts(g *group, node *yaml.Node) error {
	switch node.Kind {
	case yaml.ScalarNode:
		return y.inv.addHosts(g, node.Value, nil, y.at(node))
	case yaml.SequenceNode:
		for _, n := range node.Content {
			if n = follow(n); n.Kind != yaml.ScalarNode {
				return y.at(n).errorf("a host's name is wanted here, not %s", kindOf(n))
			}
			if err := y.inv.addHosts(g, n.Value, nil, y.at(n)); err != nil {
				return err
			}
		}
		return nil
	case yaml.MappingNode:
		return y.pairs(node, func(key, node *yaml.Node) error {
			own := vars{}
			if node = follow(node); !isNull(node) {
				if err := y.vars(node, own); err != nil {
					return err
				}
			}
			return y.inv.addHosts(g, key.Value, own, y.at(key))
		})
	}
	return y.at(node).errorf("hosts by name are wanted here, not %s", kindOf(node))
}

func (y yamlSource) children(g *group, node *yaml.Node, depth int) error {
	switch node.Kind {
	case yaml.SequenceNode:
		if err := y.inv.spend(len(node.Content), y.at(node)); err != nil {
			return err
		}
		for _, n := range node.Content {
			if n = follow(n); n.Kind != yaml.ScalarNode {
				return y.at(n).errorf("a group's name is wanted here, not %s", kindOf(n))
			}
			if err := checkName("group", n.Value); err != nil {
				return y.at(n).errorf("%w", err)
			}
			y.inv.group(n.Value)
			g.child(n.Value)
		}
		return nil
	case yaml.MappingNode:
		return y.pairs(node, func(key, node *yaml.Node) error {
			g.child(key.Value)
			return y.group(key, node, depth+1)
		})
	}
	return y.at(node).errorf("groups by name are wanted here, not %s", kindOf(node))
}

// meta reads what a program's output says of hosts: {"hostvars": {NAME: {...}}}.
func (y yamlSource) meta(node *yaml.Node) error {
	if node = follow(node); node.Kind != yaml.MappingNode {
		return y.at(node).errorf("%s is %s, not a mapping", metaKey, kindOf(node))
	}
	return y.pairs(node, func(key, node *yaml.Node) error {
		node = follow(node)
		if key.Value != "hostvars" || isNull(node) {
			return nil
		}
		if node.Kind != yaml.MappingNode {
			return y.at(node).errorf("hostvars is %s, not a mapping", kindOf(node))
		}
		return y.pairs(node, func(key, node *yaml.Node) error {
			if err := checkName("host", key.Value); err != nil {
				return y.at(key).errorf("%w", err)
			}
			return y.vars(follow(node), y.inv.host(y.inv.group(groupAll), key.Value).vars)
		})
	})
}

func (y yamlSource) vars(node *yaml.Node, to vars) error {
	if isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return y.at(node).errorf("variables by name are wanted here, not %s", kindOf(node))
	}
	return y.pairs(node, func(key, node *yaml.Node) error {
		var err error
		to[key.Value], err = y.value(node)
		return err
	})
}

// value keeps a scalar as it was written: what is a number to YAML may be a password.
func (y yamlSource) value(node *yaml.Node) (value, error) {
	v := y.inv.value("", y.at(node))
	node = follow(node)
	switch {
	case node.Tag == vaultTag:
		v.raw = vaultText(node.Value)
	case isNull(node):
		v.other = nothing
	case node.Kind == yaml.ScalarNode:
		v.text, v.raw = node.Value, scalar(node)
	case node.Kind == yaml.SequenceNode:
		v.list, v.raw = []string{}, node
		if err := y.inv.spend(len(node.Content), v.at); err != nil {
			return v, err
		}
		for _, n := range node.Content {
			if n = follow(n); n.Kind != yaml.ScalarNode {
				v.other = "a list of more than text"
				break
			}
			v.list = append(v.list, n.Value)
		}
	default:
		v.other, v.raw = kindOf(node), node
	}
	return v, nil
}

// vaultTag marks a text that ansible-vault has encrypted.
const vaultTag = "!vault"

// nothing is a value that was left empty: the same as a variable that is not there.
const nothing = "nothing"

// readVars reads a file of group_vars or host_vars.
func (inv *Inventory) readVars(path string, to vars) error {
	data, err := readFile(path)
	if err != nil {
		return err
	}
	return inv.open(path, data, func(data []byte) error {
		root, err := parseYAML(path, data)
		if err != nil || root == nil {
			return err
		}
		whole := inv.left
		inv.left = maxEntries // of each file its own: only those of hosts that are used are read
		defer func() { inv.left = whole }()
		return yamlSource{inv, path}.vars(root, to)
	})
}

// pairs calls fn for each key of a mapping; merge keys (<<) are followed, what stands in the mapping itself wins.
func (y yamlSource) pairs(node *yaml.Node, fn func(key, value *yaml.Node) error) error {
	return y.pairsDeep(node, fn, 0)
}

func (y yamlSource) pairsDeep(node *yaml.Node, fn func(key, value *yaml.Node) error, depth int) error {
	if err := y.inv.spend(1+len(node.Content)/2, y.at(node)); err != nil {
		return err
	}
	for pass := range 2 {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], follow(node.Content[i+1])
			merge := key.Tag == "!!merge"
			if merge != (pass == 0) {
				continue
			}
			if !merge {
				if err := fn(key, value); err != nil {
					return err
				}
				continue
			}
			from := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				from = value.Content
			}
			if err := y.inv.spend(len(from), y.at(key)); err != nil {
				return err
			}
			for _, n := range from {
				if n = follow(n); n.Kind == yaml.MappingNode && depth < maxDepth {
					if err := y.pairsDeep(n, fn, depth+1); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// follow gives what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "text"
}
