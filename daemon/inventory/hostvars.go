package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxVars bounds the variables of one host for programs, in values and bytes of text.
const (
	maxVars     = 100_000
	maxVarsText = 1 << 20
)

// HostVars are the variables of one host as programs get them.
type HostVars struct {
	// Known are plain values: nil, bool, int64, uint64, float64, string, []any and map[string]any.
	Known map[string]any `json:"known"`
	// Unknown says why others cannot be had.
	Unknown map[string]string `json:"unknown,omitempty"`
	// Secret names those of Known that are or hold what ansible-vault has encrypted.
	Secret []string `json:"-"`
}

// ownPasswords matches the variables with passwords by which a host is reached: programs there must not see them. None
// of ours is one (they say where a password is), but somebody may believe so.
var ownPasswords = regexp.MustCompile(`^(ansible|mitogend?)_(\w+_)?pass(word|phrase)?$`)

// Vars gives the variables of a host, with its groups under group_names. The passwords by which it is reached are
// left out, and so are inventory_dir and inventory_file.
func (inv *Inventory) Vars(name string) (*HostVars, error) {
	if inv.hosts[name] == nil {
		return nil, errorf("there is no host %s", quoted(name))
	}
	all, err := inv.varsOf(name)
	if err != nil {
		return nil, err
	}
	whole := inv.left
	inv.left = 2 * maxVars // of each host its own
	defer func() { inv.left = whole }()
	out := &HostVars{Known: map[string]any{}, Unknown: map[string]string{}}
	p := &plainer{left: maxVars, text: maxVarsText}
	for _, key := range sortedNames(all) {
		if ownPasswords.MatchString(key) || all[key].here {
			continue
		}
		p.r = &reader{inv: inv, vars: all, host: name}
		p.secret = all[key].vaulted
		v, err := p.value(key, all[key])
		if errors.Is(err, errTooMuch) {
			return nil, errorf("host %s: %w", name, err)
		}
		if err != nil {
			out.Unknown[key] = trimmed(err).Error()
			continue
		}
		out.Known[key] = v
		if p.secret || len(p.r.vaulted) > 0 {
			out.Secret = append(out.Secret, key)
		}
	}
	groups := slices.DeleteFunc(inv.GroupsOf(name), func(g string) bool { return g == groupAll })
	list := make([]any, len(groups))
	for i, g := range groups {
		list[i] = g
	}
	out.Known["group_names"] = list
	return out, nil
}

var errTooMuch = fmt.Errorf(
	"its variables have more than %d values or %d bytes of text, which is too much for a program", maxVars, maxVarsText)

// plainer makes plain values.
type plainer struct {
	r          *reader
	left, text int
	depth      int  // of references
	secret     bool // something encrypted was among them
}

func (p *plainer) spend(text string) error {
	p.left--
	if p.text -= len(text); p.left < 0 || p.text < 0 {
		return errTooMuch
	}
	return nil
}

func (p *plainer) value(key string, v value) (any, error) {
	switch raw := v.raw.(type) {
	case *yaml.Node:
		return p.node(key, raw, 0)
	case vaultText:
		return p.vaulted(string(raw), v.at)
	case nil:
		if v.other == nothing {
			return nil, nil
		}
		return p.template(key, v.text)
	default:
		return p.json(key, raw, v.at)
	}
}

func (p *plainer) vaulted(text string, at position) (any, error) {
	p.secret = true
	plain, err := p.r.inv.vault.decrypt(p.r.inv.ctx, text)
	if err != nil {
		return nil, at.errorf("%w", trimmed(err))
	}
	return plain, p.spend(plain)
}

// template evaluates the templates that are evaluated here. A text that is one reference as a whole has what that is.
func (p *plainer) template(key, text string) (any, error) {
	if m := reference.FindStringSubmatch(text); m != nil {
		if v, ok := p.r.vars[m[1]]; ok {
			if p.depth++; p.depth > maxExpand {
				return nil, errors.New("variables refer to each other in a circle")
			}
			defer func() { p.depth-- }()
			p.secret = p.secret || v.vaulted
			return p.value(m[1], v)
		}
	}
	p.r.err = nil
	out := p.r.expand(key, text, 0)
	if p.r.err != nil {
		return nil, p.r.err
	}
	return out, p.spend(out)
}

// node makes plain values of YAML. What an alias stands for counts each time.
func (p *plainer) node(key string, n *yaml.Node, depth int) (any, error) {
	n = follow(n)
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	if err := p.spend(""); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == vaultTag {
			return p.vaulted(n.Value, position{p.r.vars[key].at.file, n.Line})
		}
		if plain := scalar(n); plain != nil || isNull(n) {
			return plain, nil
		}
		return p.template(key, n.Value)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := p.node(key, c, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	m := map[string]any{}
	y := yamlSource{inv: p.r.inv, path: p.r.vars[key].at.file}
	err := y.pairs(n, func(k, node *yaml.Node) error {
		v, err := p.node(key, node, depth+1)
		if err == nil {
			err = p.spend(k.Value)
		}
		m[k.Value] = v
		return err
	})
	return m, err
}

// json does the same with what a program has printed.
func (p *plainer) json(key string, v any, at position) (any, error) {
	if err := p.spend(""); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case string:
		return p.template(key, v)
	case json.Number:
		return number(v.String()), nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = p.json(key, v[i], at); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		if text, ok := v["__ansible_vault"].(string); ok && len(v) == 1 {
			return p.vaulted(text, at)
		}
		m := make(map[string]any, len(v))
		for k, x := range v {
			var err error
			if m[k], err = p.json(key, x, at); err != nil {
				return nil, err
			}
			if err := p.spend(k); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	return v, nil
}

// scalar gives a number or truth value of YAML; nil for all that is text.
func scalar(n *yaml.Node) any {
	if n.Style == 0 && n.Tag == "!!str" { // Ansible's YAML is 1.1
		switch strings.ToLower(n.Value) {
		case "yes", "on":
			return true
		case "no", "off":
			return false
		}
	}
	switch n.ShortTag() {
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int":
		var i int64
		var u uint64
		if n.Decode(&i) == nil {
			return i
		} else if n.Decode(&u) == nil {
			return u
		}
	case "!!float":
		var f float64
		if n.Decode(&f) == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
	return nil
}

// number gives a number as it was written; nil for what is none.
func number(text string) any {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return u
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) &&
		!strings.ContainsAny(text, "xX_") {
		return f
	}
	return nil
}

// inline is what a value means in a host's line of an INI file: Python's numbers, True, False and None; all else is
// text.
func inline(text string) any {
	switch text {
	case "True":
		return true
	case "False":
		return false
	}
	digits := strings.TrimLeft(text, "+-")
	whole := strings.Trim(digits, "0123456789") == ""
	switch {
	case text == "" || strings.Trim(text[:1], "0123456789.-+") != "":
		return nil
	case whole && len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0") != "":
		return nil // 01234 is no number of Python's, but some code, say
	}
	n := number(text)
	if _, rounded := n.(float64); rounded && whole {
		return nil
	}
	return n
}
