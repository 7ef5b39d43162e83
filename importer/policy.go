package importer

import (
	"fmt"
	"strings"
)

// Policy limits what is served, by module prefixes: "django" stands for django and everything in it, not for djangorestframework.
// A denied prefix wins over an allowed one. An empty Allow allows everything; otherwise the packages that lead to an allowed
// prefix are served as well, since nothing below them can be imported without them. What it means for files is in files.go.
type Policy struct {
	Allow, Deny []string
}

// Refuses says why name may not be served, or "".
func (p *Policy) Refuses(name string) string {
	for _, prefix := range p.Deny {
		if within(name, prefix) {
			return deniedBy(prefix)
		}
	}
	if len(p.Allow) == 0 {
		return ""
	}
	for _, prefix := range p.Allow {
		if within(name, prefix) || within(prefix, name) {
			return ""
		}
	}
	return p.notAllowed()
}

func (p *Policy) notAllowed() string {
	return fmt.Sprintf("not allowed by the policy (allow %s)", strings.Join(p.Allow, ", "))
}

// check finds prefixes that can never match, which are mistakes.
func (p *Policy) check() error {
	for _, list := range [][]string{p.Allow, p.Deny} {
		for _, prefix := range list {
			if fault := nameFault(prefix); fault != "" {
				return fmt.Errorf("importer: policy prefix %q: %s", prefix, fault)
			}
		}
	}
	return nil
}

// within tells whether name is prefix or lies in it.
func within(name, prefix string) bool {
	return strings.HasPrefix(name, prefix) && (len(name) == len(prefix) || name[len(prefix)] == '.')
}

// refuses applies a policy, which virtual modules are exempt from: they are the child runtime's own.
func (im *Importer) refuses(p *Policy, name string) string {
	if _, ok := im.opt.Virtual[name]; ok {
		return ""
	}
	return p.Refuses(name)
}
